"""Tables that are read from the code when the pages are built, so that they cannot say anything else than it does."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from sca_deploy import errors
from sca_deploy.config import Config
from sca_deploy.data.catalogue import CATALOGUE
from sca_deploy.evaluate import LABELS
from sca_deploy.exporters.base import exporter, exporters
from sca_deploy.hardware.chip import Band, Chip, load_chip
from sca_deploy.nn import spec
from sca_deploy.pruning.method import methods
from sca_deploy.study.plan import StudyConfig
from sca_deploy.sweep.plan import SweepConfig

LOG = logging.getLogger(__name__)
Rows = Iterable[Sequence[str]]


def code(value: Any) -> str:
    """A value in a cell, as code."""
    return f"`{value}`"


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def toml(value: Any) -> str:
    """A default as a config file would say it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)


def remarks(kind: type) -> dict[str, str]:
    """What the source says below each attribute of a class, in one line each."""
    found = ModuleAnalyzer.for_module(kind.__module__).find_attr_docs()
    return {name: " ".join(" ".join(lines).split()) for (owner, name), lines in found.items() if owner == kind.__name__}


class Table(SphinxDirective):
    """A directive that shows one table; the lines of its body may add `name: words`."""

    has_content = True
    optional_arguments = 1
    header: ClassVar[Sequence[str]]

    @property
    def columns(self) -> int:
        """How many of the columns are shown."""
        return len(self.header)

    def rows(self) -> Iterator[Sequence[str]]:
        """The cells, in Markdown."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The table."""
        return list(self.parse_text_to_nodes(markdown(self.header[: self.columns], self.rows())))

    def said(self, known: Iterable[str], needed: Iterable[str]) -> dict[str, str]:
        """The words of the body by name; every name must be known, and every needed one be there."""
        words = dict(line.split(": ", 1) for line in self.content if line.strip())
        for name in sorted(words.keys() - set(known)):
            LOG.warning("'%s' does not exist", name, location=self.get_location())
        for name in sorted(set(needed) - words.keys()):
            LOG.warning("nothing is said of '%s'", name, location=self.get_location())
        return words


class ConfigTable(Table):
    """The keys of one table of a config, `config-table` or `config-table:: data.augment`."""

    header = ("key", "type", "default", "meaning")

    def rows(self) -> Iterator[Sequence[str]]:
        """Type and default from the dataclass, the meaning from its source or from the body."""
        path = self.arguments[0].split(".") if self.arguments else []
        own = {"study": StudyConfig, "sweep": SweepConfig}
        table: Any = own[path.pop(0)]() if path and path[0] in own else Config()
        for part in path:
            table = getattr(table, part)
        keys = {
            f.name: getattr(table, f.name)
            for f in dataclasses.fields(table)
            if not dataclasses.is_dataclass(getattr(table, f.name))
        }
        written = remarks(type(table))
        words = self.said(keys, keys.keys() - written.keys())
        for name, default in keys.items():
            yield code(name), type(default).__name__, code(toml(default)), words.get(name, written.get(name, ""))


class LayerTable(Table):
    """The layers of a network's list."""

    header = ("type", "keys", "what it is", "reads")

    def rows(self) -> Iterator[Sequence[str]]:
        """Every kind of layer with its keys and their defaults."""
        kinds = (kind for kind in vars(spec).values() if inspect.isclass(kind) and issubclass(kind, spec.LayerSpec))
        for kind in kinds:
            if not hasattr(kind, "type"):
                continue
            keys = [field for field in dataclasses.fields(kind) if field.name not in ("name", "source")]
            shown = ", ".join(code(_with_default(field)) for field in keys)
            yield code(kind.type), shown, inspect.getdoc(kind) or "", ", ".join(kind.follows)


def _with_default(field: dataclasses.Field[Any]) -> str:
    needed = field.default is dataclasses.MISSING or field.default is None
    return field.name if needed else f"{field.name} = {toml(field.default)}"


class FigureTable(Table):
    """The figures of an evaluation; the body defines each."""

    header = ("figure", "label", "definition")

    def rows(self) -> Iterator[Sequence[str]]:
        """In the order of the document."""
        words = self.said(LABELS, LABELS)
        for name, label in LABELS.items():
            yield code(name), label, words.get(name, "")


class ExitCodes(Table):
    """The errors and their exit codes."""

    header = ("code", "error", "meaning")

    def rows(self) -> Iterator[Sequence[str]]:
        """In the order of the codes."""
        yield "0", "", "done"
        classes = (kind for kind in vars(errors).values() if inspect.isclass(kind))
        kinds = [kind for kind in classes if issubclass(kind, errors.ScaDeployError)]
        for kind in sorted(kinds, key=lambda kind: kind.exit_code):
            yield str(kind.exit_code), code(kind.__name__), (inspect.getdoc(kind) or "").splitlines()[0]
        yield "130", "", "interrupted; the repeated command continues"


class Methods(Table):
    """The pruning methods."""

    header = ("method", "what it does", "options it reads")

    def rows(self) -> Iterator[Sequence[str]]:
        """By name."""
        for name, kind in sorted(methods().items()):
            yield code(name), kind.summary, ", ".join(code(option) for option in sorted(kind.options))


class Targets(Table):
    """What `export` can write."""

    header = ("target", "what it writes")

    def rows(self) -> Iterator[Sequence[str]]:
        """Those of this package, by name."""
        for name in exporters():
            kind = exporter(name)
            if type(kind).__module__.startswith("sca_deploy."):
                yield code(name), kind.summary


class DataSets(Table):
    """The catalogue of data sets."""

    header = ("set", "frame", "classes", "train", "test", "how its files are checked")

    def rows(self) -> Iterator[Sequence[str]]:
        """In the catalogue's order; a dash where the files say it."""
        for entry in CATALOGUE.values():
            frame = " x ".join(map(str, entry.frame)) or "-"
            counts = (f"{count:,}" if count else "-" for count in (entry.classes, entry.train, entry.test))
            yield (code(entry.name), frame, *counts, entry.checked)


class ChipTable(Table):
    """All values of a chip file, `chip-table:: loihi2`."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"part": directives.unchanged_required, "brief": directives.flag}
    header = ("key", "value", "unit", "evidence", "source")

    @property
    def columns(self) -> int:
        """Sources are left out with :brief:."""
        return len(self.header) - ("brief" in self.options)

    def rows(self) -> Iterator[Sequence[str]]:
        """The quantities or prices of one part of the file."""
        for row in self._all():
            yield row[: self.columns]

    def _all(self) -> Iterator[Sequence[str]]:
        chip, part = load_chip(self.arguments[0]), self.options["part"]
        if part == "systems":
            for name, system in chip.systems.items():
                for size, quantity in system.sizes.items():
                    yield (code(f"{name}.{size}"), f"{quantity.value:,}", *_provenance(quantity))
            return
        for name, entry in getattr(chip, part).items():
            yield (code(name), _shown(entry), *_provenance(entry))


def _shown(entry: Any) -> str:
    if isinstance(entry, Band):
        return f"{entry.typical:g} ({entry.low:g} to {entry.high:g})"
    return f"{entry.value:,}"


def _provenance(entry: Any) -> tuple[str, str, str]:
    return entry.unit, entry.evidence, entry.source


class ChipTitle(Table):
    """The title of a chip, and the hash of its file."""

    def run(self) -> list[nodes.Node]:
        """One paragraph."""
        chip: Chip = load_chip(self.arguments[0])
        return list(self.parse_text_to_nodes(f"{chip.title}. File `{chip.path.name}`, SHA-256 `{chip.sha256[:16]}…`"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the tables."""
    kinds: dict[str, type[Table]] = {
        "chip-table": ChipTable,
        "chip-title": ChipTitle,
        "config-table": ConfigTable,
        "data-table": DataSets,
        "exit-code-table": ExitCodes,
        "figure-table": FigureTable,
        "layer-table": LayerTable,
        "method-table": Methods,
        "target-table": Targets,
    }
    for name, kind in kinds.items():
        app.add_directive(name, kind)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
