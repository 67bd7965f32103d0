"""The promises that every pruning method makes, each checked by one function that raises if it is not kept.

A promise is checked on one network at a time. A broken one raises :class:`AssertionError` with what was found and what
was expected. Where the method refuses the network, it raises :class:`methods.errors.Skipped` with the reason; this is
not a broken promise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.allocation import Copied, Explicit, Rounded
from methods.budgets.budget import Budget
from methods.compensation import Compensation
from methods.layers.seen import EdgeLayer, Layer
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.schedule import Iterative, Schedule
from secateurs.examples import BLOCKS, NETWORKS, WIDE, calibration, make

MET = 0.01  # relative deviation up to which a budget counts as met
NEAR = 0.05  # the same with a note that says so, where a single unit is too large a step to come closer
SAMPLES = 64


@dataclass(frozen=True)
class Trial:
    """One method on one network.

    Attributes:
        pruner: the method; the same object for all promises, so that any state it keeps between calls is noticed.
        network: a name of :mod:`secateurs.examples`.
        stochastic: whether the method draws random numbers; None where that is not known.
        device: where the network and the samples are.
    """

    pruner: Pruner
    network: str
    stochastic: bool | None = None
    device: torch.device | str = "cpu"

    def samples(self) -> Calibration:
        """The calibration samples that the method may use."""
        found = calibration(SAMPLES)
        return replace(found, inputs=found.inputs.to(self.device), labels=found.labels.to(self.device))

    def model(self) -> nn.Module:
        """The dense network, the same one each time."""
        return make(self.network).to(self.device)

    def prune(self, kind: str = "keep", value: float = 0.5, seed: int = 0) -> Pruned:
        """The network, pruned by the unmodified method."""
        return self.pruner.prune(self.model(), self.samples(), Budget(kind, value), seed)

    def with_parts(
        self, schedule: Schedule, compensation: Compensation | None = None, residual: bool = False
    ) -> Pruner:
        """The method with other parts around its selection and allocation."""
        own = self.pruner
        return Pruner(own.selection, own.allocation, compensation or own.compensation, schedule, residual)


def budget_is_met(trial: Trial) -> None:
    """Half of the units stay, within 1 %, or within 5 % with a note; every layer keeps some; all numbers are finite."""
    pruned = trial.prune()
    require_met(trial.pruner, pruned, "keep", 0.5)
    for layer in pruned.layers:
        assert 1 <= layer["kept"] <= layer["units"], f"{layer['name']} keeps {layer['kept']} of {layer['units']} units"
    kept, units = (sum(layer[name] for layer in pruned.layers) for name in ("kept", "units"))
    assert kept < units, f"all {units} units stay"
    assert torch.isfinite(_outputs(pruned.model, trial.samples())).all(), "the pruned network computes NaN or infinity"
    for name, mask in pruned.masks.items():
        living = int((pruned.model.get_parameter(name)[~mask] != 0).sum())
        assert not living, f"{living} weights of {name} are not zero though their mask is False"


def whole_model_budgets_are_met(trial: Trial) -> None:
    """A third of the parameters, or half of the MACs, stay: within 1 %, or within 5 % with a note."""
    for kind, value in (("compression", 3.0), ("speedup", 2.0)):
        require_met(trial.pruner, trial.prune(kind, value), kind, value)


def steps_meet_the_budget(trial: Trial) -> None:
    """Three steps end at the budget, also where whole rows of edges have been removed."""
    edges = trial.pruner.selection.unit == "edge"
    keep = 0.03 if edges else 0.1
    pruner = trial.with_parts(Iterative(3))
    pruned = pruner.prune(trial.model(), trial.samples(), Budget("keep", keep))
    require_met(pruner, pruned, "keep", keep)


def seed_decides(trial: Trial) -> None:
    """The same seed gives the same network, whatever the global random state, which is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = trial.prune(seed=5)
        assert torch.equal(torch.get_rng_state(), state), (
            "the method draws from PyTorch's global random state; expected only layer.generator"
        )
        torch.manual_seed(2)
        second = trial.prune(seed=5)
    assert _same(first.model, second.model), "two runs with one seed give two networks"


def another_seed_gives_another_result(trial: Trial) -> None:
    """Another seed changes the result of a method that draws random numbers, and of no other."""
    differs = not _same(trial.prune(seed=0).model, trial.prune(seed=1).model)
    if trial.stochastic:
        assert differs, "two seeds give the same network, though the method is stochastic: does it use its generator?"
    else:
        assert not differs, "two seeds give two networks, though the method is not stochastic"


def original_is_untouched(trial: Trial) -> None:
    """Neither the dense network's weights and modes nor the samples change; the pruned network has its modes."""
    model, samples = trial.model().train(), trial.samples()
    before, modes = _state(model), [module.training for module in model.modules()]
    pruned = trial.pruner.prune(model, samples, Budget("keep", 0.5))
    assert _equal(_state(model), before), "the dense network has other weights afterwards"
    assert [module.training for module in model.modules()] == modes, "modules are left in another mode"
    assert pruned.model.training, "the pruned network is in another mode than the dense one"
    fresh = trial.samples()
    assert torch.equal(samples.inputs, fresh.inputs) and torch.equal(samples.labels, fresh.labels), "samples changed"


def removed_equals_closed_off(trial: Trial) -> None:
    """A smaller network without repair computes what the dense network computes with the removed nodes set to zero."""
    for residual in (False, True):
        model, samples = trial.model(), trial.samples()
        pruner = trial.with_parts(Schedule(), Compensation(), residual)
        pruned = pruner.prune(model, samples, Budget("keep", 0.6))
        groups = NetworkGraph(model, samples.inputs, residual=residual).groups
        with gated(model, groups, pruned.kept), torch.no_grad():
            expected = model.eval()(samples.inputs)
        found = _outputs(pruned.model, samples)
        off = float((found - expected).abs().max())
        assert torch.allclose(found, expected, atol=1e-5), f"outputs differ by up to {off:.2g}"


def keeping_everything_changes_nothing(trial: Trial) -> None:
    """With keep=1 every weight stays as it is."""
    pruned = trial.prune("keep", 1.0)
    if all(layer["kept"] == layer["units"] for layer in pruned.layers):
        assert _equal(_state(pruned.model), _state(trial.model())), "weights change though every unit stays"
    else:
        said = pruned.note or "no note"
        assert _sizes_its_steps(trial.pruner, said), f"units go though all were to stay ({said})"


def scores_are_sound(trial: Trial) -> None:
    """One finite score for every unit, and exactly the wanted number of units stays in every layer."""
    with _watched(trial.pruner.selection):
        trial.prune()


@dataclass(frozen=True)
class Promise:
    """A promise, and the methods and networks that it applies to.

    Attributes:
        check: the function that raises if it is not kept; the first line of its docstring states the promise.
        networks: names of :mod:`secateurs.examples`.
        units: the units (``node``, ``edge``) of the methods that it applies to.
        needs_to_know: whether it applies only to methods that are known to be stochastic or known not to be.
    """

    check: Callable[[Trial], None]
    networks: tuple[str, ...] = tuple(NETWORKS)
    units: tuple[str, ...] = ("node", "edge", "eigen")
    needs_to_know: bool = False

    @property
    def name(self) -> str:
        """The function's name as words."""
        return self.check.__name__.replace("_", " ")

    def concerns(self, trial: Trial) -> bool:
        """Whether the promise applies to this method on this network."""
        known = trial.stochastic is not None or not self.needs_to_know
        return trial.network in self.networks and trial.pruner.selection.unit in self.units and known


PROMISES = (
    Promise(budget_is_met),
    Promise(whole_model_budgets_are_met, ("convolution", WIDE), ("node", "eigen")),
    Promise(whole_model_budgets_are_met, ("convolution",), ("edge",)),  # where one weight is less than 0.1 %
    Promise(steps_meet_the_budget, ("chain",), ("edge",)),
    Promise(steps_meet_the_budget, (WIDE,), ("node", "eigen")),
    Promise(seed_decides),
    Promise(another_seed_gives_another_result, needs_to_know=True),
    Promise(original_is_untouched),
    Promise(removed_equals_closed_off, units=("node",)),
    Promise(keeping_everything_changes_nothing),
    Promise(scores_are_sound, units=("node", "edge")),
    # methods that remove whole blocks or ranks do so in coarse steps; tests/methods checks their budgets separately
    *(
        Promise(check, networks, (unit,))
        for unit, networks in (("rank", tuple(NETWORKS)), ("block", (BLOCKS,)))
        for check in (seed_decides, original_is_untouched, keeping_everything_changes_nothing)
    ),
)
PLACES = (*NETWORKS, WIDE, BLOCKS)


def require_met(pruner: Pruner, pruned: Pruned, kind: str, value: float) -> None:
    """The size is within 1 %; or there is a note and it is within 5 %, or the note has a reason that is expected."""
    achieved = pruned.achieved[kind]
    off = abs(achieved / value - 1)
    if off <= MET:
        return
    found = f"{kind}={achieved:.4g} for the requested {value:g}"
    assert pruned.note, f"{found}, and no note says why"
    if off > NEAR:
        assert _sizes_its_steps(pruner, pruned.note), (
            f"{found}, more than {NEAR:.0%} off, and the note gives no reason for so much: {pruned.note}"
        )


def _sizes_its_steps(pruner: Pruner, note: str) -> bool:
    """Whether the allocation's own rule, not the budget, decides how much is removed, and the note says so."""
    allocation = pruner.allocation
    if allocation.partial:
        return "the method's rule stopped at" in note
    inner = allocation.inner if isinstance(allocation, Rounded) else allocation
    return isinstance(inner, Explicit | Copied) and "the allocation fixes the sizes" in note


@contextmanager
def _watched(selection: Any) -> Iterator[None]:
    """Check everything that the selection scores and selects in this context."""

    def scores(layer: Layer) -> Tensor:
        found: Tensor = type(selection).scores(selection, layer)
        _require_scores(found, layer, f"{type(selection).__name__}.scores of {layer.name}")
        return found

    def select(layer: Layer, k: int | Tensor) -> Tensor:
        found: Tensor = type(selection).select(selection, layer, k)
        _require_selected(found, layer, k, f"{type(selection).__name__}.select of {layer.name}")
        return found

    selection.scores, selection.select = scores, select
    try:
        yield
    finally:
        del selection.scores, selection.select


def _require_scores(found: Any, layer: Layer, what: str) -> None:
    assert isinstance(found, Tensor), f"{what} gives {type(found).__name__}; expected a tensor"
    shape = tuple(layer.weight.shape) if isinstance(layer, EdgeLayer) else (layer.size,)
    assert tuple(found.shape) == shape, f"{what} has shape {tuple(found.shape)}; expected {shape}"
    living = found[layer.live] if isinstance(layer, EdgeLayer) else found
    bad = int((~torch.isfinite(living)).sum())
    assert not bad, f"{what} has {bad} of {living.numel()} scores that are NaN or infinite"


def _require_selected(found: Tensor, layer: Layer, k: int | Tensor, what: str) -> None:
    assert isinstance(found, Tensor), f"{what} gives {type(found).__name__}; expected a tensor"
    if isinstance(layer, EdgeLayer):
        assert found.dtype == torch.bool and found.shape == layer.live.shape, (
            f"{what} gives {found.dtype} {tuple(found.shape)}; expected a boolean mask {tuple(layer.live.shape)}"
        )
        dead = int((found & ~layer.live).sum())
        assert not dead, f"{what} takes {dead} weights that earlier steps have removed"
        kept, wanted = (found.sum(1), k) if isinstance(k, Tensor) else (found.sum(), torch.tensor(k))
        assert torch.equal(kept.cpu(), wanted.cpu().to(kept.dtype)), f"{what} keeps {int(found.sum())} weights; not {k}"
        return
    assert len(found) == k, f"{what} keeps {len(found)} nodes; expected {k}"
    assert bool((found.diff() > 0).all()), f"{what} gives indices that are not sorted and distinct: {found.tolist()}"
    assert k == 0 or 0 <= int(found[0]) <= int(found[-1]) < layer.size, f"{what} gives indices outside of the layer"


def _outputs(model: nn.Module, samples: Calibration) -> Tensor:
    with torch.no_grad():
        found: Tensor = copy.deepcopy(model).eval()(samples.inputs)
        return found


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _same(first: nn.Module, second: nn.Module) -> bool:
    return _equal(first.state_dict(), second.state_dict())
