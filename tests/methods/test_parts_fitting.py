"""Parts that do not fit together are refused when they are put together; all others prune."""

from contextlib import suppress

import pytest
from networks import calibration, make, placed
from omegaconf import OmegaConf

from benchmarks.cells.parts import build_pruner
from benchmarks.settings.home import CONF
from methods.allocation import Allocation, Global, Information, Rounded, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.thinet import ThiNetSelection
from methods.budgets.budget import Budget
from methods.dpp.selection import DPPSelection
from methods.errors import BadInput, Collapsed, Skipped
from methods.hessian.exact_obs import ExactOBSSelection
from methods.lq.allocation import UniformPerNeuron
from methods.pruner import Pruner
from methods.schedule import Iterative
from methods.selection import Selection
from secateurs.presets import configuration

DATA = calibration(32)
GIVEN = {"copy", "explicit"}  # counts of another cell, or of the user's own
METHODS = ["dpp", "dpp_edge", "eigendamage", "exact_obs", "lamp", "magnitude", "spectral", "thinet"]  # of every sort
ALLOCATIONS = sorted(path.stem for path in (CONF / "allocation").glob("*.yaml") if path.stem not in GIVEN)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_allocation_is_refused_at_once_or_prunes(method):
    own = configuration([f"method={method}", "schedule=one_shot"])
    pruned, refused = [], []
    for name in ALLOCATIONS:
        cell = OmegaConf.create({**own, "allocation": OmegaConf.load(CONF / "allocation" / f"{name}.yaml")})
        try:
            pruner = build_pruner(OmegaConf.to_container(cell, resolve=True))  # some name the method's compensation
        except BadInput as error:
            assert "allocation=uniform" in str(error)
            refused.append(name)
            continue
        pruned.append(name)
        with suppress(Skipped, Collapsed):  # which are results
            pruner.prune(make("chain"), DATA, Budget("keep", 0.5))
    assert "uniform" in pruned
    assert "information" in refused or method == "spectral"


@pytest.mark.parametrize(
    ("method", "what"),
    [("eigendamage", "directions of all layers"), ("depth", "blocks"), ("low_rank", "singular values of all layers")],
)
def test_what_a_method_ranks_by_itself_is_said_in_words(method, what):
    own = configuration([f"method={method}"])
    cell = OmegaConf.create({**own, "allocation": OmegaConf.load(CONF / "allocation" / "global.yaml")})
    with pytest.raises(BadInput, match=f"ranks the {what} by itself"):
        build_pruner(OmegaConf.to_container(cell, resolve=True))


class Half(Selection):
    """Two of four nodes, whatever is asked for."""

    share = 0.5

    def scores(self, layer):
        return layer.covariance.diagonal()


class NoEdges(Allocation):
    units = frozenset({"node"})


@pytest.mark.parametrize(
    "selection,allocation,said",
    [
        (
            MagnitudeSelection("edge"),
            NoEdges(),
            "NoEdges sizes layers of node units, but MagnitudeSelection removes edge",
        ),
        (MagnitudeSelection(), UniformPerNeuron(), "UniformPerNeuron sizes layers of edge units"),
        (MagnitudeSelection("edge"), Rounded(Uniform(), 8), "round_to=8 rounds numbers of channels"),
        (MagnitudeSelection(), Rounded(UniformPerNeuron(), 8), "UniformPerNeuron sizes layers of edge units"),
        (DPPSelection(), Global(), "DPPSelection chooses sets of units, it has no score per unit"),
        (DPPSelection(), Global(per_cost=True), "DPPSelection chooses sets of units, it has no score per unit"),
        (ThiNetSelection(), Global(), "ThiNetSelection chooses sets of units, it has no score per unit"),
        (MagnitudeSelection(), Information(), "how much k nodes explain, which MagnitudeSelection does not"),
        (Half(), Global(), "Half keeps 0.5 of every layer, and the allocation Global gives layers other shares"),
    ],
)
def test_what_parts_declare_of_each_other_is_asked_when_they_are_put_together(selection, allocation, said):
    with pytest.raises(BadInput, match=said):
        Pruner(selection, allocation)


def test_gains_that_add_up_are_enough_for_a_ranking_by_cost(device):
    model, data = placed(make("chain"), device), placed(DATA, device)
    pruned = Pruner(ThiNetSelection(), Global(per_cost=True)).prune(model, data, Budget("keep", 0.5))
    assert pruned.achieved["keep"] == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("budget", [Budget("keep", 0.25), Budget("keep", 0.75), Budget("compression", 4.0)])
def test_a_budget_that_a_fixed_share_meets_nowhere_is_refused_before_any_work(budget):
    pruner = Pruner(ExactOBSSelection(pattern="2:4"))
    with pytest.raises(BadInput, match=r"keeps 0.5 of every layer, .*\ntype .* budget.keep=0.5"):
        pruner.require_budget(budget)
    with pytest.raises(BadInput, match="keeps 0.5 of every layer"):
        pruner.prune(make("chain"), DATA, budget)


def test_a_fixed_share_is_kept_where_it_is_what_is_asked_for(device):
    pruner = Pruner(ExactOBSSelection(pattern="2:4"))
    for budget in (Budget("keep", 0.5), Budget("compression", 1.6)):  # what is not pruned costs the rest of 1.6
        pruner.require_budget(budget)
    pruned = pruner.prune(placed(make("chain"), device), placed(DATA, device), Budget("keep", 0.5))
    assert all(row["kept"] * 2 == row["units"] for row in pruned.layers)
    with pytest.raises(BadInput, match="a step of the schedule, asks for 0.7"):
        Pruner(ExactOBSSelection(pattern="2:4"), schedule=Iterative(2)).require_budget(Budget("keep", 0.5))
