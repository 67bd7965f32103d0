"""Show the spectra of a dense network's layers: how much can be pruned, before anything is pruned.

    python -m benchmarks.spectrum dataset=digits model=mlp
    python -m benchmarks.spectrum dataset=mnist model=lenet5 selection.lam=1e-4 prune_residual=true

Takes the same arguments as run.py, trains the dense network if it is not there yet, and draws per layer the eigenvalues
of the covariance, the degrees of freedom against lambda, and the relative error of the network's output when this
layer alone is pruned by spectral pruning and repaired. Writes a picture (PNG) and a self-contained page (HTML).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures.files import drawn
from benchmarks.reproductions.spectra import LayerSpectrum, layer_spectra, visible
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths, safe_name, write_atomically
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.spectral.selection import SpectralSelection, sufficient_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SALT = "spectrum"
LEGEND = 10  # more layers than this are told apart by a colour bar
STYLE = """
body {font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1b1b;
      background: #fff}
h1 {font-size: 1.5rem} figure {margin: 1.5rem 0} figcaption, p {max-width: 48rem} svg {width: 100%; height: auto}
.scroll {overflow-x: auto} table {border-collapse: collapse; font-variant-numeric: tabular-nums}
th, td {padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap}
th:first-child, td:first-child {text-align: left} thead th {border-bottom: 2px solid #888}
"""


@dataclass(frozen=True)
class Found:
    """A network's spectra, and what the picture and the page say about where they come from."""

    title: str
    notes: list[str]
    layers: list[LayerSpectrum]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.spectrum``."""
    parser = Parser(
        prog="python -m benchmarks.spectrum", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="as for run.py: dataset=mnist model=lenet5 seed=1 ...")
    parser.add_argument("--widths", type=int, default=10, help="about so many widths per layer (10; 0: no errors)")
    parser.add_argument("--samples", type=int, default=500, help="samples on which outputs are compared (500)")
    parser.add_argument("--out", type=Path, help="folder of the picture and the page (results/runs/spectra)")
    options = parser.parse_intermixed_args(arguments)
    if options.widths < 0 or options.samples < 1:
        raise BadInput("--widths must be 0 or more and --samples 1 or more; for instance --widths 6 --samples 200")
    from benchmarks.sweeps.single import one_network

    config = one_network(options.words)
    found = examine(config, options.widths, options.samples)
    folder = options.out or Paths.of(config["paths"]).results / "runs" / "spectra"
    name = safe_name(f"{config['dataset']['name']}-{config['model']['name']}-seed{config['seed']}")
    picture, page = write(found, folder, name)
    output_console().print(f"{picture}\n{page}", highlight=False)
    return 0


def examine(config: dict[str, Any], widths: int, samples: int) -> Found:
    """Train (or load) the dense network of a configuration and compute the spectra of its layers."""
    from benchmarks.cells.parts import build
    from benchmarks.cells.preparation import calibrate, trained_network
    from benchmarks.data.splits import load
    from benchmarks.training.scoring import evaluate

    selection = build(config["selection"], "selection")
    if not isinstance(selection, SpectralSelection):
        raise BadInput(f"method={config['method']['name']} has no spectra; leave method=spectral as it is")
    paths = Paths.of(config["paths"])
    data = load(config["dataset"], config["seed"], paths.cache)
    model = trained_network(config, data, paths).model
    calibration = calibrate(data, config["calibration"], config["seed"])
    some = slice(0, min(samples, len(calibration)))
    evaluation = Calibration(calibration.inputs[some], calibration.labels[some], seed=calibration.seed)
    layers = layer_spectra(model, calibration, selection, bool(config.get("prune_residual")), widths, evaluation)
    if not layers:
        raise BadInput(f"model={config['model']['name']} has no layer whose nodes can be pruned")
    score = evaluate(model, data.test)
    quality = f"test accuracy {score.accuracy:.4f}" if score.accuracy is not None else f"test loss {score.loss:.4f}"
    notes = [
        f"Dense network: {quality}. Covariances (not centred) from {len(calibration)} training samples, errors on "
        f"{len(evaluation)} of them. Spectral pruning with theta = {selection.theta:g} and lambda = "
        f"{selection.lam:g} of the trace, one layer at a time, repaired by least squares, no fine-tuning.",
    ]
    return Found(f"{config['dataset']['name']} / {config['model']['name']}, seed {config['seed']}", notes, layers)


def write(found: Found, folder: Path, name: str) -> tuple[Path, Path]:
    """The picture and the page, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(found)
    picture, page = folder / f"{name}.png", folder / f"{name}.html"
    write_atomically(picture, drawn(figure, "png", SALT))
    svg = drawn(figure, "svg", SALT).decode()
    write_atomically(page, document(found, svg[svg.index("<svg") :]))
    return picture, page


def draw(found: Found) -> Figure:
    """Eigenvalues, degrees of freedom and errors, one line per layer, dark to light from the input to the output."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    layers = found.layers
    errors = any(layer.errors for layer in layers)
    figure = Figure(figsize=(14 if errors else 9.5, 4.6), layout="constrained")
    axes = list(figure.subplots(1, 2 + errors, squeeze=False)[0])
    scale = Normalize(0, max(1, len(layers) - 1))
    palette = ListedColormap([colormaps["viridis"](0.88 * i / 255) for i in range(256)])  # no yellow on white
    for number, layer in enumerate(layers):
        look: dict[str, Any] = {"color": palette(scale(number)), "linewidth": 1.5}
        places = [(i + 1) / layer.size for i in range(layer.size)]
        axes[0].plot(places, visible(layer.eigenvalues), label=f"{layer.name} ({layer.size})", **look)
        lams = list(layer.degrees)
        axes[1].plot(lams, [value / layer.size for value in layer.degrees.values()], **look)
        if layer.errors:
            shares = [width / layer.size for width in layer.errors]
            axes[2].plot(shares, visible(list(layer.errors.values())), marker=".", **look)
    axes[0].set(title="Spectrum", xlabel="index / m", ylabel="eigenvalue / largest", yscale="log")
    axes[1].set(title="Degrees of freedom", xlabel="lambda / trace", ylabel="N(lambda) / m", xscale="log")
    if errors:
        axes[2].set(title="Pruning this layer alone", xlabel="share of nodes kept", ylabel="||f - f#|| / ||f||")
        axes[2].set_yscale("log")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if len(layers) <= LEGEND:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    else:
        bar = figure.colorbar(ScalarMappable(Normalize(0, len(layers) - 1), palette), ax=axes, pad=0.01)
        bar.set_label("layer, from the input to the output")
        bar.set_ticks([0, len(layers) - 1], labels=[layers[0].name, layers[-1].name])
        bar.ax.set_ylim(0, len(layers) - 1)
    figure.suptitle(found.title)
    return figure


def document(found: Found, svg: str) -> str:
    """The page: what was done, the picture, and the numbers per layer."""
    head = ["layer", "m", "N(1e-6)", "N(1e-4)", "N(1e-2)", "5 N log(80 N)", "nodes for 1 % error", "for 10 %"]
    rows = [[layer.name, str(layer.size), *_numbers(layer)] for layer in found.layers]
    cells = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    notes = "\n".join(f"<p>{escape(note)}</p>" for note in found.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Spectra: {escape(found.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Spectra: {escape(found.title)}</h1>
{notes}
<figure role="img" aria-label="eigenvalues, degrees of freedom and errors of every layer">
{svg}
<figcaption>Left: eigenvalues of each layer's covariance, the largest being 1. Middle: N(lambda) = sum of
mu / (mu + lambda), the number of directions that matter at resolution lambda, relative to the number of nodes m. Right:
the relative change of the network's output when this layer alone is pruned. What falls early can be pruned far.
</figcaption>
</figure>
<div class="scroll">
<table>
<thead><tr>{"".join(f"<th>{escape(name)}</th>" for name in head)}</tr></thead>
<tbody>
{cells}
</tbody>
</table>
</div>
<p>N(lambda) with lambda relative to the trace. 5 N log(80 N), at lambda = 1e-6 of the trace, is the width from which
the paper's theorem applies: where it exceeds m, the theorem says nothing about this layer. The last two columns are the
smallest widths that were tried whose error stays below.</p>
</body>
</html>
"""


def _numbers(layer: LayerSpectrum) -> list[str]:
    degrees = [
        layer.degrees[min(layer.degrees, key=lambda near: abs(math.log(near / lam)))] for lam in (1e-6, 1e-4, 1e-2)
    ]
    below = [
        min((width for width, error in layer.errors.items() if error <= most), default=None) for most in (0.01, 0.1)
    ]
    widths = ["–" if width is None else str(width) for width in below]
    return [*(f"{value:.1f}" for value in degrees), f"{sufficient_width(degrees[0]):.0f}", *widths]


if __name__ == "__main__":
    end(main)
