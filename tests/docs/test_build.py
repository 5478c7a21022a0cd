"""The documentation builds without a warning and without network, and names everything that there is."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest

import sca_deploy
from sca_deploy.cli import cli
from sca_deploy.config import Config
from sca_deploy.data.catalogue import CATALOGUE
from sca_deploy.errors import ScaDeployError
from sca_deploy.evaluate import LABELS
from sca_deploy.pruning.method import methods
from sca_deploy.pruning.regrowth import SIGNALS
from sca_deploy.pruning.scores import SCORES
from sca_deploy.study.plan import StudyConfig
from sca_deploy.sweep.plan import SweepConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CHIPS = sorted((ROOT / "hardware" / "chips").glob("*.toml"))
COMMON = {"--json", "-q", "--quiet", "-v", "--verbose", "--debug", "-h", "--help"}
"""Options of every command, told once at the top of the page."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of pages, and what the builder complained about. No server can be reached while it builds."""
    folder = tmp_path_factory.mktemp("docs") / "html"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(folder),
    ]
    done = subprocess.run(command, cwd=folder.parent, env=os.environ | nowhere, capture_output=True, text=True)
    if done.returncode and not (folder / "index.html").is_file():
        pytest.fail(done.stderr)
    return folder, done.stderr


@pytest.fixture(scope="session")
def pages(built: tuple[Path, str]) -> dict[str, str]:
    """The HTML of every page by its name, such as reference/cli."""
    folder, _ = built
    return {str(path.relative_to(folder).with_suffix("")): path.read_text("utf-8") for path in folder.rglob("*.html")}


class Page(HTMLParser):
    """What a page loads, its tables by the heading they stand under, and its text, scripts left out."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._inside: list[str] = []
        self._heading = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe", "source", "audio", "video", "embed", "object", "use"):
            self.loaded += [given[key] for key in ("src", "srcset", "data", "xlink:href") if key in given]
        if tag == "link" and {"stylesheet", "icon", "preload", "prefetch", "preconnect"} & set(given["rel"].split()):
            self.loaded.append(given["href"])
        if tag in ("h1", "h2", "h3", "h4"):
            self._heading = ""
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
        if tag in ("h1", "h2", "h3", "h4", "td", "th", "script", "style", "table"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        where = self._inside[-1] if self._inside else ""
        if where in ("script", "style"):
            return
        self.text += data
        if where.startswith("h"):
            self._heading += data.removesuffix("¶")
        if where in ("td", "th"):
            self.tables[self._heading][-1][-1] += data

    def rows(self, heading: str) -> dict[str, list[str]]:
        """First cell -> the others, of the tables under a heading."""
        return {row[0]: [" ".join(cell.split()) for cell in row[1:]] for row in self.tables[heading] if row}


def test_no_warning_is_given(built):
    assert built[1] == ""


def test_no_page_loads_anything_from_outside(built, pages):
    loaded = {(name, url) for name, html in pages.items() for url in Page(html).loaded}
    assert len(loaded) > len(pages), "every page loads a style at least"
    assert [each for each in sorted(loaded) if re.match(r"(\w+:)?//", each[1])] == []
    styles = {path.name: path.read_text("utf-8") for path in built[0].rglob("*.css")}
    outside = re.compile(r"url\(\s*['\"]?(\w+:)?//|@import\s+['\"](\w+:)?//")
    assert [name for name, text in styles.items() if outside.search(text)] == []


def test_every_equation_is_mathml(pages):
    shown = {name: Page(html).text for name, html in pages.items()}
    assert pages["explanation/fixed-point"].count("<math") > 20
    assert [name for name, text in shown.items() if re.search(r"\\(frac|sum|left|text|lvert|cdot)|\$\$", text)] == []


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


@pytest.mark.parametrize(("name", "command"), list(commands(cli, "sca-deploy")), ids=lambda value: str(value))
def test_every_option_of_a_command_is_in_the_reference(pages, name, command):
    section = pages["reference/cli"].split(f'id="{name.replace(" ", "-")}"')
    assert len(section) == 2, f"{name} has no section"
    shown = set(re.findall(rf'id="cmdoption-{name.replace(" ", "-")}-([^"]+)"', pages["reference/cli"]))
    options = [p.opts + p.secondary_opts for p in command.params if isinstance(p, click.Option)]
    missing = [opts for opts in options if not COMMON & set(opts) and not {o.lstrip("-") for o in opts} & shown]
    assert missing == []
    assert " ".join(command.help.replace("`", "").split("\n\n")[0].split()) in " ".join(Page(section[1]).text.split())


def test_the_options_of_every_command_are_told_once(pages):
    rows = Page(pages["reference/cli"]).rows("Options of every command")
    assert {option for cell in rows for option in cell.split(", ")} >= COMMON - {"-h", "--help"}


@pytest.mark.parametrize("name", sorted(set(sca_deploy.__all__) - {"__version__"}))
def test_every_public_name_is_in_the_reference(pages, name):
    assert f'id="sca_deploy.{name}"' in pages["reference/api"]


@pytest.mark.parametrize("kind", [ScaDeployError, *ScaDeployError.__subclasses__()])
def test_every_error_and_its_exit_code_are_in_the_reference(pages, kind):
    assert kind.__name__ in Page(pages["reference/api"]).text
    assert Page(pages["reference/exit-codes"]).rows("Exit codes")[str(kind.exit_code)][0] == kind.__name__


def keys(table: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(heading, key, default) of every key of a config."""
    for field in dataclasses.fields(table):
        default = getattr(table, field.name)
        if dataclasses.is_dataclass(default):
            yield from keys(default, f"{path}.{field.name}" if path else field.name)
        else:
            yield f"[{path}]" if path else "Top", field.name, default


CONFIG_KEYS = [*keys(Config(), ""), *keys(StudyConfig(), "study"), *keys(SweepConfig(), "sweep")]


@pytest.mark.parametrize(("heading", "key", "default"), CONFIG_KEYS)
def test_every_config_key_is_in_the_reference_with_its_default(pages, heading, key, default):
    kind, shown, meaning = Page(pages["reference/config"]).rows(heading)[key]
    assert kind == type(default).__name__
    assert tomllib.loads(f"value = {shown}")["value"] == default
    assert meaning


def test_every_figure_is_defined_and_labelled(pages):
    rows = Page(pages["reference/figures"]).rows("Figures")
    rows.pop("figure")
    assert {name: row[0] for name, row in rows.items()} == LABELS
    assert [name for name, row in rows.items() if not row[1]] == []


@pytest.mark.parametrize("path", CHIPS, ids=lambda path: path.stem)
def test_every_number_of_a_chip_is_shown_with_its_source(pages, path):
    page, name = Page(pages["reference/chips"]), path.stem
    headings = {
        "limits": "Limits of",
        "budgets": "Budgets of a core of",
        "storage": "Storage on",
        "energy": "Energy on",
        "power": "Power of",
        "time": "Time on",
        "systems": "Systems of",
    }
    chip = tomllib.loads(path.read_text("utf-8"))
    assert headings.keys() == {part for part, table in chip.items() if isinstance(table, dict)}
    for part, heading in headings.items():
        entries = chip[part].items()
        if part == "systems":
            entries = [(f"{name}.{size}", entry) for name, sizes in entries for size, entry in sizes.items()]
        rows = page.rows(f"{heading} {name}")
        for key, entry in entries:
            numbers = [float(number.replace(",", "")) for number in re.findall(r"[\d,]+(?:\.\d+)?", rows[key][0])]
            wanted = [entry["value"]] if "value" in entry else [entry[end] for end in ("typical", "low", "high")]
            assert numbers == wanted, key
            assert rows[key][1:] == [entry["unit"], entry["evidence"], " ".join(entry["source"].split())]


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("methods", "Pruning methods, scores, signals", set(methods())),
        ("methods", "Scores", set(SCORES)),
        ("methods", "Signals of regrowth", set(SIGNALS)),
        ("data-sets", "Data sets", set(CATALOGUE)),
        ("targets", "Targets of export", {"lava", "loihi2", "nir", "onnx"}),
    ],
)
def test_tables_name_all_there_is_and_nothing_else(pages, page, heading, names):
    rows = Page(pages[f"reference/{page}"]).rows(heading)
    assert rows.keys() - {"method", "score", "signal", "set", "target"} == names


def test_every_file_of_a_run_is_described(pages, digits_run):
    page = Page(pages["reference/files"])
    described = set(page.rows("Files of a run")) - {"file"}
    arm = digits_run / "pruned"
    written = {path.relative_to(digits_run).as_posix() for path in digits_run.iterdir() if path.is_file()}
    for path in arm.rglob("*"):
        if path.is_file() and arm / "loihi2" not in path.parents:
            written.add(path.relative_to(arm).as_posix())
    with_a_budget = {"fitted.pt", "budget.json"}
    assert written | with_a_budget == described - {"loihi2/"}
    folder = set(Page(pages["reference/targets"]).rows("What a loihi2 folder holds")) - {"file"}
    assert {path.name for path in (arm / "loihi2").iterdir()} == folder
