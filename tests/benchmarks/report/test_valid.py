"""The site and the report's pages are valid HTML and have no findings of axe, light or dark; tables fit small screens.

html5lib parses as the HTML standard says and lists every error of that; axe-core, in Chromium, checks accessibility.
"""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from report_fixtures import PATIENCE

from benchmarks.site import main
from benchmarks.storage.paths import REPOSITORY

pytestmark = pytest.mark.slow

MKDOCS = Path(os.environ.get("SECATEURS_MKDOCS", REPOSITORY / ".cache/mkdocs/bin/mkdocs"))
LOOKED_AT = [  # pages, in the scheme in which they are checked; the findings have the widest tables
    ("index.html", "light"),
    ("index.html", "dark"),
    ("docs/findings.html", "light"),
    ("report/report.html", "light"),
    ("report/report.html", "dark"),
]


@pytest.fixture(scope="session")
def site(built, made_once):
    """The whole site with a small report."""
    if shutil.which(MKDOCS) is None:
        pytest.skip("MkDocs is not installed: make site")

    def build(folder):
        for page in built.glob("*.html"):
            (folder / "results/boards").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, folder / "results/boards" / page.name)
        with contextlib.chdir(folder):  # its sources are put into .cache
            assert main(["--mkdocs", str(MKDOCS), "--out", "out"]) == 0

    return made_once("site", build) / "out"


def errors(text):
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    parser = html5lib.HTMLParser()
    parser.parse(text)
    return [f"line {line}: {code} {words}" for (line, _), code, words in parser.errors]


def test_the_parser_sees_what_is_wrong():
    page = "<!doctype html><html lang=en><head><title>t</title></head><body><p{}>x</p></body></html>"
    assert errors(page.format("")) == []
    for wrong in (" class=a class=b", "></div", "><table><b>x</b></table", ">&nosuch;<i"):
        assert errors(page.format(wrong)), wrong


def test_every_page_is_valid_html(site):
    pages = sorted(site.rglob("*.html"))
    small = [path for path in pages if path.stat().st_size < 150_000]  # the others are boards like those of the report
    assert len(small) > 40 and {"index.html", "404.html", "choices.html"} <= {path.name for path in small}
    for path in {*small, *(site / "report").glob("*.html")}:
        assert errors(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(("page", "scheme"), LOOKED_AT)
def test_axe_finds_nothing(browser, site, page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    view = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    view.set_default_timeout(PATIENCE)
    view.goto((site / page).as_uri())
    found = axe.Axe().run(view).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    view.close()


@pytest.mark.parametrize("width", [1440, 768, 390])
def test_the_front_page_fits_the_screen_and_asks_for_nothing_from_elsewhere(browser, site, width):
    view = browser.new_page(viewport={"width": width, "height": 800})
    view.set_default_timeout(PATIENCE)
    asked = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto((site / "index.html").as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.locator("h1").first.inner_text().startswith("Secateurs")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    view.close()
