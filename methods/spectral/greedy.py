"""Search greedily for the k nodes that best reconstruct what the next layer reads (spectral pruning).

Suzuki, Abe, Murata, Horiuchi, Ito, Wachi, Hirai, Yukishima and Nishimura, "Spectral Pruning: Compressing Deep Neural
Networks via Spectral Analysis and its Generalization Error", IJCAI 2020, arXiv 1808.08558.

With S (m, m) the non-centred covariance of the nodes, J the kept ones, tau a ridge per node and M (m, m) the metric

    R_J = S - S_FJ (S_JJ + diag tau_J)^-1 S_JF             the residual, positive semi-definite
    L(J) = Tr[M R_J],   M = theta I + (1 - theta) Z^T Z    the information loss

the search adds, k times, the node with the largest decrease of L. The decrease has a closed form (a rank-one downdate):
with r = R e_j and d = R_jj + tau_j

    gain_j = (R M R)_jj / d,    R <- R - r r^T / d.

Recomputing R M R costs O(m^3) a step. Instead T = R M R is carried along: with w = T e_j

    T <- T - (r w^T + w r^T) / d + (T_jj / d^2) r r^T

Both updates are collected in panels of a few columns and applied as matrix products, so that a step reads O(m) numbers
and the search runs at the speed of matrix multiplication. R and T, both symmetric, share one (m, m) array
(``methods.spectral.packed_pair``): with the covariance itself two are held, and at most a third comes and goes while T
is computed or a panel is applied. Small layers, where memory does not matter, spend more.

T shrinks with the square of R, so its rounding errors do not stay relatively small. An estimate of them, ``drift``, is
carried along; wherever it could change a choice the contenders' numerators are recomputed from R, and when that has
been done for half as many as T has columns, T itself is. The loss is not submodular, therefore no lazy evaluation:
every gain is compared. The downdates, the panels and the error control are ours; the criterion is the paper's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.errors import BadInput, Skipped
from methods.layers.ridge import LARGE
from methods.spectral.packed_pair import PackedPair

TIE = 1e-9
"""Gains within this relative distance of the best are ties; the lowest index among them is taken."""
EXHAUSTED = 1e-12
"""A node whose residual plus ridge is below this part of its second moment is a combination of the kept nodes."""
ROUNDING = 16 * torch.finfo(torch.float64).eps
"""Relative size assumed for an accumulated float64 rounding error."""
SLACK = 1e-12
"""Relative rounding allowed in a sum of prices."""
PANEL = 64
BLOCK = 128
CONTENDERS = 32


@dataclass(frozen=True)
class Metric:
    """M = theta I + (1 - theta) Z^T Z with Z given by the weights of the readers, so that M need not be formed.

    Attributes:
        theta: Share of the input information loss, in [0, 1].
        weights: One (out, m, r) tensor per reader; each of the out * r rows of length m is a row of Z before scaling.
        factors: One (out,) tensor per reader: the factors of the rows.
    """

    theta: float
    weights: list[Tensor]
    factors: list[Tensor]

    @classmethod
    def of(cls, theta: float, rows: Tensor) -> "Metric":
        """The metric of one matrix Z (rows, m), taken as it is."""
        return cls(theta, [rows[:, :, None]], [rows.new_ones(len(rows))])

    @property
    def count(self) -> int:
        """Number of rows of Z."""
        return sum(w.shape[0] * w.shape[2] for w in self.weights)

    def rows(self) -> Iterator[Tensor]:
        """The rows of Z in chunks of about BLOCK; rows with factor zero are left out."""
        for weight, factor in zip(self.weights, self.factors, strict=True):
            chosen = factor.nonzero().flatten()
            for chunk in chosen.split(max(1, BLOCK // weight.shape[2])):
                scaled = weight[chunk] * factor[chunk, None, None]
                yield scaled.transpose(1, 2).reshape(-1, weight.shape[1])

    def times(self, matrix: Tensor) -> Tensor:
        """M @ matrix for a (m, c) matrix."""
        result = self.theta * matrix
        if self.theta < 1:
            for rows in self.rows():
                result.addmm_(rows.T, rows @ matrix, alpha=1 - self.theta)
        return result


AnyMetric = Tensor | Metric | None
"""A metric as a dense (m, m) matrix, as a Metric, or None for the identity (the input information loss)."""


def metric_times(metric: AnyMetric, matrix: Tensor) -> Tensor:
    """M @ matrix."""
    if metric is None:
        return matrix
    return metric.times(matrix) if isinstance(metric, Metric) else metric @ matrix


def checked_metric(metric: AnyMetric) -> AnyMetric:
    """The metric in float64, or BadInput where it is not finite."""
    if metric is None:
        return None
    if isinstance(metric, Metric):
        doubles = [[each.detach().double() for each in part] for part in (metric.weights, metric.factors)]
        metric, parts = Metric(metric.theta, *doubles), [*doubles[0], *doubles[1]]
    else:
        metric = metric.detach().double()
        parts = [metric]
    if not all(bool(torch.isfinite(part.sum())) for part in parts):
        raise BadInput("the metric contains NaN or infinity; check the weights of the next layer")
    return metric


def _congruence(pair: PackedPair, metric: AnyMetric) -> float:
    """Writes T = R M R and returns Tr[M R]; apart from the pair it needs a block of rows and one of products."""
    loss, theta = 0.0, metric.theta if isinstance(metric, Metric) else 1.0
    for number, own in enumerate(pair.blocks):
        rows = pair.first_block(number)
        if isinstance(metric, Tensor):
            loss += torch.dot(rows.flatten(), metric[own].flatten()).item()
            products = pair.times_first(rows @ metric, own.start)
        else:
            products = pair.times_first(rows, own.start).mul_(theta)
        pair.set_second(number, products)
    if isinstance(metric, Tensor):
        return loss
    loss = theta * pair.first_diagonal().sum().item()
    for z in metric.rows() if metric is not None and theta < 1 else ():
        seen = pair.times_first(z)
        pair.add_to_second(seen, seen, 1 - theta)
        loss += (1 - theta) * torch.dot(z.flatten(), seen.flatten()).item()
    return loss


class _Search:
    """State of one greedy search: R, T and the panel of updates not yet applied to them."""

    def __init__(self, covariance: Tensor, ridge: Tensor, metric: AnyMetric) -> None:
        m = len(covariance)
        if m < LARGE and isinstance(metric, Metric) and metric.count > m:
            metric = metric.times(torch.eye(m, dtype=covariance.dtype, device=covariance.device))
        self.ridge, self.metric = ridge, metric
        self.pair = PackedPair(covariance, max(BLOCK, m // 8) if m >= LARGE else max(m, 1))  # R and T
        self.left = covariance.new_empty(PANEL, m)
        self.right = covariance.new_empty(PANEL, m)
        self.moments = covariance.diagonal().clone()
        self.open = self.moments > 0
        self.dead = ~self.open
        self.start()

    def start(self) -> None:
        """Compute everything from R; this fixes the scale of the numerators."""
        self.filled = 0
        self.refresh()
        # one rounding of every entry of R changes r^T M r by about noise^2
        self.noise = ROUNDING * (self.moments * max(self.loss, 0.0)).sqrt()

    def refresh(self) -> None:
        """T, numerators and loss from their definition."""
        self.flush()
        self.loss = _congruence(self.pair, self.metric)
        self.numerator = self.pair.second_diagonal()
        self.drift = ROUNDING * self.numerator.abs()
        self.fresh, self.confirmed = True, 0

    def flush(self) -> None:
        """Applies the panel to R and T."""
        if self.filled:
            left, right = self.left[: self.filled], self.right[: self.filled]
            self.pair.add_to_first(left, left, -1)
            self.pair.add_to_second(torch.cat([left, right]), torch.cat([right, left]), -1)
            self.numerator = self.pair.second_diagonal()
        self.filled = 0
        self.diagonal = self.pair.first_diagonal().clamp(min=0)

    def columns(self, nodes: Tensor) -> Tensor:
        """Columns of R, as (m, c)."""
        left = self.left[: self.filled]
        return self.pair.first_rows(nodes).T - left.T @ left[:, nodes]

    def best(self, allowed: Tensor) -> tuple[int, float] | None:
        """The node with the largest gain (lowest index among ties), and the gain; None if no node has a gain."""
        while True:
            pivot = self.diagonal + self.ridge
            usable = allowed & (pivot > EXHAUSTED * self.moments)
            usable &= self.numerator + self.drift > (4 * self.noise) ** 2
            nodes = usable.nonzero().flatten()
            if len(nodes) == 0:
                return None
            pivot, numerator, drift, noise, moment = (
                v[nodes] for v in (pivot, self.numerator.clamp(min=0), self.drift, self.noise, self.moments)
            )
            # uncertainty of even a freshly computed gain: rounding in R and in its diagonal
            blur = ((2 * numerator.sqrt() + noise) * noise + numerator * ROUNDING * moment / pivot) / pivot
            gain, doubt = numerator / pivot, drift / pivot
            bar = (gain - doubt - blur).max()
            contenders = gain * (1 + TIE) + doubt + blur >= bar
            doubtful = len(nodes) and bool((doubt > TIE * gain)[contenders].any())
            count = int(contenders.sum())
            if doubtful and not self.fresh and (count > CONTENDERS or self.confirmed > len(self.open) // 2):
                self.refresh()
                continue
            nodes, gain, blur, pivot, noise = (v[contenders] for v in (nodes, gain, blur, pivot, noise))
            if doubtful and not self.fresh and (count > 1 or bool((gain * pivot < 4 * drift[contenders]).any())):
                columns = self.columns(nodes)
                self.confirmed += count
                numerator = (columns * metric_times(self.metric, columns)).sum(0).clamp(min=0)
                self.numerator[nodes] = numerator
                gain = numerator / pivot
                if count == 1 and numerator.item() <= (4 * noise.item()) ** 2:
                    self.refresh()  # the only contender was an artefact of the drift
                    continue
            top = gain.max()
            tied = gain >= top - torch.maximum(TIE * top, blur + blur[gain.argmax()])
            index = int(tied.nonzero()[0])
            return int(nodes[index]), gain[index].item()

    def keep(self, node: int) -> None:
        """Add a node by the rank-one downdate of R and the rank-two downdate of T."""
        left, right = self.left[: self.filled], self.right[: self.filled]
        pivot = (self.diagonal[node] + self.ridge[node]).clamp(min=torch.finfo(torch.float64).tiny)
        r = self.pair.first_row(node) - left.T @ left[:, node]
        w = self.pair.second_row(node) - left.T @ right[:, node] - right.T @ left[:, node]
        own = self.numerator[node].clone()
        step = r / pivot
        root = pivot.sqrt()
        self.left[self.filled] = r / root
        self.right[self.filled] = (w - 0.5 * own * step) / root
        self.filled += 1
        self.numerator += step * (own * step - 2 * w)
        self.drift += step.square() * self.drift[node]
        self.diagonal = (self.diagonal - r * step).clamp_(min=0)
        self.open[node] = False
        self.fresh = False
        if self.filled == PANEL:
            self.flush()


class _Purse:
    """Limits the sum of the picked nodes' prices.

    Args:
        price: (m,); None leaves every open node allowed.
        limit: largest allowed sum.
        picks: how many nodes will be picked in all.
    """

    def __init__(self, price: Tensor | None, limit: float, picks: int) -> None:
        self.price, self.left, self.steps = price, limit * (1 + SLACK), picks

    def allowed(self, open_nodes: Tensor) -> Tensor:
        """Return the nodes that leave enough for the cheapest nodes in all remaining picks.

        Adding j costs at least max(price_j, the steps-th smallest price) + the sum of the steps - 1 smallest ones.

        Raises:
            Skipped: There is no such node.
        """
        if self.price is None:
            return open_nodes
        cheapest = self.price[open_nodes].sort().values[: self.steps]
        least = torch.maximum(self.price, cheapest[-1]) + cheapest[:-1].sum() if len(cheapest) == self.steps else None
        affordable = torch.zeros_like(open_nodes) if least is None else open_nodes & (least <= self.left)
        if not bool(affordable.any()):
            raise Skipped(
                f"no {self.steps} of {int(open_nodes.sum())} nodes satisfy the constraint; set constraint=log"
            )
        return affordable

    def pay(self, node: int) -> None:
        """Subtract the price of a picked node."""
        self.steps -= 1
        if self.price is not None:
            self.left -= float(self.price[node])


def checked_covariance(covariance: Tensor) -> Tensor:
    """The covariance as a finite square float64 tensor that requires no gradient, or BadInput."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise BadInput(f"a covariance must be a square matrix; got shape {tuple(covariance.shape)}")
    covariance = covariance.detach().double()
    if not torch.isfinite(covariance.sum()):
        raise BadInput("the covariance contains NaN or infinity; check the calibration inputs and the network")
    return covariance


def checked(covariance: Tensor, k: int, ridge: Tensor | float | None) -> tuple[Tensor, Tensor]:
    """The covariance and the ridge as float64 tensors of matching shape, or BadInput."""
    covariance = checked_covariance(covariance)
    m = len(covariance)
    if not 0 <= k <= m:
        raise BadInput(f"{k} nodes to keep were asked of a layer with {m}; choose a number between 0 and {m}")
    tau = torch.as_tensor(0.0 if ridge is None else ridge, dtype=torch.float64, device=covariance.device).expand(m)
    if not bool((tau >= 0).all()):
        raise BadInput("the ridge must be non-negative and finite")
    return covariance, tau


@dataclass(frozen=True)
class GreedyPath:
    """A greedy search's result.

    Attributes:
        order: (k,) int64, the nodes in the order in which they were picked.
        losses: (k + 1,) float64, Tr[M R_J] after 0, 1, ... k picks at the fixed ridge.
        gained: Number of picks made by the criterion; the others only fill up the count.
    """

    order: Tensor
    losses: Tensor
    gained: int


@torch.no_grad()
def greedy_path(
    covariance: Tensor,
    k: int,
    ridge: Tensor | float | None = None,
    metric: AnyMetric = None,
    price: Tensor | None = None,
    limit: float = math.inf,
) -> GreedyPath:
    """Greedy minimisation of Tr[M R_J] over k nodes, with the loss after every pick.

    When the criterion has nothing left to gain (for instance Z does not see the remaining nodes) the input loss
    decides; when the rank is exhausted, too, the lowest indices fill up, dead nodes (S_jj = 0) last.

    Args:
        covariance: (m, m) non-centred second moments S.
        k: Number of nodes to keep.
        ridge: (m,) tau, or one number; the same for the whole search. None is 0.
        metric: M as a matrix or a Metric; None is the identity.
        price: (m,) cost of each node; with ``limit`` a node is skipped if after picking it the sum of the k prices
            would exceed the limit, whatever is picked later.
        limit: Largest allowed sum of prices.

    Returns:
        The order of picks and the losses.

    Raises:
        Skipped: No k nodes satisfy the limit.
    """
    covariance, tau = checked(covariance, k, ridge)
    metric = checked_metric(metric)
    search = _Search(covariance, tau, metric)
    picks = min(k, int(search.open.sum()))
    purse = _Purse(price, limit, picks)
    losses, order = [search.loss], list[int]()
    input_only = metric is None
    while len(order) < picks:
        found = search.best(purse.allowed(search.open))
        if found is None and input_only:
            break
        if found is None:
            # the output loss is settled: ties are broken by the input loss
            search.flush()
            search.metric, input_only = None, True
            search.start()
            continue
        node, gain = found
        order.append(node)
        purse.pay(node)
        search.keep(node)
        losses.append(max(losses[-1] - (0.0 if input_only and metric is not None else gain), 0.0))
    gained = len(order)
    while len(order) < picks:
        node = int(purse.allowed(search.open).nonzero()[0])
        purse.pay(node)
        search.open[node] = False
        order.append(node)
    order += search.dead.nonzero().flatten().tolist()[: k - len(order)]
    losses += [losses[-1]] * (k + 1 - len(losses))
    return GreedyPath(
        torch.tensor(order, dtype=torch.int64, device=covariance.device),
        torch.tensor(losses, dtype=torch.float64, device=covariance.device),
        gained,
    )


def greedy_selection(
    covariance: Tensor, k: int, ridge: Tensor | float | None = None, metric: AnyMetric = None
) -> Tensor:
    """The k nodes of the greedy search in the order of their picks, (k,) int64; see ``greedy_path``."""
    return greedy_path(covariance, k, ridge, metric).order
