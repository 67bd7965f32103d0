"""Meeting a whole-model speed-up for ResNet-56 with magnitude nodes, compared with torch-pruning's iterative pruner.

Both rank the inner channels of every block by the L2 norm of their incoming weights and keep the same fraction
everywhere; torch-pruning cannot aim at a speed-up, so its pruner steps on until the MACs are there.
"""

import copy
from collections.abc import Iterator

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.speeds._settings import network
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph
from methods.network.parameters import weight_of
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.seeds import stream

SPEEDUP = 2.0
STEPS = 200  # of torch-pruning's pruner, down to no channels; half the MACs are gone after about a half


def measure(quick: bool) -> Iterator[Finding]:
    """Time the budget search on ResNet-56, or on ResNet-20 when quick."""
    name = "resnet20" if quick else "resnet56"
    dense = network(name, "cifar10")
    example = torch.randn(64, 3, 32, 32, generator=stream(0, "speed", "budget"))
    calibration = Calibration(example, torch.zeros(64, dtype=torch.int64), torch.arange(64))
    results: dict[str, Pruned | nn.Module] = {}

    def ours() -> None:
        results["ours"] = Pruner(MagnitudeSelection(norm=2)).prune(dense, calibration, Budget("speedup", SPEEDUP))

    def theirs() -> None:
        results["theirs"] = iterative(dense, example[:1])

    [times] = alternate(ours, theirs, pairs=1 if quick else 3, warm_up=not quick)
    pruned, other = results["ours"], results["theirs"]
    assert isinstance(pruned, Pruned) and isinstance(other, nn.Module)
    reached = count_macs(dense, example) / count_macs(other, example)
    met = abs(pruned.achieved["speedup"] / SPEEDUP - 1) <= 0.01 and reached >= 0.99 * SPEEDUP
    yield Finding(
        f"{name}: magnitude nodes, speed-up {SPEEDUP:g}",
        times,
        f"torch-pruning {_version()}, iterative",
        None if quick else Promise(seconds=1.0),
        met and _nested(dense, pruned, other),
        f"speed-up reached {pruned.achieved['speedup']:.3f} against {reached:.3f}; same result: kept channels nested",
    )


def iterative(dense: nn.Module, example: Tensor) -> nn.Module:
    """Prune as torch-pruning does, in small steps until the network is fast enough."""
    model = copy.deepcopy(dense)
    inner = {group.name for group in NetworkGraph(model, example).groups}
    modules = dict(model.named_modules())
    ignored = [m for path, m in modules.items() if isinstance(m, nn.Conv2d | nn.Linear) and path not in inner]
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=ignored,
    )
    start, _ = tp.utils.count_ops_and_params(model, example)
    for _ in range(STEPS):
        pruner.step()
        macs, _ = tp.utils.count_ops_and_params(model, example)
        if macs * SPEEDUP <= start:
            break
    return model


def _nested(dense: nn.Module, pruned: Pruned, other: nn.Module) -> bool:
    """Whether in every layer the channels of one are among those of the other: both have cut the same ranking."""
    for name, kept in pruned.kept.items():
        rows = weight_of(dense.get_submodule(name)).flatten(1)
        left = weight_of(other.get_submodule(name)).flatten(1)
        theirs = set((left[:, None] == rows[None]).all(2).nonzero()[:, 1].tolist())
        mine = set(kept.tolist())
        if len(theirs) != len(left) or not (mine <= theirs or theirs <= mine):
            return False
    return True


def _version() -> str:
    from importlib import metadata

    return metadata.version("torch-pruning")
