"""Every error a user can meet, with the exit code the command line gives it.

ScaDeployError          1   the work failed (a damaged file, wrong data)
|-- UsageError          2   the request itself is wrong (unknown target, impossible config)
|-- DoesNotFit          3   a network exceeds the chip
|-- Mismatch            4   two executions that must agree do not
`-- MissingExtra        5   an optional component is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScaDeployError(Exception):
    """One line saying what is wrong (object, actual value, limit), one line how to mend it.

    Args:
        problem: the object, its actual value and the limit it breaks, in one line.
        fix: what the user can do about it, in one line; empty when nothing can be advised.
    """

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = " ".join(problem.split())
        self.fix = " ".join(fix.split())


class UsageError(ScaDeployError):
    """The request is wrong: an unknown name, a config that cannot be meant."""

    exit_code = 2


class DoesNotFit(ScaDeployError):
    """The network needs more than the chip has."""

    exit_code = 3


class Mismatch(ScaDeployError):
    """Two executions that must agree bit for bit do not."""

    exit_code = 4


class MissingExtra(ScaDeployError):
    """An optional component is absent; `fix` holds the line that installs it."""

    exit_code = 5


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in `known`, suggesting the nearest one.

    Args:
        kind: what was named, e.g. "target".
        name: what the user wrote.
        known: the names that exist.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1)
    fix = f"did you mean '{near[0]}'? " if near else ""
    return UsageError(f"unknown {kind} '{name}'", f"{fix}known: {', '.join(choices)}")
