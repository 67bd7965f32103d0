"""OSSCAR: least squares on the next layer's output, solved by removals and swaps.

Meng, Ibrahim, Behdin, Hazimeh, Ponomareva and Mazumder, "OSSCAR: One-Shot Structured Pruning in Vision and Language
Models with Combinatorial Optimization", ICML 2024. The nodes J that stay and the readers' weights change together so
that the readers' pre-activations change least,

    min over J, Z~ of  E ||Z phi - Z~ phi_J||^2    =    min over J of  Tr[Z (S - S_FJ S_JJ^-1 S_JF) Z^T],

with S (m, m) the second moment of the nodes and Z (rows, m) the weights with which they are read: one row per output
unit and kernel position. This is the output information loss of spectral pruning (theta = 0). That method minimises it
by adding nodes; OSSCAR starts with all nodes, removes some, and then swaps.

Removal. With P = (S_JJ)^-1 and B = Z S_FJ P the refitted weights, removing j raises the loss by ||B_:j||^2 / P_jj, and

    B <- B - B_:j P_j: / P_jj,      P <- P - P_:j P_j: / P_jj.

Swaps. The node with the largest decrease is added to the k nodes, and the cheapest one is removed, as long as that
lowers the loss. A ridge relative to the mean diagonal keeps S_JJ invertible. The paper removes in batches with its own
rounds of local search; here nodes are removed one at a time. Several readers add up, each with its own moments (our
extension).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.selection import Selection

BETTER = 1e-9  # relative to the loss: the least gain of a swap


@dataclass
class _Reader:
    """The inputs of one reader, and its refitted weights.

    Attributes:
        second: (m, m) S plus the ridge.
        weights: (rows, m) Z.
        inverse: (m, m) P on the kept nodes, zero elsewhere.
        fitted: (rows, m) B on the kept nodes, zero elsewhere.
    """

    second: Tensor
    weights: Tensor
    inverse: Tensor
    fitted: Tensor

    @classmethod
    def full(cls, second: Tensor, weights: Tensor) -> _Reader:
        return cls(second, weights, torch.cholesky_inverse(torch.linalg.cholesky(second)), weights.clone())

    def removal_costs(self) -> Tensor:
        """(m,) increase of the loss without each kept node; not meaningful for other nodes."""
        return self.fitted.square().sum(0) / self.inverse.diagonal().clamp_min(torch.finfo(self.inverse.dtype).tiny)

    def remove(self, node: int) -> None:
        row = self.inverse[node] / self.inverse[node, node]
        self.fitted -= self.fitted[:, node : node + 1] * row
        self.inverse -= torch.outer(self.inverse[:, node], row)
        self.fitted[:, node] = 0
        self.inverse[node] = 0
        self.inverse[:, node] = 0

    def gains(self) -> Tensor:
        """(m,) decrease of the loss with each further node; not meaningful for kept ones."""
        missed = (self.weights - self.fitted) @ self.second
        rest = self.second.diagonal() - ((self.second @ self.inverse) * self.second).sum(1)
        return missed.square().sum(0) / rest.clamp_min(torch.finfo(rest.dtype).tiny)

    def add(self, node: int) -> None:
        column = self.inverse @ self.second[:, node]
        rest = self.second[node, node] - self.second[node] @ column
        direction = -column
        direction[node] = 1
        self.fitted += torch.outer((self.weights - self.fitted) @ self.second[:, node], direction) / rest
        self.inverse += torch.outer(direction, direction) / rest

    def loss(self) -> float:
        missed = self.weights - self.fitted
        return float(((missed @ self.second) * missed).sum())


class Search:
    """A search that begins with all nodes and removes one after the other.

    Args:
        seconds: per reader (m, m) float64.
        weights: per reader (rows, m) float64.
        ridge: relative to the mean of each reader's diagonal.
    """

    def __init__(self, seconds: Sequence[Tensor], weights: Sequence[Tensor], ridge: float) -> None:
        self.size = len(seconds[0])
        self.kept = torch.ones(self.size, dtype=torch.bool, device=seconds[0].device)
        self.readers = []
        for second, own in zip(seconds, weights, strict=True):
            level = ridge * second.diagonal().mean().clamp_min(torch.finfo(second.dtype).tiny)
            self.readers.append(_Reader.full(second + level * torch.eye(self.size).to(second), own))

    def loss(self) -> float:
        """Tr[Z R_J Z^T], summed over the readers."""
        return sum(reader.loss() for reader in self.readers)

    def remove_cheapest(self) -> tuple[int, float]:
        """Remove the kept node whose removal costs least; returns it and the cost."""
        costs = torch.stack([reader.removal_costs() for reader in self.readers]).sum(0)
        node = int(costs.masked_fill(~self.kept, torch.inf).argmin())
        for reader in self.readers:
            reader.remove(node)
        self.kept[node] = False
        return node, float(costs[node])

    def add_best(self) -> tuple[int, float]:
        """Add the node that lowers the loss most; returns it and the decrease."""
        gains = torch.stack([reader.gains() for reader in self.readers]).sum(0)
        node = int(gains.masked_fill(self.kept, -torch.inf).argmax())
        for reader in self.readers:
            reader.add(node)
        self.kept[node] = True
        return node, float(gains[node])

    def swap(self, most: int) -> int:
        """Swap nodes while that lowers the loss, at most ``most`` times; return the number of swaps."""
        done = 0
        while done < most and 0 < int(self.kept.sum()) < self.size:
            before = self.loss()
            added, gain = self.add_best()
            removed, cost = self.remove_cheapest()
            if removed == added:
                break
            if gain - cost <= BETTER * max(before, torch.finfo(torch.float64).tiny):
                # the swap is undone: the state before it was at least as good
                for reader in self.readers:
                    reader.add(removed)
                    reader.remove(added)
                self.kept[removed], self.kept[added] = True, False
                break
            done += 1
        return done


class OSSCARSelection(Selection[NodeLayer]):
    """Keeps the nodes from which the readers' pre-activations can be rebuilt best, found by removals and swaps.

    Args:
        ridge: relative to the mean diagonal of the second moments.
        swaps: most swaps per layer after the removals; 0: none.
    """

    additive = True  # mean squared changes of the readers' outputs

    def __init__(self, ridge: float = 1e-3, swaps: int = 50) -> None:
        if not ridge > 0:
            raise BadInput(f"selection.ridge={ridge:g} is not positive; it keeps moments invertible: type 1e-3")
        if swaps < 0:
            raise BadInput(f"selection.swaps={swaps} is negative; expected 0 (no local search) or more: type 50")
        self.ridge_level, self.swaps = ridge, swaps

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        search = self._search(layer)
        for _ in range(layer.size - int(k)):
            search.remove_cheapest()
        search.swap(self.swaps)
        return search.kept.nonzero().flatten()

    def gains(self, layer: NodeLayer) -> Tensor:
        """(m,) decreases of the loss with the first kept node, the second, ...: the removals' costs backwards."""
        search = self._search(layer)
        costs = [search.remove_cheapest()[1] for _ in range(layer.size)]
        return torch.tensor(costs[::-1], dtype=torch.float64, device=layer.incoming.device)

    def _search(self, layer: NodeLayer) -> Search:
        rows = [weight.transpose(1, 2).flatten(0, 1) for weight in layer.outgoing]
        return Search([moments.second for moments in layer.moments], rows, self.ridge_level)
