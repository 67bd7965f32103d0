"""What units reach, compared with the slow way: every unit alone, the whole network run as often."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import slow_but_for
from test_cases import IMAGES, PRUNED, gate_from_its_last_channel, gram
from test_cases import made as case
from test_graph import BAD, GOOD, Heads, TransformerLike, X
from test_graph import made as graph_case
from torch import Tensor, nn

from benchmarks.models import build
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.network.codes import NONE, SEVERAL, meant, patterns
from methods.network.influence import Influence, find_influences
from methods.network.mockup import Mockup
from methods.network.trials import Part, each_without, without

CASES = (
    {f"good {name}": (lambda factory=factory: graph_case(factory), X) for name, (factory, _) in GOOD.items()}
    | {f"bad {name}": (lambda factory=factory: graph_case(factory), X) for name, (factory, _, _) in BAD.items()}
    | {each.__name__: (lambda each=each: graph_case(each), X) for each in (Heads, TransformerLike)}
    | {each.__name__: (lambda each=each: case(each), IMAGES) for each in [*PRUNED, gate_from_its_last_channel, gram]}
)
MODELS = {
    "densenet": "cifar10", "lenet300": "mnist", "lenet5": "mnist", "mlp": "mnist", "mobilenetv2": "cifar10",
    "nn3": "mnist", "resnet20": "cifar10", "vgg11": "cifar10", "vit": "cifar10",
}  # fmt: skip


def slowly(mockup: Mockup, path: str, units: list[int]) -> Influence:
    """Each of some units of one layer changed alone, upwards and downwards, in a run of the whole network."""
    result = Influence()
    dimension = mockup.dimension(path)
    generator = torch.Generator().manual_seed(7)
    copies = 2 * len(units) + 1
    steps: dict[int, Tensor] = {}
    calls: dict[str, int] = {}

    def change(out):
        if len(steps) == 0:
            steps[0] = 10 + 10 * torch.rand(out.shape, generator=generator)
        several = out.repeat(copies, *[1] * out.dim())
        for number, unit in enumerate(units):
            several[1 + number].select(dimension, unit).add_(steps[0].select(dimension, unit))
            several[1 + len(units) + number].select(dimension, unit).sub_(steps[0].select(dimension, unit))
        return several.flatten(0, 1)

    def observe(reader, read):
        before = mockup.reads[reader][calls.get(reader, 0)] if reader else mockup.output
        calls[reader] = calls.get(reader, 0) + 1
        if len(read) != copies * len(before):
            result.obstacle = "an operation that mixes samples"
            return
        for number, entry in enumerate(read.reshape(copies, *before.shape)):
            far = (entry - before).abs() > 1e-3 * max(1, float(before.abs().max()))
            if number == 0 or not bool(far.any()):
                if bool(far.any()):
                    result.obstacle = "an operation that mixes samples"
                continue
            if not reader:
                result.leaks = True
            elif reader in mockup.channelled:
                channels = far.movedim(mockup.dimension(reader), 0).flatten(1).any(1).nonzero().flatten()
                unit = units[(number - 1) % len(units)]
                own = torch.stack([torch.full_like(channels, unit), channels], 1)
                result.pairs[reader] = torch.cat([result.pairs.get(reader, own[:0]), own])
            else:
                result.obstacle = result.obstacle or f"{reader} ({type(mockup.modules[reader]).__name__})"

    try:
        mockup.run({path: change}, observe, copies)
    except RuntimeError:
        result.obstacle = "an operation that mixes samples"
    return result


def pairs_of(influence: Influence, units: list[int]) -> dict[str, set[tuple[int, ...]]]:
    chosen = {
        reader: {tuple(pair) for pair in pairs.tolist() if pair[0] in units}
        for reader, pairs in influence.pairs.items()
    }
    return {reader: pairs for reader, pairs in chosen.items() if pairs}


def compare(model: nn.Module, example: Tensor, most: int) -> None:
    mockup = Mockup(model, example)
    found = find_influences(mockup)
    assert list(found) == mockup.layers
    with mockup.standing():
        for path, own in found.items():
            total = mockup.units(path)
            units = torch.randperm(total, generator=torch.Generator().manual_seed(3))[:most].sort().values.tolist()
            slow = slowly(mockup, path, units)
            if slow.obstacle or own.obstacle:
                assert own.obstacle == slow.obstacle, path
            else:
                assert pairs_of(own, units) == pairs_of(slow, units), path
                assert own.leaks == slow.leaks, path


@pytest.mark.parametrize("name", CASES)
def test_what_units_reach_is_what_the_slow_way_finds(name):
    factory, example = CASES[name]
    compare(factory(), example, most=200)


@pytest.mark.parametrize("name", slow_but_for(MODELS, "lenet5"))
def test_what_units_of_the_suites_models_reach_is_what_the_slow_way_finds(name):
    config = Composer(CONF).cell([f"model={name}", f"dataset={MODELS[name]}"])
    shape = config["dataset"]["shape"]
    model = build(config["model"], shape, config["dataset"]["classes"], 0)
    compare(model, torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)), most=3)


@given(st.integers(1, 3000), st.data())
def test_patterns_tell_one_thing_from_none_and_from_several(things, data):
    chosen = data.draw(st.lists(st.integers(0, things - 1), max_size=4, unique=True))
    own = patterns(things)
    answers = own[:, chosen].any(1)[:, None]
    expected = NONE if not chosen else chosen[0] if len(chosen) == 1 else SEVERAL
    assert meant(answers, things).tolist() == [expected]
    assert 2 * own.sum(0).unique() == len(own) - len(own) % 2


@pytest.mark.slow
@given(st.sets(st.integers(0, 8)))
def test_parts_are_tried_together_with_the_answers_that_each_has_alone(broken):
    layers = [nn.Flatten(), *(each for _ in range(10) for each in (nn.Linear(72, 72), nn.Tanh())), nn.Linear(72, 3)]
    mockup = Mockup(nn.Sequential(*layers), X)
    paths = mockup.layers
    parts = []
    for number, (path, reader) in enumerate(pairwise(paths[:10])):
        kept = torch.arange(number + 1, 72)
        parts.append(Part({path: kept}, {reader: kept - 1 if number in broken else kept}))
    together = each_without(mockup, parts)
    assert together == [without(mockup, part) for part in parts]
    assert {number for number, reason in enumerate(together) if reason} == broken
