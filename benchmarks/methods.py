"""Write the page of all methods, docs/methods.md, from the presets, their classes and the inputs they are seen to use.

python -m benchmarks.methods              write docs/methods.md; about a minute
python -m benchmarks.methods --check      whether it is up to date
python -m benchmarks.methods mine lamp    show these cards, also of presets in the folder that SECATEURS_CONF names
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.settings.home import CONF
from benchmarks.storage.entry_point import Parser, check_page, end
from benchmarks.storage.paths import REPOSITORY, write_atomically
from methods.errors import BadInput

PAGE = REPOSITORY / "docs" / "methods.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.methods``."""
    chosen = _parser().parse_args(arguments)
    if chosen.check and chosen.names:
        raise BadInput(f"--check is for the whole page; type it alone, or '{chosen.names[0]}' without it")
    from benchmarks.cards.page import card_of, markdown, page_of
    from benchmarks.cards.preset import method_names

    if chosen.names:
        unknown = [name for name in chosen.names if name not in method_names()]
        if unknown:
            raise BadInput(f"unknown method '{unknown[0]}'; choose from {', '.join(method_names())}")
        for name in chosen.names:
            sys.stdout.write(f"{markdown(card_of(name))}\n")
        return 0
    if not PAGE.parent.is_dir() or CONF != REPOSITORY / "conf":
        raise BadInput("the page is that of a clone with its own conf/; name methods to see their cards")
    text = page_of(method_names())
    if not chosen.check:
        write_atomically(PAGE, text)
        sys.stdout.write(f"written: {PAGE.relative_to(REPOSITORY)}\n")
        return 0
    return check_page(PAGE, text, "the presets give", "python -m benchmarks.methods")


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.methods", description="Write docs/methods.md, a card for each method.")
    parser.add_argument("names", nargs="*", metavar="METHOD", help="show the cards of these methods, write nothing")
    parser.add_argument("--check", action="store_true", help="fail if docs/methods.md is out of date")
    return parser


if __name__ == "__main__":
    end(main)
