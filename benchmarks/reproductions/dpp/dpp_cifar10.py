"""DPP pruning of a sigmoid perceptron on CIFAR-10 (JPEG): nodes and edges, with and without reweighting.

3072-1000-1000-1000-10, the first hidden layer pruned, no fine-tuning. A k-DPP over 3072 edges for each of 1000 units
takes hours on two cores; DPPs over edges therefore run on a second, smaller perceptron, 1024-50-1000-1000-10 on grey
images, beside random and important edges on the same networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.data.splits import Data, Split
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.dpp._dpp_board import (
    SHOWN as BOARD,
)
from benchmarks.reproductions.dpp._dpp_board import (
    board,
    close_to_published,
    compare,
    edges_against_nodes,
    repair_matters_more,
    tabulate,
)
from benchmarks.reproductions.dpp._dpp_real import NODE_METHODS, Plan, first_layer, measure
from benchmarks.reproductions.networks import trained
from methods.dpp.selection import equal_parameters

if TYPE_CHECKING:
    import pandas as pd

PAPER = (
    "R. Acharyya et al., arXiv 2006.16617 (UAI 2021), real-data experiments; Z. Mariet, S. Sra, Diversity Networks, "
    "ICLR 2016; published: the raw result files of the former, test accuracy in %"
)
NODES: tuple[int, ...] = tuple(range(100, 1000, 100))
EDGES: tuple[int, ...] = (308, 922, 2765)
REWEIGHTED = (308,)  # larger ones mean a thousand systems of 922 equations per mask
GREY_EDGES: tuple[int, ...] = (103, 205)
PUBLISHED = {
    ("dpp_node_pre", "leaky"): dict(
        zip(NODES, (15.75, 21.68, 27.78, 34.67, 38.90, 42.06, 44.53, 45.82, 46.78), strict=True)
    ),
    ("importance_node", "leaky"): dict(
        zip(NODES, (21.49, 24.79, 29.43, 33.07, 36.25, 39.64, 43.27, 45.27, 46.82), strict=True)
    ),
}
PUBLISHED_DENSE = 47.32
LARGE, SMALL = "3072-1000-1000-1000-10", "1024-50-1000-1000-10, grey"


def run(work: Workplace) -> Outcome:
    """Three networks of either size, five draws (edges of the large one: one); about half an hour on one core."""
    words = ["dataset=cifar10", "model=mlp1000", "trainer.train.optimizer=adam", "trainer.train.learning_rate=0.0005"]
    words += ["trainer.train.weight_decay=0", "trainer.train.augment=false", "trainer.train.warmup_epochs=0"]
    pairs = {k: equal_parameters(k, 3072, 1000, 1000) for k in EDGES}
    grey_words = ["model.widths=[50,1000,1000]"]
    nodes, edges, grey_edges, seeds, draws, samples = NODES, EDGES, GREY_EDGES, 3, 5, 5000
    if work.quick:
        words += ["dataset.limit=600", "dataset.limit_test=300", "trainer.train.epochs=1", "model.widths=[30,20,20]"]
        nodes, edges, grey_edges, seeds, draws, samples = (10, 20), (308, 2765), (103,), 2, 2, 300
        pairs = {k: equal_parameters(k, 3072, 30, 20) for k in edges}
        grey_words = ["model.widths=[6,20,20]"]
    else:
        words += ["trainer.train.epochs=6"]
    all_nodes = tuple(sorted({*nodes, *pairs.values()}))
    by_node = Plan((), (), all_nodes, draws, node_methods=NODE_METHODS, edge_methods=())
    by_edge = Plan(edges, (), (), 1, REWEIGHTED, (), ("random_edge", "importance_edge"))
    by_grey_edge = Plan(grey_edges, grey_edges, (), draws, node_methods=())
    rows, grey_rows, dense, grey_dense = [], [], [], []
    for seed in range(seeds):
        data, network = trained(work, work.config([*words, f"seed={seed}"]))
        layer = first_layer(network.model, data, samples, seed)
        dense.append(100 * layer.dense_accuracy())
        rows += measure(layer, by_node, 0, seed) + measure(layer, by_edge, 0, seed)
        data, network = trained(work, work.config([*words, *grey_words, f"seed={seed}"]), ("grey", _grey))
        layer = first_layer(network.model, data, samples, seed)
        grey_dense.append(100 * layer.dense_accuracy())
        grey_rows += measure(layer, by_grey_edge, 0, seed)
    large = tabulate(rows, {} if work.quick else PUBLISHED)
    small = tabulate(grey_rows, {})
    claims = [
        *(compare(rows, "dpp_node", "random_node", variant) for variant in ("removed", "leaky", "reweighted")),
        compare(rows, "dpp_node_pre", "random_node", "leaky"),
        compare(rows, "dpp_node", "importance_node", "reweighted"),
        compare(rows, "dpp_node_pre", "importance_node", "leaky"),
        *(compare(grey_rows, "dpp_edge", "random_edge", variant) for variant in ("removed", "reweighted")),
        *(compare(grey_rows, "dpp_edge", "importance_edge", variant) for variant in ("removed", "reweighted")),
        *(edges_against_nodes(rows, pairs, variant) for variant in ("removed", "reweighted")),
        repair_matters_more(rows, NODES[2]),
        close_to_published(large, "dpp_node_pre", "leaky", 5.0),
    ]
    large.insert(0, "network", LARGE)
    small.insert(0, "network", SMALL)
    levels = {"dense": _mean(dense), "dense, grey": _mean(grey_dense)}
    return Outcome(_stacked([large, small]), claims, _setting(dense, grey_dense), levels)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """One board of the large network; the small one has two sizes, which a table shows better."""
    large = outcome.table[outcome.table["network"] == LARGE]
    return {"accuracy": board(large, outcome.level("dense"), "Sigmoid perceptron on CIFAR-10 (JPEG)")}


def brief(outcome: Outcome) -> tuple[str, pd.DataFrame]:
    """Edges of the small network on grey images: a row per method, a column per size and variant."""
    small = outcome.table[outcome.table["network"] == SMALL]
    named = small.assign(method=small["method"].map({name: shown for name, (shown, _) in BOARD.items()}))
    named["what"] = named["kept"].astype(str) + " edges a node, " + named["variant"]
    wide = named.pivot(index="method", columns="what", values="ours").round(2).reset_index()
    return (
        f"Edges of the small network on grey images (test accuracy, %; unpruned {outcome.level('dense, grey'):.2f}):",
        wide.rename(columns={"method": "edges by"}),
    )


def _setting(dense: Sequence[float], grey_dense: Sequence[float]) -> str:
    return (
        f"CIFAR-10 from JPEG-compressed images, {len(dense)} networks of either size (unpruned {_mean(dense):.2f} % "
        f"and, grey, {_mean(grey_dense):.2f} %; published {PUBLISHED_DENSE} %), trained by the common trainer on "
        "45,000 images: Adam, rate 0.0005, 6 epochs along a cosine, no augmentation, the best epoch by validation; "
        "the paper trains on 50,000 images with SGD to 50 % of them. Both test on 10,000. Five draws per network "
        "for nodes and grey edges, one for the edges of the large network; n = networks x draws (networks alone for"
        " methods without draws), std over all of them. Calibration: 5000 training samples, beta = 10 / samples. "
        "'leaky' masks the incoming weights of a removed node and leaves its bias, as the published runs without "
        "reweighting do; 'removed' removes the node. kept: nodes, or edges per unit; parameters: share of the "
        "weights in and behind the layer. DPPs over edges on grey images and 50 units only: no published number is "
        "comparable. Edges of the large network are reweighted at one size. The published figures with reweighting "
        "do not agree with the raw files and are not compared."
    )


def _grey(data: Data) -> Data:
    """Luminance of the three channels, rounded to whole levels."""

    def convert(split: Split) -> Split:
        red, green, blue = split.inputs.float().unbind(1)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue).round().to(split.inputs.dtype)
        return Split(grey[:, None], split.targets, [0.48], [0.24])

    return replace(
        data,
        train=convert(data.train),
        validation=convert(data.validation),
        test=convert(data.test),
        shape=(1, *data.shape[1:]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)
