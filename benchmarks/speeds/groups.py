"""Finding the node groups of the DenseNet, beside finding what units reach for one layer after the other."""

from collections.abc import Iterator

import torch

from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.speeds._settings import network
from methods.network.coupling import find_groups
from methods.network.influence import Influence, find_influences, influence
from methods.network.mockup import Mockup
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """DenseNet-BC-40, or VGG-11 when quick."""
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


def _same(ours: dict[str, Influence], theirs: dict[str, Influence]) -> bool:
    return ours.keys() == theirs.keys() and all(
        own.pairs.keys() == theirs[path].pairs.keys()
        and all(torch.equal(pairs, theirs[path].pairs[reader]) for reader, pairs in own.pairs.items())
        for path, own in ours.items()
    )
