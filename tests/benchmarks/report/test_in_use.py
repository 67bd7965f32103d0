"""What a reader does with the pages, in a real browser; and that nothing but the records decides what they hold."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from report_fixtures import PATIENCE
from sample_records import made

from benchmarks.records.store import Store

pytestmark = pytest.mark.slow


FADED = """[...document.querySelector('figure').querySelectorAll('.mark-symbol path')]
  .some((path) => path.getAttribute('opacity') === '0.08')"""
WIDTHS = """[...document.querySelectorAll('figure')]
  .map((figure) => [figure.clientWidth, figure.querySelector('svg.marks').getBoundingClientRect().width])"""


@pytest.fixture
def opened(browser, built):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    view = context.new_page()
    view.set_default_timeout(PATIENCE)
    view.goto((built / "report.html").as_uri())
    yield view
    context.close()


def board(view):
    """The first board of the page."""
    return view.locator(".board").first


def heads(table):
    return [head.inner_text().strip() for head in table.locator("thead th").all() if head.is_visible()]


def rows(table):
    return [
        row.locator("th[scope=row] a").first.inner_text() for row in table.locator("tbody tr").all() if row.is_visible()
    ]


def test_the_picker_shows_the_answer_to_what_is_asked(opened):
    shown = opened.locator(".pick:visible")
    assert shown.count() == 1
    form = opened.locator(".picker")
    options = form.locator("select[name=budget] option").all_inner_texts()
    assert len(options) == 3 and shown.get_attribute("data-budget") == options[0]
    form.locator("select[name=budget]").select_option(options[2])
    assert shown.count() == 1 and shown.get_attribute("data-budget") == options[2]
    assert options[2] in shown.locator(".sentence").inner_text()
    assert shown.locator("table.top tbody tr").count() == 3


def test_a_board_shows_what_the_reader_asks_for(opened):
    own = board(opened)
    everything = heads(own)
    assert {"before fine-tuning", "after fine-tuning", "latency eager b1"} <= set(everything)
    assert "pruning s" not in everything
    own.get_by_label("before", exact=True).check()
    assert "after fine-tuning" not in heads(own) and "before fine-tuning" in heads(own)
    own.get_by_label("after", exact=True).check()
    assert "before fine-tuning" not in heads(own) and "after fine-tuning" in heads(own)
    every = rows(own)
    own.get_by_label("controls", exact=True).check()
    assert {name.partition(" ")[0] for name in rows(own)} == {"dense", "random", "magnitude"}
    own.get_by_label("everything", exact=True).check()
    assert sorted(rows(own)) == sorted(every) and heads(own) == everything
    own.locator(".columns summary").press("Enter")
    own.get_by_label("pruning s", exact=True).check()
    own.get_by_label("n", exact=True).uncheck()
    assert "pruning s" in heads(own) and "n" not in heads(own)


def test_what_is_shown_can_be_copied_in_three_forms(opened):
    own = board(opened)
    table = own.locator("table")
    expected = [
        heads(own),
        *(
            [cell.inner_text().removesuffix("#").strip() for cell in row.locator("th, td").all() if cell.is_visible()]
            for row in table.locator("tbody tr").all()
        ),
    ]
    for name in ("CSV", "Markdown", "LaTeX"):
        own.get_by_role("button", name=f"copy the rows shown as {name}").press("Enter")
        own.get_by_text(f"rows copied as {name}").wait_for()
        text = opened.evaluate("navigator.clipboard.readText()")
        if name == "CSV":
            assert list(csv.reader(io.StringIO(text))) == expected
        elif name == "Markdown":
            assert len(text.splitlines()) == len(expected) + 1 and text.startswith("| rank | method |")
        else:
            assert text.startswith("\\begin{tabular}{r") and text.count("\\\\\n") == len(expected)
            assert "±" not in text and "$\\pm$" in text


def test_links_to_rows_open_what_they_lead_to(browser, built):
    view = browser.new_page()
    view.set_default_timeout(PATIENCE)
    view.goto((built / "report.html").as_uri())
    closed = view.locator("details.task:not([open]) tbody tr").last.get_attribute("id")
    view.goto(f"{(built / 'report.html').as_uri()}#{closed}")
    view.reload()
    assert view.locator(f"[id='{closed}']").is_visible()
    assert "arrived" in view.locator(f"[id='{closed}']").get_attribute("class")
    method = view.locator(f"[id='{closed}'] th a").first.get_attribute("href")
    view.goto(f"{(built / method.partition('#')[0]).as_uri()}#{method.partition('#')[2]}")
    assert view.locator(f"#{method.partition('#')[2]} table").is_visible()
    view.close()


def test_method_and_names_of_columns_stay_in_view_while_a_board_is_scrolled(browser, built):
    view = browser.new_page(viewport={"width": 390, "height": 700})
    view.set_default_timeout(PATIENCE)
    view.goto((built / "report.html").as_uri())
    scroll = view.locator(".scroll.table").first
    scroll.evaluate("place => { place.style.maxHeight = '12rem'; place.scrollTo(400, 120); }")
    box = scroll.bounding_box()
    head = scroll.locator("thead th").nth(1).bounding_box()
    cell = scroll.locator("tbody tr").nth(5).locator("th").bounding_box()
    assert abs(head["y"] - box["y"]) <= 3 and abs(head["x"] - box["x"]) <= 3 and abs(cell["x"] - box["x"]) <= 3
    view.close()


FOCUSED = """() => { const it = document.activeElement, style = getComputedStyle(it);
  return [it.matches('a.skip') ? 'skip' : it.matches('.picker select') ? 'picker' : it.matches('nav a') ? 'section'
    : it.matches('.board th button') ? 'sort' : it.matches('.board input') ? 'view' : it.matches('summary') ? 'fold'
    : it.matches('a.link') ? 'link' : /copy the rows/.test(it.getAttribute('aria-label') ?? '') ? 'copy'
    : it.matches('.legend button') ? 'legend' : 'other',
    style.outlineStyle !== 'none' || style.boxShadow !== 'none']; }"""


def test_the_tab_key_reaches_everything_and_shows_where_it_is(opened):
    wanted = {"picker", "section", "sort", "view", "fold", "link", "copy", "legend"}
    opened.keyboard.press("Tab")
    assert opened.evaluate(FOCUSED) == ["skip", True]
    for _ in range(400):
        opened.keyboard.press("Tab")
        kind, shown = opened.evaluate(FOCUSED)
        assert shown, f"nobody sees that the focus is on {kind}"
        wanted.discard(kind)
        if not wanted:
            break
    assert not wanted


def test_the_picker_works_by_keyboard(opened):
    budget = opened.locator(".picker select[name=budget]")
    before = budget.input_value()
    budget.focus()
    opened.keyboard.press("ArrowDown")
    opened.wait_for_function(
        "before => document.querySelector('.picker select[name=budget]').value !== before", arg=before
    )
    assert opened.locator(".pick:visible").get_attribute("data-budget") == budget.input_value()


def test_a_legend_fades_the_others_by_keyboard_and_charts_have_names(opened):
    opened.wait_for_function("document.querySelector('.chart').dataset.drawn === 'yes'")
    figure = opened.locator("figure").first
    assert "against" in figure.locator("[role=graphics-document]").get_attribute("aria-label")

    def strong():
        opacities = figure.locator("svg.marks .mark-symbol path").evaluate_all(
            "paths => paths.map((path) => path.getAttribute('opacity') ?? '1')"
        )
        return sum(value == "1" for value in opacities), len(opacities)

    whole = strong()
    assert whole[0] == whole[1] > 3
    button = figure.locator(".legend button").first
    button.press("Space")
    assert button.get_attribute("aria-pressed") == "true"
    opened.wait_for_function(FADED)
    assert 0 < strong()[0] < whole[0]
    button.press("Space")
    opened.wait_for_function(f"!({FADED})")


def test_on_paper_all_boards_and_charts_are_there(opened):
    opened.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)")
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    opened.emulate_media(media="print", color_scheme="dark")
    assert all(each.is_visible() for each in opened.locator(".board table").all())
    assert not any(each.is_visible() for each in opened.locator(".tools, nav, .filter").all())
    places = opened.evaluate(
        "[...document.querySelectorAll('.board th')].map((cell) => getComputedStyle(cell).position)"
    )
    assert set(places) == {"static"}, "a name that stays in view would lie over the rows below it"
    heads = opened.evaluate(
        "[...document.querySelectorAll('.board th button')].map((it) => getComputedStyle(it).display)"
    )
    assert set(heads) == {"contents"}, "names of columns would be missing on the second page of a board"
    widths = opened.evaluate(WIDTHS)
    assert widths and all(0 < drawn <= place for place, drawn in widths)
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_nothing_but_the_records_decides_the_bytes_of_the_pages(tmp_path):
    store = Store(tmp_path / "results" / "runs", tmp_path / "results" / "cells")
    for data in ("digits", "other"):
        for number, method in enumerate(("a", "b", "c", "d", "e")):
            for seed in range(2):
                tuned = {"accuracy": 0.9 - 0.01 * number + 0.001 * seed, "parameters": 100, "macs": 90}
                settings = {"method": {"name": method}, "dataset": {"name": data}}
                metrics = {
                    "dense": {"accuracy": 0.98, "parameters": 1000, "macs": 900},
                    "pruned": tuned,
                    "tuned": tuned,
                }
                store.write(made(seed, method=method, dataset=data, settings=settings, metrics=metrics))
    pages = []
    for number in ("1", "2", "3"):
        command = [sys.executable, "-m", "benchmarks.report", "--results", str(tmp_path / "results"), "--no-figures"]
        environment = os.environ | {"PYTHONHASHSEED": number}
        subprocess.run([*command, "--out", str(tmp_path / number)], check=True, env=environment, capture_output=True)
        pages.append({path.name: path.read_bytes() for path in (tmp_path / number).iterdir()})
    assert set(pages[0]) == {"report.html", "theory.html", "methods.html", "papers.html"}
    assert b"mean rank" in pages[0]["report.html"]
    assert pages[0] == pages[1] == pages[2]


def test_no_chart_is_drawn_beyond_what_the_specifications_hold(built):
    """The page's own legends name what their charts show, and nothing else."""
    import base64
    import gzip
    import re

    text = (built / "report.html").read_text()
    packed = re.search(r'id="specs">(.*?)</script>', text)[1]
    specs = json.loads(gzip.decompress(base64.b64decode(packed)))
    for name, names in re.findall(r'<figure id="figure-([^"]+)">(.*?)</figure>', text, re.S):
        legend = re.findall(r'data-method="([^"]+)"', names)
        values = [
            row.get("method")
            for row in specs[name]["layer"][0].get("data", specs[name].get("data", {})).get("values", [])
        ]
        if legend and values:
            assert sorted(set(values)) == sorted(legend), name
