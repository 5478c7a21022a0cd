"""A page says what is run, in which order and form, and what must be printed; what is written otherwise is refused."""

from __future__ import annotations

import pytest

from tests.docs.pages import BadPage, Command, Page, parse_page, words


def parsed(*lines: str) -> Page:
    return parse_page("\n".join(lines), "page.md")


def commands(*lines: str) -> list[Command]:
    return parsed(*lines).commands


def test_a_command_is_followed_by_what_it_prints() -> None:
    first, second = commands("Text.", "", "```console", "$ one --two", "printed", "", "more", "$ three", "```", "Text.")
    assert (first.text, first.run, first.line, first.expected) == ("one --two", "one --two", 4, ("printed", "", "more"))
    assert (second.text, second.line, second.expected) == ("three", 8, ())


def test_a_backslash_continues_a_command() -> None:
    [command] = commands("```console", "$ one \\", ">   --two \\", "    --three", "printed", "```")
    assert words(command.text) == ["one", "--two", "--three"]
    assert command.expected == ("printed",)


def test_an_indented_fence_is_one() -> None:
    [command] = commands("1. Do this:", "", "   ```console", "   $ one", "     printed", "   ```")
    assert (command.text, command.expected) == ("one", ("  printed",))


def test_fences_within_a_directive_are_found_and_longer_marks_close_longer_fences() -> None:
    lines = ["````{note}", "```console", "$ one", "```", "````", ":::{tip}", "```console", "$ two", "```", ":::"]
    assert [command.text for command in commands(*lines)] == ["one", "two"]
    assert commands("````text", "```console", "$ one", "```", "````") == []


def test_a_block_may_be_shown_only() -> None:
    first, second = commands("<!-- not run: takes hours -->", "", "```console", "$ one", "$ two", "```")
    assert first.not_run == second.not_run == "takes hours"


def test_each_command_may_have_a_smaller_form() -> None:
    steering = ["<!-- run as: one --small -->", "<!-- not run: takes hours -->"]
    first, second = commands(*steering, "```console", "$ one", "$ two", "```")
    assert (first.run, first.smaller, first.not_run) == ("one --small", True, "")
    assert (second.smaller, second.not_run) == (False, "takes hours")


def test_a_need_holds_from_its_place_to_the_end() -> None:
    lines = ["```console", "$ one", "```", "<!-- needs: digits, nmnist -->", "```console", "$ two", "```", "Text."]
    page = parsed(*lines, "```console", "$ three", "```")
    assert [sorted(block.needs) for block in page.blocks] == [[], ["digits", "nmnist"], ["digits", "nmnist"]]
    assert page.needs == {"digits", "nmnist"}


def test_a_fence_may_be_a_file_that_the_reader_saves() -> None:
    [block] = parsed("<!-- file: mine.toml -->", "```toml", "[data]", 'set = "digits"', "```").blocks
    assert (block.file, block.fence.lines) == ("mine.toml", ("[data]", 'set = "digits"'))


def test_only_python_with_prompts_is_a_session() -> None:
    page = parsed("```python", ">>> 1 + 1", "2", "```", "```python", "x = 1", "```", "```toml", "[a]", "```")
    assert [block.fence.lines for block in page.blocks] == [((">>> 1 + 1"), "2")]


@pytest.mark.parametrize(
    ("shown", "code", "fine"),
    [
        (["$ one"], 0, True),
        (["$ one"], 1, False),
        (["$ one", "error: it failed"], 2, True),
        (["$ one", "error: it failed"], 0, False),
        (["$ one", "error: it failed"], 130, False),
        (["$ one  # exit code 2", "error: it failed"], 2, True),
        (["$ one  # exit code 2", "error: it failed"], 3, False),
        (["$ one  # exit code 3"], 3, True),
        (["$ one  # exit code 3"], 0, False),
    ],
)
def test_a_command_ends_with_the_code_that_the_page_says(shown: list[str], code: int, fine: bool) -> None:
    [command] = commands("```console", *shown, "```")
    assert command.may_end_with(code) is fine


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["```console", "printed", "$ one", "```"], "page.md:1: output before the first command"),
        (["```console", "sca-deploy map x", "```"], "page.md:1: output before the first command"),
        (["```console", "", "```"], "page.md:1: a console block without a command"),
        (["Text.", "```console", "$ one"], "page.md:2: the fence is not closed"),
        (["<!-- not-run: why -->"], "page.md:1: <!-- not-run: why --> is no comment that is known"),
        (["<!-- not run -->"], "page.md:1: <!-- not run --> is no comment that is known"),
        (["<!-- run as: a -->", "Text.", "```console", "$ a", "```"], "page.md:2: 'run as: a' stands before no fence"),
        (["<!-- run as: a -->"], "page.md: the end: 'run as: a' stands before no fence"),
        (["<!-- run as: a -->", "```console", "$ a", "$ b", "```"], "page.md:2: 1 comments for 2 commands"),
        (["<!-- run as: a -->", "```python", ">>> 1", "```"], "page.md:2: a session has no smaller form"),
        (["<!-- not run: a -->", "```toml", "[a]", "```"], "page.md:2: a fence that is not run has a comment"),
        (["<!-- file: a -->", "```console", "$ a", "```"], "page.md:2: a console block is not saved as a file"),
    ],
)
def test_a_page_that_breaks_the_convention_is_refused_by_its_line(lines: list[str], problem: str) -> None:
    with pytest.raises(BadPage) as caught:
        parsed(*lines)
    assert str(caught.value).startswith(problem)


def test_commands_in_sentences_and_outside_of_console_blocks_are_listed() -> None:
    page = parsed(
        "Use `sca-deploy map X`, or `map`.", "", "    $ sca-deploy env", "```bash", "sca-deploy targets", "```"
    )
    assert page.inline == [(1, "sca-deploy map X")]
    assert [line for line, _ in page.elsewhere] == [3, 4]


def test_a_table_that_names_the_program_is_no_command() -> None:
    assert parsed("```text", "sca-deploy          332.5  321.4", "sca-deploy, SCA  333.9", "```").elsewhere == []


def test_words_of_a_command_leave_out_variables_and_comments() -> None:
    assert words("A=1 B='2 3' one 'two three'  # four") == ["one", "two three"]
