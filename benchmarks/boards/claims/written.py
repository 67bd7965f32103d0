"""Read the claims that presets contain."""

import re
from dataclasses import dataclass
from typing import Literal

from benchmarks.boards.labels import claim_lines
from methods.errors import BadInput

LINE = re.compile(r"(better than|as good as) (.+?) (before|after) fine-tuning; (.+) \((.+)\)\.?")
UNCLAIMED = re.compile(r"none; (.+)")


@dataclass(frozen=True)
class Claim:
    """One claim of a method's paper.

    Attributes:
        method: the method whose paper it is.
        kind: ``better than`` or ``as good as``.
        rivals: methods of conf/method, or ``dense``.
        stage: ``before`` or ``after`` fine-tuning.
        sentence: what is claimed, and of what.
        source: where that stands.
    """

    method: str
    kind: Literal["better than", "as good as"]
    rivals: tuple[str, ...]
    stage: Literal["before", "after"]
    sentence: str
    source: str

    @property
    def words(self) -> str:
        """For people: ``better than magnitude, before fine-tuning``."""
        return f"{self.kind} {' and '.join(self.rivals)}, {self.stage} fine-tuning"


def claims_of(method: str) -> tuple[Claim, ...]:
    """The claims in the preset of ``method``; none where it says that there are none, or nothing.

    Raises:
        BadInput: a line that cannot be read.
    """
    found = []
    for line in claim_lines(method):
        match = LINE.fullmatch(line)
        if match is None and UNCLAIMED.fullmatch(line) is None:
            raise BadInput(
                f"conf/method/{method}.yaml has a claim that cannot be read: {line}\n"
                "Expected: # Claim: better than|as good as METHOD[, METHOD] before|after fine-tuning; what (source), "
                "or # Claim: none; why"
            )
        if match:
            kind, rivals, stage, sentence, source = match.groups()
            names = tuple(name.strip() for name in rivals.split(","))
            found.append(Claim(method, kind, names, stage, sentence, source))  # type: ignore[arg-type]
    return tuple(found)


def unclaimed(method: str) -> str | None:
    """Why ``method`` has no claim that a board can look at, where its preset says so."""
    matches = [UNCLAIMED.fullmatch(line) for line in claim_lines(method)]
    return next((match[1].rstrip(".") for match in matches if match), None)
