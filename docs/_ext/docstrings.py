"""Docstrings and help texts are plain text: Args, Returns and Raises become fields, nothing else is markup.

In them |V| is an absolute value and *shape a Python star, which reStructuredText would take for substitutions and
emphasis. Text between backticks is code.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SECTIONS = {"Args:": "Arguments", "Returns:": "Returns", "Raises:": "Raises"}
LISTED = ("Args:", "Raises:")
ENTRY = re.compile(r"(?P<names>\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*):(?: (?P<text>.*))?$")


def plain(text: str) -> str:
    """One line of plain text as reStructuredText that shows it as it is."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its other half
        return re.sub(r"([*|_`\\])", r"\\\1", text)
    shown = [
        f"``{part}``" if number % 2 else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for number, part in enumerate(parts)
    ]
    return "".join(shown)


def fields(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    out: list[str] = []
    section = ""
    for line in _joined(lines):
        if line.strip() in SECTIONS and not line.startswith(" "):
            section = line.strip()
            out += ["", f":{SECTIONS[section]}:"]
        elif line.strip() and not line.startswith(" ") and section:
            section = ""
            out += ["", plain(line)]
        elif line.lstrip().startswith(">>>"):
            out.append(line)
        elif section in LISTED and (found := ENTRY.match(line.strip())) and line.startswith("    ") and line[4] != " ":
            names = ", ".join(f"``{name}``" for name in found["names"].split(", "))
            out.append(f"    - {names}: {plain(found['text'] or '')}")
        elif section:
            out.append(f"    {plain(line.strip())}" if line.strip() else "")
        else:
            out.append(plain(line))
    return out


def _joined(lines: list[str]) -> list[str]:
    """The lines with those that continue an entry of a section put behind it."""
    out: list[str] = []
    section = False
    for line in lines:
        section = line.strip() in SECTIONS or (section and (line.startswith(" ") or not line.strip()))
        deeper = line.startswith(" " * 8) and section
        follows = section and line.startswith("    ") and out and out[-1].startswith("    ")
        if line.strip() and (deeper or (follows and not ENTRY.match(line.strip()))):
            out[-1] = f"{out[-1].rstrip()} {line.strip()}"
        else:
            out.append(line)
    return out


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [*fields(lines), ""]


def _help(app: Sphinx, context: Any, lines: list[str]) -> None:
    """What click says of a command; lines that it must not wrap are examples."""
    out: list[str] = []
    for line in lines:
        if not line.startswith("| "):
            out.append(plain(line))
            continue
        if not out or not out[-1].startswith("    "):
            out += ["", ".. code-block:: text", ""]
        out.append(f"    {line[2:]}")
    lines[:] = [*out, ""]


COMMON = ("--json", "-q, --quiet", "-v, --verbose", "--debug")
"""Options of every command, which the page tells once."""


def _options(app: Sphinx, context: Any, lines: list[str]) -> None:
    """What click says of options; directives and fields stay, what every command takes is left out."""
    out: list[str] = []
    common = False
    for line in lines:
        text = line.strip()
        if text.startswith(".. option::"):
            common = text.removeprefix(".. option::").strip() in COMMON
        if common:
            continue
        if text and not text.startswith((".. ", ":", "``")):
            required = "**Required** " if text.startswith("**Required** ") else ""
            line = " " * (len(line) - len(text)) + required + plain(text.removeprefix(required))
        out.append(line)
    lines[:] = out


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to autodoc and sphinx-click."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("sphinx-click-process-description", _help)
    app.connect("sphinx-click-process-options", _options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
