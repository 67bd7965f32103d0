"""Records from elsewhere run no foreign code, nothing unpickles, and secrets stay where they are."""

import ast
import copy
import importlib
import json
import os
import pickle
import re
import sys
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.rerun import check_targets
from benchmarks.sweeps.run_command import main
from methods.errors import BadInput

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TINY = ["trainer=tiny", "dataset.limit=200", "measure=none", "calibration.samples=64", "track=none"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("SECATEURS_DATA", "")
    monkeypatch.chdir(ROOT)


@pytest.fixture
def folders(tmp_path):
    return [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]


@cache
def composed(*words):
    return Composer(CONF).cell([*TINY, *words])


def config(*words):
    return copy.deepcopy(composed(*words))


def record_file(path, settings, **fields):
    record = Record(**cell_fields(settings, cell_key(settings)) | {"status": "failed", "reason": "as sent"} | fields)
    path.write_text(record.text())
    return path


def changed(place, value):
    settings = config("method=random")
    *parts, last = place.split(".")
    section = settings
    for part in parts:
        section = section.setdefault(part, {})
    section[last] = value
    return settings


ATTACKS = {
    "os": ("selection._target_", "os.system"),
    "os through torch": ("selection._target_", "torch.os.system"),
    "subprocess through ours": ("selection._target_", "benchmarks.storage.entry_point.sys.exit"),
    "unpickling": ("model._target_", "torch.load"),
    "download": ("model._target_", "torch.hub.load"),
    "compiler": ("model._target_", "torch.utils.cpp_extension.load"),
    "a writer of ours": ("selection._target_", "benchmarks.storage.paths.write_atomically"),
    "a class of ours that is no part": ("selection._target_", "benchmarks.sweeps.composition.Composer"),
    "nested": ("selection.inner", {"deep": [{"_target_": "builtins.exec"}]}),
    "a reader from elsewhere": ("dataset.reader", "os.system"),
    "a reader of ours that is none": ("dataset.reader", "benchmarks.storage.paths.write_atomically"),
    "an import with an effect": ("model._target_", "antigravity.webbrowser"),
    "a secret": ("selection.name", "${oc.env:HOME}"),
    "a name that is none": ("selection._target_", ["os.system"]),
    "a network where a selection belongs": ("selection._target_", "torch.nn.Linear"),
    "an allocation where a selection belongs": ("selection._target_", "methods.allocation.Uniform"),
    "a selection where a schedule belongs": ("schedule._target_", "methods.baselines.random.RandomSelection"),
    "a selection where an allocation's compensation belongs": (
        "allocation.compensation",
        {"_target_": "methods.baselines.random.RandomSelection"},
    ),
    "a selection where a compensation belongs": ("compensation._target_", "methods.baselines.random.RandomSelection"),
    "a network where an allocation belongs": ("allocation._target_", "benchmarks.models.MLP"),
    "a class of torch that is no network": ("model._target_", "torch.nn.Parameter"),
    "a network of torch from elsewhere": ("model._target_", "torch.jit.ScriptModule"),
    "a class of methods that is no part": ("selection._target_", "methods.pruner.Pruner"),
    "a helper among the readers": ("dataset.reader", "benchmarks.data.readers.reader_of"),
    "a private helper among the readers": ("dataset.reader", "benchmarks.data.readers._all_digits"),
    "a class where none belongs": ("trainer.train.optimizer", {"_target_": "methods.allocation.Uniform"}),
    "a network from files that the record chooses": ("model._target_", "benchmarks.models.pretrained.transformer"),
    "a name that leads out of the cache": ("dataset.name", "../../x"),
    "a network's name that leads out": ("model.name", "/x"),
    "a method's name that leads out": ("method.name", ".."),
    "a file of this machine": ("dense.checkpoint", "/etc/passwd"),
    "a folder above": ("selection.folder", "a/../../b"),
}


@pytest.mark.parametrize("key", ["dataset.name", "model.name", "method.name"])
def test_a_name_that_leads_out_of_the_folders_is_refused(key, tmp_path, folders, capsys):
    assert main(["method=random", f"++{key}='../../x'", *TINY, *folders]) == 2
    said = capsys.readouterr().err
    assert f"{key}=../../x is no name: expected letters" in said
    assert not (tmp_path / "x").exists() and not (tmp_path / "results").exists()


def test_a_record_that_is_a_pipe_or_too_large_is_refused_at_once(tmp_path, folders, capsys):
    os.mkfifo(tmp_path / "pipe.json")
    assert main([f"+from_record={tmp_path}/pipe.json", *folders]) == 2
    assert "a named pipe, not a file" in capsys.readouterr().err
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(10**8)
    assert main([f"+from_record={tmp_path}/large.json", *folders]) == 2
    assert "larger than 10,000,000 bytes" in capsys.readouterr().err


def test_a_dry_run_of_a_record_says_which_cell_it_is(tmp_path, folders, capsys):
    sent = record_file(tmp_path / "sent.json", config("method=random"))
    assert main([f"from_record={sent}", *folders, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would run digits")


@pytest.mark.parametrize("place,value", ATTACKS.values(), ids=ATTACKS)
def test_a_record_that_names_foreign_code_is_refused_before_anything_is_built(
    place, value, tmp_path, folders, capsys, monkeypatch
):
    sound = {"dataset": "digits", "model": "mlp", "method": "random"}  # what only the configuration says otherwise
    sent = record_file(tmp_path / "sent.json", changed(place, value), **sound)
    monkeypatch.setattr("benchmarks.cells.cell.run", lambda *_: pytest.fail("the cell was run"))
    assert main([f"+from_record={sent}", *folders]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) <= 2 and "of the record" in said
    assert not (tmp_path / "results").exists()
    assert "antigravity" not in sys.modules


# The one exception among our own: a record would choose files or a repository of the hub, and what
# transformers makes of these is not ours. Who knows the network allows it by name.
READS_WHAT_IT_IS_TOLD = "benchmarks.models.pretrained.transformer"


def test_every_configuration_of_ours_is_trusted():
    """Each choice once, beside choices of the other groups; methods alone, since they set parts themselves."""
    groups = ("model", "dataset", "allocation", "compensation", "schedule")
    choices = [[f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))] for group in groups]
    together = [[word for word in words if word] for words in zip_longest(*choices)]
    composer, seen, excepted = Composer(CONF), 0, set()
    for words in [*together, *([f"method={path.stem}"] for path in (CONF / "method").glob("*.yaml"))]:
        try:
            settings = [composer.cell(words)]
        except BadInput:  # one of them needs something to be said with it
            settings = [found for word in words if (found := _alone(composer, word))]
        for found in settings:
            if "torchvision" in str(found["model"]["_target_"]) or "???" in str(found["model"]):
                found["model"] = {}
            if found["model"].get("_target_") == READS_WHAT_IT_IS_TOLD:
                with pytest.raises(BadInput, match=re.escape(f"+allow_targets=[{READS_WHAT_IT_IS_TOLD}]")):
                    check_targets(found)
                excepted.add(found["model"]["name"])
                check_targets(found, {READS_WHAT_IT_IS_TOLD})
            else:
                check_targets(found)
            seen += 1
    assert seen > 40
    assert excepted == {"hf", "minilm"}


def _alone(composer, word):
    try:
        return composer.cell([word])
    except BadInput:
        return None


def test_what_the_user_allows_by_name_is_built(tmp_path, folders, monkeypatch, capsys):
    (tmp_path / "own_parts.py").write_text(
        "from methods.baselines.random import RandomSelection\nclass Own(RandomSelection):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sent = record_file(tmp_path / "sent.json", changed("selection._target_", "own_parts.Own"))
    assert main([f"+from_record={sent}", *folders]) == 2
    assert "allow_targets=[own_parts.Own]" in capsys.readouterr().err
    assert "own_parts" not in sys.modules
    assert main([f"+from_record={sent}", "+allow_targets=[own_parts.Own]", *folders]) == 0


def test_a_record_is_run_again_in_ones_own_folders_and_compared(tmp_path, folders, capsys):
    assert main(["method=magnitude", "seed=3", *TINY, *folders]) == 0
    [path] = (tmp_path / "results").glob("runs/digits/mlp/*.json")
    sent = tmp_path / "a name of its own.json"
    sent.write_text(path.read_text())
    elsewhere = [f"paths.results={tmp_path}/other", f"paths.cache={tmp_path}/cache", "track=none"]
    capsys.readouterr()
    assert main([f"+from_record={sent}", *elsewhere]) == 0
    said = capsys.readouterr().out
    assert "tuned accuracy" in said and "there" in said
    ours, theirs = Store(tmp_path / "other/runs", tmp_path / "none").load()[0], json.loads(path.read_text())
    assert [record.key for record in ours] == [path.stem]
    assert ours[0].metrics.model_dump() == theirs["metrics"]
    assert main([f"+from_record={sent}", "seed=4", *elsewhere]) == 2
    assert "seed=4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": "x"}', "[" * 100_000, "\x00"])
def test_what_is_not_a_record_is_refused_in_a_line_or_two(text, tmp_path, folders, capsys):
    (tmp_path / "sent.json").write_text(text)
    assert main([f"+from_record={tmp_path}/sent.json", *folders]) == 2
    assert "is not a record" in capsys.readouterr().err
    assert main([f"+from_record={tmp_path}/nothing.json", *folders]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["dataset", "model", "method"])
def test_no_name_in_a_record_leads_out_of_the_results(field):
    settings = config("method=random") | {"seed": 1}
    sound = cell_fields(settings, "0" * 16) | {"status": "done"}
    assert getattr(Record(**sound | {field: "a-B_0.9"}), field) == "a-B_0.9"
    for name in (
        "../../x",
        "/etc/x",
        "..",
        ".x",
        "a/../../../x",
        "\x00",
        "",
        "a b",
        "a\n",
        "é",
        "a" * 81,
        "a\x1b[2J",
        "~",
    ):
        with pytest.raises(ValidationError, match=field):
            Record(**sound | {field: name})
    with pytest.raises(ValueError, match="key"):
        Record(**cell_fields(settings, "../../escaped") | {"status": "done"})


# -------------------------------------------------------------------------------------------------------- no pickles

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
LOADERS = {
    ("torch", "load"),
    ("torch", "save"),
    ("np", "load"),
    ("numpy", "load"),
    ("pd", "read_pickle"),
    ("yaml", "load"),
}


def sources():
    return [path for folder in ("methods", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


ONLY_NUMBERS = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def only_numbers(call):
    """With these words, said at the call and not left to a default, tensors or arrays are read and nothing else."""
    words = [(keyword.arg, ast.unparse(keyword.value)) for keyword in call.keywords]
    return ONLY_NUMBERS.get(ast.unparse(call.func)) in words


@pytest.mark.parametrize("call", ["{}(f)", "{}(f, allow_pickle=True)", "{}(f, weights_only=False)", "{}(f, **options)"])
@pytest.mark.parametrize("loader", ["torch.load", "np.load", "yaml.load"])
def test_a_loader_that_is_not_told_to_read_numbers_alone_is_none_that_may_be_named(loader, call):
    assert not only_numbers(ast.parse(call.format(loader), mode="eval").body)


def test_no_source_of_ours_names_a_loader_that_runs_code():
    assert len(sources()) > 50
    for path in sources():
        tree = ast.parse(path.read_text())
        harmless = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and only_numbers(node)}
        for node in ast.walk(tree):
            if id(node) in harmless:
                continue
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in FORBIDDEN, path
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in LOADERS, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"


def test_a_cell_that_trains_resumes_and_reads_its_cache_unpickles_nothing(folders, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("something was unpickled")

    importlib.import_module("lightning_fabric")  # what it imports derives classes from pickle.Unpickler
    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    for seed in (0, 0, 1):
        assert main(["method=random", f"seed={seed}", *TINY, *folders]) == 0
    assert main(["method=magnitude", "seed=0", *TINY, *folders]) == 0


# ----------------------------------------------------------------------------------------------------------- secrets


FAILS = ["allocation=explicit", "allocation.widths={nope: 12}"]  # which only the network shows, when the run has begun


@pytest.mark.parametrize("words,code", [(["method=random"], 0), (["method=random", *FAILS], 1)])
def test_the_key_of_the_tracker_is_in_no_file_and_no_line(words, code, tmp_path, folders, monkeypatch, capfd):
    secret = "5ec2e7" * 6 + "abcd"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tracked = [word for word in TINY if word != "track=none"]
    assert main([*words, *tracked, *folders]) == code
    said = capfd.readouterr()
    assert secret not in said.out + said.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any("runs" in path.parts for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert os.environ["WANDB_API_KEY"] == secret
