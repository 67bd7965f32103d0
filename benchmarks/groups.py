"""Show what can be pruned in a network before training: ``python -m benchmarks.groups model=lenet5 dataset=mnist``.

Every group of nodes with its units and its share of the network's parameters and MACs; and every layer that is left
alone, with the reason; as a table, and as a picture under results/groups. The words are those of run.py. No data is
read: shape and classes come from the configuration, the weights are random.
"""

from __future__ import annotations

import argparse
import copy
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.boards.tables import NONE, Table
from benchmarks.data.tokens import Tokens
from benchmarks.figures.files import drawn
from benchmarks.figures.looks import COLOURS
from benchmarks.measure.count import count_layers
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths, safe_name, write_atomically
from methods.errors import BadInput
from methods.network.graph import NetworkGraph, NodeGroup, call_order
from methods.network.kinds.registry import find_kind
from methods.pruning.writing_out import write_out
from methods.seeds import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUT = "its units are the network's outputs"
WIDTH, HEAD, ROW = 13.0, 1.4, 0.28  # inches of the picture: across, beside the rows, and per row
LINE = 70  # letters of a reason in one line of the picture
FOLDER = "groups"  # of the results, where pictures go


@dataclass(frozen=True)
class Part:
    """A group of nodes, or a layer that is in none.

    Attributes:
        name: path of the group's first writer, or of the layer, with its units where only some are meant (``fc[0:6]``);
            empty for the network itself.
        layers: paths of the modules that write and carry the nodes.
        units: nodes, or output units of a layer that is left alone; None where it has none.
        parameters, macs: of ``layers``, for one sample; over all parts they add up to the network's.
        reason: why the layer cannot be pruned; empty for a group.
        note: what is particular about a group that can be pruned.
    """

    name: str
    layers: tuple[str, ...]
    units: int | None
    parameters: int
    macs: int
    reason: str = ""
    note: str = ""


def parts_of(
    model: nn.Module, shape: Sequence[int], residual: bool, seed: int = 0, tokens: Tokens | None = None
) -> list[Part]:
    """All parts of a network; :func:`parts_on` of random inputs.

    Args:
        model: the network, left as it is.
        shape: the shape of one input, without the batch.
        residual: whether groups with several writers (residual streams) count as prunable.
        seed: the seed of the random inputs on which the network is tried.
        tokens: what the inputs are where they are ids of tokens.
    """
    random = stream(seed, "groups")
    example = torch.randn(2, *shape, generator=random) if tokens is None else tokens.probe(2, shape[0], random)
    return parts_on(model, example.to(next(model.parameters()).device), residual)


def parts_on(model: nn.Module, example: Tensor, residual: bool) -> list[Part]:
    """All parts of a network, in the order of its modules; recurrent layers of PyTorch are written out.

    Args:
        model: the network, left as it is.
        example: a batch of at least one input, on which the network is tried.
        residual: whether groups with several writers (residual streams) count as prunable.
    """
    model = copy.deepcopy(model)
    write_out(model, example)
    graph = NetworkGraph(model, example, residual=residual)
    # a residual stream that is left alone is shown with all of its layers, too
    everything = graph if residual else NetworkGraph(model, example, residual=True)
    reasons = everything.left_alone | graph.left_alone
    shares = _Shares(model, example)
    parts: list[Part] = []
    for group in everything.groups:
        layers = tuple(dict.fromkeys((*group.writers, *group.carriers)))
        rows = {path: own.numel() for path, own in zip(group.writers, group.rows, strict=True)}
        own = shares.taken(layers, rows)
        parts.append(Part(group.name, layers, group.size, *own, reasons.get(group.name, ""), _note(group)))
    last = [path for path in call_order(model, example) if find_kind(model.get_submodule(path)) is not None][-1:]
    for name in dict.fromkeys((*reasons, *shares.left)):
        path = layer_of(model, name)
        if path in shares.left or not any(path in part.layers for part in parts):
            reason = reasons.get(name) or (OUTPUT if [path] == last else _reason(model.get_submodule(path)))
            units = shares.units.get(path)
            parts.append(Part(name, (path,), units, *shares.taken((path,), {}), reason))
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    return sorted(parts, key=lambda part: order[layer_of(model, part.name)])


def layer_of(model: nn.Module, name: str) -> str:
    """The path of the layer in the name of a group: ``fc`` of ``fc[0:6]``, of which only some units are meant."""
    return name if name in dict(model.named_modules()) else name.rpartition("[")[0]


def _note(group: NodeGroup) -> str:
    """Say why attention is pruned by heads: scores and their scale need all dimensions of queries and keys.

    The dimensions of values belong to the group of heads already.
    """
    if not group.product_macs or group.width == 1:
        return ""
    own = f"{group.width} units of this layer each"
    return f"by whole heads, {own}; the dimensions inside a head stay, since scores and their scale need all of them"


class _Shares:
    """Parameters and MACs of layers that no group has taken yet.

    Attributes:
        left: for each module its own ones.
        units: for each layer how many of its output units are left.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.left = {layer.name: (layer.parameters, layer.macs) for layer in count_layers(model, example)}
        self.units = {path: units for path in self.left if (units := _units(model.get_submodule(path))) is not None}

    def taken(self, layers: Sequence[str], rows: Mapping[str, int]) -> tuple[int, int]:
        """Take the parameters and MACs of some layers; of a layer in ``rows``, only those of that many units."""
        total = [0, 0]
        for path in layers:
            left, own = self.left.pop(path, (0, 0)), rows.get(path, 0)
            if own < self.units.get(path, 0) and path in rows:
                units = self.units[path]
                taken = left[0] * own // units, left[1] * own // units
                self.left[path] = left[0] - taken[0], left[1] - taken[1]
                self.units[path] = units - own
                left = taken
            total = [total[0] + left[0], total[1] + left[1]]
        return total[0], total[1]


def _units(module: nn.Module) -> int | None:
    kind = find_kind(module)
    return None if kind is None else len(kind.matrix(module))


def _reason(module: nn.Module) -> str:
    """Why a module is in no group, where the search for groups has nothing to say about it."""
    if find_kind(module) is None:
        return "has no units of its own"
    return "goes with a layer that is left alone"


def table_of(title: str, parts: Sequence[Part]) -> Table:
    """One row per part; shares are of the whole network."""
    parameters, macs = sum(part.parameters for part in parts), sum(part.macs for part in parts)
    rows = [
        [
            part.name or "(the network)",
            NONE if part.units is None else f"{part.units:,}",
            _percent(part.parameters, parameters),
            _percent(part.macs, macs),
            (part.reason or ", ".join(filter(None, ("yes", part.note))))
            + (f"; with {', '.join(part.layers[1:])}" if part.layers[1:] else ""),
        ]
        for part in parts
    ]
    free = [part for part in parts if not part.reason]
    notes = [
        f"{len(free)} groups of {sum(part.units or 0 for part in free):,} units can be pruned. Their layers hold "
        f"{_percent(sum(part.parameters for part in free), parameters)} % of {parameters:,} parameters and "
        f"{_percent(sum(part.macs for part in free), macs)} % of {macs:,} MACs.",
        "Shares are those of the layers that write and carry the units; pruning also narrows their readers.",
    ]
    columns = ["layer", "units", "parameters %", "MACs %", "can it be pruned"]
    return Table(title, columns, rows, {"layer", "can it be pruned"}, notes)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else NONE


def draw(title: str, parts: Sequence[Part]) -> Figure:
    """Shares of parameters and of MACs, a bar per part, and next to them the reason for what is left alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEAD + ROW * len(parts)), layout="constrained")
    *axes, words = figure.subplots(1, 3, sharey=True, width_ratios=[1, 1, 1.3])
    places, blue, grey = range(len(parts)), COLOURS[0], COLOURS[-1]
    sizes = {"parameters": [part.parameters for part in parts], "MACs": [part.macs for part in parts]}
    shares = {label: [100 * size / max(1, sum(own)) for size in own] for label, own in sizes.items()}
    largest = max(max(own) for own in shares.values())
    for axis, (label, own) in zip(axes, shares.items(), strict=True):
        bars = axis.barh(places, own, color=[grey if part.reason else blue for part in parts])
        axis.bar_label(bars, [f"{share:.1f}" for share in own], padding=3, fontsize="x-small")
        axis.set(xlabel=f"share of {label}, %", xlim=(0, 1.14 * largest), ylim=(len(parts) - 0.4, -0.6))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
    named = [part.name + (f" ({part.units:,})" if part.units else "") or "(the network)" for part in parts]
    axes[0].set_yticks(places, named, fontsize="small", parse_math=False)
    words.axis("off")
    for place, part in enumerate(parts):
        lines = textwrap.wrap(part.reason, LINE, max_lines=2, placeholder=" …")
        words.text(0, place, "\n".join(lines), va="center", fontsize="x-small", parse_math=False)
    free = [part for part in parts if not part.reason]
    units = sum(part.units or 0 for part in free)
    figure.suptitle(f"{title}: what can be pruned of it", parse_math=False)
    handles = [axes[0].barh(0, 0, color=colour) for colour in (blue, grey)]
    labels = [f"can be pruned: {len(free)} groups of {units:,} units", "is left alone, with the reason"]
    words.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small")
    return figure


def examine(config: dict[str, Any]) -> tuple[str, list[Part]]:
    """A title and the parts of the network that a configuration describes."""
    from benchmarks.models.build import build

    shape, classes = config["dataset"]["shape"], config["dataset"].get("classes")
    if not isinstance(classes, int):
        raise BadInput("dataset.classes is not a number; expected how many outputs the network has: dataset.classes=10")
    tokens = Tokens.of(config["dataset"])
    model = build(config["model"], shape, classes, config["seed"], tokens)
    residual = bool(config.get("prune_residual"))
    title = f"{config['model']['name']} on {config['dataset']['name']}"
    return title, parts_of(model, shape, residual, config["seed"], tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.groups``."""
    parser = Parser(
        prog="python -m benchmarks.groups", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="as for run.py: dataset=mnist model=lenet5 prune_residual=true ...")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--figure", type=Path, metavar="FILE.png", help="where to draw it (results/groups/DATASET_MODEL.png)"
    )
    where.add_argument("--no-figure", action="store_true", help="the table alone")
    options = parser.parse_intermixed_args(arguments)
    if options.figure is not None and options.figure.suffix != ".png":
        raise BadInput(f"--figure {options.figure} is no PNG file; type for instance --figure groups.png")
    from benchmarks.sweeps.single import one_network

    config = one_network(options.words, data=False)
    title, parts = examine(config)
    console = output_console()
    table_of(title, parts).show(console)
    if not options.no_figure:
        name = f"{config['dataset']['name']}_{config['model']['name'] or 'model'}"
        path = options.figure or Paths.of(config["paths"]).results / FOLDER / f"{safe_name(name)}.png"
        write_atomically(path, drawn(draw(title, parts), "png", name))
        console.print(f"the same as a picture: {path}", markup=False)
    return 0


if __name__ == "__main__":
    end(main)
