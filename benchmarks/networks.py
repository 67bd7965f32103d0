"""Write the page of all networks, docs/networks.md: what can be pruned in small networks of many architectures.

python -m benchmarks.networks                  write docs/networks.md; about a minute
python -m benchmarks.networks --check          whether it is up to date
python -m benchmarks.networks BERT U-Net       examine these, with the processor seconds that finding the groups took
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.boards.tables import NONE, Table
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, check_page, end
from benchmarks.storage.paths import REPOSITORY, write_atomically
from methods.errors import BadInput

PAGE = REPOSITORY / "docs" / "networks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.networks``."""
    chosen = _parser().parse_args(arguments)
    from benchmarks.zoo.page import examined, page
    from benchmarks.zoo.zoo import EVERY, present

    if chosen.check and chosen.names:
        raise BadInput(f"--check is for the whole page; type it alone, or '{chosen.names[0]}' without it")
    here = {each.name: each for each in present()}
    names = chosen.names or [each.name for each in EVERY]
    for name in names:
        if name not in {each.name for each in EVERY}:
            raise BadInput(f"unknown network '{name}'; choose from {', '.join(each.name for each in EVERY)}")
        if name not in here:
            [needs] = {each.needs for each in EVERY if each.name == name}
            raise BadInput(f"{name} needs the package {needs}\ntype pip install 'secateurs[{needs}]'")
    if not chosen.names and not PAGE.parent.is_dir():
        raise BadInput("the page is that of a clone; name networks to examine them")
    findings = examined([here[name] for name in names])
    if chosen.names:
        _table(findings).show(output_console())
        return 0
    text = page(findings)
    if not chosen.check:
        write_atomically(PAGE, text)
        slowest = max(findings, key=lambda found: found.seconds)
        sys.stdout.write(
            f"written: {PAGE.relative_to(REPOSITORY)}\n"
            f"finding groups took {slowest.seconds:.2f} processor seconds at most ({slowest.name})\n"
        )
        return 0
    return check_page(PAGE, text, "the networks give", "python -m benchmarks.networks")


def _table(findings: Sequence) -> Table:
    columns = ["network", "parameters", "groups", "nodes", "prunable %", "with streams %", "difference", "seconds"]
    rows = [
        [
            found.name,
            f"{found.parameters:,}",
            str(found.groups),
            str(found.nodes),
            f"{100 * found.share:.1f}",
            f"{100 * found.share_residual:.1f}",
            NONE if found.difference is None else f"{found.difference:.1e}",
            f"{found.seconds:.2f}",
        ]
        for found in findings
    ]
    notes = [
        f"{found.name}: {', '.join(paths)}: {why}" for found in findings for why, paths in found.left_alone.items()
    ]
    return Table("Networks", columns, rows, {"network"}, notes)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="examine these networks, write nothing")
    parser.add_argument("--check", action="store_true", help="fail if docs/networks.md is out of date")
    return parser


if __name__ == "__main__":
    end(main)
