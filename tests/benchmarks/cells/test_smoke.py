"""One smallest cell on every data set and with every model of conf/: each is wired to a reader and a trainer."""

import io
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
import yaml
from PIL import Image

from benchmarks.cells import cell
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer

pytestmark = pytest.mark.slow

DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
RUNNING, SENTENCES = ("text", "tinyshakespeare"), ("sentences", "sentence_polarity")
MODEL_OF = {  # sequences; all others go through the smallest perceptron
    **dict.fromkeys(("row_mnist", "pixel_mnist"), "irnn"),
    **dict.fromkeys(RUNNING, "char_gpt"),
    **dict.fromkeys(SENTENCES, "text_encoder"),
}
DATASET_OF = {
    **dict.fromkeys(("char_gpt", "char_llama"), "text"),
    **dict.fromkeys(("text_encoder", "hf", "minilm"), "sentences"),
    "irnn": "row_mnist",
    "lenet5": "mnist",
    "lenet300": "mnist",
    "nn3": "mnist",
    "mlpnet": "mnist",
}
BERT = "model.config={model_type:bert,hidden_size:16,num_hidden_layers:1,num_attention_heads:2,intermediate_size:24}"
SMALLER = {  # of what a network is made of: the wiring is looked at, not the size
    "densenet": ["model.depth=10", "model.growth=4"],
    **{key: ["model.depth=1", "model.dim=32", "model.hidden=32"] for key in ("char_gpt", "char_llama", "text_encoder")},
    "vit": ["model.depth=1", "model.dim=32", "model.hidden=32", "model.heads=2"],
    "irnn": ["model.hidden=16"],
    "hf": ["model.name=bert", BERT],
    "minilm": ["model.path=null", BERT],
    **{f"resnet{depth}": ["model.width=0.1"] for depth in (18, 34, 50)},
    **{f"resnet{depth}": ["model.width=0.25"] for depth in (20, 32, 56)},
    **{f"vgg{depth}": ["model.width=0.125"] for depth in (11, 13, 16)},
    **{key: ["model.width=0.25"] for key in ("mobilenetv2", "mobilenetv2_224")},
    "own": ["model._target_=benchmarks.models.MLP", "+model.widths=[12]"],
}


def picture(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def images(generator, count, size, colour):
    shape = (count, size, size, 3) if colour else (count, size, size)
    return generator.integers(0, 256, shape, dtype=np.uint8), (np.arange(count) % 10).tolist()


def hub_folder(folder, size, colour, columns, splits=("train", "test")):
    """Images as the hub stores them, two Parquet files."""
    generator = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for split, count in zip(splits, (60, 20), strict=True):
        pixels, labels = images(generator, count, size, colour)
        cells = [{"bytes": picture(each), "path": None} for each in pixels]
        pq.write_table(pa.table({columns[0]: cells, columns[1]: labels}), folder / f"{split}-0.parquet")


def tar_shards(folder):
    folder.mkdir(parents=True)
    for split, count in (("train", 60), ("test", 20)):
        pixels, labels = images(np.random.default_rng(7), count, 32, True)
        with tarfile.open(folder / f"{split}.tar", "w") as shard:
            for number, (each, label) in enumerate(zip(pixels, labels, strict=True)):
                for name, content in ((f"{number}.png", picture(each)), (f"{number}.cls", str(label).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))


def class_folders(folder):
    pixels, labels = images(np.random.default_rng(4), 60, 32, True)
    for number, (each, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(each))


def sentences(folder):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "sentence_polarity.zip", "w") as archive:
        for name, word in (("rt-polarity.neg", "dull"), ("rt-polarity.pos", "fine")):
            archive.writestr(name, "\n".join(f"{word} {'o' * (row % 9)}" for row in range(40)))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Words that point a data set at a small one of the same layout, made up here."""
    monkeypatch.delenv("SECATEURS_DATA", raising=False)
    rows, values = np.random.default_rng(5).normal(size=(200, 8)), np.random.default_rng(6).normal(size=200)
    housing = SimpleNamespace(data=rows, target=values)
    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", lambda *_, **__: housing)

    def words(name):
        section = yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text(encoding="utf-8"))
        folder = tmp_path / "data"
        if name in ("mnist", "row_mnist", "pixel_mnist", "fashion_mnist", "emnist"):
            hub_folder(folder, 28, False, ("image", "label"))
        elif name == "imagefolder":
            class_folders(folder)
        elif name == "shards":
            tar_shards(folder)
        elif name in RUNNING:
            folder.mkdir(parents=True)
            (folder / "input.txt").write_text("a b c d e f g h " * 100)
            own = ["dataset.name=letters"] if name == "text" else []
            files = ["dataset.train_file=input.txt", "dataset.classes=null", "dataset.shape=[8]"]
            return [f"dataset={name}", f"dataset.source={folder}", *files, *own]
        elif name in SENTENCES:
            sentences(folder)
            own = ["dataset.name=lines", "dataset.test_split=null"] if name == "sentences" else []
            files = ["dataset.class_files=[rt-polarity.neg,rt-polarity.pos]", "dataset.archive=sentence_polarity.zip"]
            files += ["dataset.tokenizer=characters", "dataset.shape=[16]"]
            return [f"dataset={name}", f"dataset.source={folder}", *files, *own]
        elif "hub" in section:
            columns = (section.get("image_column", "image"), section.get("label_column", "label"))
            splits = (section.get("train_split", "train"), section.get("test_split", "test"))
            hub_folder(folder, 32, True, columns, splits)
        else:
            return [f"dataset={name}", "dataset.limit=60"]
        own = ["dataset.name=flowers"] if name in ("hub", "imagefolder", "shards") else []
        own += ["dataset.validation=0.1"] if section.get("validation", 1) < 0.1 else []  # one of sixty would be none
        return [f"dataset={name}", f"dataset.source={folder}", *own]

    return words


def finished(tmp_path, words):
    small = ["method=random", "budget.keep=0.5", "trainer=tiny", "measure=none", "track=none", "calibration.samples=16"]
    small += [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    record = cell.run(Composer(CONF).cell([*small, *words]))
    assert record.status == "done", record.reason
    assert record.metrics.pruned.parameters < record.metrics.dense.parameters
    assert record.metrics.tuned.macs < record.metrics.dense.macs
    return record


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_makes_a_cell(name, tmp_path, source):
    model = MODEL_OF.get(name, "mlp_digits")
    record = finished(tmp_path, [*source(name), f"model={model}", *SMALLER.get(model, ["model.widths=[12]"])])
    measured = record.metrics.tuned
    assert (measured.accuracy is None) is (name in ("california_housing", "friedman1", *RUNNING))
    assert measured.loss > 0
    assert (record.calibration is not None) is (name in (*RUNNING, *SENTENCES))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_makes_a_cell(name, tmp_path, source):
    flat = name.startswith("mlp") and name != "mlpnet"
    dataset = "digits" if flat or name == "own" else DATASET_OF.get(name, "cifar10")
    finished(tmp_path, [*source(dataset), f"model={name}", *SMALLER.get(name, [])])
