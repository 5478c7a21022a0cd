"""Every command that the documentation shows is run as a reader would run it, and prints what its page shows."""

from __future__ import annotations

import doctest
import io
import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from sca_deploy.cli import cli
from sca_deploy.config import load_config
from tests.docs.comparing import compare
from tests.docs.conftest import Shell
from tests.docs.pages import Block, Command, Page, parse_page, read_page, words

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "notebooks/README.md", "results/*/README.md")
FOUND = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern) if "_build" not in path.parts)
NAMES = [path.relative_to(ROOT).as_posix() for path in FOUND]
DONE = re.compile(r"^\s*(```console|>>> )", re.MULTILINE)
FOLLOWED = [name for name, path in zip(NAMES, FOUND, strict=True) if DONE.search(path.read_text(encoding="utf-8"))]

REASONS = ("needs the internet", "takes half an hour or more", "sets the environment up itself", "it is what runs this")
"""How the reason begins why a command may be shown without being run."""

every_page = pytest.mark.parametrize("name", NAMES)


def page(name: str) -> Page:
    return read_page(ROOT / name, name)


@pytest.mark.timeout(1200)  # a page has as many commands as it has; each has its own limit
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_page_prints_what_it_shows(
    name: str, shell: Shell, furnish: dict[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shell.folder)
    followed = page(name)
    absent: dict[str, str] = {}
    for need in sorted(followed.needs):
        try:
            furnish[need]()
        except pytest.skip.Exception as skipped:
            absent[need] = str(skipped)
    if wrong := walk(followed, shell, absent):
        pytest.fail("\n\n".join(wrong), pytrace=False)
    if absent:
        pytest.skip("; ".join(absent.values()))


def walk(followed: Page, shell: Shell, absent: Collection[str] = ()) -> list[str]:
    """Do all that a page shows, in order, but for blocks that need what is absent: everything that is not as shown."""
    wrong: list[str] = []
    names: dict[str, Any] = {}
    for block in followed.blocks:
        if block.needs.isdisjoint(absent):
            names, said = follow(block, followed.name, shell, names)
            wrong += said
    return wrong


def follow(block: Block, name: str, shell: Shell, names: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Do what a block shows: the names of the page's Python session after it, and everything that is not as shown."""
    if block.file:
        (shell.folder / block.file).write_text("\n".join(block.fence.lines) + "\n", encoding="utf-8")
        return names, []
    if block.commands:
        tried = (try_command(command, shell) for command in block.commands if not command.not_run)
        return names, [f"{name}:{wrong}" for wrong in tried if wrong]
    return (names, []) if block.not_run else try_session(block, name, names)


def try_command(command: Command, shell: Shell) -> str:
    """What is wrong with a command or its output, beginning with its line; empty if nothing is."""
    head = f"{command.line}: $ {command.run}"
    try:
        done = shell.run(command.run)
    except subprocess.TimeoutExpired as late:
        return f"{head}\n  still ran after {late.timeout:.0f} s"
    if not command.may_end_with(done.returncode):
        return f"{head}\n  exit code {done.returncode}\n{done.stdout}{done.stderr}"
    printed = done.stdout.splitlines()
    if command.shows_error:
        printed += re.sub(r"\A.*?^(?=error:)", "", done.stderr, flags=re.DOTALL | re.MULTILINE).splitlines()
    if not any(line.strip() for line in command.expected):
        return ""
    found = compare(command.expected, printed, command.smaller)
    return "\n".join([head, *(f"  line {command.line + 1 + d.line}\n{d}" for d in found)]) if found else ""


def try_session(block: Block, name: str, names: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Run a Python session on from `names`: the names after it, and what is not as shown."""
    source = "\n".join(block.fence.lines) + "\n"
    session = doctest.DocTestParser().get_doctest(source, names, name, str(ROOT / name), block.fence.line - 1)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    written = io.StringIO()
    doctest.DocTestRunner(Checker(), verbose=False, optionflags=flags).run(session, None, written.write, False)
    return session.globs, [written.getvalue()] if written.getvalue() else []


class Checker(doctest.OutputChecker):
    """What a Python session prints is compared as what a command prints."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not compare(want.splitlines(), got.splitlines())

    def output_difference(self, example: doctest.Example, got: str, optionflags: int) -> str:
        return "\n".join(map(str, compare(example.want.splitlines(), got.splitlines()))) + "\n"


@every_page
def test_a_command_stands_where_it_is_run(name: str) -> None:
    outside = [f"{name}:{line}: {text.strip()}" for line, text in page(name).elsewhere]
    assert not outside, "put it into a fence marked console:\n" + "\n".join(outside)


@every_page
def test_a_command_that_is_not_run_says_a_reason_that_counts(name: str) -> None:
    found = page(name)
    said = [(command.line, command.not_run) for command in found.commands if command.not_run]
    said += [(block.fence.line, block.not_run) for block in found.blocks if block.not_run]
    other = [f"{name}:{line}: {reason}" for line, reason in said if not reason.startswith(REASONS)]
    assert not other, f"reasons are {', '.join(REASONS)}:\n" + "\n".join(other)


@every_page
def test_a_smaller_form_is_the_same_command(name: str) -> None:
    smaller = [command for command in page(name).commands if command.smaller]
    assert [c.run for c in smaller if heading(c.run) not in meanings(c.text)] == []


@every_page
def test_every_command_and_option_that_is_named_exists(name: str) -> None:
    found = page(name)
    shown = [(c.line, text) for c in found.commands if not c.shows_error for text in {c.text, c.run}]
    wrong = [(f"{name}:{line}: {text}", unknown(words(text))) for line, text in [*shown, *found.inline]]
    assert [f"{place}: {why}" for place, why in wrong if why] == []


def test_every_command_of_the_program_is_run_on_some_page() -> None:
    run = [words(command.run) for name in FOLLOWED for command in page(name).commands if not command.not_run]
    typed = {each[1] for each in run if each[0] == "sca-deploy" and len(each) > 1}
    assert sorted(cli.commands.keys() - typed) == []


def test_make_demo_is_the_run_whose_table_the_readme_shows() -> None:
    [recipe] = recipes("demo")
    assert recipe == "sca-deploy run configs/digits.toml"
    assert load_config(ROOT / "configs" / "digits.toml") == load_config("digits")
    assert "$ make demo" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["$ echo 0 mismatches", "0 mismatches"], ""),
        (["$ echo 3 mismatches", "0 mismatches"], "page.md:2: $ echo 3 mismatches\n  line 3\n  - 0 mismatches\n"),
        (["$ true", "$ false"], "page.md:3: $ false\n  exit code 1"),
        (["$ false  # exit code 1"], ""),
        (["$ (echo step 1 of 2; echo error: lost; exit 2) >&2", "error: lost"], ""),
        (
            ["$ (echo error: lost; exit 2) >&2", "error: found"],
            "page.md:2: $ (echo error: lost; exit 2) >&2\n  line 3\n",
        ),
        (["$ (echo error: lost) >&2", "error: lost"], "page.md:2: $ (echo error: lost) >&2\n  exit code 0"),
        (["$ echo nothing is said of this"], ""),
        (["$ echo kept > left", "$ cat left", "kept"], ""),
        (["$ sca-deploy mpa", "error: unknown command 'mpa'", "fix: did you mean 'map'? known: ..."], ""),
    ],
)
def test_a_page_that_shows_what_is_not_so_fails(
    lines: list[str], wrong: str, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    shown = parse_page("\n".join(["```console", *lines, "```"]), "page.md")
    found = walk(shown, Shell(tmp_path, shell_environment))
    assert "\n".join(found).startswith(wrong)
    assert bool(found) is bool(wrong)


def test_a_block_that_needs_what_is_not_there_is_left_out(tmp_path: Path, shell_environment: dict[str, str]) -> None:
    lines = ["```console", "$ touch one", "```", "<!-- needs: nmnist -->", "```console", "$ touch two", "```"]
    assert walk(parse_page("\n".join(lines), "page.md"), Shell(tmp_path, shell_environment), {"nmnist"}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("shown", "wrong"), [("(360, 'digits')", ""), ("(36, 'digits')", "(360, is too far from (36,")]
)
def test_a_session_goes_on_in_the_next_block_beside_files_and_commands(
    shown: str, wrong: str, tmp_path: Path, shell_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["<!-- file: samples.txt -->", "```text", "36", "```", "```console", "$ echo 360 > samples.txt", "```"]
    lines += ["```python", ">>> from pathlib import Path", '>>> name = "digits"', "```"]
    lines += ["```python", ">>> int(Path('samples.txt').read_text()), name", shown, "```"]
    found = "\n".join(walk(parse_page("\n".join(lines), "page.md"), Shell(tmp_path, shell_environment)))
    assert wrong in found
    assert ('page.md", line 13, in page.md' in found) is bool(wrong)


def recipes(target: str) -> list[str]:
    """The commands of a target of the Makefile, without the folder that they lie in."""
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    lines = [line.strip() for line in rule.group(1).splitlines()] if rule else []
    return [line.removeprefix("$(BIN)/") for line in lines if not line.startswith("@echo")]


def meanings(text: str) -> list[list[str]]:
    """What a command is: itself, or what a target of the Makefile runs."""
    typed = words(text)
    return [heading(text)] if typed[0] != "make" else [heading(recipe) for recipe in recipes(typed[1])]


def heading(text: str) -> list[str]:
    """A command without its arguments: a program, and its sub-command or the script it runs."""
    typed = words(text)
    path, _ = resolve(typed)
    return path if typed[0] == "sca-deploy" else typed[:2]


def resolve(typed: Sequence[str]) -> tuple[list[str], click.Command]:
    """The words that name a command of `sca-deploy`, and the command."""
    command: click.Command = cli
    path = [typed[0]]
    for word in typed[1:]:
        if not isinstance(command, click.Group) or word not in command.commands:
            break
        command = command.commands[word]
        path.append(word)
    return path, command


def unknown(typed: Sequence[str]) -> str:
    """What of a `sca-deploy` command does not exist; empty for other programs."""
    if not typed or typed[0] != "sca-deploy":
        return ""
    path, command = resolve(typed)
    rest = list(typed[len(path) :])
    end = next((at for at, word in enumerate(rest) if word in ("|", ">", "&&", ";", "2>")), len(rest))
    if isinstance(command, click.Group) and rest[:1] and rest[0].islower() and not rest[0].startswith("-"):
        return f"there is no command {rest[0]}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.split("=")[0] for word in rest[:end] if re.match(r"--?[a-z]", word)}
    return ", ".join(f"there is no option {option}" for option in sorted(given - known - {"-h", "--help"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sca-deploy map runs/digits --keep 0.8,0.5 --json -q", ""),
        ("sca-deploy data check NAME", ""),
        ("sca-deploy COMMAND --help", ""),
        ("sca-deploy map runs/digits | grep --count conv", ""),
        ("other --wrong", ""),
        ("sca-deploy mpa runs/digits", "there is no command mpa"),
        ("sca-deploy data czech digits", "there is no command czech"),
        ("sca-deploy map runs/digits --keeep 0.8", "there is no option --keeep"),
        ("sca-deploy map runs/digits --epochs=3", "there is no option --epochs"),
    ],
)
def test_a_command_or_option_that_does_not_exist_is_named(text: str, problem: str) -> None:
    assert unknown(words(text)) == problem
