"""Bounds of sparse-lq pruning against what happens: per layer and end to end, on random and on trained networks.

Fully connected ReLU networks lose all but the largest weights of each neuron. Per layer, the error of the
pre-activation on the original inputs is compared with its lq bound; end to end, the change of the outputs with three
recursions: with exact local errors, with lq bounds instead, and in closed form with products of l1 norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmarks.boards.stats import spread
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.networks import trained
from methods.lq.bounds import (
    existence_bound,
    lq_effective_count,
    network_bound,
    output_error,
    output_tail_bound,
    tail_bound,
    uniform_network_bound,
)
from methods.lq.compensation import refit_rows
from methods.seeds import stream
from methods.selection import largest_mask

if TYPE_CHECKING:
    import pandas as pd

PAPER = (
    "W. Yang, G. Wang, J. Ding, Y. Yang, arXiv 2206.05604; F. Gao, C.-K. Ing, Y. Yang, J. Approx. Theory 166 (2013), "
    "Theorem 2; constants and recursions are reconstructions"
)
Q = 0.5
SHARES = (0.3, 0.5, 0.7)
ROUNDING = 1 + 1e-5
SETTING = (
    "Random networks 20-100-100-1 after the authors' plan: weights normal, t (3 degrees of freedom) or Cauchy, the "
    "rows scaled to l1 norm 1, biases and inputs standard normal, 2000 samples, five seeds; trained ones: "
    "perceptrons on Friedman's first problem (8-64-64-1) and on digits (64-150-300-150-10), three seeds each. Every "
    "neuron keeps its largest weights, 30, 50 or 70 % of all, as many as its effective count (q = 0.5) says. All "
    "errors are root mean squares over the samples, and over the neurons of a layer. 'existence' bounds the best "
    "k-term approximation, which thresholding is not; 'refit' is the least-squares fit on the thresholded support. "
    "Nothing is published in numbers."
)


@dataclass(frozen=True)
class Chain:
    """A fully connected ReLU network: weights (out, in) and biases of its layers, and inputs (n, d); float64."""

    name: str
    seed: int
    weights: list[Tensor]
    biases: list[Tensor]
    inputs: Tensor


def run(work: Workplace) -> Outcome:
    """All networks at three sizes; about a minute."""
    rows = [row for chain in _chains(work) for share in SHARES for row in examine(chain, share)]
    table = _table(rows)
    return Outcome(table, claims_of(rows), SETTING)


def examine(chain: Chain, share: float) -> Iterator[dict[str, object]]:
    """One row per layer and one for the outputs, when ``share`` of each layer's weights stays."""
    masks = [_mask(weight, share) for weight in chain.weights]
    pruned = [weight * mask for weight, mask in zip(chain.weights, masks, strict=True)]
    dense_states, pruned_states = (_forward(chain, weights) for weights in (chain.weights, pruned))
    exact, bounds = [], []
    where = {"network": chain.name, "seed": chain.seed, "keep": share}
    for depth, (weight, mask) in enumerate(zip(chain.weights, masks, strict=True)):
        read = dense_states[depth]
        second = read.T @ read / len(read)
        kept = mask.sum(1)
        exact.append(output_error(weight * ~mask, second))
        bounds.append(output_tail_bound(weight, Q, kept, second))
        refit = output_error(weight - refit_rows(weight, mask, second), second)
        yield where | {
            "layer": f"fc{depth + 1}",
            "tail": _rms((weight * ~mask).norm(dim=1)),
            "tail bound": _rms(tail_bound(weight, Q, kept)),
            "error": _rms(exact[-1]),
            "bound": _rms(bounds[-1]),
            "refit": _rms(refit),
            "existence": _rms(existence_bound(weight, Q, kept, second)),
            "violations": int((exact[-1] > bounds[-1] * ROUNDING).sum()),
            "refit violations": int((refit > exact[-1] * ROUNDING + 1e-9).sum()),
        }
    change = (dense_states[-1] - pruned_states[-1]).square().mean(0).sqrt()
    by_exact, by_bound = (network_bound(pruned, local)[-1] for local in (exact, bounds))
    yield where | {
        "layer": "outputs",
        "error": _rms(change),
        "recursion, exact": _rms(by_exact),
        "recursion, bound": _rms(by_bound),
        "closed form": uniform_network_bound(pruned, exact),
        "violations": int((change > by_exact * ROUNDING).sum()) + int((change > by_bound * ROUNDING).sum()),
    }


def _mask(weight: Tensor, share: float) -> Tensor:
    """The largest weights of each row, in proportion to its effective count, ``share`` of all in total (rounded)."""
    size = weight.shape[1]
    wanted = lq_effective_count(weight, Q)
    low, high = 0.0, float(size)
    for _ in range(50):
        middle = (low + high) / 2
        total = (middle * wanted).round().clamp(1, size).sum()
        low, high = (middle, high) if total <= share * weight.numel() else (low, middle)
    return largest_mask(weight.abs(), (low * wanted).round().clamp(1, size).long())


def _forward(chain: Chain, weights: Sequence[Tensor]) -> list[Tensor]:
    """What each layer reads, and the outputs last."""
    states = [chain.inputs]
    for depth, (weight, bias) in enumerate(zip(weights, chain.biases, strict=True)):
        pre = states[-1] @ weight.T + bias
        states.append(pre if depth == len(weights) - 1 else pre.relu())
    return states


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _chains(work: Workplace) -> Iterator[Chain]:
    seeds, trained = (1, 1) if work.quick else (5, 3)
    for name, draw in LAWS.items():
        for seed in range(seeds):
            yield random_chain(name, draw, seed)
    words = {"friedman1": ["dataset=friedman1", "model=mlp", "model.widths=[64,64]"], "digits": ["dataset=digits"]}
    for name, own in words.items():
        for seed in range(trained):
            yield _trained(f"trained, {name}", own, seed, work)


def random_chain(name: str, draw: Callable[[tuple[int, int], torch.Generator], Tensor], seed: int) -> Chain:
    """20-100-100-1 with rows of l1 norm 1."""
    generator = stream(seed, "theory_lq", name)
    weights, biases = [], []
    for fan_in, fan_out in ((20, 100), (100, 100), (100, 1)):
        weight = draw((fan_out, fan_in), generator)
        weights.append(weight / weight.abs().sum(1, keepdim=True))
        biases.append(torch.randn(fan_out, generator=generator, dtype=torch.float64))
    return Chain(
        f"random, {name}", seed, weights, biases, torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    )


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _student(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Three degrees of freedom: a normal over the root of a mean of three squares."""
    squares = torch.randn((*shape, 3), generator=generator, dtype=torch.float64).square().mean(-1)
    return _normal(shape, generator) / squares.sqrt()


def _cauchy(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return _normal(shape, generator) / _normal(shape, generator)


LAWS = {"normal": _normal, "t3": _student, "Cauchy": _cauchy}


def _trained(name: str, words: Sequence[str], seed: int, work: Workplace) -> Chain:
    words = [*words, f"seed={seed}", *(["trainer.train.epochs=2"] if work.quick else [])]
    data, network = trained(work, work.config(words))
    layers = [module for module in network.model.modules() if isinstance(module, nn.Linear)]
    inputs = data.train.to_inputs(slice(0, 1000)).flatten(1).double()
    weights = [layer.weight.detach().double() for layer in layers]
    return Chain(name, seed, weights, [layer.bias.detach().double() for layer in layers], inputs)


def _table(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Means over seeds; ``ours`` is the measured error and ``published`` is empty, as nothing is published."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    lines = []
    for (network, keep, layer), own in frame.groupby(["network", "keep", "layer"], sort=False):
        error = spread(own["error"])
        line = {"network": network, "keep": keep, "layer": layer, "published": None, "ours": error.mean}
        line |= {"std": error.std, "n": error.n, "difference": None}
        for name in ("bound", "tail", "tail bound", "refit", "existence", *RECURSIONS):
            line[name] = own[name].mean()
        lines.append(line)
    return pd.DataFrame(lines)


RECURSIONS = ("recursion, exact", "recursion, bound", "closed form")


def claims_of(rows: Sequence[dict[str, object]]) -> list[Claim]:
    """What the rows of :func:`examine` say of the theorems."""
    import pandas as pd
    from scipy.stats import spearmanr

    frame = pd.DataFrame(rows)
    layers, outputs = frame[frame["layer"] != "outputs"], frame[frame["layer"] == "outputs"]
    loose = [f"{name} {(outputs[name] / outputs['error']).median():.1f}" for name in RECURSIONS]
    local = (layers["bound"] / layers["error"]).median()
    ranks = [f"{name} {spearmanr(outputs[name], outputs['error']).statistic:.2f}" for name in RECURSIONS]
    gain = (layers["refit"] / layers["error"]).median()
    met = (layers["refit"] <= layers["existence"]).mean()
    return [
        Claim(
            "no neuron's output error exceeds its lq bound",
            bool((layers["violations"] == 0).all()),
            f"{int(layers['violations'].sum())} violations; bound / error {local:.1f} in the median over layers",
        ),
        Claim(
            "no output changes by more than the recursions allow",
            bool((outputs["violations"] == 0).all()),
            f"{int(outputs['violations'].sum())} violations; bound / change in the median: {', '.join(loose)}",
        ),
        Claim(
            "the recursion with lq bounds is loose by more than a factor 10 end to end, a ranking tool at best",
            bool((outputs["recursion, bound"] / outputs["error"]).median() > 10),
            f"Spearman correlation with the change of the outputs over all networks and sizes: {', '.join(ranks)}",
        ),
        Claim(
            "a least-squares refit of the kept weights never does worse than thresholding",
            bool((layers["refit violations"] == 0).all()),
            f"{int(layers['refit violations'].sum())} violations; refit / thresholding {gain:.2f} in the median; the "
            f"refit on the thresholded support meets the existence bound in {met:.0%} of the layers",
        ),
    ]


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Bounds against what happened, for layers and for outputs: a point per network, layer and size."""
    table = outcome.table
    networks = list(table["network"].unique())
    shown = {"one layer: its error": "bound", "outputs: bounded layer by layer": "recursion, bound"}
    loose = [float((table[name] / table["ours"]).median()) for name in shown.values()]
    sheet = Sheet(
        f"The lq bounds are {loose[0]:.0f} times the error of a layer, and {loose[1]:.0f} times that of the outputs, "
        "where layers add up (medians)",
        columns=2,
        height=3.4,
        share_x="all",
        share_y="all",
        note="Each point: the mean over seeds for one layer (left) or the outputs (right) with 30, 50 or 70 % of the "
        "weights kept. Root mean squares.",
        key=[Sign(name.replace("random, ", ""), nth(number), line=False) for number, name in enumerate(networks)],
    )
    ends = [float(table["ours"].min()), float(table["ours"].max())]
    for column, (title, name) in enumerate(shown.items()):
        panel = sheet.panel(0, column, title)
        for number, network in enumerate(networks):
            own = table[(table["network"] == network) & table[name].notna()]
            panel.points(own["ours"], own[name], nth(number), size=5)
        panel.axes.plot(ends, ends, color="#5a5a5a", linewidth=1)
        panel.label("measured error", "bound")
        panel.log("x")
        panel.log("y")
        panel.note(6 * ends[0], 3 * ends[0], "bound = error", va="top")
    return {"bounds": sheet}
