"""What a board says one has to type for its cells."""

from benchmarks.boards.board_command import command


def cell(method, untuned=None, **others):
    facts = {"sweep": None, "control_of": None, "seed": 0, "budget": "speedup", "value": 2.0, "trials": None}
    return facts | {"method": method, "untuned": untuned or method} | others


def test_rows_with_options_are_pointed_to_if_there_is_any_and_only_then():
    plain, other = cell("spectral"), cell("dpp", untuned="dpp (theta 0.3)")
    typed = "python run.py -m dataset=digits method=dpp,spectral seed=0 budget.speedup=2"
    assert command([plain, other], ["dataset=digits"]) == f"{typed}, and for a row with parentheses what they say"
    assert command([plain, cell("dpp")], ["dataset=digits"]) == typed


def test_seeds_budgets_trials_and_controls_of_all_rows_are_asked_for():
    rows = [cell("spectral", seed=2, value=4.0), cell("spectral", seed=0), cell("dpp", trials=3)]
    rows.append(cell("from_scratch", control_of="spectral", trials=9))
    typed = "python run.py -m method=dpp,spectral seed=0,2 budget.speedup=2,4 tune=null,3 controls=true"
    assert command(rows, []) == typed
