"""The site and the report's pages are valid HTML and have no findings of axe, light or dark; tables fit small screens.

html5lib parses as the HTML standard says and lists every error of that; axe-core, in Chromium, checks accessibility.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from report_fixtures import PATIENCE

from benchmarks.leaderboard import main as leaderboard
from benchmarks.site import main
from benchmarks.storage.paths import REPOSITORY

pytestmark = pytest.mark.slow

MKDOCS = Path(os.environ.get("SECATEURS_MKDOCS", REPOSITORY / ".cache/mkdocs/bin/mkdocs"))
PAGES = ("report", "theory", "methods", "papers", "leaderboard")
REVIEWED = REPOSITORY / "results/boards/reviewed"
STYLED = re.compile(r"<style>(.*?)</style>", re.DOTALL)
ARTICLE = re.compile(r"<article[^>]*>(.*)</article>", re.DOTALL)
# Of elements that differ only in their words axe looks at two. Everything that is folded away is unfolded.
FEWER = """(others) => {
  const place = document.querySelector('article') ?? document.body;
  for (const other of others) {
    const parsed = new DOMParser().parseFromString(other, 'text/html');
    place.append(...parsed.body.childNodes);
  }
  for (const part of document.querySelectorAll('details')) part.open = true;
  const spare = new Set(['tr', 'li', 'p', 'pre', 'details', 'figure', 'option', 'g', 'path', 'text', 'div']);
  const numbers = new Map(), seen = new Map();
  const number = (words) => numbers.get(words) ?? (numbers.set(words, numbers.size), numbers.size - 1);
  function shape(element, above) {
    const marks = [...element.attributes].map(({name, value}) => /^(class|style|role|type|scope|tabindex)$/.test(name)
      ? `${name}=${value}` : `${name}${Boolean(value)}`);
    const own = number(`${element.localName} ${marks.sort().join()}`), path = number(`${above}>${own}`);
    const inside = new Set();
    for (const child of [...element.children]) {
      const found = number(`${path} ${shape(child, path)}`), many = (seen.get(found) ?? 0) + 1;
      inside.add(found);
      seen.set(found, many);
      if (many > 2 && (spare.has(child.localName) || child.matches('code span'))) child.remove();
    }
    return number(`${own} ${[...inside].join()} ${element.textContent.trim() !== ''}`);
  }
  shape(document.body, '');
  for (const picture of document.querySelectorAll('article img')) picture.removeAttribute('src');
}"""


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


@pytest.fixture(scope="session")
def rendered(built, results, made_once):
    """A small report with the leaderboard beside it."""

    def render(folder):
        for page in built.glob("*.html"):
            shutil.copyfile(page, folder / page.name)
        assert leaderboard(["--results", str(results), "--out", str(folder), "--format", "html"]) == 0

    return made_once("rendered", render)


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


def violations(view, address, scheme, others=()):
    """What axe finds on a page: the rule, how often, and the first place.

    In the dark nothing but the colours differs. The theme's script makes boxes that scroll reachable when it loads a
    page, so not those of ``others``.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    view.set_default_timeout(PATIENCE)
    view.goto(address)
    view.evaluate(FEWER, list(others))
    options = {"resultTypes": ["violations"]}
    if scheme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    elif others:
        options["rules"] = {"scrollable-region-focusable": {"enabled": False}}
    found = axe.Axe().run(view, options=options).response["violations"]
    return [(each["id"], len(each["nodes"]), each["nodes"][0]["html"]) for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_pages_of_the_site(browser, site, scheme):
    """All documents at once, below each other on the first page: around them all pages are alike."""
    view = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    first = site / "index.html"
    others = [path for path in sorted(site.rglob("*.html")) if path.parent.name != "report" and path != first]
    articles = [ARTICLE.search(path.read_text(encoding="utf-8"))[1] for path in others]
    assert len(articles) > 40
    assert violations(view, first.as_uri(), scheme, articles) == []
    view.close()


def test_axe_finds_nothing_on_the_document_with_the_widest_tables(browser, site):
    view = browser.new_page(viewport={"width": 1440, "height": 900})
    assert violations(view, (site / "docs/findings.html").as_uri(), "light") == []
    view.close()


@pytest.fixture
def served(site):
    """The address of the site on a server of this machine: 404.html has absolute links."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_axe_finds_nothing_on_the_page_for_missing_pages(browser, served):
    view = browser.new_page(viewport={"width": 1440, "height": 900})
    assert violations(view, f"{served}/404.html", "light") == []
    assert view.locator("h1").last.inner_text().startswith("404")
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_on_the_pages_of_the_report(browser, rendered, scheme, name):
    view = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    assert violations(view, (rendered / f"{name}.html").as_uri(), scheme) == []
    view.close()


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_on_the_reviewed_pages(browser, rendered, name):
    reviewed = REVIEWED / f"{name}.html"
    today, then = (STYLED.search(path.read_text(encoding="utf-8"))[1] for path in (rendered / f"{name}.html", reviewed))
    if today != then:  # in continuous integration this fails
        pytest.skip(f"{reviewed.name} is of an earlier version; render the reviewed pages again")
    view = browser.new_page(viewport={"width": 1440, "height": 900})
    assert violations(view, reviewed.as_uri(), "light") == []
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


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_report_keeps_to_the_width_of_a_phone(browser, rendered, name):
    view = browser.new_page(viewport={"width": 390, "height": 800})
    view.set_default_timeout(PATIENCE)
    view.goto((rendered / f"{name}.html").as_uri())
    view.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    view.close()


def test_the_reviewed_methods_keep_to_the_width_of_a_phone(browser):
    """A method of the small report has no long name and no long paper."""
    view = browser.new_page(viewport={"width": 390, "height": 800})
    view.set_default_timeout(PATIENCE)
    view.goto((REVIEWED / "methods.html").as_uri())
    view.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    view.close()
