"""The page of all methods, docs/methods.md: two tables, a card for each method, and the parts that they choose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.boards.claims.written import claims_of, unclaimed
from benchmarks.boards.labels import expense, leaves
from benchmarks.cards.costs import SAMPLES, Cost, known
from benchmarks.cards.needs import Needs, needs_of
from benchmarks.cards.preset import Preset, preset, yaml_text
from benchmarks.cards.verified import TESTS, Verification, told, verifications
from benchmarks.cells.parts import build_pruner
from benchmarks.settings.home import CONF, yaml_of
from methods.progress import track
from secateurs.presets import configuration

UNITS = {
    "node": "node (neurons, channels: removed)",
    "edge": "edge (single weights: masked)",
    "eigen": "eigen (directions of a layer's eigenbasis: removed, with the layer split in three)",
    "rank": "rank (singular values of a layer: removed, with the layer split in two)",
    "block": "block (whole residual blocks: left out)",
    "exact": "exact (neurons whose ReLU is stable: removed, merged or folded)",
}
GROUPS = {"Structured": ("node", "eigen", "rank", "block", "exact"), "Unstructured": ("edge",)}
WATCHED = {"exact": ["selection.low=-20", "selection.high=20"]}  # what fits the inputs that needs are observed with
OPENING = """\
# Methods

Made by `python -m benchmarks.methods` from the presets in `conf/method`, their classes and their docstrings; not
edited by hand. What a method needs is observed: it prunes a small network with different inputs and with different
labels. It needs *data* or *labels* if that changes the pruned network, and *gradients* if anything is propagated
backward through the network. *Training* is the method's own, in addition to the training of the dense network and the
fine-tuning that all methods have; it uses labels and gradients, whatever the pruning itself needs. Any part can be
swapped for another from its folder in `conf/`. *Cost* is the processor time of pruning half of ResNet-20 once, with
{samples} samples and each method's defaults, repair included ({machine}); `python -m benchmarks.cost` measures it,
and – means that it has not been measured. A method that trains costs what its training does. *Verified by* names the
tests that compare scores, masks or weights with the output of the authors' own program, with brute force on small
cases, or with a closed form. *Claims* are what the paper claims against methods compared here;
`python -m benchmarks.leaderboard` says under each board which claims are seen there.
"""
TRAINS = "trains: its cost is that of its training"


@dataclass(frozen=True)
class Card:
    """Everything that the page says about one method.

    ``unit`` is a key of :data:`UNITS`, ``cost`` None where not measured, ``verified`` None where there are no tests
    beside the code, as in an installation, so that nothing can be said.
    """

    preset: Preset
    unit: str
    needs: Needs
    cost: Cost | None
    verified: tuple[Verification, ...] | None = ()


def card_of(name: str) -> Card:
    """The card of a method of conf/method.

    Raises:
        BadInput: there is no such method, or its preset does not say what it is.
    """
    config = configuration([f"method={name}"])
    pruner = build_pruner(config)
    parts = (pruner.selection, pruner.schedule, pruner.allocation, pruner.compensation)
    written = preset(name, config["selection"], [type(part) for part in parts])
    watched = build_pruner(configuration([f"method={name}", *WATCHED[name]])) if name in WATCHED else pruner
    verified = verifications().get(name, ()) if TESTS.is_dir() else None
    return Card(written, pruner.selection.unit, needs_of(watched), known()[1].get(name), verified)


def page_of(names: Sequence[str]) -> str:
    """The whole page, in Markdown; takes about a second per method, and shows its progress."""
    cards = [card_of(name) for name in track(names, "methods")]
    sections = [OPENING.format(samples=f"{SAMPLES:,}", machine=known()[0] or "not measured here")]
    chosen = {group: [card for card in cards if card.unit in units] for group, units in GROUPS.items()}
    for group, members in chosen.items():
        sections.append(f"**{group}** ({len(members)})\n\n{_table(members)}")
    for group, members in chosen.items():
        sections.append(f"## {group}\n")
        sections += [markdown(card) for card in members]
    sections.append(_parts(cards))
    return "\n".join(sections)


def markdown(card: Card) -> str:
    """One card, a section of level 3."""
    written = card.preset
    lines = [f"### {written.name}", "", written.sentence, ""]
    if written.more:
        lines += [written.more, ""]
    lines += [
        f"- **Paper:** {_paper(written)}",
        f"- **Unit:** {UNITS[card.unit]}",
        f"- **Needs:** {needed(card.needs)}",
        f"- **Cost on ResNet-20:** {_cost(card)}",
        *([] if card.verified is None else [f"- **Verified by:** {told(card.verified)}"]),
        *(f"- **Claim:** {words}" for words in _claims(written.name)),
        f"- **Parts:** {', '.join(f'{part} `{name}`' for part, name in written.parts.items())}",
        f"- **Options:** {'none' if not written.options else ''}".rstrip(),
    ]
    for option in written.options:
        meaning = f": {option.meaning}" if option.meaning else ""
        lines.append(f"    - `{option.name}={option.default}`{meaning}")
    lines.append(f"- **As published:** {_typed(written.published)}")
    lines.append(f"- **Reconstruction:** {written.reconstruction or 'nothing is noted'}")
    return "\n".join(lines) + "\n"


def needed(needs: Needs) -> str:
    """What a method needs, in words."""
    wanted = [name for name in ("data", "labels", "gradients") if getattr(needs, name)]
    looks = ", ".join(wanted) or "nothing but the network"
    return f"{looks}; {needs.training or 'no training of its own'}"


def _paper(written: Preset) -> str:
    paper = written.paper
    if paper is None:
        return f"none; {written.unpublished}" if written.unpublished else "none is named"
    words = f'{paper.citation}: "{paper.title}"' if paper.title else paper.citation
    return f"[{words}]({paper.link})" if paper.link else words


def _typed(words: str | None) -> str:
    """Words to type as code, what follows them in brackets as it is."""
    if words is None:
        return "nothing else is noted"
    typed, bracket, rest = words.partition(" (")
    return f"`{typed}`{bracket}{rest}"


def _claims(name: str) -> list[str]:
    """The claims of a method's paper, each with its source; or that there is none to look at here, and why."""
    why = unclaimed(name)
    found = [f"{claim.words}: {claim.sentence} ({claim.source})" for claim in claims_of(name)]
    return found or [f"none that a board can look at{f': {why}' if why else ''}"]


def _cost(card: Card) -> str:
    if card.needs.training is not None:
        once = card.cost and card.cost.seconds is not None
        return f"{TRAINS}{f'; choosing once takes {card.cost.told()}' if card.cost and once else ''}"
    if card.cost is None:
        return "not measured"
    why = card.cost.refused or (expense(card.preset.name) if card.cost.long else None)
    return f"{card.cost.told()}{f' ({why})' if why else ''}"


def _table(cards: Iterable[Card]) -> str:
    rows = [
        "| method | unit | data | labels | gradients | training | repair | verified by | cost on ResNet-20 |",
        "| :-- | :-- | :-: | :-: | :-: | :-- | :-- | :-- | --: |",
    ]
    for card in cards:
        name, needs = card.preset.name, card.needs
        marks = ["yes" if mark else "–" for mark in (needs.data, needs.labels, needs.gradients)]
        repair = card.preset.parts["compensation"]
        cells = [f"[{name}](#{name})", card.unit, *marks, needs.training or "–", "–" if repair == "none" else repair]
        cells.append(card.verified[0].by if card.verified else "–")
        cells.append("trains" if needs.training else card.cost.told() if card.cost else "–")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _parts(cards: Sequence[Card]) -> str:
    """What the parts are that the cards name, from the first comment of their files."""
    lines = ["## Parts", ""]
    for part in cards[0].preset.parts:
        lines += [f"**{part.capitalize()}**", ""]
        for name in sorted({card.preset.parts[part] for card in cards}):
            lines.append(f"- `{name}`: {_first_comment(part, name)}{_settings(part, name)}")
        lines.append("")
    return "\n".join(lines)


def _first_comment(part: str, name: str) -> str:
    said = []
    for line in (CONF / part / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        said.append(line.lstrip("# "))
    return " ".join(said)


def _settings(part: str, name: str) -> str:
    given = yaml_of(CONF / part / f"{name}.yaml") or {}
    shown = [
        f"{key}={yaml_text(value)}"
        for key, value in leaves(given)
        if value is not None and key not in ("_target_", "defaults")
    ]
    return f" `{', '.join(shown)}`" if shown else ""
