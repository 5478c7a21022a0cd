"""When what a command prints is what its page shows.

Words are equal. A number that training, a machine or a clock decides may differ a little:

- about as large: within 35 %, or by one in the last place shown. A share (between 0 and 1, or in %) and what it lacks
  to the whole are both within 35 %, or it is within 5 points; of small percentages, within half or 1 point;
- a residue of rounding (1e-06): at most ten times as large;
- a time by the clock (s, min, hours): any;
- integers of a layer whose scale was searched (columns `max |w|`, `max |bias|`, `threshold`): within a factor of 3.

A number that none of these decides is equal: in the first cell of a row, beside or below a word of `EXACT`, after an
option or a label, as part of a word (8x8, lif1, 1.1.0); and 0 is 0. Of a shape of three sizes the first, channels, may
be about as large, and a core of a floor plan (A7) two tenths fuller or emptier. Where a smaller form of a command was
run, numbers are free, but first cells, labels, mismatches and 0 are not.

Runs of spaces, empty lines and what boxes and bars are drawn with count for nothing. A line `...` stands for any
lines, a word `...` for any words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

NEVER_FREE = {"mismatch", "mismatches", "differ", "differs", "differing"}
EXACT = {"steps", "samples", "epochs", "seeds", "chips", "classes", "images", "recordings", "layers", "bits", "limit"}
EXACT |= NEVER_FREE | {"beta", "alpha"}
ADJECTIVES = {"test", "training", "real"}
LABELS = {"seed", "opset", "version", "code", "line"}
SCALED = {"|w|", "|bias|", "threshold"}
CLOCK = {"s", "second", "seconds", "min", "minute", "minutes", "h", "hour", "hours"}

DRAWN = re.compile("[\u2500-\u259f\u2800-\u28ff]")
"""Lines, bars, shades and dots: they draw what is also said."""

NUMBER = re.compile(
    r"""(?P<before>[(\[{"'~±+|]*)
        (?P<number>-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?P<exponent>e[-+]?\d+)?)
        (?P<after>%?[)\]}"',;:.|]*)""",
    re.VERBOSE,
)
SHAPE = re.compile(r"(\d+)((?:x\d+){2,}[,;:.)]*)")
TILE = re.compile(r"(?:[A-Za-z#]\d|\.)+")


def is_any(text: str) -> bool:
    """Whether a line or a word stands for any."""
    return text.strip() in ("...", "…")


@dataclass(frozen=True)
class Difference:
    """One line that is not as shown: its number among the lines shown (from 0), both texts (None: absent), and why."""

    line: int
    expected: str | None
    got: str | None
    why: str

    def __str__(self) -> str:
        shown = [f"  {sign} {text}" for sign, text in (("-", self.expected), ("+", self.got)) if text is not None]
        return "\n".join([*shown, f"    {self.why}"])


@dataclass(frozen=True)
class Word:
    """A word of a line: which cell it is in (cells lie two spaces or more apart), and what is above that cell."""

    text: str
    cell: int
    above: frozenset[str]

    @property
    def bare(self) -> str:
        """The word without what punctuation surrounds it."""
        return self.text.strip("()[]{}\"',;:.").lower()


@dataclass(frozen=True)
class Line:
    """A line that the page shows, with its number among them, its words, and whether its numbers are free."""

    number: int
    text: str
    words: tuple[Word, ...]
    smaller: bool

    def objection(self, got: str) -> str:
        """Why `got` is another line; empty if it is the same."""
        ours, theirs = list(self.words), got.split()
        gap = next((at for at, word in enumerate(ours) if is_any(word.text)), None)
        if gap is not None:
            tail = len(ours) - gap - 1
            if len(theirs) < gap + tail:
                return "words are missing"
            ours, theirs = ours[:gap] + ours[gap + 1 :], theirs[:gap] + theirs[len(theirs) - tail :]
        for at, (word, other) in enumerate(zip(ours, theirs, strict=False)):
            if word.text != other and (why := self._differs(ours, at, other)):
                return why
        if len(ours) > len(theirs):
            return f"'{ours[len(theirs)].text}' is missing"
        return f"'{theirs[len(ours)]}' is not shown" if len(theirs) > len(ours) else ""

    def _differs(self, words: list[Word], at: int, other: str) -> str:
        word = words[at].text
        if TILE.fullmatch(word) and TILE.fullmatch(other) and _tiles_alike(word, other):
            return ""
        ours, theirs = SHAPE.fullmatch(word), SHAPE.fullmatch(other)
        if ours and theirs and ours[2] == theirs[2] and (self.smaller or _about(int(ours[1]), int(theirs[1]), 1)):
            return ""
        ours, theirs = NUMBER.fullmatch(word), NUMBER.fullmatch(other)
        if not ours or not theirs or (ours["before"], ours["after"]) != (theirs["before"], theirs["after"]):
            return f"'{other}' is not '{word}'"
        named = self._named(words, at)
        if named:
            return f"{other} is not {word}, {named}"
        following = words[at + 1].bare if at + 1 < len(words) else ""
        percent = "%" in ours["after"] or following.startswith("%")
        if following in CLOCK:
            return ""
        if not percent and not _residue(ours) and _kind(ours) != _kind(theirs):
            return f"{other} is not {word}: 0 and the sign are exact"
        if self.smaller or _may_be(ours, theirs, percent, words[at].above):
            return ""
        return f"{other} is too far from {word}"

    def _named(self, words: list[Word], at: int) -> str:
        """Why the number at a place must be equal; empty if it need not."""
        if words[at].cell == 0 and words[-1].cell > 0:
            return "the first cell of a row"
        if at and (words[at - 1].text.startswith("--") or words[at - 1].bare in LABELS):
            return "which names something"
        following = [word.bare for word in words[at + 1 : at + 3]]
        if following and following[0] not in ADJECTIVES:
            del following[1:]
        found = (NEVER_FREE if self.smaller else EXACT) & {*following, *words[at].above}
        return f"a number of {min(found)}" if found else ""


def compare(expected: Sequence[str], printed: Sequence[str], smaller: bool = False) -> list[Difference]:
    """Every line of what was printed that is not as shown; empty if all is.

    Args:
        expected: the lines that the page shows.
        printed: the lines that the command printed.
        smaller: whether a smaller form of the command printed them.
    """
    got = [line for line in map(_plain, printed) if line.strip()]
    pieces: list[list[Line]] = [[]]
    for line in _lines(expected, smaller):
        if is_any(line.text):
            pieces.append([])
        else:
            pieces[-1].append(line)
    return _all_pieces(pieces, got)


def _plain(line: str) -> str:
    return DRAWN.sub(" ", line.expandtabs())


def _lines(expected: Sequence[str], smaller: bool) -> list[Line]:
    """The lines that are not empty. A table's header is its first line of several cells; it ends at an empty line."""
    found: list[Line] = []
    header: list[tuple[int, int, str]] = []
    for number, text in enumerate(map(_plain, expected)):
        cells = [(cell.start(), cell.end(), cell.group()) for cell in re.finditer(r"\S+(?: \S+)*", text)]
        if not cells:
            header = []
            continue
        words = [
            Word(word, index, _above(header, start, end))
            for index, (start, end, cell) in enumerate(cells)
            for word in cell.split()
        ]
        found.append(Line(number, text, tuple(words), smaller))
        header = header or (cells if len(cells) > 1 else [])
    return found


def _above(header: list[tuple[int, int, str]], start: int, end: int) -> frozenset[str]:
    """The words of the header's cell that covers most of the places from `start` to `end`."""
    covering = max(header, key=lambda cell: min(end, cell[1]) - max(start, cell[0]), default=(0, 0, ""))
    return frozenset(covering[2].split()) if min(end, covering[1]) > max(start, covering[0]) else frozenset()


def _tiles_alike(ours: str, theirs: str) -> bool:
    """Whether two tiles hold cores of the same layers, about as full."""
    both = zip(ours, theirs, strict=False)
    near = all(a == b or (a.isdigit() and b.isdigit() and abs(int(a) - int(b)) <= 2) for a, b in both)
    return near and len(ours) == len(theirs)


def _residue(number: re.Match[str]) -> bool:
    """Whether a number is what rounding left, such as 1e-06."""
    return (number["exponent"] or "").startswith("e-")


def _kind(number: re.Match[str]) -> str:
    """Whether a number is below 0, a whole 0, which says that there is none, or any other."""
    written = number["number"]
    return "below" if written.startswith("-") else "none" if written == "0" else "some"


def _may_be(ours: re.Match[str], theirs: re.Match[str], percent: bool, above: frozenset[str]) -> bool:
    """Whether a number that is not named may stand where another is shown."""
    a, b = (float(match["number"].replace(",", "")) for match in (ours, theirs))
    if _residue(ours):
        return abs(b) <= 10 * abs(a)
    unit = 10.0 ** -len(ours["number"].partition(".")[2])
    if percent:
        return _share(a / 100, b / 100, unit / 100) or abs(a - b) <= min(5, max(1, a / 2))
    if SCALED & above:
        return 0 < max(a, b) <= 3 * min(a, b)
    return _share(a, b, unit) if 0 <= a < 1 else _about(a, b, unit)


def _about(a: float, b: float, unit: float) -> bool:
    """Whether two numbers have one sign and lie within 35 %, or a unit of the last place."""
    return abs(a - b) <= unit * 1.001 or (a * b > 0 and max(abs(a), abs(b)) <= 1.35 * min(abs(a), abs(b)))


def _share(a: float, b: float, unit: float) -> bool:
    """Whether two shares are about as large, and so is what they lack, if that is more than 5 points apart."""
    return _about(a, b, unit) and (abs(a - b) <= 0.05 or _about(1 - a, 1 - b, unit))


def _all_pieces(pieces: list[list[Line]], got: list[str]) -> list[Difference]:
    """Pieces in order, any lines between them; the first begins what was printed, the last ends it."""
    found: list[Difference] = []
    at = 0
    for index, piece in enumerate(pieces):
        first, last = index == 0, index == len(pieces) - 1
        if first and last:
            return _aligned(piece, got)
        if not piece:
            continue
        room = range(at, len(got) - len(piece) + 1)
        starts = room[:1] if first else room[-1:] if last else room
        start = next((s for s in starts if not _zipped(piece, got[s:])), None)
        if start is None:
            found += _nearest(piece, got, at, first, last)
        else:
            at = start + len(piece)
    return found


def _zipped(piece: list[Line], got: list[str]) -> list[Difference]:
    """The differences of lines that lie side by side."""
    pairs = ((line, other, line.objection(other)) for line, other in zip(piece, got, strict=False))
    return [Difference(line.number, line.text, other, why) for line, other, why in pairs if why]


def _nearest(piece: list[Line], got: list[str], at: int, first: bool, last: bool) -> list[Difference]:
    """What is wrong with the lines most like a piece that was not found."""
    if first:
        return _aligned(piece, got[: len(piece)])
    if last:
        return _aligned(piece, got[max(at, len(got) - len(piece)) :])
    windows = [got[start : start + len(piece)] for start in range(at, max(at + 1, len(got) - len(piece) + 1))]
    return min((_aligned(piece, window) for window in windows), key=len)


def _aligned(piece: list[Line], got: list[str]) -> list[Difference]:
    """The differences of two texts, lines that are missing or too many told as such."""
    ours, theirs = ([_skeleton(text) for text in texts] for texts in ([line.text for line in piece], got))
    found: list[Difference] = []
    for _, i1, i2, j1, j2 in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        both = min(i2 - i1, j2 - j1)
        found += _zipped(piece[i1 : i1 + both], got[j1 : j1 + both])
        found += [Difference(line.number, line.text, None, "the line is missing") for line in piece[i1 + both : i2]]
        place = piece[i2 - 1].number if i2 else 0
        found += [Difference(place, None, line, "the line is not shown") for line in got[j1 + both : j2]]
    return found


def _skeleton(text: str) -> str:
    """A line with its numbers left out, which is how lines are recognised."""
    return " ".join("#" if NUMBER.fullmatch(word) else word for word in text.split())
