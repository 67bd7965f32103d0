r"""DPP pruning of the first hidden layer of a perceptron: many draws of eight methods from one pass over the data.

Around that layer the network is y = rest(W2 s(W1 x + b1) + b2). Everything that a method needs are the second moments
of x (d, d) and of s(.) (h, h) on the calibration samples, so that a pruned network costs one product of matrices
instead of a pass of the pruner; a test says that both give the same outputs.

Budgets (Acharyya et al., section on real data): with k of d edges kept in each of h units, h (k + m) / (d + m) nodes
have as many weights, m being the width of the next layer.

"leaky" is how the authors' code prunes nodes without reweighting: it masks the rows of W1 only, so that a removed unit
goes on sending s(b1); "removed" is what the word says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.baselines.onorm import outgoing_norm
from methods.dpp.determinantal import KDPP, map_k_dpp
from methods.dpp.selection import DPPKernel, sample_edges
from methods.layers.ridge import solve_ridge
from methods.progress import track
from methods.seeds import stream
from methods.selection import largest, largest_mask

if TYPE_CHECKING:
    from benchmarks.data.splits import Data

NODE_METHODS = ("dpp_node", "dpp_node_pre", "dpp_node_map", "random_node", "importance_node")
EDGE_METHODS = ("dpp_edge", "random_edge", "importance_edge")
DRAWN = frozenset({"dpp_node", "dpp_node_pre", "random_node", "dpp_edge", "random_edge"})
RIDGE = 1e-8  # relative to the mean diagonal; pixels that never change make the moments of the inputs singular


@dataclass
class FirstLayer:
    """A trained perceptron around its first hidden layer; weights are float64.

    Attributes:
        weight, bias: W1 (h, d) and b1 (h,).
        next_weight, next_bias: W2 (m, h) and b2 (m,).
        rest: what follows W2.
        activation: s.
        hidden, pre, inputs: second moments (h, h) after s, (h, h) before it without b1, and (d, d) of x.
        count: calibration samples.
        x, labels: test inputs (t, d) and labels.
        x_hidden: s(W1 x + b1) of the test inputs, (t, h).
    """

    weight: Tensor
    bias: Tensor
    next_weight: Tensor
    next_bias: Tensor
    rest: nn.Module
    activation: nn.Module
    hidden: Tensor
    pre: Tensor
    inputs: Tensor
    count: int
    x: Tensor
    labels: Tensor
    x_hidden: Tensor

    @property
    def width(self) -> int:
        """H."""
        return len(self.weight)

    def accuracy_of_nodes(self, kept: Tensor, next_weight: Tensor, next_bias: Tensor) -> float:
        """Test accuracy with the nodes ``kept``, read through ``next_weight`` (m, k)."""
        return self._accuracy(self.x_hidden[:, kept] @ next_weight.float().T + next_bias.float())

    def accuracy_of_edges(self, weight: Tensor) -> float:
        """Test accuracy with another W1."""
        hidden = self.activation(self.x @ weight.float().T + self.bias.float())
        return self._accuracy(hidden @ self.next_weight.float().T + self.next_bias.float())

    def dense_accuracy(self) -> float:
        """Test accuracy of the whole network."""
        return self.accuracy_of_nodes(torch.arange(self.width), self.next_weight, self.next_bias)

    @torch.inference_mode()
    def _accuracy(self, read: Tensor) -> float:
        return float((self.rest(read).argmax(1) == self.labels).double().mean())


@torch.inference_mode()
def first_layer(model: nn.Module, data: Data, samples: int, seed: int) -> FirstLayer:
    """Take ``model`` apart; moments over ``samples`` training samples drawn by ``seed``."""
    modules = list(model.children())
    first, activation, second = modules[1], modules[2], modules[3]
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    indices = torch.randperm(len(data.train), generator=stream(seed, "calibration"))[:samples]
    x = data.train.to_inputs(indices).flatten(1).double()
    weight, bias = first.weight.detach().double(), first.bias.detach().double()
    pre = x @ weight.T
    hidden = activation(pre + bias)
    test = data.test.to_inputs(torch.arange(len(data.test))).flatten(1)
    return FirstLayer(
        weight=weight,
        bias=bias,
        next_weight=second.weight.detach().double(),
        next_bias=second.bias.detach().double(),
        rest=nn.Sequential(*modules[4:]),
        activation=activation,
        hidden=hidden.T @ hidden / len(x),
        pre=pre.T @ pre / len(x),
        inputs=x.T @ x / len(x),
        count=len(x),
        x=test,
        labels=data.test.targets,
        x_hidden=activation(first(test)),
    )


def node_sets(layer: FirstLayer, method: str, k: int, draws: int, seed: int, number: int) -> Iterator[Tensor]:
    """Sorted indices of the kept nodes, ``draws`` times for methods that draw and once for the others."""
    kernels = {"dpp_node": layer.hidden, "dpp_node_map": layer.hidden, "dpp_node_pre": layer.pre}
    if method in ("dpp_node", "dpp_node_pre"):
        dpp = KDPP.from_kernel(DPPKernel()(kernels[method], layer.count))
        for draw in range(draws):
            yield dpp.sample(k, stream(seed, method, number, k, draw))
    elif method == "dpp_node_map":
        yield map_k_dpp(DPPKernel()(kernels[method], layer.count), k)
    elif method == "random_node":
        for draw in range(draws):
            yield torch.randperm(layer.width, generator=stream(seed, method, number, k, draw))[:k].sort().values
    else:
        yield largest(outgoing_norm([layer.next_weight[:, :, None]]), k)


def node_accuracies(layer: FirstLayer, kept: Tensor) -> dict[str, float]:
    """Test accuracy with the nodes ``kept``: the others removed, leaky, and fused into the kept ones."""
    second = layer.hidden
    kept = kept.to(second.device)
    gone = torch.ones(layer.width, dtype=torch.bool, device=second.device)
    gone[kept] = False
    plain = layer.next_weight[:, kept]
    leak = layer.next_bias + layer.next_weight[:, gone] @ layer.activation(layer.bias[gone])
    ridge = torch.zeros(len(kept), dtype=torch.float64, device=second.device)
    fused = solve_ridge(second[kept][:, kept], second[:, kept].T, ridge).T
    return {
        "removed": layer.accuracy_of_nodes(kept, plain, layer.next_bias),
        "leaky": layer.accuracy_of_nodes(kept, plain, leak),
        "reweighted": layer.accuracy_of_nodes(kept, layer.next_weight @ fused, layer.next_bias),
    }


def edge_masks(
    layer: FirstLayer, method: str, counts: Sequence[int], draws: int, seed: int, number: int
) -> Iterator[tuple[int, Tensor]]:
    """Pairs (edges per unit, mask (h, d)); DPPs decompose each unit's kernel once for all counts and draws."""
    if method == "dpp_edge":
        sizes = torch.tensor([k for k in counts for _ in range(draws)])
        wanted = sizes[:, None].expand(-1, layer.width)
        generator = stream(seed, method, number)
        masks = sample_edges(layer.weight, layer.inputs, layer.count, wanted, generator, DPPKernel())
        yield from zip(sizes.tolist(), masks, strict=True)
        return
    for k in counts:
        rows = torch.full((layer.width,), k)
        for draw in range(draws if method in DRAWN else 1):
            generator = stream(seed, method, number, k, draw)
            scores = layer.weight.abs()
            if method == "random_edge":
                scores = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
            yield k, largest_mask(scores, rows)


def reweight_edges(weight: Tensor, mask: Tensor, second: Tensor, ridge: float = RIDGE) -> Tensor:
    """Per unit w_S + (M_SS + tau I)^-1 M_SP w_P on its mask, zero elsewhere; tau = ridge Tr M / d.

    Where fewer edges go than stay, the same from the inverse T of M + tau I: M_SS^-1 M_SP = -T_SP T_PP^-1.
    """
    size = len(second)
    tau = ridge * float(second.trace()) / size
    system = second + tau * torch.eye(size, dtype=second.dtype)
    result = weight * mask
    inverse = torch.linalg.inv(system) if float(mask.double().mean()) > 0.5 else None
    for row in range(len(weight)):
        kept, gone = mask[row].nonzero().squeeze(1), (~mask[row]).nonzero().squeeze(1)
        if len(gone) == 0 or len(kept) == 0:
            continue
        removed = weight[row, gone]
        if inverse is None:
            factor = torch.linalg.cholesky(system[kept][:, kept])
            change = torch.cholesky_solve((system[kept][:, gone] @ removed)[:, None], factor).squeeze(1)
        else:
            factor = torch.linalg.cholesky(inverse[gone][:, gone])
            change = -inverse[kept][:, gone] @ torch.cholesky_solve(removed[:, None], factor).squeeze(1)
        result[row, kept] += change
    return result


@dataclass(frozen=True)
class Plan:
    """What is run on each network.

    Attributes:
        edges: edges per unit k by share p, for random and importance edges.
        dpp_edges: the k at which DPPs over edges are drawn.
        nodes: numbers of nodes.
        draws: per network, for methods that draw.
        reweighted_edges: the k at which edges are also reweighted; None is all.
        node_methods, edge_methods: which.
    """

    edges: tuple[int, ...]
    dpp_edges: tuple[int, ...]
    nodes: tuple[int, ...]
    draws: int
    reweighted_edges: tuple[int, ...] | None = None
    node_methods: tuple[str, ...] = NODE_METHODS
    edge_methods: tuple[str, ...] = EDGE_METHODS


def measure(layer: FirstLayer, plan: Plan, seed: int, number: int) -> list[dict[str, object]]:
    """One row per method, size, draw and variant: the test accuracy of network ``number``."""
    inputs, outputs = layer.weight.shape[1], len(layer.next_weight)
    whole = layer.width * (inputs + outputs)
    rows: list[dict[str, object]] = []

    def add(method: str, kept: int, draw: int, share: float, accuracies: Mapping[str, float]) -> None:
        known = {"network": number, "method": method, "kept": kept, "draw": draw, "parameters": share}
        rows.extend(known | {"variant": variant, "accuracy": value} for variant, value in accuracies.items())

    for method, k in track([(m, k) for m in plan.node_methods for k in plan.nodes], f"nodes of network {number}"):
        for draw, kept in enumerate(node_sets(layer, method, k, plan.draws, seed, number)):
            add(method, k, draw, k * (inputs + outputs) / whole, node_accuracies(layer, kept))
    for method in plan.edge_methods:
        counts = plan.dpp_edges if method == "dpp_edge" else plan.edges
        seen: dict[int, int] = {}
        masks = edge_masks(layer, method, counts, plan.draws, seed, number)
        total = len(counts) * (plan.draws if method in DRAWN else 1)
        for k, mask in track(masks, f"{method} of network {number}", total):
            accuracies = {"removed": layer.accuracy_of_edges(layer.weight * mask)}
            if plan.reweighted_edges is None or k in plan.reweighted_edges:
                accuracies["reweighted"] = layer.accuracy_of_edges(reweight_edges(layer.weight, mask, layer.inputs))
            seen[k] = seen.get(k, -1) + 1
            add(method, k, seen[k], layer.width * (k + outputs) / whole, accuracies)
    return rows
