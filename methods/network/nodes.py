"""Nodes that can only be removed together, and where they are; :mod:`methods.network.coupling` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from methods.network.kinds.following import Following
from methods.network.kinds.grouped import gathered, spread
from methods.network.reading import Rows, node_rows


@dataclass(frozen=True)
class Reader:
    """A module that reads the nodes of a group.

    Attributes:
        name: module path.
        columns: (m, r) which input columns of the module's weight carry each node: r = 1 for a convolution or a plain
            linear layer, r = height x width for a linear layer behind a flattening, r = width of a head.
        is_convolution: whether the module is a convolution.
        groups: of a convolution whose groups all read as many channels of each node.
    """

    name: str
    columns: Tensor
    is_convolution: bool
    groups: int = 1

    @cached_property
    def rows(self) -> Rows:
        """How to view what the module reads as (nodes, samples x positions)."""
        return node_rows(self.columns, self.is_convolution)

    def weights(self, weight: Tensor) -> Tensor:
        """(out, m, r x kernel positions) view of the reader's weight, one block per node.

        Where the reader has groups, an output unit has zeros for what it does not read.
        """
        size, repeat = self.columns.shape
        picked = spread(weight, self.groups)[:, self.columns.reshape(-1).to(weight.device)]
        return picked.reshape(len(weight), size, repeat * picked[0, 0].numel())

    def put(self, weight: Tensor, nodes: Tensor, blocks: Tensor) -> None:
        """Write blocks (out, k, r x kernel positions) of k nodes into the reader's weight."""
        columns = self.columns[nodes.cpu()].reshape(-1).to(weight.device)
        whole = spread(weight, self.groups)
        whole[:, columns] = blocks.reshape(len(weight), len(columns), *weight.shape[2:]).to(weight.dtype)
        if self.groups > 1:
            weight.copy_(gathered(whole, self.groups))


@dataclass(frozen=True)
class Entries:
    """The entries of a parameter or buffer that belongs to no layer, node by node.

    Attributes:
        name: as in ``named_parameters``.
        dimension: along which they lie.
        places: (m, r) which of them belong to each node.
    """

    name: str
    dimension: int
    places: Tensor


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are removed together; see the module's docstring.

    Attributes:
        name: path of the first writer in forward order, such as ``fc``; ``fc[0:6]`` where only these units are meant.
        size: number of nodes m.
        writers: paths of the modules whose output units the nodes are, in forward order.
        readers: the modules that read the nodes, in forward order.
        carriers: paths of norms and convolutions of several groups in between.
        rows: for each writer (m, r) its output units that make up each node: r = 1 but for attention heads.
        entries: for each carrier (m, r) its channels that belong to each node.
        product_macs: multiply-accumulates per node in products of activations (attention).
        held: parameters and buffers with numbers per node outside layers: position embeddings, scales of branches.
        follows: attributes of modules that must follow a removal, such as ``num_heads``, and the amount per node.
        partial: whether writers have other output units, too, which belong to another group or stay; the name then says
            which ones are meant.
    """

    name: str
    size: int
    writers: tuple[str, ...]
    readers: tuple[Reader, ...]
    carriers: tuple[str, ...]
    rows: tuple[Tensor, ...]
    entries: tuple[Tensor, ...]
    product_macs: int = 0
    held: tuple[Entries, ...] = ()
    follows: Following = ()
    partial: bool = False

    @property
    def plain(self) -> bool:
        """Whether node i is output unit i of every writer, and these have no other units."""
        own = torch.arange(self.size)[:, None]
        return not self.partial and all(rows.shape == own.shape and bool((rows == own).all()) for rows in self.rows)

    @property
    def recurrent(self) -> bool:
        """Whether a layer reads and writes the nodes: a hidden state that is carried from step to step."""
        return not set(self.writers).isdisjoint(reader.name for reader in self.readers)

    @property
    def width(self) -> int:
        """Output units of the first writer per node: 1, or the width of a head."""
        return self.rows[0].shape[1]

    @property
    def channels(self) -> dict[str, Tensor]:
        """For each reader and carrier (m, r) its input channels that belong to each node."""
        return {reader.name: reader.columns for reader in self.readers} | dict(
            zip(self.carriers, self.entries, strict=True)
        )

    def held_of(self, nodes: Tensor) -> dict[str, Tensor]:
        """Sorted entries of the parameters and buffers that are held, of some nodes."""
        return {each.name: each.places[nodes.cpu()].flatten().sort().values for each in self.held}

    def of_nodes(self, nodes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sorted output units of the writers, and sorted input channels of readers and carriers, of some nodes."""
        nodes = nodes.cpu()
        rows = {path: own[nodes].flatten().sort().values for path, own in zip(self.writers, self.rows, strict=True)}
        return rows, {path: own[nodes].flatten().sort().values for path, own in self.channels.items()}
