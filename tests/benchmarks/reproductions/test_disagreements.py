"""The page on disagreements counts what the stored tables hold."""

import pandas as pd
import pytest

from benchmarks.boards.stats import Spread
from benchmarks.reproductions.published import agrees
from benchmarks.storage.paths import REPOSITORY

TEXT = " ".join((REPOSITORY / "docs/papers/disagreements.md").read_text(encoding="utf-8").split())
FAMILIES = ("sap_cifar10", "dpp_cifar10", "dpp_mnist", "dpp_teacher_student")


def compared(name):
    """The lines with a published number that may be asserted, and whether ours agrees."""
    table = pd.read_csv(REPOSITORY / "results/reproductions" / name / "table.csv")
    if not {"published", "ours"} <= set(table.columns):
        return table.head(0).assign(agrees=[])
    own = table[table["published"].notna() & table["ours"].notna()]
    own = own[own["certainty"] != "memory"] if "certainty" in own else own
    spreads = [
        Spread(int(n), ours, None if std != std else std)
        for n, ours, std in zip(own["n"], own["ours"], own["std"], strict=True)
    ]
    pairs = zip(own["published"], spreads, strict=True)
    return own.assign(agrees=[agrees(published, ours) for published, ours in pairs])


def count(table):
    return len(table) - int(table["agrees"].sum()), len(table)


def test_the_four_families_hold_all_disagreements():
    folders = [path.parent.name for path in (REPOSITORY / "results/reproductions").glob("*/table.csv")]
    found = {name: count(compared(name)) for name in folders}
    differing, every = (sum(pair[place] for pair in found.values()) for place in (0, 1))
    assert {name for name, (differ, _) in found.items() if differ} == set(FAMILIES)
    assert f"Of {every} published numbers" in TEXT
    assert f"{every - differing} agree" in TEXT and f"the other {differing} are" in TEXT


def test_sap_differs_by_the_pq_index():
    table = compared("sap_cifar10")
    sap = table["method"].str.startswith("SAP")
    assert count(table[~sap]) == (0, 8) and count(table[sap]) == (7, 7) and (table[sap]["difference"] > 0).all()
    assert "All 8 numbers of lottery ticket and one-shot agree" in TEXT and "all 7 of SAP differ" in TEXT
    first = table[(table["method"] == "SAP(.5,1)") & (table["t"] == 1)].iloc[0]
    assert f"Published are {first['published']:.1f} %, which means I = {1 - first['published'] / 100:.2f}" in TEXT
    whole = pd.read_csv(REPOSITORY / "results/reproductions/sap_cifar10/table.csv")
    start = whole[(whole["method"] == "SAP(.5,1)") & (whole["scope"] == first["scope"]) & (whole["t"] == 0)]
    index = float(start["pq_index"].iloc[0])
    assert first["ours"] / 100 == pytest.approx(1 - index, abs=1e-3)
    assert f"here {first['ours']:.1f} % are left, since I is {index:.2f}" in TEXT


def test_dpp_on_cifar10_differs_with_the_size():
    table = compared("dpp_cifar10")
    assert "{} of {} numbers differ, and not".format(*count(table)) in TEXT
    above, below = (table[side]["difference"] for side in (table["kept"] >= 800, table["kept"] <= 500))
    assert f"ours are {above.min():.1f} to {above.max():.1f} points above" in TEXT
    assert f"they are {-below.max():.1f} to {-below.min():.1f} points below" in TEXT
    page = (REPOSITORY / "results/reproductions/dpp_cifar10/README.md").read_text(encoding="utf-8")
    assert "unpruned 52.00 %" in page and "published 47.32 %" in page and f"is {52.00 - 47.32:.1f} points above" in TEXT


def test_dpp_on_mnist_differs_in_edges():
    table = compared("dpp_mnist")
    edges, repaired, leaky = (
        table[table["method"] == "dpp_edge"],
        *(table[table["variant"] == name] for name in ("reweighted", "leaky")),
    )
    assert count(repaired) == (0, 9) and "All 9 reweighted numbers agree" in TEXT
    assert f"and {int(leaky['agrees'].sum())} of {len(leaky)} without reweighting" in TEXT
    assert count(edges) == (3, 3) and "All 3 of DPP edges differ" in TEXT
    assert f"ours being {edges['difference'].min():.0f} to {edges['difference'].max():.0f} points more" in TEXT


def test_teacher_and_student_differ_on_both_sides():
    table = compared("dpp_teacher_student")
    differ = table[~table["agrees"]]
    assert f"{len(differ)} of {len(table)} numbers differ" in TEXT
    ideal, trained = (differ[differ["student"] == name] for name in ("ideal", "trained"))
    noisy = int(ideal["setting"].str.contains("sigma").sum())
    assert (
        f"{len(ideal)} of them are of ideal students" in TEXT
        and f"{noisy} of the {len(ideal)} with label noise" in TEXT
    )
    whole = table[table["student"] == "ideal"]["agrees with theory"]
    assert whole.astype(str).eq("True").all() and f"in all {len(whole)} cases" in TEXT
    assert f"The other {len(trained)} are of trained students" in TEXT
    assert f"larger error in all {len(trained)}" in TEXT and (trained["difference"] > 0).all()
