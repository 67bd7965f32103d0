"""Check a removal of nodes: every layer must compute what it computes when these nodes are masked instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from methods.errors import first_line
from methods.network.graph import NetworkGraph, NodeGroup, gated
from methods.network.kinds.registry import kind_of
from methods.network.reading import evaluating

TOLERANCE = 1e-3  # relative to what masking changes; a misunderstood structure is off by about as much as that
ROUNDING = 1e-9  # relative to the largest number; of other sums of the same terms in double precision
OTHERWISE = 1000  # units in the last place, where a network does not run in double precision


def remove_all(model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor]) -> None:
    """Remove all nodes but ``kept`` (sorted indices per group name) from a network of which the groups are known."""
    graph = NetworkGraph.of(model, groups)
    for name, nodes in kept.items():
        graph.remove(graph.find(name), nodes)


def misunderstood(
    model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor], example: Tensor
) -> dict[str, str]:
    """Groups for which removing nodes differs from masking them, each with the reason; for all others it does not.

    Args:
        model: the network; left as it is.
        groups: its groups.
        kept: nodes that stay, sorted, per group name.
        example: inputs.
    """
    reasons: dict[str, str] = {}
    good: list[str] = []

    def sort(names: Sequence[str]) -> None:
        why = difference(model, groups, {name: kept[name] for name in (*good, *names)}, example)
        if why is None:
            good.extend(names)
        elif len(names) == 1:
            reasons[names[0]] = why
        else:  # the difference shows at readers of other groups, too: look at fewer groups
            middle = len(names) // 2
            sort(names[:middle])
            sort(names[middle:])

    sort([group.name for group in groups if len(kept.get(group.name, range(group.size))) < group.size])
    return reasons


@torch.no_grad()
def difference(
    model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor], example: Tensor
) -> str | None:
    """Compare the network without some nodes with the one in which they are masked, after each of their readers.

    The network's output alone would not do: a branch that is scaled by 1e-6, as in a new ConvNeXt, could hide any
    error there. Errors are measured relative to what masking changes in the reader's own output.

    Args:
        model: the network; left as it is.
        groups: its groups.
        kept: nodes that stay, sorted, per group name.
        example: inputs.

    Returns:
        How removing differs from masking, with the first module that shows it; None if it does not.
    """
    left = {group.name: group for group in groups if len(kept.get(group.name, range(group.size))) < group.size}
    readers = dict.fromkeys(reader.name for group in left.values() for reader in group.readers)
    rows = _remaining(model, list(left.values()), kept)
    try:
        double = example.double() if example.is_floating_point() else example
        work, example, before = _started(copy.deepcopy(model).double(), readers, double)
    except (RuntimeError, TypeError):  # the device has none, or the network puts single precision in
        work, example, before = _started(copy.deepcopy(model), readers, example)
    with gated(work, groups, kept):
        closed = _answers(work, readers, example)
    try:
        remove_all(work, groups, kept)
        after = _answers(work, readers, example)
    except Exception as error:  # a user's forward pass may fail in any way
        return f"without nodes of it the network does not run ({first_line(error, 120)})"
    for path in (*readers, ""):
        for dense, expected, found in zip(before[path], closed[path], after[path], strict=True):
            effect = (expected - dense).abs().max()
            if path in rows:
                dimension = kind_of(model.get_submodule(path)).channel
                expected = expected.index_select(dimension, rows[path].to(expected.device))
            if not _close(expected, found, effect):
                return (
                    f"removing nodes of it does not equal closing them off, as {path or 'the output'} shows: its "
                    "structure is not understood"
                )
    return None


def _remaining(model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each layer that writes nodes the output units that stay; parts of them may belong to several groups."""
    rows: dict[str, Tensor] = {}
    for group in groups:
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[kept[group.name].cpu()] = False
        for path, own in group.of_nodes(gone.nonzero().flatten())[0].items():
            left = rows.get(
                path, torch.arange(len(kind_of(model.get_submodule(path)).matrix(model.get_submodule(path))))
            )
            rows[path] = left[~torch.isin(left, own)]
    return rows


def _started(
    work: nn.Module, paths: Mapping[str, object], example: Tensor
) -> tuple[nn.Module, Tensor, dict[str, list[Tensor]]]:
    return work, example, _answers(work, paths, example)


def _close(expected: Tensor, found: Tensor, effect: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    double = expected.dtype == torch.float64
    rounding = ROUNDING if double else min(TOLERANCE, OTHERWISE * torch.finfo(expected.dtype).eps)
    return bool((expected - found).abs().max() <= TOLERANCE * effect + rounding * expected.abs().max())


def _answers(model: nn.Module, paths: Mapping[str, object], example: Tensor) -> dict[str, list[Tensor]]:
    """What some modules return, at each of their calls, and the network itself under its empty path."""
    answers: dict[str, list[Tensor]] = {path: [] for path in paths}
    with evaluating(model), _hooked(model, {path: own.append for path, own in answers.items()}):
        answers[""] = [model(example).clone()]  # not by a hook: a network may return more than that to others
    return answers


@contextmanager
def _hooked(model: nn.Module, listeners: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    handles = []
    for path, listener in listeners.items():

        def hook(_module: nn.Module, _inputs: object, output: Tensor, listener: Callable = listener) -> None:
            listener(output.clone())  # what follows may work in place

        handles.append(model.get_submodule(path).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
