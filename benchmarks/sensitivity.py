"""Measure what a network loses when one layer alone is pruned, at several sizes.

    python -m benchmarks.sensitivity dataset=mnist model=lenet5 method=magnitude

Trains the dense network if it is not there yet, prunes each group of nodes (or each layer's single weights, for
methods that mask) alone at a grid of sizes, with the method's own selection and repair, and measures accuracy and loss
on the validation split before any fine-tuning. Writes a table (CSV) and a picture (PNG, SVG) to results/sensitivity.
The words are those of run.py; ``allocation=sensitivity`` spends a budget along such curves, of calibration samples.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.boards.tables import NONE, Table, csv_text
from benchmarks.figures.files import drawn
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths, safe_name, write_atomically
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers, edge_views, node_views
from methods.pruner import Pruner, derive
from methods.seeds import derive_seed
from methods.selection import selects_edges, selects_nodes
from methods.sensitivity.curves import Curve, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

FOLDER = "sensitivity"  # of the results
LEGEND = 12  # more layers than this are told apart by a colour bar
SALT = "sensitivity"
COLUMNS = ["layer", "units", "kept", "accuracy", "loss", "more_loss"]


@dataclass(frozen=True)
class Found:
    """The curves of a network, and what they are of."""

    title: str
    curves: list[Curve]

    @property
    def measure(self) -> str:
        """``accuracy``, or ``loss`` for regression."""
        return "loss" if self.curves[0].accuracies[-1] is None else "accuracy"


def curves_of(
    model: nn.Module, pruner: Pruner, calibration: Calibration, samples: Calibration, seed: int, sizes: int
) -> list[Curve]:
    """A curve per layer of a network, which stays as it is.

    Args:
        model: the dense network.
        pruner: the pruner whose selection and compensation are used.
        calibration: the samples that these may use.
        samples: the samples on which loss and accuracy are measured.
        seed: root of the method's random streams.
        sizes: number of sizes per layer, besides the full one.

    Raises:
        BadInput: the method's selection is for neither nodes nor single weights.
        Skipped: the network has none that can be pruned.
    """
    work, selection, streams = copy.deepcopy(model), pruner.selection, derive(seed, 0)
    example = calibration.inputs[:2]
    if selects_nodes(selection):
        graph = pruner.graph_of(work, example)
        graph.require_groups()
        return measured(
            node_views(work, graph.groups, calibration, streams), selection, pruner.compensation, samples, sizes
        )
    if selects_edges(selection):
        names = edge_layers(work, example)
        return measured(
            edge_views(work, names, {}, calibration, streams), selection, pruner.compensation, samples, sizes
        )
    raise BadInput(
        f"{type(selection).__name__} prunes units of its own, not layer by layer; type for instance method=magnitude"
    )


def examine(config: dict[str, Any], sizes: int) -> Found:
    """The curves of the network and the method that a configuration describes."""
    import torch

    from benchmarks.cells.parts import build_pruner
    from benchmarks.cells.preparation import calibrate, trained_network
    from benchmarks.data.splits import load

    paths = Paths.of(config["paths"])
    data = load(config["dataset"], config["seed"], paths.cache)
    pruner, model = build_pruner(config), trained_network(config, data, paths).model
    calibration, split = calibrate(data, config["calibration"], config["seed"]), data.validation
    everything = torch.arange(len(split))
    samples = Calibration(split.to_inputs(everything), split.targets, None, config["seed"])
    found = curves_of(model, pruner, calibration, samples, derive_seed(config["seed"], "prune"), sizes)
    name = (
        f"{config['dataset']['name']} / {config['model']['name']} / {config['method']['name']}, seed {config['seed']}"
    )
    return Found(name, found)


def table_of(found: Found) -> Table:
    """One row per layer and size, smallest first."""
    rows = []
    for curve in found.curves:
        for size, loss, accuracy in zip(curve.sizes, curve.losses, curve.accuracies, strict=True):
            rows.append(
                [
                    curve.name,
                    f"{size:,}",
                    f"{100 * size / curve.sizes[-1]:.1f}",
                    NONE if accuracy is None else f"{100 * accuracy:.2f}",
                    f"{loss:.4f}",
                    f"{loss - curve.losses[-1]:+.4f}",
                ]
            )
    columns = ["layer", "units kept", "of all %", "accuracy %", "loss", "more loss"]
    notes = [
        "One layer pruned, all others whole; validation split, before any fine-tuning.",
        "The last line of a layer is the dense network.",
    ]
    return Table(f"Sensitivity: {found.title}", columns, rows, {"layer"}, notes)


def numbers_of(found: Found) -> list[list[object]]:
    """The same unrounded, for :data:`COLUMNS`; accuracies are fractions."""
    return [
        [curve.name, curve.sizes[-1], *line, line[2] - curve.losses[-1]]
        for curve in found.curves
        for line in zip(curve.sizes, curve.accuracies, curve.losses, strict=True)
    ]


def draw(found: Found) -> Figure:
    """Accuracy (a regression: loss) against the share of units kept, and the loss added, a line per layer."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    palette = ListedColormap([colormaps["viridis"](0.88 * i / 255) for i in range(256)])  # no yellow on white
    scale = Normalize(0, max(1, len(found.curves) - 1))
    for number, curve in enumerate(found.curves):
        shares = [100 * size / curve.sizes[-1] for size in curve.sizes]
        values = curve.losses if found.measure == "loss" else [100 * (each or 0.0) for each in curve.accuracies]
        look: dict[str, Any] = {"color": palette(scale(number)), "marker": "o", "markersize": 3, "linewidth": 1.4}
        left.plot(shares, values, label=f"{curve.name} ({curve.sizes[-1]:,})", **look)
        right.plot(shares, [loss - curve.losses[-1] for loss in curve.losses], **look)
    words = "loss" if found.measure == "loss" else "accuracy, %"
    left.set(title="One layer pruned, all others whole", ylabel=f"validation {words}")
    right.set(title="What that adds to the loss", ylabel="validation loss above the dense network's")
    right.set_yscale("symlog", linthresh=0.01)
    for axis in (left, right):
        axis.set_xlabel("units of this layer kept, %")
        if found.curves[0].unit == "edge":
            axis.set_xscale("log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if len(found.curves) <= LEGEND:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    else:
        bar = figure.colorbar(ScalarMappable(scale, palette), ax=[left, right], pad=0.01)
        bar.set_label("layer, from the input to the output")
    figure.suptitle(found.title, parse_math=False)
    return figure


def write(found: Found, folder: Path, name: str) -> list[Path]:
    """The table as CSV, and the picture as PNG and SVG."""
    figure = draw(found)
    contents: dict[str, str | bytes] = {
        "csv": csv_text(COLUMNS, numbers_of(found)),
        "png": drawn(figure, "png", SALT),
        "svg": drawn(figure, "svg", SALT),
    }
    files = []
    for ending, content in contents.items():
        files.append(folder / f"{name}.{ending}")
        write_atomically(files[-1], content)
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.sensitivity``."""
    parser = Parser(
        prog="python -m benchmarks.sensitivity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="as for run.py: dataset=mnist model=lenet5 method=magnitude ...")
    parser.add_argument("--sizes", type=int, default=8, help="sizes of each layer below the whole (8)")
    parser.add_argument("--out", type=Path, help="folder of the table and the pictures (results/sensitivity)")
    options = parser.parse_intermixed_args(arguments)
    if options.sizes < 1:
        raise BadInput(f"--sizes {options.sizes} is below 1; type for instance --sizes 8")
    from benchmarks.sweeps.single import one_network

    config = one_network(options.words)
    found = examine(config, options.sizes)
    console = output_console()
    table_of(found).show(console)
    folder = options.out or Paths.of(config["paths"]).results / FOLDER
    parts = (config["dataset"]["name"], config["model"]["name"] or "model", config["method"]["name"])
    name = safe_name("-".join((*parts, f"seed{config['seed']}")))
    for file in write(found, folder, name):
        console.print(str(file), markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    end(main)
