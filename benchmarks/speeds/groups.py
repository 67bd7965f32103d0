"""Finding node groups: of the DenseNet, against one layer after the other; of BERT, MiniLM, ResNet-50 and the zoo."""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.side_by_side import Finding, Promise, Times, alternate
from benchmarks.speeds._settings import network
from benchmarks.zoo.examine import Subject
from benchmarks.zoo.zoo import present
from methods.network.coupling import NodeGroup, find_groups
from methods.network.influence import Influence, find_influences, influence
from methods.network.mockup import Mockup
from methods.seeds import stream
from secateurs.inputs import Samples, called_by_row

TOKENS = 16
CPU = torch.device("cpu")
NOTE = "in processor seconds of one run"


def measure(quick: bool) -> Iterator[Finding]:
    """Time the groups of DenseNet-BC-40, or of VGG-11 when quick, and of larger networks."""
    name = "vgg11" if quick else "densenet"
    model = network(name, "cifar10")
    example = torch.randn(1, 3, 32, 32, generator=stream(0, "speed", "groups"))
    mockup = Mockup(model, example)
    found: dict[str, Influence] = {}

    def ours() -> None:
        find_groups(model, example, residual=False)

    def theirs() -> None:
        with mockup.standing():
            found.update({path: influence(mockup, path) for path in mockup.layers})

    [times] = alternate(ours, theirs, pairs=1 if quick else 5)
    yield Finding(
        f"{name}: all groups of nodes",
        times,
        "layers tried one by one",
        None if quick else Promise(seconds=1.0),
        _same(find_influences(mockup), found),
        "what is compared with tries the influence of each layer only, and not whether nodes can be removed",
    )
    yield from _large(quick)


def _large(quick: bool) -> Iterator[Finding]:
    """Networks of everyday sizes, and the slowest of the zoo, in processor seconds.

    Weights play no part, so that networks are built from configurations; those of ``transformers`` are left out where
    it is not installed.
    """
    if find_spec("transformers"):
        yield from _transformers(quick)
    seconds = {}
    for specimen in present()[: 3 if quick else None]:
        subject = Subject(specimen)
        with subject.called():
            seconds[specimen.name] = _timed(subject.model, subject.example)[0]
    slowest = max(seconds, key=lambda name: seconds[name])
    what = f"all groups of each of {len(seconds)} small networks; the slowest is {slowest}"
    yield Finding(what, Times(seconds[slowest]), promise=None if quick else Promise(seconds=3.0), note=NOTE)


def _transformers(quick: bool) -> Iterator[Finding]:
    base, small = (2, 32, 4, 64) if quick else (12, 768, 12, 3072), (1, 24, 4, 48) if quick else (6, 384, 12, 1536)
    for name, sizes, promise in (("BERT-base", base, 10.0), ("MiniLM", small, 3.0)):
        layers, width, heads, inner = sizes
        config = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
        model = _network("Bert", "ForSequenceClassification", **config, intermediate_size=inner)
        ids = torch.randint(3, 100, (1, TOKENS), generator=stream(0, "speed", "ids"))
        samples = Samples({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        seconds, found = _of_samples(model, samples)
        # of every block its heads and its perceptron, and the pooler
        complete = sorted(group.size for group in found) == sorted([heads, inner] * layers + [width])
        yield Finding(
            f"{name} of {layers} layers, {TOKENS} tokens: all groups of nodes", Times(seconds),
            promise=None if quick else Promise(seconds=promise), agree=complete, note=NOTE,
        )  # fmt: skip
    depths, side = ([1, 1, 1, 1], 64) if quick else ([3, 4, 6, 3], 224)
    # two of every bottleneck, and the first convolution
    model = _network("ResNet", "ForImageClassification", depths=depths)
    pixels = torch.randn(1, 3, side, side, generator=stream(0, "speed", "pixels"))
    seconds, found = _of_samples(model, Samples({"pixel_values": pixels}))
    yield Finding(
        f"ResNet-{3 * sum(depths) + 2} at {side} pixels: all groups of nodes", Times(seconds),
        promise=None if quick else Promise(seconds=10.0), agree=len(found) == 2 * sum(depths) + 1, note=NOTE,
    )  # fmt: skip


def _network(family: str, task: str, **settings: Any) -> nn.Module:
    import transformers

    model: nn.Module = getattr(transformers, f"{family}{task}")(getattr(transformers, f"{family}Config")(**settings))
    return model.eval()


def _of_samples(model: nn.Module, samples: Samples) -> tuple[float, list[NodeGroup]]:
    with called_by_row(model, samples):
        return _timed(model, samples.rows(CPU))


def _timed(model: nn.Module, example: Tensor) -> tuple[float, list[NodeGroup]]:
    started = time.process_time()
    found, _ = find_groups(model, example, residual=False)
    return time.process_time() - started, found


def _same(ours: dict[str, Influence], theirs: dict[str, Influence]) -> bool:
    return ours.keys() == theirs.keys() and all(
        own.pairs.keys() == theirs[path].pairs.keys()
        and all(torch.equal(pairs, theirs[path].pairs[reader]) for reader, pairs in own.pairs.items())
        for path, own in ours.items()
    )
