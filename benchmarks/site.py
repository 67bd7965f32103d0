"""Build the project's static site: documents, method cards, reproductions, papers and the report, by MkDocs Material.

    make site                        installs MkDocs beside the suite's packages and builds site/
    python -m benchmarks.site --sources FOLDER      only what the site is made from, without MkDocs

Files keep their places, so that the links between them hold; MkDocs fails on a link that leads nowhere.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import REPOSITORY, write_atomically
from methods.errors import BadInput

TREE = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "docs"),
    *("results/reproductions", "results/boards/reviewed/leaderboard.md"),
)
SUFFIXES = frozenset({".md", ".png", ".svg", ".csv", ".cff", ""})
PAGES = (("Report", "report"), ("Theories", "theory"), ("Methods and their results", "methods"), ("Papers", "papers"))
GUIDE = ("getting_started", "findings", "commands", "python", "data", "scaling", "faq", "glossary")
BACKGROUND = ("measuring", "fairness", "boards", "architecture", "security")
CHOICES = {"dataset": "Data sets", "model": "Networks"}
NAME = "Secateurs"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's word on its successors, in every build
BADGES = re.compile(r"^\[!\[.*\n", re.MULTILINE)  # they are images from elsewhere, and the site asks for none
STYLE = """\
.md-typeset a { text-decoration: underline; }
[data-md-color-scheme] {
  --md-code-hl-comment-color: var(--md-code-fg-color);
  --md-code-hl-operator-color: var(--md-code-fg-color);
  --md-code-hl-punctuation-color: var(--md-code-fg-color);
  --md-code-hl-variable-color: var(--md-code-fg-color);
  --md-footer-fg-color--light: #ffffff;
  --md-footer-fg-color--lighter: #dddddd;
}
[data-md-color-scheme="slate"] { --md-code-hl-number-color: #f2958a; --md-code-hl-constant-color: #b3a7f2; }
"""  # what the theme leaves too faint to read
SCRIPT = """\
function reachable() {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    wrap.tabIndex = 0;
    wrap.setAttribute("role", "group");
    wrap.setAttribute("aria-label", "table");
  }
  document.querySelector(".md-search[role=dialog]:not([aria-label])")?.setAttribute("aria-label", "search");
}
new MutationObserver(reachable).observe(document.documentElement, { childList: true, subtree: true });
reachable();
"""  # the theme wraps wide tables in boxes that the keyboard does not reach, and gives the search no name


def sources(folder: Path, results: Path) -> dict[str, str]:
    """Put everything that the site is made from into ``folder``; returns the pages of the navigation by title.

    Args:
        folder: is emptied before.
        results: where records and the rendered report lie; without a report the site has none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in TREE:
        for path in sorted((REPOSITORY / name).rglob("*")) if (REPOSITORY / name).is_dir() else [REPOSITORY / name]:
            if path.is_file() and path.suffix in SUFFIXES:
                place = folder / path.relative_to(REPOSITORY)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    front = (folder / "README.md").read_text(encoding="utf-8")
    write_atomically(folder / "README.md", BADGES.sub("", front))
    write_atomically(folder / "site.css", STYLE)
    write_atomically(folder / "site.js", SCRIPT)
    pages = {"Home": "README.md"}
    for title, name in PAGES:
        page = _report(results) / f"{name}.html"
        if page.is_file():
            write_atomically(folder / "report" / page.name, page.read_bytes())
            pages[title] = f"report/{page.name}"
    pages |= {_title(REPOSITORY / "docs" / f"{name}.md"): f"docs/{name}.md" for name in GUIDE}
    write_atomically(folder / "choices.md", choices())
    pages |= {"Methods": "docs/methods.md", "Networks": "docs/networks.md", "Data sets and networks": "choices.md"}
    write_atomically(folder / "reproductions.md", reproductions(REPOSITORY / "results" / "reproductions"))
    pages["Reproductions"] = "reproductions.md"
    pages |= {
        _title(page): f"docs/papers/{page.name}" for page in sorted((REPOSITORY / "docs" / "papers").glob("*.md"))
    }
    pages |= {_title(REPOSITORY / "docs" / f"{name}.md"): f"docs/{name}.md" for name in BACKGROUND}
    return pages | {"Contributing": "CONTRIBUTING.md", "Changes": "CHANGELOG.md"}


def _report(results: Path) -> Path:
    """Where the report lies: the one of reviewed records, else that of this machine's own."""
    reviewed = results / "boards" / "reviewed"
    return reviewed if (reviewed / "report.html").is_file() else results / "boards"


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()


def choices() -> str:
    """The data sets and the networks of conf/ as tables, from the comments that their files begin with."""
    parts = ["# Data sets and networks\n\nMade from the first lines of the files in `conf/`.\n"]
    for group, title in CHOICES.items():
        lines = [f"## {title}\n", f"| `{group}=` | what it is |", "|:--|:--|"]
        for path in sorted((REPOSITORY / "conf" / group).glob("*.yaml")):
            about = path.read_text(encoding="utf-8").partition("\n")[0]
            if about.startswith("# ") and "@package" not in about:
                words = about.removeprefix("# ").replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"| `{path.stem}` | {words} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def reproductions(folder: Path) -> str:
    """The reproductions that have been run, each with what it shows."""
    lines = ["# Reproductions\n", "Claims of papers, run here: `python -m benchmarks.reproduce`.\n"]
    for page in sorted(folder.glob("*/README.md")):
        about = [line for line in page.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        lines.append(f"- [{page.parent.name}](results/reproductions/{page.parent.name}/README.md): {about[0]}")
    return "\n".join(lines) + "\n"


def configuration(pages: dict[str, str], folder: Path, out: Path, address: str = "") -> str:
    """The configuration of MkDocs; JSON, which is YAML, so that nothing has to be quoted by hand.

    Args:
        pages: paths of the documents by title.
        folder: the folder of the documents.
        out: folder of the site.
        address: where the site will be published. Only the page for missing pages (404.html) depends on it: it is shown
            at any depth, so that its links cannot be relative.
    """
    strict = {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn", "absolute_links": "warn"}
    palette = [
        {
            "media": f"(prefers-color-scheme: {scheme})",
            **{"scheme": name, "primary": "indigo", "accent": "indigo"},
            "toggle": {"icon": icon, "name": f"change to {other}"},
        }
        for scheme, name, icon, other in (
            ("light", "default", "material/weather-night", "dark"),
            ("dark", "slate", "material/weather-sunny", "light"),
        )
    ]
    content = {
        "site_name": NAME,
        "site_url": address,
        "docs_dir": str(folder.resolve()),
        "site_dir": str(out.resolve()),
        "use_directory_urls": False,  # pages open from a folder, too
        "theme": {"name": "material", "font": False, "palette": palette, "features": ["navigation.top", "toc.follow"]},
        "extra_css": ["site.css"],
        "extra_javascript": ["site.js"],
        "plugins": ["search"],
        "markdown_extensions": ["tables", "admonition", {"toc": {"permalink": True}}, "pymdownx.superfences"],
        "validation": {"links": strict, "nav": {"omitted_files": "ignore", "not_found": "warn"}},
        "nav": [{title: path} for title, path in pages.items()],
    }
    return json.dumps(content, indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.site``."""
    parser = Parser(prog="python -m benchmarks.site", description="Build the static site.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records and boards (results)")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder of the site (site)")
    parser.add_argument("--sources", type=Path, default=None, help="only put the sources into this folder")
    parser.add_argument("--url", default="", help="where the site will be published; only 404.html depends on it")
    parser.add_argument("--mkdocs", default="mkdocs", help="the command that builds (mkdocs)")
    chosen = parser.parse_args(arguments)
    console = output_console()
    folder = chosen.sources or Path(".cache/site")
    pages = sources(folder, chosen.results)
    written = folder.parent / f"{folder.name}.yml"
    write_atomically(written, configuration(pages, folder, chosen.out, chosen.url))
    if "Report" not in pages:
        console.print("no report to show; python -m benchmarks.report renders one from the records", markup=False)
    if chosen.sources:
        console.print(f"written: {folder} and {written}", markup=False)
        return 0
    if shutil.which(chosen.mkdocs) is None:
        raise BadInput(f"there is no {chosen.mkdocs}; type make site, which installs it from docs/requirements.txt")
    command = [chosen.mkdocs, "build", "--quiet", "--strict", "--config-file", str(written)]
    done = subprocess.run(command, env=os.environ | QUIET, check=False)
    if done.returncode == 0:
        console.print(f"written: {chosen.out}/index.html", markup=False)
    return done.returncode


if __name__ == "__main__":
    end(main)
