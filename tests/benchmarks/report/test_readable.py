"""Titles of charts, words on their axes and the labels of heat maps are on the page and in the files, whole."""

import base64
import gzip
import json
import re
from itertools import pairwise

import pytest
from report_fixtures import PATIENCE

pytestmark = pytest.mark.slow

HEAT = "selection_x_compensation_"
DRAWN = "[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn === 'yes')"
CUT = """(svg) => {  // what is drawn of each text: nothing where it is transparent, a part where it leaves the picture
  const picture = svg.getBoundingClientRect();
  const seen = [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim());
  return seen.filter((text) => {
    const box = text.getBoundingClientRect();
    const inside = box.left >= picture.left - 1 && box.right <= picture.right + 1 && box.top >= picture.top - 1
      && box.bottom <= picture.bottom + 1;
    return !inside || text.textContent.endsWith('…');
  }).map((text) => text.textContent);
}"""
LABELS = """(svg) => [...svg.querySelectorAll('.role-axis-label text')]
  .filter((text) => text.textContent && getComputedStyle(text).opacity !== '0' && !text.closest('[display=none]'))
  .map((text) => { const box = text.getBoundingClientRect();
    return {words: text.textContent, turned: /rotate/.test(text.getAttribute('transform')), top: box.top,
      bottom: box.bottom}; })"""


def specifications(page):
    packed = re.search(r'id="specs">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize("width", [1440, 390])
def test_no_title_is_cut_and_every_label_of_a_heat_map_is_there(browser, built, width):
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.set_default_timeout(PATIENCE)
    view.goto((built / "report.html").as_uri())
    view.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # draws all charts at once
    view.wait_for_function(DRAWN)
    specs, heat_maps = specifications(built / "report.html"), 0
    for figure in view.locator("figure").all():
        title = figure.locator(".figure-title")
        assert title.evaluate(
            "(head) => head.scrollWidth <= head.clientWidth && head.scrollHeight <= head.clientHeight"
        )
        chart = figure.locator("svg.marks")
        assert chart.evaluate(CUT) == [], title.inner_text()
        name = figure.get_attribute("id").removeprefix("figure-")
        if name.startswith(HEAT):
            heat_maps += 1
            values = specs[name].get("data", specs[name]["layer"][0].get("data"))["values"]
            labels = chart.evaluate(LABELS)
            expected = {value[part] for value in values for part in ("selection", "compensation")}
            assert {label["words"] for label in labels} == expected and len(labels) == len(expected)
            rows = sorted((label["top"], label["bottom"]) for label in labels if not label["turned"])
            assert len(rows) > 2
            assert all(above[1] <= below[0] + 1 for above, below in pairwise(rows)), "over each other"
    assert heat_maps
    view.close()


def test_no_title_or_label_is_cut_in_the_files_for_papers(browser, built):
    view = browser.new_page(viewport={"width": 1440, "height": 900})
    view.set_default_timeout(PATIENCE)
    drawn = sorted((built / "figures").glob("*.svg"))
    assert len(drawn) > 5
    for path in drawn:
        view.set_content(path.read_text())
        assert view.locator("svg").first.evaluate(CUT) == [], path.name
    view.close()
