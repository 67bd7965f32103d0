"""Sizes stored in the modules around layers, which must be adapted ("follow") when nodes are removed.

An attention whose forward pass calls ``x.view(n, t, self.num_heads, self.head_dim)`` fails with fewer heads until
``num_heads`` is reduced, too. A table of names says which attributes may have to follow; an experiment decides
(:mod:`methods.network.trials`): one is changed only if the network runs without the nodes with it, and not without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

from torch import nn

# as many as there are heads, or heads of keys and values
HEADS = (
    "num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "num_query_heads", "n_head", "n_heads",
    "n_kv_heads", "n_local_heads", "n_local_kv_heads", "nhead", "heads", "kv_heads", "query_heads",
)  # fmt: skip
# output units of all heads together
WIDTHS = (
    "split_size", "all_head_size", "embed_dim", "inner_dim", "attn_dim", "attention_dim", "hidden_size", "d_attn",
    "qkv_dim", "q_size", "kv_size", "key_dim", "value_dim", "kv_dim", "n_embd", "d_model", "dim",
)  # fmt: skip
# queries for each key: follows where queries go and their key stays
RATIOS = ("num_key_value_groups", "num_queries_per_kv", "n_rep", "queries_per_key")

MOST_ALONE = 6  # numbers that are tried one by one
Attribute = tuple[str, str]  # path of a module, name; of a number in a list with its place
Following = tuple[tuple[Attribute, int], ...]  # attributes, and how much of each belongs to a node


def followings(model: nn.Module, writers: Sequence[str], size: int) -> Iterator[Following]:
    """Attributes that may have to follow when some of ``size`` nodes are removed, the likeliest first.

    They belong to the innermost module around all writers that has any, and to the module around that one.
    """
    around = 0
    for path in _around(writers):
        module = model.get_submodule(path)
        found = [
            tuple(
                ((path, name), value // size) for name in names if (value := _number(module, name)) % size == 0 < value
            )
            for names in (HEADS, WIDTHS, RATIOS)
        ]
        if not any(found):
            continue
        heads, widths, ratios = found
        # all of them first: with some, the nodes that are left may fit by chance, at the sizes that are tried
        choices = (heads + widths + ratios, heads + widths, heads + ratios, heads, widths, ratios)
        yield from dict.fromkeys(choice for choice in choices if choice)
        around += 1
        if around == 2:
            return


def ratios(model: nn.Module, writers: Sequence[str], size: int) -> Following:
    """How many queries each key has, where ``size`` heads of queries share one.

    That number follows them even if the network runs without: a forward pass may use it in some calls only, like
    attention that repeats keys only if there is a mask.
    """
    return tuple(
        ((path, name), 1)
        for path in list(_around(writers))[:2]
        for name in RATIOS
        if _number(model.get_submodule(path), name) == size
    )


def by_size(model: nn.Module, writers: Sequence[str], sizes: Mapping[int, int]) -> Iterator[Following]:
    """The same, found by the attributes' values instead of their names; these may be entries of lists.

    Args:
        model: the network.
        writers: paths of the layers that write the nodes.
        sizes: numbers of output units, and how many of these belong to a node.
    """
    around = 0
    for path in (*_around(writers), *_unflattening(model)):
        found = [((path, name), sizes[value]) for name, value in _numbers(model.get_submodule(path)) if value in sizes]
        if found and (around < 2 or isinstance(model.get_submodule(path), nn.Unflatten)):
            yield tuple(found)
            if len(found) > 1:
                yield from ((each,) for each in found[:MOST_ALONE])
            around += 1


def dividing(model: nn.Module, writers: Sequence[str], units: int) -> Iterator[tuple[int, ...]]:
    """Where a forward pass may divide ``units`` output units: lists that add up to them, or a number below them."""
    for path in list(_around(writers))[:2]:
        module = model.get_submodule(path)
        numbers = dict(_numbers(module))
        whole = [name for name in vars(module) if f"{name}[1]" in numbers]
        for name in whole:
            value = vars(module)[name]
            if all(type(each) is int and each > 0 for each in value) and sum(value) == units:
                yield tuple(accumulate(value[:-1]))
        single = dict.fromkeys(value for name, value in numbers.items() if 0 < value < units and "[" not in name)
        yield from ((value,) for value in list(single)[:MOST_ALONE])


def number_of(model: nn.Module, attribute: Attribute) -> int:
    """The attribute's value."""
    path, name = attribute
    return dict(_numbers(model.get_submodule(path)))[name]


@contextmanager
def resized(model: nn.Module, less: Mapping[Attribute, int]) -> Iterator[None]:
    """Within this context these attributes are reduced by the given amounts."""
    before = {(path, name): vars(model.get_submodule(path))[name.partition("[")[0]] for path, name in less}
    try:
        follow(model, less)
        yield
    finally:
        for (path, name), value in before.items():
            setattr(model.get_submodule(path), name.partition("[")[0], value)


def follow(model: nn.Module, less: Mapping[Attribute, int]) -> None:
    """Reduce these attributes by the given amounts."""
    for (path, name), each in less.items():
        module = model.get_submodule(path)
        name, _, place = name.partition("[")
        value = vars(module)[name]
        if place:  # a new list: other modules may have the same one
            at = int(place.removesuffix("]"))
            setattr(module, name, type(value)(number - each * (n == at) for n, number in enumerate(value)))
        else:
            setattr(module, name, value - each)


def _around(paths: Sequence[str]) -> Iterator[str]:
    """Paths of the modules that contain all of ``paths``, the innermost first, the network itself last."""
    parts = [path.split(".")[:-1] for path in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    for length in range(len(common), -1, -1):
        yield ".".join(common[:length])


def _number(module: nn.Module, name: str) -> int:
    """The value of an attribute that is a whole number; else 0."""
    value = vars(module).get(name, 0)
    return value if type(value) is int else 0


def _unflattening(model: nn.Module) -> Iterator[str]:
    """Paths of modules that reshape a vector; they lie behind the layer that writes it, not around it."""
    yield from (path for path, module in model.named_modules() if isinstance(module, nn.Unflatten))


def _numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Attributes that are whole numbers, and those in lists as ``name[place]``."""
    for name, value in vars(module).items():
        if type(value) is int:
            yield name, value
        elif type(value) in (list, tuple):
            yield from ((f"{name}[{place}]", each) for place, each in enumerate(value) if type(each) is int)
