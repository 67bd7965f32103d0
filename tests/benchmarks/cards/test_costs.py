"""What methods cost: figures for all of them, reasons for the long ones, and how they are measured."""

import json

import pytest

from benchmarks import cost as command
from benchmarks.boards.labels import expense
from benchmarks.cards import costs
from benchmarks.cards.costs import Cost, known, seconds_of
from benchmarks.cards.preset import method_names
from methods.errors import BadInput


def test_every_long_method_has_a_reason():
    _, found = known()
    assert set(found) <= set(method_names())
    for name, cost in found.items():
        assert not cost.long or expense(name), f"conf/method/{name}.yaml needs a line '# Cost:' that says why"
        assert cost.seconds is not None or cost.refused


@pytest.mark.parametrize(
    ("cost", "told", "long"),
    [(Cost(4.24), "4.2 s", False), (Cost(59.6), "60 s", False), (Cost(61.0), "61 s", True),
     (Cost(120, more=True), "> 120 s", True), (Cost(None, refused="no"), "does not apply", False)],
)  # fmt: skip
def test_costs_are_told_in_seconds(cost, told, long):
    assert (cost.told(), cost.long) == (told, long)


@pytest.mark.slow
def test_a_method_is_measured_on_a_network_of_its_kind_or_refused_with_a_reason():
    assert seconds_of("magnitude", samples=4, width=0.25).seconds > 0
    assert "no batch norm" in (seconds_of("slimming", samples=4, width=0.25).refused or "no batch norm")


def test_figures_are_kept_beside_those_of_other_methods(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(costs, "FILE", tmp_path / "costs.json")
    costs.keep({"lamp": Cost(1.0)})
    costs.keep({"chip": Cost(120, more=True)})
    machine, found = known()
    assert found == {"chip": Cost(120, more=True), "lamp": Cost(1.0)} and "one thread" in machine
    monkeypatch.setattr(costs, "measure", lambda name: Cost(2.0))
    monkeypatch.setattr(costs, "REPOSITORY", tmp_path)
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    monkeypatch.setattr(command, "CONF", tmp_path / "conf")
    assert command.main(["lamp"]) == 0
    assert known()[1]["lamp"] == Cost(2.0) and capsys.readouterr().out.startswith("lamp: 2 s\n")


def spin(_name):
    while True:
        pass


def fail(_name):
    raise ZeroDivisionError("on purpose")


@pytest.mark.slow
def test_a_method_that_takes_longer_is_given_up(monkeypatch):
    """The child spins until the limit of its processor time ends it."""
    monkeypatch.setattr(costs, "LIMIT", 1)
    monkeypatch.setattr(costs, "SETTING_UP", 0)
    monkeypatch.setattr(costs, "seconds_of", spin)
    assert costs.measure("magnitude") == Cost(1, more=True)


def test_a_method_that_breaks_is_no_long_one(monkeypatch):
    monkeypatch.setattr(costs, "seconds_of", fail)
    with pytest.raises(RuntimeError, match="magnitude could not be measured"):
        costs.measure("magnitude")


def test_what_the_command_refuses():
    with pytest.raises(BadInput, match="unknown method 'nope'"):
        command.main(["nope"])


def test_the_file_is_plain(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "FILE", tmp_path / "costs.json")
    costs.keep({"lamp": Cost(1.0)})
    assert json.loads((tmp_path / "costs.json").read_text())["costs"]["lamp"] == {
        "seconds": 1.0, "more": False, "refused": None,
    }  # fmt: skip
