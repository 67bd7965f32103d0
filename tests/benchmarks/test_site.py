"""The sources of the static site: every page of the navigation is there, and links between them lead somewhere."""

import json
import re
from pathlib import Path

from benchmarks.report.page import html, make
from benchmarks.site import choices, configuration, main, reproductions, sources
from benchmarks.storage.paths import REPOSITORY

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def report_in(folder):
    """A report of no records, as an empty one has all pages, too."""
    folder.mkdir(parents=True)
    for name, text in html(make([], [])).items():
        (folder / name).write_text(text)


def test_pages_of_the_navigation_are_there_and_their_links_lead_somewhere(tmp_path):
    report_in(tmp_path / "results/boards")
    folder = tmp_path / "sources"
    pages = sources(folder, tmp_path / "results")
    assert {"Home", "Report", "Theories", "Papers", "Methods", "Reproductions", "Questions"} <= set(pages)
    assert all((folder / path).is_file() for path in pages.values())
    for page in folder.rglob("*.md"):
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


def test_the_reviewed_report_goes_before_ones_own_and_without_any_there_is_none(tmp_path):
    assert "Report" not in sources(tmp_path / "a", tmp_path / "results")
    report_in(tmp_path / "results/boards")
    report_in(tmp_path / "results/boards/reviewed")
    (tmp_path / "results/boards/reviewed/report.html").write_text("the reviewed one")
    sources(tmp_path / "b", tmp_path / "results")
    assert (tmp_path / "b/report/report.html").read_text() == "the reviewed one"


def test_tables_of_choices_name_every_data_set_and_network():
    text = choices()
    for group in ("dataset", "model"):
        for path in (REPOSITORY / "conf" / group).glob("*.yaml"):
            assert f"| `{path.stem}` | " in text, path
    assert all(line.count("|") - line.count("\\|") == 3 for line in text.splitlines() if line.startswith("|"))


def test_every_reproduction_is_linked_with_what_it_shows():
    text = reproductions(REPOSITORY / "results/reproductions")
    found = [path.parent.name for path in (REPOSITORY / "results/reproductions").glob("*/README.md")]
    assert found and all(re.search(rf"^- \[{name}\]\(.*\): \w", text, re.M) for name in found)


def test_the_configuration_is_strict_and_asks_for_nothing_from_elsewhere(tmp_path):
    content = json.loads(configuration({"Home": "README.md"}, tmp_path, tmp_path / "site"))
    assert content["validation"]["links"]["not_found"] == "warn" and content["theme"]["font"] is False
    assert content["nav"] == [{"Home": "README.md"}] and Path(content["docs_dir"]).is_absolute()


def test_the_address_of_the_site_is_that_of_the_command_line(tmp_path, capsys):
    address = "https://somebody.example/secateurs/"
    assert main(["--sources", str(tmp_path / "site"), "--url", address, "--results", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "site.yml").read_text())["site_url"] == address


def test_sources_alone_need_no_mkdocs(tmp_path, capsys):
    assert main(["--sources", str(tmp_path / "s"), "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "python -m benchmarks.report" in said and (tmp_path / "s.yml").is_file()
