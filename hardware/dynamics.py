"""What a NIR file leaves open about its neurons: the time step, the reset, and what happens at the threshold.

NIR's equations are in continuous time. One step of dt of a spiking population, whose input of the step brings v to
v[t] as `euler` says, ends with

    fires      v > v_threshold; with tie = "ge" also v = v_threshold
    spikes     1; with multi_spike as many times as the threshold fits, floor(v / v_threshold)
    reset      hard: v = v_reset; subtract: v = v - spikes v_threshold
    clamp      v = max(v, clamp) after the reset; clamp = "threshold" is -v_threshold and holds for IF neurons only,
               which is how sinabs brings them in
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sca_deploy.errors import UsageError, unknown_name

RESETS = ("hard", "subtract")
TIES = ("gt", "ge")
KEYS = ("dt", "reset", "multi_spike", "clamp", "tie")
"""The keys under which a graph's metadata remembers them."""


@dataclass(frozen=True)
class Dynamics:
    """How the neurons of a graph step through time; dt is in seconds.

    Raises:
        UsageError: if a value cannot be meant.
    """

    dt: float
    reset: str = "hard"
    multi_spike: bool = False
    clamp: float | str | None = None
    tie: str = "gt"

    def __post_init__(self) -> None:
        if not (isinstance(self.dt, float | int) and 0 < self.dt < math.inf):
            raise UsageError(f"dt is {self.dt!r} s, it must be a positive number", "give --dt SECONDS, e.g. --dt 1e-4")
        if self.reset not in RESETS:
            raise unknown_name("reset", str(self.reset), RESETS)
        if self.tie not in TIES:
            raise unknown_name("tie", str(self.tie), TIES)
        if self.multi_spike and self.reset != "subtract":
            raise UsageError("several spikes a step leave nothing to a hard reset", "give --reset subtract as well")
        clamped = self.clamp is None or self.clamp == "threshold"
        if not clamped and not (isinstance(self.clamp, float | int) and -math.inf < self.clamp <= 0):
            raise UsageError(f"clamp is {self.clamp!r}", "give 'threshold', or a number of at most 0")

    @property
    def plain(self) -> bool:
        """Whether it is NIR's own: one spike where v > v_threshold, a hard reset, no clamp."""
        return self == Dynamics(self.dt)

    def metadata(self) -> dict[str, Any]:
        """What a graph's metadata remembers: dt and reset always, the rest where it is not NIR's own."""
        values = {"dt": float(self.dt), "reset": self.reset, "multi_spike": int(self.multi_spike)}
        values |= {"clamp": self.clamp, "tie": self.tie}
        usual = {"multi_spike": 0, "clamp": None, "tie": "gt"}
        return {key: value for key, value in values.items() if key not in usual or value != usual[key]}
