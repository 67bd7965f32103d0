"""The page docs/networks.md: a row for each network of the zoo, and the reason for what is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.zoo.examine import TOLERANCE, Finding, examine
from benchmarks.zoo.specimen import Specimen
from methods.progress import track

OPENING = """\
# Networks

Made by `python -m benchmarks.networks`; not edited by hand. The table shows small networks of many architectures,
with random weights. They are written in `benchmarks/zoo`, or built from configurations of `transformers` (`pip
install "secateurs[transformers]"`). `python -m benchmarks.groups` shows the same for a network of yours.

*Prunable* is the share of the parameters that belongs to removable nodes (rows and columns of weight matrices,
entries of biases and norms), *with streams* the same with `prune_residual=true`. Half of the nodes of every group are
removed from each network. *Same as masked*: with 1 and with 5 samples the outputs equal those of the network in which
these nodes are masked, to 1e-5 of the largest output in single precision. *Cost*: the predicted parameters and MACs
equal the counted ones. *Trains*: a step of gradient descent changes the pruned network. *Reads back*: after saving
and loading, it computes the same.
"""
HEADER = "| network | what is particular | parameters | groups | prunable, % | with streams, % | same as masked | "
HEADER += "cost | trains | reads back |\n| :-- | :-- | --: | --: | --: | --: | :-- | :-- | :-- | :-- |\n"
MIDDLE = """
## What is left alone

Numbers in the paths of layers are written as `#`.
"""


def row(found: Finding) -> str:
    """The network's line in the table."""
    same = "–" if found.difference is None else _yes(found.difference <= TOLERANCE)
    cells = [
        found.name,
        found.about,
        f"{found.parameters:,}",
        str(found.groups),
        f"{100 * found.share:.0f}",
        f"{100 * found.share_residual:.0f}",
        same,
        *map(_yes, (found.cost_holds, found.trains, found.reads_back)),
    ]
    return f"| {' | '.join(cells)} |\n"


def section(found: Finding) -> str:
    """The network's lines about what is left alone."""
    lines = [f"  - {', '.join(f'`{path}`' for path in paths)}: {why}\n" for why, paths in found.left_alone.items()]
    return f"- **{found.name}**\n{''.join(lines)}"


def page(findings: Sequence[Finding]) -> str:
    """The whole page, in Markdown."""
    rows, sections = "".join(map(row, findings)), "".join(map(section, findings))
    return f"{OPENING}\n{HEADER}{rows}{MIDDLE}\n{sections}"


def examined(specimens: Iterable[Specimen]) -> list[Finding]:
    """All findings; about a second each, and it shows how far it is."""
    with TemporaryDirectory() as folder:
        return [examine(each, Path(folder) / "network") for each in track(list(specimens), "networks")]


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"
