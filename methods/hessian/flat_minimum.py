"""Prune neurons towards flat minima while the network trains from scratch. A RECONSTRUCTION.

Paper: Ebrahimi & Klabjan, "Neuron-based Pruning of Deep Neural Networks with Better Generalization using Kronecker
Factored Curvature Approximation" (arXiv 2111.08577; IJCNN 2023). Only its abstract was at hand: neurons are pruned
while the network trains from scratch, the quality of the solution is its flatness, measured by the spectral radius of
the Hessian, and curvature comes from K-FAC. No code is public. The penalty follows the same group's earlier work
(Sandler, Klabjan & Luo, "Non-Convex Optimization with Spectral Radius Regularization", arXiv 2102.11210); the cost of a
neuron, the schedule and all defaults are ours. Results of this file say nothing about the authors' implementation.

    minimise   L(W, z) + mu max(0, rho(W, z) - K)   over weights W and neurons z in {0, 1},   sum z <= budget

- Every ``every``-th step the loss gets mu max(0, rho - K): rho under K-FAC (:mod:`methods.curvature.flatness`), or of
  the batch's exact Hessian, whose gradient is sign(lambda) v^T (grad H) v.
- The factors A, G are exponential averages over the same batches, with labels sampled from the network's predictions.
- On a cubic schedule the neurons with the lowest c_i - mu r_i go, from all layers at once: c_i is the cost of removing
  i (Kron-OBS, or Kron-OBD with its first-order term, since during training the gradient is not zero), r_i the decrease
  of rho. They are physically removed, survivors keep their optimizer state.
- The surviving rows take the Kronecker-OBS update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget, Counts, NodeCost
from methods.budgets.meeting import meet
from methods.curvature.damping import checked_damping
from methods.curvature.flatness import TopVectors, batch_radius, hessian_radius, input_entries, radius_decreases
from methods.curvature.kfac import Factors, factorable, kfac_radius, relatively_damped, split_matrix, weight_matrix
from methods.errors import BadInput, Collapsed
from methods.hessian.kronecker import group_update, kron_obd_cost, kron_obs_cost
from methods.hooks import TrainingSchedule
from methods.layers.seen import several_units
from methods.network.graph import NetworkGraph, NodeGroup
from methods.network.kinds.registry import kind_of, write_parameters
from methods.network.parameters import bias_of, weight_of
from methods.network.surgery import remove_in_training
from methods.seeds import stream
from methods.selection import largest

CHOICES = {"radius": ("kfac", "hessian"), "score": ("obs", "obd", "magnitude")}


def remaining_fraction(time: float, final: float) -> float:
    """Cubic schedule r + (1 - r)(1 - t)^3, from 1 at t = 0 to r at t = 1."""
    return final + (1 - final) * (1 - min(max(time, 0.0), 1.0)) ** 3


def pruning_times(epochs: int, start: float, end: float, period: int) -> dict[int, float]:
    """Epochs (from 0) after which neurons go, with the schedule's time in (0, 1]; the last one always has time 1.

    Args:
        epochs: length of the training T.
        start: fraction of T before the first removal.
        end: fraction of T after which nothing is removed.
        period: epochs between removals.
    """
    latest = max(epochs - 1, 1)  # leave an epoch of training after the last removal, where there is one
    first = min(max(1, round(start * epochs)), latest)
    last = max(first, min(round(end * epochs), latest))
    done = sorted({*range(first, last + 1, period), last})
    return {epoch - 1: (number + 1) / len(done) for number, epoch in enumerate(done)}


class FlatMinimum(TrainingSchedule):
    """Prunes while the network trains: a schedule that is a hook of the common trainer. :meth:`begin` is called first.

    If the pruner is used without training, it is one-shot.

    Args:
        mu: weight of the penalty and of the radius's decrease in the score; 0 trains and scores without flatness.
        bound: K, the radius up to which nothing is penalised.
        every: steps between penalties, which are also the steps at which the factors are updated.
        radius: ``kfac`` or ``hessian`` (exact, third derivatives: several times slower).
        score: ``obs`` or ``obd`` cost of a neuron minus mu times the radius's decrease, or ``magnitude``: the control,
            the L2 norm of its incoming weights.
        update: whether the survivors take the Kronecker-OBS update.
        decay: of the exponential averages.
        damping: of the factors, in units of each layer's mean curvature.
        start: fraction of the training before the first removal.
        end: fraction after the last one.
        period: epochs between removals.
        floor: fraction of a layer that always stays.
    """

    method = "flat_minimum"  # this schedule is the whole method: selection, allocation and compensation are its own

    def __init__(
        self,
        mu: float = 1e-3,
        bound: float = 0.0,
        every: int = 10,
        radius: str = "kfac",
        score: str = "obs",
        update: bool = True,
        decay: float = 0.95,
        damping: float = 1e-3,
        start: float = 0.1,
        end: float = 0.7,
        period: int = 1,
        floor: float = 0.05,
    ) -> None:
        for name, value in {"radius": radius, "score": score}.items():
            if value not in CHOICES[name]:
                raise BadInput(f"{name}={value} is unknown to flat_minimum; choose one of {', '.join(CHOICES[name])}")
        if mu < 0 or bound < 0:
            raise BadInput(f"mu={mu:g} and bound={bound:g} must not be negative; type mu=0 for no penalty")
        if every < 1 or period < 1 or not 0 <= start <= end <= 1 or not 0 <= decay < 1 or not 0 <= floor < 1:
            raise BadInput("flat_minimum needs every, period >= 1; 0 <= start <= end <= 1; decay and floor in [0, 1)")
        self.mu, self.bound, self.every, self.radius, self.score = mu, bound, every, radius, score
        self.update, self.decay, self.floor = update, decay, floor
        self.damping = checked_damping(damping, "schedule")
        self.start, self.end, self.period = start, end, period
        self.seed = 0
        self.times: dict[int, float] = {}
        self.widths: dict[str, int] = {}
        self._forget()

    def graph_of(self, model: nn.Module, example: Tensor) -> NetworkGraph:
        """Groups of single output units; see :class:`methods.hooks.TrainingSchedule`."""
        graph = NetworkGraph(model, example)
        graph.leave_alone(several_units)
        return graph

    def begin(self, model: nn.Module, example: Tensor, budget: Budget, epochs: int, seed: int = 0) -> None:
        """Prepare for the training and its final budget; see :class:`methods.hooks.TrainingSchedule`.

        Raises:
            Unreachable: if the budget cannot be reached.
            Skipped: if no nodes of the network can be removed.
        """
        if epochs < 1:
            raise BadInput("flat_minimum prunes while it trains, for at least one epoch: type trainer.train.epochs=20")
        graph = self.graph_of(model, example[:2])
        graph.require_groups()
        cost = NodeCost(model, example[:2], graph.groups)
        self.budget, self.seed, self.example = budget, seed, example[:2].clone()
        self.dense, self.least = cost(cost.sizes), {n: max(1, round(self.floor * m)) for n, m in cost.sizes.items()}
        self.times = pruning_times(epochs, self.start, self.end, self.period)
        self.widths = dict(cost.sizes)
        self._forget()
        even = {name: torch.linspace(1, 0, size) for name, size in cost.sizes.items()}
        meet(budget, self._family(even), cost, self.dense)

    def _forget(self) -> None:
        self.factors: dict[str, Factors] = {}
        self.gradients: dict[str, Tensor] = {}
        self.vectors = TopVectors()
        self.direction: Tensor | None = None
        self.log: list[dict[str, Any]] = []

    # --- steps -------------------------------------------------------------------------------------------------------

    def on_step_loss(self, model: nn.Module, x: Tensor, y: Tensor, loss: Tensor, step: int) -> Tensor:
        """``loss`` plus, at every ``every``-th step, the penalty; the factors are averaged at the same steps."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise BadInput("flat_minimum prunes by the batches it sees; run it on one device: trainer.train.devices=1")
        if step % self.every:
            return loss
        if not bool(loss.isfinite()):
            raise Collapsed(
                f"the loss is not finite at step {step}; a smaller mu may help: schedule.mu={self.mu / 10:g}"
            )
        penalised = self.mu > 0 and self.radius == "kfac"
        rho, factors = batch_radius(
            model,
            factorable(model),
            x,
            y,
            generator=stream(self.seed, "flat_minimum", step),
            vectors=self.vectors,
            differentiable=penalised,
        )
        for name, new in factors.items():
            old = self.factors.get(name)
            self.factors[name] = new if old is None else Factors(*map(self._averaged, old, new))
        if self.mu > 0 and self.radius == "hessian":
            radius, product = hessian_radius(model, x, y, self.direction)
            self.direction = radius.vector
            curvature = radius.vector @ product(radius.vector, create_graph=True)
            rho = curvature if radius.eigenvalue >= 0 else -curvature
        return loss + self.mu * (rho - self.bound).clamp_min(0) if self.mu > 0 else loss

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Average the gradient, which the first-order term of ``score=obd`` needs."""
        if self.score != "obd":
            return
        for name in factorable(model):
            module = model.get_submodule(name)
            slope, bias = weight_of(module).grad, bias_of(module)
            if slope is not None:
                new = kind_of(module).as_matrix(slope.detach().double()).flatten(1)
                if bias is not None:
                    assert bias.grad is not None  # one backward pass fills both
                    new = torch.cat([new, bias.grad.detach().double()[:, None]], 1)
                old = self.gradients.get(name)
                self.gradients[name] = new if old is None else self._averaged(old, new)

    def _averaged(self, old: Tensor, new: Tensor) -> Tensor:
        return self.decay * old + (1 - self.decay) * new.to(old)

    # --- epochs ------------------------------------------------------------------------------------------------------

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """Remove the neurons with the lowest scores, as many as the schedule says."""
        if epoch not in self.times:
            return False
        self.example = self.example.to(next(model.parameters()).device)
        graph = self.graph_of(model, self.example)
        cost = NodeCost(model, self.example, graph.groups)
        target = self.budget.at(remaining_fraction(self.times[epoch], self.budget.remaining))
        if self.times[epoch] == 1:
            target = self.budget
        scores = {group.name: self._scores(model, group).cpu() for group in graph.groups}
        counts, note = meet(target, self._family(scores), cost, self.dense)
        kept = {name: largest(scores[name], int(count)) for name, count in counts.items()}
        before = kfac_radius(self.factors)
        if self.update:
            self._update_writers(model, graph.groups, kept)
        self._cut_statistics(model, graph.groups, kept)
        remove_in_training(graph, kept, optimizer)
        self.widths |= {name: len(nodes) for name, nodes in kept.items()}  # a layer of one node is no longer a group
        row = {"epoch": epoch + 1, "live": sum(self.widths.values()), "widths": dict(self.widths), "note": note}
        self.log.append(row | {"radius_before": before, "radius_after": kfac_radius(self.factors)})
        return True

    def _scores(self, model: nn.Module, group: NodeGroup) -> Tensor:
        """(m,) c_i - mu r_i: the increase of the loss by removing each neuron, minus the gain in flatness."""
        costs = torch.zeros(group.size, dtype=torch.float64, device=self.example.device)
        for name in group.writers:
            weight = weight_matrix(model.get_submodule(name))
            if self.score == "magnitude":
                costs += weight.square().sum(1)
                continue
            factors = relatively_damped(self.factors[name], self.damping)
            if self.score == "obs":
                costs += kron_obs_cost(weight, factors)
            else:
                costs += kron_obd_cost(weight, factors) - (self.gradients[name] * weight).sum(1)
        if self.score == "magnitude" or self.mu == 0:
            return costs
        return costs - self.mu * radius_decreases(self.factors, group, dict(model.named_modules()))

    def _family(self, scores: Mapping[str, Tensor]) -> Callable[[float], Counts]:
        """Counts of one ranking over all layers, none below its floor (of the layer's first size)."""
        names = list(scores)
        owner = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(scores[name]) for name in names]))
        order = torch.sort(torch.cat([scores[name] for name in names]), descending=True, stable=True).indices
        ranked = owner[order]

        def counts(s: float) -> Counts:
            kept = torch.bincount(ranked[: round(s * len(ranked))], minlength=len(names)).tolist()
            return {n: max(min(self.least[n], len(scores[n])), k) for n, k in zip(names, kept, strict=True)}

        return counts

    def _update_writers(self, model: nn.Module, groups: list[NodeGroup], kept: Mapping[str, Tensor]) -> None:
        for group in groups:
            for name in group.writers:
                module = model.get_submodule(name)
                factors = relatively_damped(self.factors[name], self.damping)
                matrix = group_update(weight_matrix(module), factors, kept[group.name].to(factors.G.device))
                write_parameters(module, *split_matrix(matrix, module))

    def _cut_statistics(self, model: nn.Module, groups: list[NodeGroup], kept: Mapping[str, Tensor]) -> None:
        """Take the removed neurons out of the averaged factors and gradients; they stay those of the survivors."""
        for group in groups:
            nodes = kept[group.name]
            for name in group.writers:
                own = nodes.to(self.factors[name].G.device)
                self.factors[name] = Factors(self.factors[name].A, self.factors[name].G[own][:, own])
                if name in self.gradients:
                    self.gradients[name] = self.gradients[name][own]
            gone = torch.ones(group.size, dtype=torch.bool)
            gone[nodes] = False
            for reader in group.readers:
                inputs = self.factors[reader.name].A
                stays = torch.ones(len(inputs), dtype=torch.bool)
                stays[input_entries(reader.columns, model.get_submodule(reader.name))[gone].flatten()] = False
                stays = stays.to(inputs.device)
                self.factors[reader.name] = Factors(inputs[stays][:, stays], self.factors[reader.name].G)
                if reader.name in self.gradients:
                    self.gradients[reader.name] = self.gradients[reader.name][:, stays]
        self.vectors, self.direction = TopVectors(), None

    # --- interruptions -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Averages, warm starts, widths and log."""
        tensors = {f"A|{name}": factors.A for name, factors in self.factors.items()}
        tensors |= {f"G|{name}": factors.G for name, factors in self.factors.items()}
        tensors |= {f"gradient|{name}": value for name, value in self.gradients.items()}
        tensors |= {f"top_a|{name}": value for name, value in self.vectors.A.items()}
        tensors |= {f"top_g|{name}": value for name, value in self.vectors.G.items()}
        if self.direction is not None:
            tensors["direction|"] = self.direction
        return tensors | {"widths": self.widths, "log": self.log}

    def restore(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back :meth:`state` and narrow ``model`` (as it was at :meth:`begin`) to the widths it had."""
        if not state:
            return
        self.widths, self.log = dict(state["widths"]), list(state["log"])
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            if isinstance(value, Tensor):
                part, _, name = key.partition("|")
                parts.setdefault(part, {})[name] = value
        gradient_factors = parts.get("G", {})
        self.factors = {name: Factors(value, gradient_factors[name]) for name, value in parts.get("A", {}).items()}
        self.gradients = parts.get("gradient", {})
        self.vectors = TopVectors(parts.get("top_a", {}), parts.get("top_g", {}))
        self.direction = parts.get("direction", {}).get("")
        graph = self.graph_of(model, self.example.to(next(model.parameters()).device))
        for name, width in self.widths.items():
            graph.remove(graph.find(name), torch.arange(width))
