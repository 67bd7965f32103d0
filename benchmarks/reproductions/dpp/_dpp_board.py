"""What the DPP reproductions on real data share: the table, the paired tests, the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.boards.stats import ALPHA, holm, paired_t
from benchmarks.reproductions import Claim
from benchmarks.reproductions.figures import canvas, curve, save

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

Published = Mapping[tuple[str, str], Mapping[int, float]]  # (method, variant) -> kept nodes or edges per unit -> %


def tabulate(rows: Sequence[Mapping[str, object]], published: Published) -> pd.DataFrame:
    """Mean accuracy in % over networks and draws, per method, variant and size, beside the published raw numbers."""
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
    """Paired test of two methods over networks and draws, at the same sizes; ``undecided`` is 'no difference'."""
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


def figure(table: pd.DataFrame, dense: float, folder: Path, name: str, title: str) -> list[Path]:
    """Accuracy against the share of weights left around the layer, without and with reweighting."""
    drawn, axes = canvas(2, width=5.6, height=4.2)
    methods = sorted(table["method"].unique())
    for axis, variant in zip(axes, ("removed", "reweighted"), strict=True):
        for number, method in enumerate(methods):
            own = table[(table["method"] == method) & (table["variant"] == variant)].sort_values("parameters")
            if len(own):
                share = 100 * own["parameters"]
                curve(axis, list(share), list(own["ours"]), list(own["std"].fillna(0)), number, _plain(method))
        axis.axhline(dense, color="grey", linewidth=0.8, linestyle="--")
        axis.set_title(f"{title}, {'not reweighted' if variant == 'removed' else 'reweighted'}")
        axis.set_xlabel("weights left in and behind the layer (%)")
        axis.set_ylabel("test accuracy (%)")
    axes[1].legend(fontsize=8)
    return save(drawn, folder, name)


def _plain(name: str) -> str:
    return name.replace("_", " ")
