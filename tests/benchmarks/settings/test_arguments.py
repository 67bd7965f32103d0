import enum
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import pytest
from torch import nn

from benchmarks.settings.arguments import fitted
from methods.errors import BadInput


class Part:
    def __init__(
        self, size: int = 3, rate: float | None = None, sharp: bool = True, widths: Sequence[int] = ()
    ) -> None:
        self.arguments = (size, rate, sharp, widths)


def anything(first: int = 1, **rest: float) -> None: ...


def unresolved(value: "NotThere" = 1) -> None: ...  # noqa: F821


class Kind(enum.Enum):
    DEFAULT = "url"


def objects(
    kind: Kind | None = None,
    width: int = None,  # noqa: RUF013
    layers: Sequence[nn.Module] = (),
    names: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> None: ...


def test_words_and_numbers_become_what_the_annotation_says():
    given = {"_target_": "Part", "size": "4", "rate": "1e-3", "sharp": "off", "widths": ["10", 20.0]}
    assert fitted(Part, given, "part") == {
        "_target_": "Part",
        "size": 4,
        "rate": 1e-3,
        "sharp": False,
        "widths": [10, 20],
    }
    whole = fitted(Part, {"size": 5.0}, "part")["size"]
    assert whole == 5 and isinstance(whole, int)
    assert given["size"] == "4"


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "DEFAULT"},  # torchvision's weights are named so
        {"width": None},
        {"layers": [{"_target_": "torch.nn.ReLU"}]},
        {"names": "abc"},
        {"names": ["a", "b"]},
        {"sizes": {"fc1": 1.5}},  # what takes it says more than its type does
    ],
)
def test_objects_and_what_stands_for_them_are_left_to_their_taker(given):
    assert fitted(objects, given, "model") == given


@pytest.mark.parametrize(
    "given,message",
    [
        ({"sise": 4}, r"unknown key 'part.sise'; did you mean part.size\?\nPart takes: size, rate, sharp, widths"),
        ({"size": "four"}, "part.size=four is not a whole number; type for instance part.size=3"),
        ({"size": 2.5}, "part.size=2.5 is not a whole number; type for instance part.size=3"),
        ({"rate": "fast"}, "part.rate=fast is not a number"),
        ({"sharp": "maybe"}, "part.sharp=maybe is neither true nor false; type for instance part.sharp=true"),
        ({"sharp": None}, "part.sharp=null is neither true nor false; type for instance part.sharp=true"),
        ({"rate": {"a": 1}}, "part.rate=.* is not a number"),
        ({"widths": "wide"}, "part.widths=wide is not a list"),
        ({"size": True}, "part.size=true is not a number; type for instance part.size=3"),
        ({"rate": False}, "part.rate=false is not a number"),
        ({"sharp": 1}, "part.sharp=1 is not a switch; type for instance part.sharp=true"),
        ({"widths": [1, True]}, r"part.widths=\[1,true\] is not a list of such values"),
        ({"widths": [1, "two"]}, "part.widths=.* is not a whole number"),
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
    assert fitted(partial(anything, 1), {"other": "x"}, "part") == {"other": "x"}
    assert fitted(range, {"stop": 1}, "part") == {"stop": 1}
    with pytest.raises(BadInput, match="object takes no options; leave it out"):
        fitted(object, {"size": 1}, "part")
