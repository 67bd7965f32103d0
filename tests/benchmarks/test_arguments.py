from collections.abc import Sequence

import pytest

from benchmarks.arguments import fitted
from methods.errors import BadInput


class Part:
    def __init__(
        self, size: int = 3, rate: float | None = None, sharp: bool = True, widths: Sequence[int] = ()
    ) -> None:
        self.arguments = (size, rate, sharp, widths)


def anything(first: int = 1, **rest: float) -> None: ...


def unresolved(value: "NotThere" = 1) -> None: ...  # noqa: F821


def test_words_become_what_the_annotation_says_and_other_values_stay():
    widths = [1, 2]
    given = fitted(Part, {"_target_": "Part", "size": "4", "rate": "1e-3", "sharp": "off", "widths": widths}, "part")
    assert given == {"_target_": "Part", "size": 4, "rate": 1e-3, "sharp": False, "widths": widths}
    assert given["widths"] is widths


@pytest.mark.parametrize(
    "given,message",
    [
        ({"sise": 4}, r"unknown key 'part.sise'; did you mean part.size\?\nPart takes: size, rate, sharp, widths"),
        ({"size": "four"}, "part.size=four is not a valid integer; type for instance part.size=3"),
        ({"size": 2.5}, "part.size=2.5 is not a valid integer; type for instance part.size=3"),
        ({"rate": "fast"}, "part.rate=fast is not a valid number"),
        ({"sharp": "maybe"}, "part.sharp=maybe is not a valid boolean; type for instance part.sharp=true"),
        ({"widths": "wide"}, "part.widths=wide is not a list"),
        ({"widths": [1, "two"]}, "part.widths=.* is not a valid integer"),
    ],
)
def test_the_first_argument_that_does_not_fit_is_named(given, message):
    with pytest.raises(BadInput, match=message):
        fitted(Part, given, "part")


def test_what_cannot_be_looked_at_passes():
    assert fitted(anything, {"first": 1, "other": "x"}, "part") == {"first": 1, "other": "x"}
    assert fitted(unresolved, {"value": object}, "part") == {"value": object}
    assert fitted(Part, {"name": "mine"}, "part", free=("name",)) == {"name": "mine"}
    assert fitted(Part, {"size": {"_target_": "builtins.int"}}, "part") == {"size": {"_target_": "builtins.int"}}
    with pytest.raises(BadInput, match="object takes no options; leave it out"):
        fitted(object, {"size": 1}, "part")
