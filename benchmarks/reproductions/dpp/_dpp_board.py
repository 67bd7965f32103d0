"""What the DPP reproductions on real data share: the table, the paired tests, the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.boards.stats import ALPHA, holm, paired_t
from benchmarks.figures.looks import look
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {
    "dpp_node": ("DPP", look("dpp")),
    "dpp_node_pre": ("DPP before\nthe sigmoid", look("hap")),
    "dpp_node_map": ("DPP, greedy", look("osscar")),
    "random_node": ("random", look("random")),
    "importance_node": ("largest norm", look("onorm")),
    "dpp_edge": ("DPP", look("dpp_edge")),
    "random_edge": ("random", look("random_edge")),
    "importance_edge": ("largest weight", look("magnitude_edge")),
}
WORDS = """Nodes, chosen in the first hidden layer:
DPP: diverse ones, by the
   activations (DIVNET); greedy:
   the likeliest set, not a draw
DPP before the sigmoid: by the
   inputs of the sigmoid, as in
   the authors' code
largest norm: of outgoing weights

Edges, as many for each node:
DPP: diverse inputs of the node
largest weight: magnitude"""
VARIANTS = {
    "removed": "removed",
    "reweighted": "removed and reweighted",
    "leaky": "masked, their biases stay",
}
Published = Mapping[tuple[str, str], Mapping[int, float]]  # (method, variant) -> kept nodes or edges per unit -> %


def tabulate(rows: Sequence[Mapping[str, object]], published: Published) -> pd.DataFrame:
    """Mean accuracy in % over networks and draws, per method, variant and size, with the published raw numbers."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame["accuracy"] = 100 * frame["accuracy"]
    keys = ["method", "variant", "kept", "parameters"]
    grouped = frame.groupby(keys, sort=True)["accuracy"].agg(["mean", "std", "count"]).reset_index()
    grouped = grouped.rename(columns={"mean": "ours", "count": "n"})
    known = [
        published.get((method, variant), {}).get(kept, float("nan"))
        for method, variant, kept in zip(grouped["method"], grouped["variant"], grouped["kept"], strict=True)
    ]
    grouped.insert(4, "published", known)
    grouped["difference"] = grouped["ours"] - grouped["published"]
    return grouped


def compare(rows: Sequence[Mapping[str, object]], first: str, second: str, variant: str) -> Claim:
    """Paired test of two methods over networks and draws, at the same sizes; not significant is undecided."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame = frame[frame["variant"] == variant]
    wide = [
        frame[frame["method"] == name].set_index(["kept", "network", "draw"])["accuracy"] for name in (first, second)
    ]
    if not wide[1].empty and wide[1].index.get_level_values("draw").max() == 0:  # deterministic: one value per network
        single = wide[1].droplevel("draw")
        wide[1] = pd.Series(
            [single.get((kept, network), float("nan")) for kept, network, _ in wide[0].index], wide[0].index
        )
    differences = (100 * (wide[0] - wide[1])).dropna()
    text = f"{_plain(first)} beats {_plain(second)} at equal size, {variant}"
    if differences.empty:
        return Claim(text, None, "not run")
    sizes = differences.groupby("kept").agg(list)
    each = {int(kept): paired_t(own) for kept, own in zip(sizes.index, sizes, strict=True)}
    adjusted = holm([result.p for result in each.values()])
    better: list[int] = []
    worse: list[int] = []
    for (kept, result), p in zip(each.items(), adjusted, strict=True):
        if p is not None and p < ALPHA and result.difference:
            (better if result.difference > 0 else worse).append(kept)
    overall = paired_t(list(differences.groupby(["network", "draw"]).mean()))
    mean, p = overall.difference or 0.0, overall.p
    seen = None if p is None or p >= ALPHA else mean > 0
    said = "undecided" if seen is None else ("better" if seen else "worse")
    listed = "; ".join(f"{kept}: {result.difference:+.2f}" for kept, result in each.items())
    chance = "not testable" if p is None else f"p = {p:.2g}"
    return Claim(
        text,
        seen,
        f"{said}: mean difference {mean:+.2f} points over all sizes ({overall.n} pairs of network and draw, {chance}); "
        f"after Holm better at {len(better)}, worse at {len(worse)} of {len(each)} sizes ({listed})",
    )


def repair_matters_more(rows: Sequence[Mapping[str, object]], largest: int) -> Claim:
    """Whether reweighting random nodes gains more than choosing nodes by a DPP, below ``largest`` kept nodes."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame = frame[frame["kept"] <= largest]
    mean = 100 * frame.groupby(["method", "variant"])["accuracy"].mean()
    repair = mean["random_node", "reweighted"] - mean["random_node", "removed"]
    choice = mean["dpp_node", "removed"] - mean["random_node", "removed"]
    return Claim(
        f"reweighting matters more than the choice of the nodes, up to {largest} nodes",
        bool(repair > choice),
        f"reweighting random nodes {repair:+.2f} points, DPP instead of random {choice:+.2f} points without "
        "reweighting",
    )


def edges_against_nodes(
    rows: Sequence[Mapping[str, object]], pairs: Mapping[int, int], variant: str, first: str = "random_edge"
) -> Claim:
    """Whether random edges beat DPP nodes with as many weights; ``pairs`` maps edges per unit to nodes."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame = frame[frame["variant"] == variant]
    mean = 100 * frame.groupby(["method", "kept"])["accuracy"].mean()
    both = {
        k: (mean[first, k], mean["dpp_node", n])
        for k, n in pairs.items()
        if {(first, k), ("dpp_node", n)} <= {*mean.index}
    }
    wins = [k for k, (edge, node) in both.items() if edge > node]
    listed = "; ".join(f"{k} edges {edge:.2f} against {pairs[k]} nodes {node:.2f}" for k, (edge, node) in both.items())
    return Claim(
        f"{_plain(first)} beats dpp node at equal parameters, {variant}",
        len(wins) == len(both) if both else None,
        f"better at {len(wins)} of {len(both)} sizes ({listed})",
    )


def close_to_published(table: pd.DataFrame, method: str, variant: str, tolerance: float) -> Claim:
    """Whether ours is within ``tolerance`` points of every published number of a method."""
    own = table[(table["method"] == method) & (table["variant"] == variant) & table["published"].notna()]
    inside = own["difference"].abs() <= tolerance
    return Claim(
        f"{_plain(method)}, {variant}: within {tolerance:g} points of the published raw numbers",
        bool(inside.all()) if len(own) else None,
        f"{int(inside.sum())} of {len(own)} sizes; differences {', '.join(f'{d:+.1f}' for d in own['difference'])}",
    )


def board(table: pd.DataFrame, dense: float, network: str, chance: float = 10.0) -> Sheet:
    """Error against the share of weights left around the layer: nodes and edges, with and without reweighting."""
    few = table[(table["method"] == "random_node") & table["variant"].isin(["removed", "reweighted"])]
    few = few[few["kept"] == few["kept"].min()].set_index("variant")
    share, error = 100 * float(few["parameters"].iloc[0]), 100 - few["ours"]
    sheet = Sheet(
        f"{network}: with {share:.0f} % of the nodes, drawn at random, the error is {error['removed']:.0f} %, "
        f"reweighted {error['reweighted']:.0f} %",
        rows=3,
        columns=2,
        height=2.15,
        note=f"Means over {table['n'].max():g} networks and draws, bars: sample standard deviation. No fine-tuning. "
        "Reweighting: least squares on what the layer answered before. Published: the authors' raw result files.",
        key=[Sign("ours"), Sign("published", line=False, filled=False)],
        share_x="all",
        share_y="all",
    )
    for row, (variant, title) in enumerate(VARIANTS.items()):
        for column, unit in enumerate(("node", "edge")):
            own = table[(table["variant"] == variant) & table["method"].str.contains(unit)]
            if own.empty:
                sheet.words(row, column, WORDS)
                continue
            panel = sheet.panel(row, column, f"{unit}s {title if unit == 'node' else title.replace('their ', '')}")
            panel.label("weights left in and behind the layer, %", "test error, %", (0, 100))
            for method, (label, style) in SHOWN.items():
                part = own[own["method"] == method].sort_values("parameters")
                if len(part):
                    x = 100 * part["parameters"]
                    panel.line(x, 100 - part["ours"], style, label, part["std"].fillna(0))
                    panel.points(x, 100 - part["published"], style, filled=False, size=6)
            panel.level(100 - dense, f"dense {100 - dense:.1f} %", below=True)
            panel.level(100 - chance, f"chance {100 - chance:g} %", "right")
            if dense > 90:
                panel.log("y")
    return sheet


def _plain(name: str) -> str:
    return name.replace("_", " ")
