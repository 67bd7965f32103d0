"""Use the importances of the package torch-pruning as selections: its own code scores the groups of nodes.

G. Fang, X. Ma, M. Song, M. B. Mi, X. Wang, "DepGraph: Towards any structural pruning", CVPR 2023; the package,
whose importances follow further papers (Taylor: Molchanov et al., CVPR 2019; LAMP: Lee et al., ICLR 2021; FPGM: He et
al., CVPR 2019; batch-norm scales: Liu et al., ICCV 2017). The groups of nodes, the budget and the repair are ours, so a
comparison is one of scores. torch-pruning computes its group for the same layer on a copy of the network; if its group
has other members than ours, or if it cannot handle the network, the cell is skipped with that reason.

Whatever the importances need beyond weights comes from the calibration samples, in evaluation mode with the true
labels: the gradient of the mean loss for Taylor, the mean of squared single-sample gradients for Hessian. The Hessian
importance of release 1.6.1 forgets all samples but the last when gradients are accumulated sample by sample, contrary
to its documentation; it is therefore given the square root of that mean as one gradient, which it squares.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.deadline import within
from methods.errors import BadInput, Skipped
from methods.layers.gradients import sample_losses
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.network.graph import NodeGroup
from methods.progress import track
from methods.selection import Selection

IMPORTANCES = (
    "GroupMagnitudeImportance", "GroupTaylorImportance", "GroupHessianImportance", "LAMPImportance", "FPGMImportance",
    "BNScaleImportance", "RandomImportance", "MagnitudeImportance", "TaylorImportance",
)  # fmt: skip


class TorchPruningSelection(Selection[NodeLayer]):
    """Keeps the nodes of the largest importance, as torch-pruning computes it.

    Args:
        importance: name of the class, one of ``IMPORTANCES``.
        arguments: what the class is built with (``p``, ``group_reduction``, ``normalizer``, ``bias``, ...).
        time_limit: seconds that torch-pruning's tracer may take; on some networks it never ends.

    Raises:
        BadInput: if there is no such importance, or it does not take the arguments.
    """

    def __init__(
        self,
        importance: str = "GroupMagnitudeImportance",
        arguments: Mapping[str, Any] | None = None,
        time_limit: float = 60.0,
    ) -> None:
        if importance not in IMPORTANCES:
            raise BadInput(f"selection.importance={importance} is unknown; choose one of {', '.join(IMPORTANCES)}")
        if not time_limit > 0:
            raise BadInput(f"selection.time_limit={time_limit:g} is no time; expected seconds above 0")
        self.importance, self.arguments, self.time_limit = importance, dict(arguments or {}), time_limit
        self._build()

    def _build(self) -> Callable[[Any], Tensor | None]:
        import torch_pruning

        try:
            return getattr(torch_pruning.importance, self.importance)(**self.arguments)
        except (TypeError, AssertionError) as error:
            raise BadInput(
                f"selection.arguments={self.arguments} do not suit {self.importance} ({error}); "
                "type for instance selection.arguments={group_reduction:sum}"
            ) from error

    def leaves_alone(self, group: NodeGroup) -> str | None:
        """Leave groups alone whose nodes are several output units, such as heads."""
        if group.partial:
            return "torch-pruning scores whole layers, its nodes are a part of the units of one"
        if group.width == 1:
            return None
        return f"torch-pruning scores single output units, its nodes have {group.width} each"

    def scores(self, layer: NodeLayer) -> Tensor:
        """The importance of each node, (m,) float64.

        Raises:
            Skipped: if torch-pruning does not understand the network, couples other layers than the group has, or finds
                nothing in the group that the importance scores.
        """
        own = layer.group
        if (reason := self.leaves_alone(own)) is not None:
            raise Skipped(f"{layer.name}: {reason}")
        key = ("torch-pruning", self.importance, repr(sorted(self.arguments.items())))
        traced: _Traced = layer.once(key, lambda: _Traced(layer, self._build(), self.importance, self.time_limit))
        group = traced.group_of(layer)
        seed = int(torch.randint(2**62, (), generator=layer.generator))
        with torch.random.fork_rng(devices=[]):  # random importance draws from the process's own stream
            torch.random.default_generator.manual_seed(seed)
            scores = _asked(layer, lambda: traced.importance(group))
        if scores is None:
            raise Skipped(f"{layer.name}: {self.importance} finds nothing that it scores in this group of layers")
        units = own.rows[0][:, 0]
        outputs = traced.outputs_of(own.writers[0])
        if scores.shape != (outputs,):
            raise Skipped(f"{layer.name}: {self.importance} gives {tuple(scores.shape)} scores for {outputs} units")
        return scores.detach().double()[units.to(scores.device)].to(layer.incoming.device)


class _Traced:
    """A copy of the network with torch-pruning's graph of it, and an importance that has read what it needs."""

    def __init__(
        self, layer: NodeLayer, importance: Callable[[Any], Tensor | None], name: str, time_limit: float
    ) -> None:
        self.importance, self.time_limit = importance, time_limit
        self.graph: Any = None
        self.fault = ""
        with torch.inference_mode(False), torch.enable_grad():  # what the tracer needs, frozen layers or not
            self.model = copy.deepcopy(layer.model).requires_grad_(True).eval()
            example = layer.calibration.inputs[:1].clone()
            try:
                self.graph = self._traced(lambda: _graph(self.model, example))
            except Skipped as skipped:
                self.fault = str(skipped)
                return
            if "Taylor" in name:
                _set_gradients(self.model, layer.calibration, squared=False)
            if "Hessian" in name:
                _set_gradients(self.model, layer.calibration, squared=True)
                self.importance.accumulate_grad(self.model)  # type: ignore[attr-defined]

    def _traced(self, work: Callable[[], Any]) -> Any:
        """Return the result of ``work`` within the time limit; a failure of torch-pruning becomes :class:`Skipped`."""

        def quietly() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of parameters outside of layers: members are compared below
                return work()

        try:
            return within(self.time_limit, quietly)
        except TimeoutError as error:
            raise Skipped(
                f"torch-pruning's tracer did not end within {self.time_limit:g} s on this network; choose another "
                "method, or type selection.time_limit=600 if the network is large"
            ) from error
        except Exception as error:  # on a network that it has no rules for it may fail in any way
            raise Skipped(f"torch-pruning does not understand this network ({_told(error)})") from error

    def group_of(self, layer: NodeLayer) -> Any:
        """torch-pruning's group behind the first writer of ``layer``, with all of its units.

        Raises:
            Skipped: if it cannot trace the network, or its group has other members than ours.
        """
        if self.fault:
            raise Skipped(f"{layer.name}: {self.fault}")
        own = layer.group
        try:
            group = self._traced(lambda: _all_units(self.graph, self.model.get_submodule(own.writers[0])))
        except Skipped as skipped:
            self.fault = str(skipped)  # other layers need not wait for the same failure
            raise Skipped(f"{layer.name}: {skipped}") from skipped
        writers, readers = _members(self.graph, group, self.model, own.carriers)
        for role, ours, theirs in (("writers", set(own.writers), writers), ("readers", set(layer.readers), readers)):
            if ours != theirs:
                raise Skipped(
                    f"{layer.name}: torch-pruning couples other layers; {role} in its group {_listed(theirs)}, "
                    f"in ours {_listed(ours)}"
                )
        return group

    def outputs_of(self, path: str) -> int:
        """How many output units torch-pruning sees in a layer."""
        module = self.model.get_submodule(path)
        return self.graph.get_pruner_of_module(module).get_out_channels(module)


def _graph(model: nn.Module, example: Tensor) -> Any:
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(model, (example,), verbose=False)


def _all_units(graph: Any, module: nn.Module) -> Any:
    if module not in graph.module2node:
        raise KeyError(f"it does not see the layer {type(module).__name__}")
    pruner = graph.get_pruner_of_module(module)
    return graph.get_pruning_group(module, pruner.prune_out_channels, list(range(pruner.get_out_channels(module))))


def _members(graph: Any, group: Any, model: nn.Module, carriers: Sequence[str]) -> tuple[set[str], set[str]]:
    """Paths of the layers with a weight matrix whose output units, and whose input channels, are in the group."""
    paths = {module: path for path, module in model.named_modules()}
    writers, readers = set[str](), set[str]()
    for item in group:
        path = paths.get(item.dep.target.module)
        if path is None or path in carriers or not _is_matrix(item.dep.target.module):
            continue
        # the graph's handlers are bound methods, which this predicate compares with ==
        (writers if graph.is_out_channel_pruning_fn(item.dep.handler) else readers).add(path)
    return writers, readers


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _set_gradients(model: nn.Module, calibration: Calibration, squared: bool) -> None:
    """Give every parameter the gradient of the mean loss, or the root of the mean squared single-sample gradient."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    inputs, labels = calibration.inputs, calibration.labels
    size = 1 if squared else calibration.batch_size
    pieces = list(zip(inputs.split(size), labels.split(size), strict=True))
    for x, y in track(pieces, "gradients for torch-pruning"):
        loss = sample_losses(model(x), y).sum()
        for total, part in zip(
            sums, torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True), strict=True
        ):
            total += part.double().square() if squared else part.double()
    for parameter, total in zip(parameters, sums, strict=True):
        mean = total / len(calibration)
        parameter.grad = (mean.sqrt() if squared else mean).to(parameter.dtype)


def _asked(layer: NodeLayer, importance: Callable[[], Tensor | None]) -> Tensor | None:
    try:
        return importance()
    except Exception as error:  # its rules for a kind of layer may fail in any way
        raise Skipped(f"{layer.name}: torch-pruning cannot score this group of layers ({_told(error)})") from error


def _told(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _listed(paths: set[str]) -> str:
    return ", ".join(sorted(paths)) or "none"
