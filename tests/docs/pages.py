"""What a page of the documentation shows: commands with their output, and Python sessions.

A page is Markdown. A fence marked `console` holds commands (lines that begin with `$ `), each followed by what it
prints; a fence marked `python` with lines that begin with `>>>` is a session. Comments steer who runs them:

    <!-- needs: digits -->         what lies in the working directory, from here to the end of the page
    <!-- not run: reason -->       before a fence: no command of it is run
    <!-- run as: COMMAND -->       before a fence: the smaller form of a command that is run instead
    <!-- file: mine.toml -->       before a fence: its lines are what the reader saves under that name

Where a fence has a `run as`, it has one comment a command, in order, of either `run as` or `not run`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"(?P<indent>\s*)(?P<mark>`{3,}|~{3,}|:{3,})\s*(?P<info>.*)")
COMMENT = re.compile(r" {0,3}<!--\s*(?P<key>not run|run as|needs|file):\s*(?P<value>\S.*?)\s*-->\s*")
MEANT_AS_COMMENT = re.compile(r" {0,3}<!--\s*(not|run|need|file)", re.IGNORECASE)
EXIT_CODE = re.compile(r"#\s*exit code (\d+)\s*$")
INLINE = re.compile(r"`(sca-deploy [^`]+)`")
COMMAND_ELSEWHERE = re.compile(r"\s*(\$ )?(sca-deploy -*[a-z]|torchrun -|python benchmarks/|make (demo|test)\b)")
DOCUMENTED_FAILURES = range(1, 6)


class BadPage(Exception):
    """A page breaks the convention above."""


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Args:
        text: what the page shows, without the prompt.
        line: where it stands, from 1.
        expected: what the page says it prints.
        run: what is run: the same, or its smaller form.
        not_run: why it is not run; empty if it is.
    """

    text: str
    line: int
    expected: tuple[str, ...]
    run: str
    not_run: str = ""

    @property
    def smaller(self) -> bool:
        """Whether another form than the one shown is run."""
        return self.run != self.text

    @property
    def shows_error(self) -> bool:
        """Whether the page shows an error of the program."""
        return any(line.startswith("error:") for line in self.expected)

    def may_end_with(self, code: int) -> bool:
        """Whether the page lets the command end with `code`: the one it says, else failure only where it shows one."""
        said = EXIT_CODE.search(self.text)
        if said:
            return code == int(said.group(1))
        return code in DOCUMENTED_FAILURES if self.shows_error else code == 0


@dataclass(frozen=True)
class Fence:
    """A fenced block as the page holds it: its language, its lines, and the number of the first of them."""

    language: str
    lines: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Block:
    """What a reader does in one go: type commands, type a Python session, or save a file.

    Args:
        fence: the text as it is shown.
        needs: names of what the working directory holds.
        commands: of a console block.
        file: the name to save a block under.
        not_run: why a session is not run; empty if it is.
    """

    fence: Fence
    needs: frozenset[str] = frozenset()
    commands: tuple[Command, ...] = ()
    file: str = ""
    not_run: str = ""


@dataclass
class Page:
    """A page: its blocks in order, commands within its sentences, and commands that no block runs."""

    name: str
    blocks: list[Block] = field(default_factory=list)
    inline: list[tuple[int, str]] = field(default_factory=list)
    elsewhere: list[tuple[int, str]] = field(default_factory=list)

    @property
    def commands(self) -> list[Command]:
        """Every command of every block."""
        return [command for block in self.blocks for command in block.commands]

    @property
    def needs(self) -> set[str]:
        """What any of its blocks needs."""
        return {need for block in self.blocks for need in block.needs}


def read_page(path: Path, name: str) -> Page:
    """The page of a file; BadPage if it breaks the convention."""
    return parse_page(path.read_text(encoding="utf-8"), name)


def parse_page(text: str, name: str) -> Page:
    """The page that `text` is; BadPage, with name and line, if it breaks the convention."""
    page = Page(name)
    needs: set[str] = set()
    steering: list[tuple[str, str]] = []
    for line, part in _parts(text, name):
        place = f"{name}:{line}"
        if isinstance(part, Fence):
            page.blocks.extend(_blocks(part, steering, frozenset(needs), place))
            if part.language != "console":
                page.elsewhere += [(line, shown) for shown in part.lines if COMMAND_ELSEWHERE.match(shown)]
            steering = []
        elif comment := COMMENT.fullmatch(part):
            if comment["key"] == "needs":
                needs |= {need.strip() for need in comment["value"].split(",")}
            else:
                steering.append((comment["key"], comment["value"]))
        elif MEANT_AS_COMMENT.match(part):
            raise BadPage(f"{place}: {part.strip()} is no comment that is known")
        elif part.strip():
            _no_fence_follows(steering, place)
            page.inline += [(line, shown) for shown in INLINE.findall(part)]
            if part.startswith("    ") and COMMAND_ELSEWHERE.match(part):
                page.elsewhere.append((line, part))
    _no_fence_follows(steering, f"{name}: the end")
    return page


def words(command: str) -> list[str]:
    """The words of a shell command, without leading assignments of variables and without a comment."""
    found = shlex.split(command.replace("\\\n", " "), comments=True)
    while found and re.match(r"\w+=", found[0]):
        found.pop(0)
    return found


def _no_fence_follows(steering: list[tuple[str, str]], place: str) -> None:
    for key, value in steering:
        raise BadPage(f"{place}: '{key}: {value}' stands before no fence")


def _parts(text: str, name: str) -> Iterator[tuple[int, str | Fence]]:
    """Lines of prose and fences, each with its number. Fences of directives, {note}, are looked into."""
    lines = text.splitlines()
    directives: list[str] = []
    at = 0
    while at < len(lines):
        opening = FENCE.fullmatch(lines[at])
        if opening is None:
            yield at + 1, lines[at]
            at += 1
        elif not opening["info"] and directives and opening["mark"] == directives[-1]:
            directives.pop()
            at += 1
        elif opening["info"].startswith("{"):
            directives.append(opening["mark"])
            at += 1
        else:
            end = _closing(lines, at, opening["mark"], name)
            inner = [line.removeprefix(opening["indent"]) for line in lines[at + 1 : end]]
            yield at + 1, Fence((opening["info"].split() or [""])[0], tuple(inner), at + 2)
            at = end + 1


def _closing(lines: list[str], opening: int, mark: str, name: str) -> int:
    for at in range(opening + 1, len(lines)):
        if re.fullmatch(rf"\s*{mark[0]}{{{len(mark)},}}\s*", lines[at]):
            return at
    raise BadPage(f"{name}:{opening + 1}: the fence is not closed")


def _blocks(fence: Fence, steering: list[tuple[str, str]], needs: frozenset[str], place: str) -> Iterator[Block]:
    """The block of a fence, if it is anything a reader does."""
    keys = {key for key, _ in steering}
    reason = dict(steering).get("not run", "")
    if fence.language == "console":
        if "file" in keys:
            raise BadPage(f"{place}: a console block is not saved as a file")
        yield Block(fence, needs, _steered(_commands(fence, place), steering, place))
    elif "file" in keys:
        if len(steering) > 1:
            raise BadPage(f"{place}: a file has one name and nothing else")
        yield Block(fence, needs, file=steering[0][1])
    elif fence.language == "python" and any(line.startswith(">>>") for line in fence.lines):
        if "run as" in keys:
            raise BadPage(f"{place}: a session has no smaller form")
        yield Block(fence, needs, not_run=reason)
    elif keys:
        raise BadPage(f"{place}: a fence that is not run has a comment for running it")


def _commands(fence: Fence, place: str) -> list[Command]:
    """The commands of a console block; a backslash at the end continues one on the next line."""
    found: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(fence.lines, fence.line):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif found and not found[-1][2] and found[-1][1][-1].endswith("\\"):
            found[-1][1].append(line.removeprefix("> "))
        elif found:
            found[-1][2].append(line)
        elif line.strip():
            raise BadPage(f"{place}: output before the first command")
    if not found:
        raise BadPage(f"{place}: a console block without a command")
    texts = ["\n".join(text) for _, text, _ in found]
    return [Command(text, number, tuple(output), text) for text, (number, _, output) in zip(texts, found, strict=True)]


def _steered(commands: list[Command], steering: list[tuple[str, str]], place: str) -> tuple[Command, ...]:
    """The commands, each as the comments before the fence have it."""
    if not steering:
        return tuple(commands)
    if len(steering) == 1 and steering[0][0] == "not run":
        steering = steering * len(commands)
    if len(steering) != len(commands):
        raise BadPage(f"{place}: {len(steering)} comments for {len(commands)} commands")
    return tuple(
        Command(c.text, c.line, c.expected, c.text if key == "not run" else value, value if key == "not run" else "")
        for c, (key, value) in zip(commands, steering, strict=True)
    )
