"""What a method sees of one layer: its weights in float64, its statistics on demand, its own random stream.

Methods use this interface and nothing else of a layer; CONTRIBUTING.md has a table of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from methods.errors import Skipped
from methods.layers.statistics import Calibration, Moments, unpadded
from methods.network.graph import NodeGroup
from methods.network.kinds.registry import kind_of, matrix_of
from methods.network.parameters import bias_of
from methods.network.reading import Rows, evaluating, listening, patch_rows

Value = TypeVar("Value")


class Forgotten(cached_property[Value]):
    """A cached property of a layer; with a limit ``calibration.memory`` it is not kept but computed each time."""

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        """The value, or for a class the property."""
        value = super().__get__(instance, owner)
        if instance is not None and instance.calibration.memory is not None:
            vars(instance).pop(self.attrname, None)
        return value


class _Shown:
    """What layers of nodes and of edges have in common.

    Attributes:
        model, calibration, shared: as for :class:`NodeLayer`.
    """

    model: nn.Module
    calibration: Calibration
    shared: dict[Hashable, Any]

    @property
    def labels(self) -> Tensor:
        """(n,) true labels of the calibration samples, in the order of their batches; (n, T) for tokens."""
        return self.calibration.labels

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, which is called once for all layers of a pruning step, when first asked for."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    @torch.no_grad()
    def _read(self, name: str, rows: Rows) -> Iterator[Tensor]:
        """The input of a module, batch by batch; several calls side by side."""
        reads: list[Tensor] = []
        for inputs, _ in self.calibration.batches():
            reads.clear()
            present = self.calibration.present(inputs)

            def listen(read: Tensor, present: Tensor | None = present) -> None:
                reads.append(unpadded(rows(read), read, present).clone())

            with evaluating(self.model), listening(self.model, {name: listen}):
                self.model(inputs)
            yield torch.cat(reads, 1)

    def _mean_gradient(self, name: str) -> Tensor:
        """(out, in / groups, *kernel) float64 gradient of the mean loss with respect to the weight of one module."""
        from methods.layers.gradients import mean_gradients

        return self.once(("mean gradient", name), lambda: mean_gradients(self.model, [name], self.calibration)[name])

    def _sample_gradients(self, name: str) -> Tensor:
        """(n, out, d) gradients of every sample's loss in the weight of one module, in the network's precision."""
        from methods.layers.gradients import Samples, collect_gradients

        gradients = collect_gradients(self.model, [name], self.calibration, Samples()).of(name)
        return gradients.unflatten(1, (len(matrix_of(self.model.get_submodule(name))), -1))


@dataclass
class NodeLayer(_Shown):
    """One coupled group of nodes: neurons or channels, each of which is removed in all layers that share it.

    Attributes:
        group: the modules that write and read the nodes.
        model: the network as the method sees it (see ``Selection.order``).
        calibration: the samples a method may look at.
        generator: CPU stream of this layer alone.
        shared: a dictionary common to all layers of one pruning step, for statistics that several of them need.
        readers_kept: for each reader the rows (output units) that stay, None where all do or it is not decided yet.
        readers_probability: for each reader a probability over its rows (spectral pruning, backward procedure).
        paired: for each reader the moments that tie the original network to the one being pruned, E[phi phi~^T] and
            E[phi~ phi~^T], both (m, m); for reconstructions fitted on the pruned network's own features.
    """

    group: NodeGroup
    model: nn.Module
    calibration: Calibration
    generator: torch.Generator
    collect: Callable[[], list[Moments]]
    shared: dict[Hashable, Any] = field(default_factory=dict)
    readers_kept: list[Tensor | None] = field(default_factory=list)
    readers_probability: list[Tensor | None] = field(default_factory=list)
    paired: Callable[[], list[tuple[Moments, Moments]]] | None = None
    unit = "node"

    @property
    def name(self) -> str:
        """Module path of the group's first writer."""
        return self.group.name

    @property
    def size(self) -> int:
        """Number of nodes m."""
        return self.group.size

    @property
    def writers(self) -> tuple[str, ...]:
        """Paths of the modules whose output units the nodes are, for methods that score output units one by one.

        Raises:
            Skipped: if a node is several output units (a head, a unit of an LSTM), or if node i is not output unit i.
        """
        if (reason := several_units(self.group)) is not None:
            raise Skipped(f"{self.name}: {reason}")
        return self.group.writers

    @property
    def readers(self) -> tuple[str, ...]:
        """Paths of the modules that read the nodes."""
        return tuple(reader.name for reader in self.group.readers)

    @cached_property
    def incoming(self) -> Tensor:
        """(m, fan_in) float64 incoming weights, the writers' rows side by side, without biases."""
        group = self.group
        weights = [_weight(self.model, path)[rows] for path, rows in zip(group.writers, group.rows, strict=True)]
        return torch.cat([weight.flatten(1) for weight in weights], 1)

    @cached_property
    def bias(self) -> Tensor | None:
        """(m,) float64 bias, summed over writers and over the output units of a node; None if no writer has one."""
        biases = [
            (getattr(self.model.get_submodule(path), "bias", None), rows)
            for path, rows in zip(self.group.writers, self.group.rows, strict=True)
        ]
        own = [bias.detach().double()[rows].sum(1) for bias, rows in biases if bias is not None]
        return torch.stack(own).sum(0) if own else None

    @cached_property
    def outgoing(self) -> list[Tensor]:
        """For each reader (out, m, r) float64: the r weights with which an output unit reads a node."""
        return [reader.weights(_weight(self.model, reader.name)) for reader in self.group.readers]

    @cached_property
    def scales(self) -> dict[str, Tensor]:
        """For each batch norm of the group with parameters (m, r) float64, the scales of each node's channels."""
        found = {}
        for path, entries in zip(self.group.carriers, self.group.entries, strict=True):
            module = self.model.get_submodule(path)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.affine:
                found[path] = module.weight.detach().double()[entries.to(module.weight.device)]
        return found

    def activations(self, reader: int = 0) -> Iterator[Tensor]:
        """(m, samples x positions) activations of the nodes, as one of the readers sees them, batch by batch.

        Args:
            reader: index in ``readers``.
        """
        return self._read(self.group.readers[reader].name, self.group.readers[reader].rows)

    @cached_property
    def incoming_gradient(self) -> Tensor:
        """(m, fan_in) float64 gradient of the mean loss with respect to ``incoming``."""
        group = self.group
        parts = [self._mean_gradient(path)[rows] for path, rows in zip(group.writers, group.rows, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], 1)

    @cached_property
    def outgoing_gradient(self) -> list[Tensor]:
        """For each reader (out, m, r) float64 gradient of the mean loss with respect to ``outgoing``."""
        return [reader.weights(self._mean_gradient(reader.name)) for reader in self.group.readers]

    def sample_gradients(self) -> Tensor:
        """(n, m, fan_in) gradients of every sample's loss in ``incoming``; not kept: they are n x weights numbers."""
        group, parts = self.group, []
        for path, rows in zip(group.writers, group.rows, strict=True):
            gradients = self._sample_gradients(path)
            parts.append(gradients[:, rows.to(gradients.device)].flatten(2))
        return torch.cat(parts, 2)

    @Forgotten
    def moments(self) -> list[Moments]:
        """For each reader the moments of the m nodes in the tensor that it reads."""
        return self.collect()

    @Forgotten
    def covariance(self) -> Tensor:
        """(m, m) float64 non-centred second moment, averaged over the readers."""
        seconds = [moments.second for moments in self.moments]
        return seconds[0] if len(seconds) == 1 else torch.stack(seconds).mean(0)


@dataclass
class EdgeLayer(_Shown):
    """The weight matrix of one linear or convolutional layer, whose single weights can be masked.

    Attributes:
        name: module path.
        model, calibration, generator, shared: as for :class:`NodeLayer`.
        live: (out, d) which weights have not been pruned by an earlier step.
        paired: a function from the partly pruned network to the moments that tie ``model`` to it, E[x x~^T] and
            E[x~ x~^T], both (d, d), of the layer's inputs; for repairs fitted on the pruned network's own features.
    """

    name: str
    model: nn.Module
    calibration: Calibration
    generator: torch.Generator
    collect: Callable[[], Moments]
    live: Tensor
    shared: dict[Hashable, Any] = field(default_factory=dict)
    paired: Callable[[nn.Module], tuple[Moments, Moments]] | None = None
    unit = "edge"

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.live.numel()

    @property
    def shape(self) -> torch.Size:
        """(out, in / groups, *kernel) shape of the layer's weight."""
        return matrix_of(self.model.get_submodule(self.name)).shape

    @property
    def groups(self) -> int:
        """Groups of a grouped convolution, each of which reads inputs of its own; else 1."""
        module = self.model.get_submodule(self.name)
        return kind_of(module).groups(module)

    @cached_property
    def weight(self) -> Tensor:
        """(out, d) float64, a convolution's filters flattened to d = in / groups * kh * kw."""
        return _weight(self.model, self.name).flatten(1)

    @cached_property
    def bias(self) -> Tensor | None:
        """(out,) float64, or None."""
        bias = bias_of(self.model.get_submodule(self.name))
        return None if bias is None else bias.detach().double()

    def activations(self) -> Iterator[Tensor]:
        """(d, samples x output positions) inputs of the output units, batch by batch.

        A grouped convolution has groups x d rows.
        """
        return self._read(self.name, patch_rows(self.model.get_submodule(self.name)))

    @cached_property
    def gradient(self) -> Tensor:
        """(out, d) float64 gradient of the mean loss with respect to ``weight``."""
        return self._mean_gradient(self.name).flatten(1)

    def sample_gradients(self) -> Tensor:
        """(n, out, d) gradients of every sample's loss in ``weight``; not kept, since they are n x weights numbers."""
        return self._sample_gradients(self.name)

    @Forgotten
    def moments(self) -> Moments:
        """Moments of the d (unfolded) inputs that an output unit reads.

        Raises:
            Skipped: for a grouped convolution, whose units read different inputs; :attr:`moments_of_groups` has each
                group's.
        """
        return self.collect()

    @Forgotten
    def moments_of_groups(self) -> list[Moments]:
        """For each group the moments of the d inputs of its output units; for an ungrouped layer those of the layer.

        With ``zip(weight.chunk(groups), moments_of_groups)`` a grouped convolution is treated as one layer per group.
        """
        if self.groups == 1:
            return [self.moments]
        total, sums, count = torch.zeros(()).double(), torch.zeros(()).double(), 0
        for rows in self.activations():
            own = rows.double().unflatten(0, (self.groups, -1))
            total, sums, count = total + own @ own.transpose(1, 2), sums + own.sum(2), count + rows.shape[1]
        return [Moments(*each, count) for each in zip(total / count, sums / count, strict=True)]


Layer = NodeLayer | EdgeLayer


def several_units(group: NodeGroup) -> str | None:
    """Why a method that scores output units one by one leaves a group alone; None where node i is output unit i."""
    if group.plain:
        return None
    what = f"{group.width} output units each" if group.width > 1 else "output units in different orders"
    if any(reader.groups > 1 for reader in group.readers):
        what = f"channels of several groups, {what}"
    elif group.recurrent:
        what = f"hidden units of {what}"
    elif group.product_macs:
        what = f"attention heads of {what}"
    elif group.partial:
        what = f"a part of the units that {group.writers[0]} gives, {what}"
    return (
        f"its nodes are {what}; this method scores single output units (spectral, dpp, thinet, magnitude and random "
        "score these, too)"
    )


def _weight(model: nn.Module, name: str) -> Tensor:
    return matrix_of(model.get_submodule(name)).detach().double()
