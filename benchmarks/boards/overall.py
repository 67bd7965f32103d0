"""All tasks together: mean ranks, Friedman's test, Nemenyi's critical difference and its diagram.

A task is a (data set, model, requested budget); a method's score on it is the mean over its seeds. Only methods with a
result on every task can be ranked; a network larger than was asked for is no result. So tasks that many methods lack (a
study of one method, or a size that most cannot reach) and methods that lack many tasks are left out, and named. Tasks
with one seed are left out beside others with several, and variants of methods beside methods as published.

Many tasks and many methods are not to be had at once where costly methods have not been run on every network. So there
are two comparisons, if need be: one over many tasks, and one of all methods that share enough of them.
"""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from benchmarks.boards.board import Question, default_metric, smaller_is_better
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.naming import task_of, with_names
from benchmarks.boards.stats import ALPHA, Comparison, Friedman, friedman, holm, signed_rank
from benchmarks.boards.tables import NONE, Table, probability

FEWEST = 3  # methods that Friedman's test can compare
ENOUGH = 10  # tasks for a comparison of more methods
BEAM = 500  # sets of tasks that the search for it follows at most
Task = tuple[object, ...]
SALT = "secateurs"  # fixed, so that the same diagram has the same bytes


@dataclass(frozen=True)
class Overall:
    """The comparison over tasks; ``scores`` are means over seeds, oriented so that larger is better."""

    metric: str
    tasks: list[Task]
    scores: dict[str, list[float]]
    test: Friedman
    left_out: list[str]
    skipped: list[Task]
    unusual: int
    variants: int
    baseline: str | None
    versus: dict[str, Comparison]


def comparisons(cells: Sequence[Cell], question: Question | None = None) -> list[Overall]:
    """The comparison over many tasks and, where that leaves methods out, one of more methods; none without results.

    Both are of methods that have a result on every one of the tasks.
    """
    question = question or Question()
    cells = with_names(cells)
    unusual = len({cell["name"] for cell in cells if not cell["usual"]})
    cells = [cell for cell in cells if cell["usual"]]
    every = {cell["name"] for cell in cells}
    cells = _as_published(cells)
    ranked = {cell["name"] for cell in cells}
    by_task: dict[Task, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_task[task_of(cell)].append(cell)
    tasks, several = sorted(by_task), _with_spread(by_task)
    means: dict[str, dict[Task, float]] = defaultdict(dict)
    for task, members in several.items():
        metric = question.metric or default_metric(members)
        sign = -1.0 if smaller_is_better(metric) else 1.0
        values: dict[str, list[float]] = defaultdict(list)
        for cell in sorted(members, key=lambda cell: cell["key"]):
            if cell["status"] == "done" and cell.get(metric) is not None:
                values[cell["name"]].append(sign * cell[metric])
        for label, found in values.items():
            means[label][task] = sum(found) / len(found)
    results = {label: set(found) for label, found in means.items()}
    many, more = covered(results), shared(results, ENOUGH)
    chosen = [many, more] if len(more[0]) > len(many[0]) else [many]
    comparison = []
    for complete, kept in chosen:
        own = [task for task in tasks if task in kept]
        scores = {label: [means[label][task] for task in own] for label in complete}
        if (test := friedman(scores)) is None:
            continue
        baseline = _baseline(question.baseline, cells, complete)
        comparison.append(
            Overall(
                metric=question.metric or default_metric(cells),
                tasks=own,
                scores=scores,
                test=test,
                left_out=sorted(ranked - set(complete)),
                skipped=[task for task in tasks if task not in kept],
                unusual=unusual,
                variants=len(every - ranked),
                baseline=baseline,
                versus=_versus(scores, baseline) if baseline else {},
            )
        )
    return comparison


def _as_published(cells: Sequence[Cell]) -> list[Cell]:
    """The methods with their presets' own parts; all cells where there are fewer than three such methods.

    Variants (a method with another compensation, say) tend to be run on one network: all together they would shrink the
    comparison to the tasks of that network.
    """
    published = [cell for cell in cells if cell["name"] == cell["method"]]
    return published if len({cell["method"] for cell in published}) >= FEWEST else list(cells)


def _with_spread(by_task: Mapping[Task, list[Cell]]) -> dict[Task, list[Cell]]:
    """The tasks that were run with several seeds; all of them if none was: one seed is luck beside a mean of five."""
    several = {task: members for task, members in by_task.items() if len({cell["seed"] for cell in members}) > 1}
    return several or dict(by_task)


def covered(results: Mapping[str, Set[Task]]) -> tuple[list[str], set[Task]]:
    """Methods and tasks such that each of these methods has a result on each of these tasks.

    Whatever lacks the largest share of the others goes first, a method before a task where they lack the same share.
    """
    methods, tasks = set(results), {task for found in results.values() for task in found}
    while methods and tasks:
        by_method = {name: len(tasks - results[name]) / len(tasks) for name in sorted(methods)}
        by_task = {task: sum(task not in results[name] for name in methods) / len(methods) for task in sorted(tasks)}
        method, task = max(by_method, key=by_method.__getitem__), max(by_task, key=by_task.__getitem__)
        if max(by_method[method], by_task[task]) == 0:
            break
        if by_method[method] >= by_task[task]:
            methods.discard(method)
        else:
            tasks.discard(task)
    return sorted(methods), tasks


def shared(results: Mapping[str, Set[Task]], enough: int) -> tuple[list[str], set[Task]]:
    """The most methods that have ``enough`` tasks in common, of equally many those with most tasks; and these tasks.

    Nothing where no method has enough. Whatever methods share is an intersection of their sets of tasks. Where there
    are very many of those, only the BEAM most promising are followed, and the result may be one of a few methods less.
    """
    tasks = sorted({task for found in results.values() for task in found})
    bit = {task: 1 << number for number, task in enumerate(tasks)}
    owned = {name: sum(bit[task] for task in found) for name, found in sorted(results.items())}
    merits: dict[int, tuple[int, int]] = {}  # of each intersection: methods so far that have all of it, and its tasks
    seen: list[int] = []
    for own in owned.values():
        seen.append(own)
        candidates = {own, *merits, *(each & own for each in merits)}
        merits = {
            each: (sum(each & other == each for other in seen), each.bit_count())
            for each in candidates
            if each.bit_count() >= enough
        }
        if len(merits) > BEAM:
            merits = dict(sorted(merits.items(), key=lambda item: (item[1], item[0]), reverse=True)[:BEAM])
    if not merits:
        return [], set()
    best = max(merits, key=lambda each: (merits[each], each))
    return [name for name, own in owned.items() if best & own == best], {task for task in tasks if bit[task] & best}


def _baseline(asked: str | None, cells: Sequence[Cell], complete: Sequence[str]) -> str | None:
    if asked is None or asked in complete:
        return asked
    methods = {cell["name"]: cell["method"] for cell in cells}
    return next((label for label in complete if methods[label] == asked), None)


def _versus(scores: dict[str, list[float]], baseline: str) -> dict[str, Comparison]:
    others = [label for label in scores if label != baseline]
    results = [signed_rank([a - b for a, b in zip(scores[o], scores[baseline], strict=True)]) for o in others]
    adjusted = holm([result.p for result in results])
    return {
        label: Comparison(result.n, result.difference, result.std, p, result.test)
        for label, result, p in zip(others, results, adjusted, strict=True)
    }


def table_of(found: Overall) -> Table:
    """The mean ranks, best first, with the groups that Nemenyi's test does not separate."""
    test = found.test
    groups = {name: "" for name in test.mean_ranks}
    for position, group in enumerate(test.groups):
        for name in group:
            groups[name] += chr(ord("A") + position % 26)
    columns = ["method", "mean rank", "not told apart"]
    rows = [[name, f"{rank:.2f}", groups[name] or NONE] for name, rank in test.mean_ranks.items()]
    if found.baseline:
        columns += ["better", "p"]
        for row in rows:
            versus = found.versus.get(row[0])
            row += [NONE, NONE] if versus is None else [_wins(found, row[0]), probability(versus.p)]
    notes = [
        f"Friedman's chi-square = {test.statistic:.2f}, {len(rows) - 1} degrees of freedom, p {_equals(test.p)}: "
        + ("the methods differ" if test.p < ALPHA else "no evidence that the methods differ"),
        f"critical difference (Nemenyi, {ALPHA:g}) = {test.critical_difference:.2f} ranks; methods that share a letter "
        "are closer than that",
        "a task is a data set, model and budget; those that share a network are not independent: p is too small",
    ]
    if found.baseline:
        notes.append(f"better: tasks on which it beats {found.baseline}; p: Wilcoxon over tasks, Holm's correction")
    if found.skipped:
        names = ", ".join(
            " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in t) for t in found.skipped
        )
        notes.append(f"tasks left out, since many methods have no result on them, or one seed only: {names}")
    if found.variants:
        notes.append(
            f"{found.variants} variants of methods (other parts than as published) are ranked on the boards only"
        )
    if found.unusual:
        notes.append(f"{found.unusual} settings with other training or calibration than the rest are not ranked here")
    if found.left_out:
        notes.append(f"not ranked, for want of a result on every one of these tasks: {', '.join(found.left_out)}")
    metric = found.metric.replace("_", " ")
    title = f"{len(rows)} methods over {test.tasks} tasks: mean rank by {metric} on the test split, 1 is best"
    return Table(title, columns, rows, {"method", "not told apart"}, notes)


def _equals(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def _wins(found: Overall, name: str) -> str:
    pairs = zip(found.scores[name], found.scores[found.baseline or ""], strict=True)
    return f"{sum(a > b for a, b in pairs)} of {len(found.tasks)}"


def diagram(found: Overall, form: str = "svg") -> bytes:
    """The critical-difference diagram as an SVG or PNG file: methods by rank, bars join those not told apart.

    The same comparison gives the same bytes.
    """
    import pandas as pd
    import scikit_posthocs
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(found.test.mean_ranks)
    p_values = pd.DataFrame(1.0, index=names, columns=names)
    for (a, b), p in found.test.nemenyi.items():
        p_values.loc[a, b] = p_values.loc[b, a] = p
    with rc_context({"svg.hashsalt": f"{SALT} {len(names)}", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(9, 1.2 + 0.22 * len(names)), layout="constrained")
        axes = figure.subplots()
        scikit_posthocs.critical_difference_diagram(
            found.test.mean_ranks,
            p_values,
            alpha=ALPHA,
            ax=axes,
            color_palette=dict.fromkeys(names, "black"),
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
        )
        axes.set_title(
            f"mean rank over {found.test.tasks} tasks (1 is best); CD = {found.test.critical_difference:.2f}",
            fontsize=10,
        )
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata, transparent=form == "svg")
    return buffer.getvalue()
