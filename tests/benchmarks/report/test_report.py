import base64
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixtures import PATIENCE, records

from benchmarks.boards import theory
from benchmarks.boards.frame import load
from benchmarks.boards.naming import with_names
from benchmarks.figures.looks import look
from benchmarks.records.store import Store
from benchmarks.report import charts, gather, page
from benchmarks.report.__main__ import main
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

pytestmark = pytest.mark.slow


def test_a_report_says_what_it_is_at_before_it_begins_and_all_along(results, tmp_path, capsys, monkeypatch):
    """With a line at each step in place of one every few seconds, so that no clock decides."""
    monkeypatch.setattr("methods.progress.LINE_SECONDS", -1.0)
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results/boards").mkdir(exist_ok=True)
    real, before = Store.open, []

    def opened(self, path):
        if not before:
            before.append(capsys.readouterr().out)
        return real(self, path)

    monkeypatch.setattr(Store, "open", opened)
    count = len(list(records()))
    assert main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "page")]) == 0
    assert before[0].startswith("reading the records in")  # and nothing had been read
    said = capsys.readouterr()
    assert f"{count} records; drawing the page" in said.out
    for stage in (
        f"reading records in full: {count} of {count}",
        "drawing the parts of the page: ",
        "drawing figures: ",
    ):
        assert stage in said.err
    assert said.err.count("reading records: ") == count


class Reader(HTMLParser):
    """Collects elements, and fails where one is not closed in its turn."""

    VOID = frozenset({"meta", "link", "br", "input", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


PAGES = ("report.html", "theory.html", "methods.html", "papers.html")
LARGEST = 1_500_000  # bytes of the report's page


def read(built):
    """What the pages hold, by name."""
    found = {}
    for name in PAGES:
        reader = Reader()
        reader.feed((built / name).read_text())
        assert reader.open == [] and len(reader.ids) == len(set(reader.ids)), name
        found[name] = reader
    return found


def unpacked(text, name):
    """What lies packed in a page."""
    [content] = re.findall(rf'<script type="text/plain" id="{name}">(.*?)</script>', text)
    return gzip.decompress(base64.b64decode(content)).decode()


def test_pages_are_well_formed_and_load_nothing_and_all_their_links_lead_somewhere(built):
    found = read(built)
    for name, reader in found.items():
        for link in reader.links:
            if link.startswith("data:"):
                continue
            page, _, anchor = link.partition("#")
            assert page in ("", *PAGES), f"nothing is loaded: {link}"
            if not re.match("m[0-9a-f]+$", anchor):  # of a diagram's own marks
                assert not anchor or anchor in found[page or name].ids, (name, link)


def test_every_board_row_and_method_has_a_link_that_stays(built):
    """Links are made of names, not of places in the page, and each thing that has one shows it."""
    found = read(built)
    text = (built / "report.html").read_text()
    boards = re.findall(r'class="board" id="([^"]+)"', text)
    rows = re.findall(r'<tr id="([^"]+)"', text)
    assert len(boards) >= 3 and len(rows) > 20
    assert all(row.startswith(tuple(boards)) for row in rows)
    assert {f"#{name}" for name in (*boards, *rows)} <= set(found["report.html"].links)
    assert any("--" in row and "spectral" in row for row in rows)
    methods = set(re.findall(r'href="methods.html#([^"]+)"', text))
    assert "method-spectral" in methods <= set(found["methods.html"].ids)


def test_the_library_is_in_the_page_once_and_the_page_is_small(built):
    text = (built / "report.html").read_text()
    assert len(re.findall(r"window\.vegaEmbed ?=", unpacked(text, "library"))) == 1
    assert len(text.encode()) < LARGEST


def test_the_report_of_the_reviewed_records_is_small_too():
    page = REPOSITORY / "results/boards/reviewed/report.html"
    assert not page.is_file() or page.stat().st_size < LARGEST


def test_text_of_records_cannot_leave_its_place(built):
    for name in PAGES:
        text = (built / name).read_text()
        assert "<img" not in text and "<script>window.hacked" not in text
    texts = "".join((built / name).read_text() for name in PAGES)
    assert texts.count("window.hacked") >= 2
    specs = json.loads(unpacked((built / "report.html").read_text(), "specs"))
    assert len(specs) > 4 and all(spec["$schema"] for spec in specs.values())


def test_page_says_what_it_shows(built):
    text = (built / "report.html").read_text()
    for words in ("73 (0 reviewed, 73 of this machine", "1 failed", "D15"):
        assert words in text, words
    assert "Suzuki et al." in (built / "methods.html").read_text()


def test_same_records_give_the_same_page_and_figures(results, built, tmp_path):
    assert main(["--results", str(results), "--out", str(tmp_path)]) == 0
    for name in PAGES:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    trade_off = "trade_off_digits_mlp_compression"
    assert {f"{trade_off}.svg", f"{trade_off}.png", "widths_digits_mlp.svg"} <= set(names)
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes() == (built / "figures" / name).read_bytes(), name
    assert not [name for name in names if b"currentColor" in (tmp_path / "figures" / name).read_bytes()]


def test_every_axis_has_a_title(results):
    store = Store(results / "runs", results / "cells")
    cells, _ = load(store)
    report = page.make(cells, store.load()[0])
    kinds = {figure.name.partition("_digits")[0] for figure in report.figures if "digits" in figure.name}
    assert kinds == {"trade_off", "selection_x_compensation", "widths", "training", "curves"}
    names = [figure.name for figure in report.figures]
    assert len(names) == len(set(names))
    for figure in report.figures:
        for layer in figure.spec["layer"]:
            for channel in ("x", "y"):
                encoding = layer["encoding"].get(channel, {})
                is_rule = encoding.get("field") == "dense"
                assert encoding == {} or encoding.get("title") or is_rule, (figure.name, layer)


def test_dense_training_is_a_chart_of_its_own(results):
    _, problems = load(Store(results / "runs", results / "cells"))
    records = Store(results / "runs", results / "cells").load()[0]
    training, tuning = gather.curves(records, {record.key: record.method for record in records})
    assert {(point["method"], point["budget"]) for point in training} == {("dense network", "training")}
    assert tuning and "dense network" not in {point["method"] for point in tuning}
    looks = charts.looks(["dense network"])
    assert "filter" not in json.dumps(charts.curves(training, looks, "y")["layer"])  # nothing to choose
    one = [point for point in tuning if point["budget"] == "keep 0.5"]
    assert charts.curves(one, looks, "y")["params"][0]["bind"]["options"] == ["keep 0.5"]  # which one it is
    assert not problems


@given(st.integers(1, 5000))
def test_epochs_are_marked_by_whole_numbers_each_once(last):
    ticks = charts.epoch_ticks(last)
    assert ticks == sorted(set(ticks)) and ticks[0] == 1 and ticks[-1] <= last and len(ticks) <= 13
    assert len(ticks) >= min(last, 5)
    assert last > 12 or ticks == list(range(1, last + 1))


def charted(name, budget, value, compensation="none"):
    """One cell as the charts see it."""
    sizes = {"compression": 2.0 * value, "tuned_accuracy": 0.9, "pruned_accuracy": 0.5}
    return {"name": name, "method": name, "budget": budget, "value": value, "compensation": compensation} | sizes


def test_lines_join_budgets_of_one_kind():
    points = gather.trade_off(
        [charted("a", "keep", 0.5), charted("a", "speedup", 2.0), charted("a", "keep", 0.2)], "compression"
    )
    assert {(point["budget"], point["kind"]) for point in points} == {
        ("keep 0.2", "keep"), ("keep 0.5", "keep"), ("speedup 2", "speedup"),
    }  # fmt: skip
    for layer in charts.trade_off(points, {}, "x", "y", None)["layer"][:3]:
        assert layer["encoding"]["detail"]["field"] == "kind"


def test_a_heat_map_needs_a_selection_with_two_repairs():
    single = [
        charted("a", "keep", 0.5),
        charted("b", "keep", 0.5, "LeastSquares"),
        charted("a", "keep", 0.2, "LeastSquares"),
    ]
    assert gather.heat(single) == []
    found = gather.heat([*single, charted("a", "keep", 0.5, "LeastSquares")])
    assert {(point["selection"], point["budget"]) for point in found} == {("a", "keep 0.5")} and len(found) == 4


def test_cells_measured_twice_are_said(results):
    store = Store(results / "runs", results / "cells")
    cells, _ = load(store)
    again = [row | {"key": f"again{number}", "created": "2099"} for number, row in enumerate(cells[:2])]
    said = dict(page.make([*cells, *again], store.load()[0]).summary)["records"]
    assert said.startswith(f"{len(cells)} (") and said.endswith(
        f"of {len(cells) + 2}, since what was measured again counts once"
    )


def test_figures_whose_names_are_cut_alike_keep_apart():
    words = "a theory with a very long name that is cut somewhere in the middle of what it says about "
    points = [
        theory.Point(
            f"{words}{end}", "loss", "output", "fc", 1.0, 1.0, "key", "digits", "mlp", "spectral", "keep 0.5", seed
        )
        for end in ("one thing", "another")
        for seed in range(4)
    ]
    names = [figure.name for figure in page.theory_figures(points)]
    assert len(names) == 2 == len(set(names))


def test_no_records_says_how_to_begin(tmp_path):
    with pytest.raises(BadInput, match=r"No records to report.*\n.*python run.py -m"):
        main(["--results", str(tmp_path)])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8, unique=True))
def test_pareto_front_against_its_definition(places):
    cells = [
        {
            "name": str(number),
            "budget": "keep",
            "value": 0.1,
            "compression": float(ratio),
            "tuned_accuracy": score / 10,
            "pruned_accuracy": None,
        }
        for number, (ratio, score) in enumerate(places)
    ]
    points = gather.trade_off(cells, "compression")
    for point in points:
        ratio, score = places[int(point["method"])]
        beaten = any(r >= ratio and s >= score and (r, s) != (ratio, score) for r, s in places)
        assert point["front"] == (not beaten)


def test_points_are_means_and_spreads_over_seeds(results):
    cells = with_names(load(Store(results / "runs", results / "cells"))[0])
    cells = gather.of_pair(cells, ("digits", "mlp"))
    points = gather.trade_off(cells, "compression")
    assert len(points) == 4 * 2 * 3 * 2
    own = [c for c in cells if c["method"] == "obd" and c["compensation"] == "Compensation" and c["value"] == 0.2]
    scores = [100 * cell["tuned_accuracy"] for cell in own]
    label = own[0]["name"]
    [point] = [p for p in points if (p["method"], p["budget"], p["stage"]) == (label, "keep 0.2", "after fine-tuning")]
    assert point["mean"] == pytest.approx(sum(scores) / 3, rel=1e-5) and point["n"] == 3
    assert point["high"] - point["mean"] == pytest.approx(point["std"], rel=1e-3)


def test_settings_of_a_method_share_its_colour_and_symbol_and_differ_in_dash():
    names = ["obd", "spectral", "spectral (no compensation)", "spectral [finetune.epochs 3]"]
    found = charts.looks(names)
    own = [found[name] for name in names[1:]]
    assert {(each.colour, each.shape) for each in own} == {(look("spectral").colour, look("spectral").shape)}
    assert len({each.dash for each in own}) == 3 and found["obd"].colour != own[0].colour
    points = [
        {"method": name, "budget": "keep 0.5", "epoch": n, "low": 1, "mean": 1, "high": 1}
        for name in names
        for n in (1, 2)
    ]
    scale = charts.curves(points, found, "y")["layer"][0]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {name: found[name].colour for name in names}


@given(st.lists(st.floats(1.0, 300.0), min_size=2, max_size=9))
def test_ratios_are_marked_by_few_numbers_within_them(ratios):
    ticks = charts.ratio_ticks(ratios)
    assert ticks == sorted(set(ticks)) and len(ticks) <= 20
    assert all(0.96 * min(ratios) <= tick <= 1.04 * max(ratios) for tick in ticks)
    assert len(ticks) >= 3 or max(ratios) < 1.2 * min(ratios)


def test_layers_stand_in_the_order_of_the_network_though_node_methods_see_fewer():
    def record(key, *names):
        layers = [SimpleNamespace(name=name, units=10, kept=5) for name in names]
        return SimpleNamespace(key=key, budget=SimpleNamespace(requested={"keep": 0.5}), layers=layers)

    records = [record("a", "block1", "block2"), record("b", "stem", "block1", "shortcut", "block2", "head")]
    points = gather.widths(records, {"a": "node", "b": "edge"})
    names = [point["layer"] for point in sorted(points, key=lambda point: point["order"]) if point["method"] == "edge"]
    assert names == ["stem", "block1", "shortcut", "block2", "head"]
    assert len({(point["layer"], point["order"]) for point in points}) == 5


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (768, "dark"), (390, "light")])
def test_in_a_browser(browser, built, width, scheme):
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    view.set_default_timeout(PATIENCE)
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto((built / "report.html").as_uri())
    for _ in range(200):
        view.mouse.wheel(0, 700)
        if view.evaluate("[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn)"):
            break
        view.wait_for_timeout(100)
    assert view.evaluate("[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg.marks'))")
    assert said == [], "no console message at all"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width, "the page itself never scrolls sideways"
    assert view.evaluate("window.hacked") is None
    dark = view.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    view.close()


def test_tables_sort_and_filter_in_a_browser(browser, built):
    view = browser.new_page()
    view.set_default_timeout(PATIENCE)
    view.goto((built / "report.html").as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    table = view.locator("#task-digits_mlp table").first
    head = [cell.strip() for cell in table.locator("thead th").all_inner_texts()]
    column = head.index("after fine-tuning")
    assert head.index("method") < 2

    def shown():
        rows = [row for row in table.locator("tbody tr").all() if row.is_visible()]
        return [row.locator("td, th").nth(column).inner_text() for row in rows]

    button = table.locator("thead th").nth(column).locator("button")
    for direction, sign in (("descending", -1), ("ascending", 1)):  # the best first
        button.click(trial=True)  # a pointer reaches it; but charts drawn meanwhile move the page, and a click may miss
        button.press("Enter")
        assert table.locator("thead th").nth(column).get_attribute("aria-sort") == direction
        numbers = [float(text.split()[0]) for text in shown()[1:] if text[0] not in "–"]
        assert len(numbers) > 5 and numbers == sorted(numbers, key=lambda value: sign * value)
        assert all(text == "–" for text in shown()[1 + len(numbers) :]), "what is missing comes last either way"
        assert table.locator("tbody tr").first.locator("th").inner_text().startswith("dense"), "dense stays on top"
    everything = len(shown())
    view.locator("#task-digits_mlp input.filter").first.fill("obd")
    assert 0 < len(shown()) < everything
    view.locator("#task-digits_mlp input.filter").first.fill("no such method")
    assert shown() == []
    view.locator("#task-digits_mlp input.filter").first.fill("")
    assert len(shown()) == everything
    view.close()


def test_a_crowded_chart_shows_the_best_and_the_controls():
    cells = [
        {"name": f"m{n}", "budget": "keep", "value": value, "tuned_accuracy": 0.5 + n / 100}
        for n in range(30)
        for value in (0.1, 0.2)
    ]
    cells += [{"name": "random", "budget": "keep", "value": value, "tuned_accuracy": 0.1} for value in (0.1, 0.2)]
    cells.append({"name": "easy budget only", "budget": "keep", "value": 0.9, "tuned_accuracy": 1.0})
    cells = [cell | {"usual": True} for cell in cells]
    cells.append({"name": "m [odd]", "usual": False, "budget": "keep", "value": 0.1, "tuned_accuracy": 1.0})
    names, said = gather.shown(cells)
    assert names == {"random", *(f"m{n}" for n in range(23, 30))} and "best 7 of 33 settings" in said
    assert gather.shown(cells[:4]) == ({"m0", "m1"}, "")


def test_networks_with_long_names_have_figures_of_their_own():
    names = [
        f"mlp [dataset.limit 500, dataset.validation 0.2, model.widths [60, 70, 80], 1 more, {end}]" for end in "ab"
    ]
    stems = {gather.stem(("digits", name)) for name in names}
    assert len(stems) == 2 and all(len(stem) < 60 for stem in stems)
    assert gather.stem(("digits", "mlp")) == "digits_mlp"
