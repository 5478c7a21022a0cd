"""spikingjelly 2.0: the portable profile, with ties decided as it was told.

spikingjelly fires where the potential reaches the threshold, `>=`; a graph whose neurons fire above it has its
thresholds raised by one float32 step, so that no float32 potential decides anew. Its `import_from_nir` is given
dt = 1e-4, its default. IF is taken with R = 1 / dt, LIF with R = 1 and tau > dt. Networks of integers, whose
potentials meet their thresholds all the time, were run in it with exactly these spikes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sca_deploy.exporters.profiles.firing import tied
from sca_deploy.exporters.profiles.portable import PORTABLE

SPIKINGJELLY = replace(
    PORTABLE,
    name="spikingjelly",
    summary="spikingjelly, which fires at the threshold itself",
    passes=tuple(
        partial(tied, tie="ge") if isinstance(step, partial) and step.func is tied else step for step in PORTABLE.passes
    ),
)
