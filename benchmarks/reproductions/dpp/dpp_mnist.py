"""DPP pruning of a sigmoid perceptron on MNIST: nodes and edges, with and without reweighting, beside raw numbers.

784-500-500-10, the first hidden layer pruned, no fine-tuning. Eight methods: k-DPP over nodes with the kernel of the
activations (DIVNET), of the pre-activations (the authors' code) and its greedy mode, random and important nodes, k-DPP
over the edges of each unit, random and important edges.
"""

from __future__ import annotations

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.dpp._dpp_board import (
    board,
    close_to_published,
    compare,
    edges_against_nodes,
    repair_matters_more,
    tabulate,
)
from benchmarks.reproductions.dpp._dpp_real import Plan, first_layer, measure
from benchmarks.reproductions.networks import trained
from methods.dpp.selection import equal_parameters

PAPER = (
    "R. Acharyya et al., arXiv 2006.16617 (UAI 2021), real-data experiments; Z. Mariet, S. Sra, Diversity Networks, "
    "ICLR 2016; published: the raw result files of the former, test accuracy in %"
)
NODES = tuple(range(50, 500, 50))
EDGES = (79, 157, 236, 314, 392, 471, 549, 628, 706)
PUBLISHED = {
    ("dpp_edge", "removed"): dict(
        zip(EDGES, (36.34, 58.03, 80.27, 89.90, 93.68, 94.98, 95.67, 96.02, 96.23), strict=True)
    ),
    ("dpp_node_pre", "leaky"): dict(
        zip(NODES, (23.74, 35.99, 45.02, 54.89, 73.06, 87.08, 92.81, 95.37, 96.02), strict=True)
    ),
    ("dpp_node_pre", "reweighted"): dict(
        zip(NODES, (92.75, 95.00, 95.38, 95.70, 95.84, 96.02, 96.15, 96.25, 96.26), strict=True)
    ),
    ("importance_node", "leaky"): dict(
        zip(NODES, (31.70, 39.28, 56.48, 77.43, 88.78, 92.93, 94.95, 95.92, 96.33), strict=True)
    ),
}
PUBLISHED_DENSE = 96.33


def run(work: Workplace) -> Outcome:
    """Three networks, five draws; about ten minutes on one core."""
    words = ["dataset=mnist", "model=mlp500", "trainer.train.optimizer=adam", "trainer.train.learning_rate=0.001"]
    words += [
        "trainer.train.weight_decay=0",
        f"trainer.train.epochs={1 if work.quick else 6}",
        "dataset.limit_test=5000",
    ]
    pairs = {k: equal_parameters(k, 784, 500, 500) for k in EDGES[::2]}
    plan = Plan(EDGES, EDGES[:3], tuple(sorted({*NODES, *pairs.values()})), draws=5)
    if work.quick:
        words += ["dataset.limit=3000", "dataset.limit_test=1000", "model.widths=[20,15]"]
        pairs = {k: equal_parameters(k, 784, 20, 15) for k in (79, 314)}
        plan = Plan((79, 314), (79,), tuple(sorted({10, *pairs.values()})), draws=2)
    rows, dense = [], []
    for seed in range(2 if work.quick else 3):
        data, network = trained(work, work.config([*words, f"seed={seed}"]))
        layer = first_layer(network.model, data, 500 if work.quick else 5000, seed)
        dense.append(100 * layer.dense_accuracy())
        rows += measure(layer, plan, 0, seed)
    table = tabulate(rows, {} if work.quick else PUBLISHED)
    claims = [
        *(compare(rows, "dpp_node", "random_node", variant) for variant in ("removed", "leaky", "reweighted")),
        compare(rows, "dpp_node_pre", "random_node", "leaky"),
        compare(rows, "dpp_node", "importance_node", "reweighted"),
        compare(rows, "dpp_node_pre", "importance_node", "leaky"),
        *(compare(rows, "dpp_edge", "random_edge", variant) for variant in ("removed", "reweighted")),
        *(compare(rows, "dpp_edge", "importance_edge", variant) for variant in ("removed", "reweighted")),
        *(edges_against_nodes(rows, pairs, variant) for variant in ("removed", "reweighted")),
        repair_matters_more(rows, NODES[2]),
        close_to_published(table, "dpp_node_pre", "reweighted", 3.0),
    ]
    mean = sum(dense) / len(dense)
    setting = (
        f"{len(dense)} networks (unpruned {mean:.2f} %, published {PUBLISHED_DENSE} %) of the common trainer: Adam, "
        "rate 0.001, 6 epochs along a cosine, the best epoch by validation; the paper trains with SGD to 99 % of the "
        f"training samples. {plan.draws} draws per network; n = networks x draws (networks alone for methods without "
        "draws), std over all of them. Calibration: 5000 training samples (published: 60000), beta = 10 / samples. "
        "'leaky' masks the incoming weights of a removed node and leaves its bias, as the published runs without "
        "reweighting do; 'removed' removes the node. The published reweighting leaves out the bias of the pruned "
        "layer, ours does not. kept: nodes, or edges per unit; parameters: share of the weights in and behind the "
        "layer. DPPs over edges at three sizes; 5000 test images. The published figures with reweighting do not "
        "agree with the raw files and are not compared."
    )
    return Outcome(table, claims, setting, {"dense": mean})


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """One board: nodes and edges, removed and reweighted."""
    return {"accuracy": board(outcome.table, outcome.level("dense"), "Sigmoid perceptron on MNIST")}
