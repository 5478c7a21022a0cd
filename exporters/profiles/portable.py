"""The portable profile: what norse 1.1, snntorch 1.0 and spikingjelly 2.0 execute alike.

- LIF: tau dv/dt = v_leak - v + R i with R = 1, v_leak = 0, hard reset to 0. One Euler step of dt is
  v = beta v + (1 - beta) i with beta = 1 - dt / tau, so weights and biases carry the factor 1 / (1 - beta).
- CubaLIF: R = tau_mem / dt and w_in = tau_syn / dt, so that a step is i = alpha i + x, v = beta v + i.
- IF: R = 1 / dt, so a step adds the input as it is; norse, which ignores R, does the same. snntorch takes none.
- dt is 1e-4 s, which snntorch cannot be told otherwise; float32, one value a population.
- no groups, square kernels, sums instead of averages, Flatten from the end, one edge into the Output.
- a population that reads itself is a nested graph of four nodes; several of them are numbered in their order.

All three run LIF and CubaLIF in convolutional, recurrent and residual networks with exactly these spikes, norse and
spikingjelly IF as well. norse adds up branches of which neither is a way around the other wrongly (it runs one before
the other is there), and spikingjelly fires where a potential meets the threshold exactly; see `spikingjelly`.
"""

from __future__ import annotations

from functools import partial

from sca_deploy.exporters.profiles.convolutions import (
    flattening_everything,
    matrices_read_flat,
    padded_pools_as_convolutions,
    plain_convolutions,
    with_biases,
)
from sca_deploy.exporters.profiles.firing import reset_hard, tied
from sca_deploy.exporters.profiles.naming import flat_metadata, named
from sca_deploy.exporters.profiles.neurons import (
    constant_currents,
    longer_than_a_step,
    normalised,
    readouts_left_out,
    sharing,
    shifted,
    thresholds_as_neurons,
    whole,
)
from sca_deploy.exporters.profiles.ordering import in_order, narrowed, one_way_out
from sca_deploy.exporters.profiles.profile import Profile
from sca_deploy.exporters.profiles.recurrence import (
    met_after_what_they_read,
    nested,
    through_matrices,
    without_constant_feedback,
)
from sca_deploy.exporters.profiles.retime import retimed, undelayed
from sca_deploy.exporters.profiles.rules import PORTABLE_DT, PORTABLE_NODES, check_portable
from sca_deploy.exporters.profiles.scales import averages_as_sums, scales_folded

ARRANGED = (whole, with_biases, undelayed, flattening_everything, matrices_read_flat)
"""Every profile begins so: whole arrays, biases, no waiting, explicit Flattens."""
MAPPED = (padded_pools_as_convolutions, plain_convolutions, through_matrices, without_constant_feedback, one_way_out)
"""Maps and loops as torch readers take them, once no scale is left."""
WRITTEN = (named, in_order, narrowed, flat_metadata)
"""Every profile ends so."""

PORTABLE = Profile(
    name="portable",
    summary="what norse, snntorch and spikingjelly execute alike",
    passes=(
        *ARRANGED,
        reset_hard,
        thresholds_as_neurons,
        partial(retimed, dt=PORTABLE_DT),
        readouts_left_out,
        averages_as_sums,
        scales_folded,
        shifted,
        sharing,
        constant_currents,
        partial(normalised, resistance="one"),
        longer_than_a_step,
        *MAPPED,
        partial(tied, tie="gt"),
        *WRITTEN,
        nested,
        met_after_what_they_read,
    ),
    kinds=(*PORTABLE_NODES, "NIRGraph"),
    check=check_portable,
)
