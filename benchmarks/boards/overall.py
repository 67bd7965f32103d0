"""Compare methods over all networks: which are better over several data sets and architectures.

One network (a data set and a model) is one observation: budgets of one network are not independent, so a method's
scores are averaged over them first. Then methods are ranked within each network, and compared over networks with the
Skillings-Mack test and Nemenyi's comparison of all pairs (:mod:`benchmarks.boards.blocks`). A method without results on
a network is missing there, and the network still counts for the others; a method on one network cannot be compared over
several and is named. A seed that collapsed counts with its accuracy; a network larger than requested is not a result.

Nodes and edges are ranked separately. Variants of methods (with another repair, say) are ranked in a table of their
own, together with the presets; controls with the layer sizes of another method belong to it and are shown on boards.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.boards.blocks import COMMON, Ranked, averaged, ranked
from benchmarks.boards.board import Question, default_metric, smaller_is_better, unit_order
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.labels import reconstruction
from benchmarks.boards.layout import RECONSTRUCTED, place
from benchmarks.boards.naming import task_of, with_names
from benchmarks.boards.stats import ALPHA
from benchmarks.boards.tables import NONE, Table, probability
from benchmarks.boards.verdicts import Verdict, Verdicts
from benchmarks.figures.files import drawn
from benchmarks.figures.looks import look

Network = tuple[str, str]
SALT = "secateurs"  # fixed, so that the same diagram has the same bytes
COUNTED = ("done", "collapsed")


@dataclass(frozen=True)
class Overall:
    """The comparison of the methods of one unit over networks.

    Attributes:
        unit: the unit that is pruned; empty if the records do not say.
        usual: whether it compares only methods with the parts of their presets.
        networks: for each network, how many of its tasks (budgets) and seeds were run.
        scores: for each method its score by network, oriented so that larger is better.
        ranks, verdicts: the result of the comparison.
        single: settings with results on one network only, which cannot be compared over several.
        shown, repairs: for each setting, its name with its mark, and the compensation for what was removed.
        unusual: settings in unusual surroundings, which are not ranked here.
        versus: verdicts on the others against ``baseline``.
    """

    metric: str
    unit: str
    usual: bool
    networks: Mapping[Network, tuple[int, int]]
    scores: Mapping[str, Mapping[Network, float]]
    ranks: Ranked
    verdicts: Verdicts
    single: Sequence[str]
    unusual: int
    baseline: str | None
    versus: Mapping[str, Verdict]
    shown: Mapping[str, str]
    repairs: Mapping[str, str]

    @property
    def name(self) -> str:
        """A name that can be used for a file."""
        return "_".join([word for word in (self.unit,) if word] + ([] if self.usual else ["all_settings"]))


def comparisons(cells: Sequence[Cell], question: Question | None = None) -> list[Overall]:
    """The comparisons over networks, of each unit: of presets and, where there are more settings, of all of them.

    A comparison needs three methods and two networks.
    """
    question = question or Question()
    cells = with_names(cells)
    unusual = len({cell["name"] for cell in cells if not cell["usual"]})
    cells = [cell for cell in cells if cell["usual"] and not cell["control_of"] and not cell["trials"]]
    units: dict[str, list[Cell]] = defaultdict(list)
    methods = {cell["method"]: cell["unit"] for cell in cells if cell["unit"]}
    for cell in cells:  # a cell that failed may not know its unit
        units[cell["unit"] or methods.get(cell["method"]) or ""].append(cell)
    found = []
    for unit in sorted(units, key=unit_order):
        published = [cell for cell in units[unit] if cell["name"] == cell["method"]]
        for some, plain in ((published, True), (units[unit], False)):
            if plain or len(some) > len(published):
                comparison = _compared(some, unit, plain, unusual, question)
                found += [comparison] if comparison else []
    return found


def _compared(cells: Sequence[Cell], unit: str, published: bool, unusual: int, question: Question) -> Overall | None:
    networks: dict[Network, list[Cell]] = defaultdict(list)
    for cell in cells:
        networks[network_of(cell)].append(cell)
    every: dict[str, dict[Network, float]] = defaultdict(dict)
    sizes = {}
    for network, members in sorted(networks.items()):
        for name, value in averaged(_means(members, question.metric)).items():
            every[name][network] = value
        sizes[network] = len({task_of(cell) for cell in members}), len({cell["seed"] for cell in members})
    single = sorted(name for name, own in every.items() if len(own) < COMMON)
    scores = {name: own for name, own in every.items() if len(own) >= COMMON}
    ranks = ranked(scores)
    if ranks is None or (
        not published and all(cell["name"] == cell["method"] for cell in cells if cell["name"] in scores)
    ):
        return None
    verdicts = _said(ranks)
    baseline = _baseline(question.baseline, cells, ranks.names)
    versus = {}
    for name, p in ranks.against(baseline).items() if baseline else ():
        known = verdicts.of(name, baseline or "")
        word = "undecided" if p is None or p >= ALPHA else "better" if (known.difference or 0) < 0 else "worse"
        versus[name] = Verdict(known.n, known.difference, p, word)  # type: ignore[arg-type]  # one of the words
    metric = question.metric or default_metric(cells)
    methods = {cell["name"]: cell["method"] for cell in cells}
    shown = {name: f"{name} {RECONSTRUCTED}" if reconstruction(methods[name]) else name for name in ranks.names}
    used: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        used[cell["name"]].add(cell["repair"] or NONE)
    repairs = {name: " or ".join(sorted(used[name])) for name in ranks.names}
    told = (verdicts, single, unusual, baseline, versus, shown, repairs)
    return Overall(metric, unit, published, sizes, scores, ranks, *told)


def network_of(cell: Cell) -> Network:
    """The network of a cell; variants with other widths or training count as further tasks of the original network."""
    return cell["dataset"], str(cell["model"]).partition(" [")[0]


def _means(cells: Sequence[Cell], asked: str | None) -> dict[str, dict[object, float]]:
    """For each setting its mean over seeds by task, oriented so that larger is better."""
    metric = asked or default_metric(cells)
    sign = -1.0 if smaller_is_better(metric) else 1.0
    values: dict[tuple[str, object], list[float]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell["key"]):
        if cell["status"] in COUNTED and cell.get(metric) is not None:
            values[cell["name"], task_of(cell)].append(sign * cell[metric])
    means: dict[str, dict[object, float]] = defaultdict(dict)
    for (name, task), found in values.items():
        means[name][task] = sum(found) / len(found)
    return means


def _said(ranks: Ranked) -> Verdicts:
    pairs = {}
    for (first, second), p in ranks.adjusted().items():
        word = "better" if p is not None and p < ALPHA else "undecided"
        difference = ranks.ranks[first] - ranks.ranks[second]
        pairs[first, second] = Verdict(ranks.common[first, second], difference, p, word)  # type: ignore[arg-type]
    return Verdicts(ranks.names, pairs)


def _baseline(asked: str | None, cells: Sequence[Cell], names: Sequence[str]) -> str | None:
    if asked is None or asked in names:
        return asked
    methods = {cell["name"]: cell["method"] for cell in cells}
    return next((name for name in names if methods[name] == asked), None)


def table_of(found: Overall) -> Table:
    """The methods by mean rank, with their places, and how many others they are better than."""
    ranks, size = found.ranks, len(found.ranks.names)
    places = found.verdicts.standings()
    columns = ["place", "method", "repair", "networks", "mean rank", "better than", "worse than", "undecided"]
    rows = []
    for name in ranks.names:
        at = places[name]
        what = [found.shown[name], found.repairs[name], str(ranks.found_in[name]), f"{ranks.ranks[name]:.2f}"]
        counts = [str(at.better_than), str(at.first - 1), str(at.undecided)]
        rows.append([place(at), *what, *counts])
    if found.baseline:
        columns += [f"against {found.baseline}", "p"]
        for row, name in zip(rows, ranks.names, strict=True):
            versus = found.versus.get(name)
            row += [NONE, NONE] if versus is None else [versus.word, probability(versus.p)]
    metric = found.metric.replace("_", " ")
    of = "methods" if found.usual else "settings of methods"
    title = f"{found.unit or 'all'}: {size} {of} over {len(found.networks)} networks, by {metric} on the test split"
    return Table(title, columns, rows, {"method", "repair", f"against {found.baseline}"}, _notes(found))


def _notes(found: Overall) -> list[str]:
    ranks = found.ranks
    counts = found.verdicts.counts
    differ = "the methods differ" if ranks.p < ALPHA else "undecided whether the methods differ at all"
    notes = [
        f"{len(found.verdicts.pairs)} pairs: {counts['better']} better, {counts['undecided']} undecided (Nemenyi's "
        f"comparison of mean ranks, {ALPHA:g} for all pairs together; ranks have no margin, so none is said to be "
        f"equal; undecided, too, where two share fewer than {COMMON} networks)",
        f"Skillings-Mack chi-square = {ranks.statistic:.2f}, {ranks.freedom} degrees of freedom, p {_equals(ranks.p)}: "
        + differ,
        "a network counts once: a method's mean over its budgets is ranked among those of the others, 1 is best; what "
        "was not run is missing, and the mean ranks allow for that",
    ]
    if found.baseline:
        notes.append(f"against {found.baseline}: p after Holm's correction over these comparisons alone")
    names = []
    for (data, model), (tasks, seeds) in sorted(found.networks.items()):
        names.append(f"{data} {model} ({tasks} budget{'s' * (tasks > 1)}, {seeds} seed{'s' * (seeds > 1)})")
    notes.append(f"networks: {', '.join(names)}")
    if any(shown.endswith(RECONSTRUCTED) for shown in found.shown.values()):
        notes.append(f"{RECONSTRUCTED} a reconstruction, not the paper's own, in part or whole; the boards say in what")
    if found.single:
        notes.append(f"on one network only, which no test over networks can use: {', '.join(found.single)}")
    if found.unusual:
        notes.append(f"{found.unusual} settings with other training or calibration than the rest are not ranked here")
    return notes


def _equals(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def diagram(found: Overall, form: str = "svg") -> bytes:
    """The methods by mean rank as an SVG or PNG file; bars join those of which no pair is decided.

    The same comparison gives the same bytes.
    """
    import pandas as pd
    import scikit_posthocs
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(found.ranks.names)
    p_values = pd.DataFrame(1.0, index=names, columns=names)
    for (a, b), p in found.ranks.adjusted().items():
        p_values.loc[a, b] = p_values.loc[b, a] = 1.0 if p is None else p
    with rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(9, 1.2 + 0.22 * len(names)), layout="constrained")
        axes = figure.subplots()
        parts = scikit_posthocs.critical_difference_diagram(
            dict(found.ranks.ranks),
            p_values,
            alpha=ALPHA,
            ax=axes,
            color_palette=dict.fromkeys(names, "black"),
            marker_props={"s": 0},
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
        )
        for [bar] in parts["crossbars"]:  # the library visits the methods under a bar in the order of a set
            bar.set_data([min(bar.get_xdata()), max(bar.get_xdata())], list(bar.get_ydata())[:2])
        for name, rank in found.ranks.ranks.items():
            own = look(name)
            axes.scatter(rank, 0, s=44, color=own.colour, marker=own.marker, zorder=5)
        axes.set_title(
            f"{found.unit or 'all'}: mean rank over {len(found.networks)} networks (1 is best); bars: undecided",
            fontsize=10,
        )
    return drawn(figure, form, f"{SALT} {len(names)}", page=True)
