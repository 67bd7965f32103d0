"""The charts, as Vega-Lite specifications made with Altair: axes with units, colours that most eyes tell apart.

Methods have the looks of :mod:`benchmarks.figures.looks`. Text takes the page's colour. Every chart has the parameter
``picked``: the names of the methods that a reader has picked, by which the page's own legend fades the others.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import altair as alt

from benchmarks.figures.looks import COLOURS, Look, look, method_of
from benchmarks.report.gather import TRAINING, Point

INK = "currentColor"
HEIGHT = 300
FEW_EPOCHS = 5  # a curve of at most so many epochs has its points marked: a single one would be invisible
ROW = 30
LONGEST_LABEL = 260  # pixels of a label on an axis
PICKED = "length(picked) == 0 || indexof(picked, datum.method) >= 0"
Spec = dict[str, Any]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of every setting: its method's colour and symbol, and a dash of its own among settings of a method."""
    found: dict[str, Look] = {}
    seen: Counter[str] = Counter()
    for name in sorted(set(names)):
        found[name] = look(name, seen[method_of(name)])
        seen[method_of(name)] += 1
    return found


def _scales(points: Sequence[Point], known: Mapping[str, Look]) -> dict[str, alt.Scale]:
    """Colours, dashes and shapes of the settings among ``points``; one that is not known has its method's look."""
    shown = sorted({point["method"] for point in points})
    own = [known.get(name) or look(name) for name in shown]
    return {
        "color": alt.Scale(domain=shown, range=[each.colour for each in own]),
        "dash": alt.Scale(domain=shown, range=[list(each.dash) for each in own]),
        "shape": alt.Scale(domain=shown, range=[each.shape for each in own]),
    }


def _picking() -> tuple[alt.Parameter, Any]:
    """The names that a reader has picked in the legend, and the opacity of marks: all others fade."""
    return alt.param(name="picked", value=[]), lambda strong, faint: alt.condition(
        PICKED, alt.value(strong), alt.value(faint)
    )


def finished(chart: alt.TopLevelMixin) -> Spec:
    """The specification with the common look: no background, text in the page's colour, as wide as its place."""
    line: dict[str, Any] = {
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "domainOpacity": 0.5,
    }
    text: dict[str, Any] = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
    }
    chart = chart.properties(width="container", height=HEIGHT, background="transparent").configure(
        font="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        axis=alt.AxisConfig(**line, **text, labelOverlap="greedy", labelLimit=LONGEST_LABEL, titleLimit=600),
        legend=alt.LegendConfig(labelColor=INK, titleColor=INK, labelFontSize=12, labelLimit=260, symbolSize=80),
        view=alt.ViewConfig(stroke=None),
    )
    return {**chart.to_dict(), "autosize": {"type": "fit-x", "contains": "padding"}}  # legends grow downwards


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=2, direction="horizontal", symbolOpacity=1)


def _choice(name: str, options: Sequence[str], value: str, radio: bool = False) -> alt.Parameter:
    bind = alt.binding_radio if radio else alt.binding_select
    return alt.param(name=name, value=value, bind=bind(options=list(options), name=f"{name}: "))


def _stage() -> alt.Parameter:
    return _choice("stage", ["before fine-tuning", "after fine-tuning"], "after fine-tuning", radio=True)


def _tooltip(*first: str, unit: str) -> list[alt.Tooltip]:
    figures = [
        alt.Tooltip("mean:Q", title=unit, format=".4~g"),
        alt.Tooltip("std:Q", title="standard deviation", format=".3~g"),
    ]
    return [*(alt.Tooltip(f"{name}:N") for name in first), *figures, alt.Tooltip("n:Q", title="seeds")]


def trade_off(
    points: list[Point], known: Mapping[str, Look], x: str, y: str, dense: float | None, band: bool = True
) -> Spec:
    """The metric against a ratio: a line per method with one standard deviation around it, and the Pareto front.

    Lines join budgets of one kind in their order: a measured ratio need not grow with the budget, so there ``band`` is
    false and error bars stand in for it. A slider cuts the axis off from below, for boards on which some methods fail
    badly; at first the lowest tenth of the means after fine-tuning is cut off.
    """
    scales = _scales(points, known)
    pick, fading = _picking()
    lowest, highest = min(point["low"] for point in points), max(point["high"] for point in points)
    highest = max(highest, dense or highest)
    percent = "%" in y
    highest = min(highest, 100.0) if percent else highest
    floor = math.floor(lowest)
    means = sorted(point["mean"] for point in points if point["stage"] == "after fine-tuning")
    start = math.floor(means[len(means) // 10]) if means else floor
    cut = alt.Scale(zero=False)
    if percent:
        top = highest + 0.03 * (highest - start)
        cut = alt.Scale(zero=False, nice=False, domainMin=alt.ExprRef("lowest"), domainMax=top)
    metric = alt.Y("mean:Q", title=y, scale=cut)
    ticks = ratio_ticks([point["ratio"] for point in points])
    axis = alt.Axis(format=".3~g", values=ticks)
    ratio = alt.X("ratio:Q", title=x, scale=alt.Scale(type="log", base=2, nice=False, padding=12), axis=axis)
    base = alt.Chart(alt.Data(values=points)).transform_filter("datum.stage == stage")
    # budgets of another kind are another line: in one order of values they would zigzag
    base = base.encode(x=ratio, color=alt.Color("method:N", scale=scales["color"], legend=_legend()), detail="kind:N")
    faded = fading(1.0, 0.08)
    around = base.mark_area(clip=True) if band else base.mark_rule(strokeWidth=1.5, clip=True)
    strength = (0.15, 0.02) if band else (0.5, 0.03)
    bars = around.encode(
        y=alt.Y("low:Q", title=y, scale=cut),
        y2="high:Q",
        opacity=fading(*strength),
    )
    dash = alt.StrokeDash("method:N", scale=scales["dash"], legend=_legend())
    line = base.mark_line(strokeWidth=2, clip=True).encode(y=metric, strokeDash=dash, opacity=faded, order="place:Q")
    dots = base.mark_point(filled=True, size=55, clip=True).encode(
        y=metric,
        shape=alt.Shape("method:N", scale=scales["shape"], legend=_legend()),
        opacity=faded,
        tooltip=[*_tooltip("method", "budget", unit=y), alt.Tooltip("ratio:Q", title="ratio", format=".3~g")],
    )
    front = (
        alt.Chart(alt.Data(values=points))
        .transform_filter("datum.stage == stage && datum.front")
        .mark_line(color=INK, strokeDash=[1, 3], strokeWidth=1.5, opacity=0.8, clip=True)
        .encode(x=ratio, y=metric)
    )
    layers = [bars, line, dots, front]
    if dense is not None:
        rule = alt.Chart(alt.Data(values=[{"dense": dense}])).mark_rule(color=INK, opacity=0.45, clip=True)
        layers.append(rule.encode(y="dense:Q", tooltip=[alt.Tooltip("dense:Q", title="dense network", format=".4~g")]))
    slider = alt.binding_range(
        min=floor, max=max(math.floor(highest) - 1, floor + 1), step=1, name="lowest shown (%): "
    )
    cutting = [alt.param(name="lowest", value=start, bind=slider)] if percent else []
    return finished(alt.layer(*layers).add_params(_stage(), *cutting, pick))


def ratio_ticks(ratios: Sequence[float]) -> list[float]:
    """Powers of two within ``ratios``; where there are fewer than three, round numbers between them, too."""
    low, high = 0.97 * min(ratios), 1.03 * max(ratios)
    powers = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    for steps in ((1,), (1, 1.5), (1, 1.25, 1.5, 1.75), tuple(1 + step / 20 for step in range(20))):
        ticks = [step * power for power in powers for step in steps if low <= step * power <= high]
        if len(ticks) >= 3:
            break
    return ticks


def heat(points: list[Point], y: str) -> Spec:
    """Selection × compensation for one budget and stage: the metric as colour and number."""
    budgets = _in_order(point["budget"] for point in points)
    chosen = alt.Chart(alt.Data(values=points)).transform_filter("datum.stage == stage && datum.budget == budget")
    place = chosen.encode(
        x=alt.X("compensation:N", title="compensation", axis=alt.Axis(labelAngle=-25, grid=False, labelOverlap=False)),
        y=alt.Y("selection:N", title="selection", axis=alt.Axis(grid=False, labelOverlap=False)),
    )
    tiles = place.mark_rect().encode(
        color=alt.Color("mean:Q", title=y, scale=alt.Scale(scheme="viridis"), legend=alt.Legend(orient="bottom")),
        tooltip=_tooltip("selection", "compensation", "budget", unit=y),
    )
    middle = "(domain('color')[0] + domain('color')[1]) / 2"
    numbers = place.mark_text(fontSize=13).encode(
        text=alt.Text("mean:Q", format=".4"),
        color=alt.condition(f"datum.mean > {middle}", alt.value("#111111"), alt.value("#ffffff")),
    )
    choices = (_choice("budget", budgets, budgets[0]), _stage_before())
    chart = alt.layer(tiles, numbers).add_params(*choices)
    spec = finished(chart)
    spec["height"] = ROW * len({point["selection"] for point in points})
    return spec


def _stage_before() -> alt.Parameter:
    return _choice("stage", ["before fine-tuning", "after fine-tuning"], "before fine-tuning", radio=True)


def widths(points: list[Point], known: Mapping[str, Look]) -> Spec:
    """Units kept in each layer, from input to output, for one budget."""
    budgets = _in_order(point["budget"] for point in points)
    scales = _scales(points, known)
    pick, fading = _picking()
    layers = alt.EncodingSortField(field="order", op="min")
    base = alt.Chart(alt.Data(values=points)).transform_filter("datum.budget == budget")
    base = base.encode(
        x=alt.X(
            "layer:N",
            title="layer, from input to output",
            sort=layers,
            axis=alt.Axis(labelAngle=-40, labelOverlap=False),
        ),
        y=alt.Y("mean:Q", title="units kept (% of the layer)", scale=alt.Scale(domain=[0, 100])),
        color=alt.Color("method:N", scale=scales["color"], legend=_legend()),
        opacity=fading(1.0, 0.08),
    )
    line = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("method:N", scale=scales["dash"], legend=_legend())
    )
    dots = base.mark_point(filled=True, size=55).encode(
        shape=alt.Shape("method:N", scale=scales["shape"], legend=_legend()),
        tooltip=_tooltip("method", "layer", "units", unit="units kept (%)"),
    )
    return finished(alt.layer(line, dots).add_params(_choice("budget", budgets, budgets[0]), pick))


def curves(points: list[Point], known: Mapping[str, Look], y: str) -> Spec:
    """The validation metric by epoch: of each method at one budget, or of the dense networks (no budget)."""
    budgets = _in_order(point["budget"] for point in points)
    scales = _scales(points, known)
    pick, fading = _picking()
    last = max(point["epoch"] for point in points)
    base = alt.Chart(alt.Data(values=points))
    base = base if budgets == [TRAINING] else base.transform_filter("datum.budget == budget")
    base = base.encode(
        x=alt.X(
            "epoch:Q", title="epoch", scale=alt.Scale(nice=False), axis=alt.Axis(values=epoch_ticks(last), format="d")
        ),
        color=alt.Color("method:N", scale=scales["color"], legend=_legend()),
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=y, scale=alt.Scale(zero=False)),
        y2="high:Q",
        opacity=fading(0.12, 0.02),
    )
    line = base.mark_line(strokeWidth=2, point=last <= FEW_EPOCHS).encode(
        y=alt.Y("mean:Q", title=y, scale=alt.Scale(zero=False)),
        strokeDash=alt.StrokeDash("method:N", scale=scales["dash"], legend=_legend()),
        opacity=fading(1.0, 0.08),
        tooltip=_tooltip("method", "epoch", unit=y),
    )
    choices = [] if budgets == [TRAINING] else [_choice("budget", budgets, budgets[0])]
    return finished(alt.layer(band, line).add_params(*choices, pick))


def epoch_ticks(last: int) -> list[int]:
    """Epochs to mark, a dozen at most and the first: whole ones, in steps of 1, 2 or 5 times a power of ten."""
    step = next(digit * 10**power for power in count() for digit in (1, 2, 5) if last <= 12 * digit * 10**power)
    return [1, *range(step, last + 1, step)] if step > 1 else list(range(1, last + 1))


def predictions(points: list[Point], theory: str, unit: str) -> Spec:
    """What a theory predicted against what was measured, one dot per layer or network, on logarithmic axes.

    The line of equality is drawn where both have the unit of the loss.
    """
    outcomes = list(dict.fromkeys(point["outcome"] for point in points))
    x = alt.X("predicted:Q", title=f"predicted: {theory} ({unit})", scale=alt.Scale(type="log", nice=False, padding=8))
    log = alt.Scale(type="log", nice=False, padding=8)
    y = alt.Y("measured:Q", title="measured outcome", scale=log)
    base = alt.Chart(alt.Data(values=points)).transform_filter("datum.outcome == outcome")
    details = ["method:N", "layer:N", "dataset:N", "model:N", "budget:N", "seed:Q", "predicted:Q", "measured:Q"]
    dots = base.mark_point(filled=True, size=35, opacity=0.65).encode(
        x=x,
        y=y,
        color=alt.Color("budget:N", title=None, scale=alt.Scale(range=list(COLOURS)), legend=_legend()),
        tooltip=details,
    )
    layers = [dots]
    if unit == "loss":
        same = base.mark_line(color=INK, strokeDash=[4, 3], opacity=0.5).encode(x=x, y=alt.Y("predicted:Q", scale=log))
        layers.append(same)
    return finished(alt.layer(*layers).add_params(_choice("outcome", outcomes, outcomes[0])))


def _in_order(names: Any) -> list[str]:
    """Budget names by kind and value."""

    def key(name: str) -> tuple[str, float]:
        kind, _, value = name.partition(" ")
        return kind, float(value) if value.replace(".", "", 1).isdigit() else 0.0

    return sorted(set(names), key=key)
