"""A profile: the passes that bring a graph into it, and how its readers want the result spelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nir

from sca_deploy.exporters.profiles.draft import Draft, Pass


@dataclass(frozen=True)
class Profile:
    """One way of writing NIR.

    Args:
        summary: one line on who reads it.
        passes: in order; what they give is what the readers compute, by NIR's equations.
        kinds: the node types that may be left.
        spelling: passes that write it as these readers want it where their equations are not NIR's.
        check: raises for what the passes should not have left over; given the graph and dt.
    """

    name: str
    summary: str
    passes: tuple[Pass, ...]
    kinds: tuple[str, ...]
    spelling: tuple[Pass, ...] = ()
    check: Callable[[nir.NIRGraph, float], None] | None = None

    def through(self, draft: Draft) -> Draft:
        """All passes, and a refusal for each node type that is left and not known."""
        for step in self.passes:
            draft = step(draft)
        for name, node in draft.nodes.items():
            kind = type(node).__name__
            if kind not in self.kinds:
                draft = draft.refusing(f"node '{name}' is a {kind}, not one of {', '.join(self.kinds)}")
        return draft

    def spelled(self, draft: Draft) -> Draft:
        """As the readers want it."""
        for step in self.spelling:
            draft = step(draft)
        return draft
