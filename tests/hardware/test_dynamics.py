"""What can be said about the neurons of a NIR file, and what cannot be meant."""

import math

import pytest

from sca_deploy.errors import UsageError
from sca_deploy.hardware.dynamics import KEYS, Dynamics


def test_left_alone_it_is_what_nir_says():
    assert Dynamics(1e-4) == Dynamics(1e-4, reset="hard", multi_spike=False, clamp=None, tie="gt")
    assert Dynamics(1e-4).plain


@pytest.mark.parametrize(
    "others",
    [{"reset": "subtract"}, {"reset": "subtract", "multi_spike": True}, {"clamp": 0.0}, {"clamp": "threshold"},
     {"tie": "ge"}],
)  # fmt: skip
def test_whatever_else_is_said_is_not_nirs_own(others):
    assert not Dynamics(1e-4, **others).plain


@pytest.mark.parametrize("dt", [0, -1e-4, math.inf, math.nan, "1e-4", None])
def test_a_time_step_is_a_positive_number(dt):
    with pytest.raises(UsageError, match="dt is .*, it must be a positive number") as error:
        Dynamics(dt)
    assert "--dt" in error.value.fix


@pytest.mark.parametrize(
    ("said", "problem", "fix"),
    [
        ({"reset": "soft"}, "unknown reset 'soft'", "subtract"),
        ({"reset": 0}, "unknown reset '0'", "hard"),
        ({"tie": ">"}, "unknown tie '>'", "gt"),
        ({"multi_spike": True}, "several spikes a step leave nothing to a hard reset", "--reset subtract"),
        ({"clamp": 0.5}, "clamp is 0.5", "at most 0"),
        ({"clamp": -math.inf}, "clamp is -inf", "at most 0"),
        ({"clamp": math.nan}, "clamp is nan", "at most 0"),
        ({"clamp": "none"}, "clamp is 'none'", "threshold"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(said, problem, fix):
    with pytest.raises(UsageError) as error:
        Dynamics(1e-4, **said)
    assert problem in error.value.problem
    assert "\n" not in error.value.problem
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("dynamics", "remembered"),
    [
        (Dynamics(1e-4), {"dt": 1e-4, "reset": "hard"}),
        (Dynamics(1, tie="ge"), {"dt": 1.0, "reset": "hard", "tie": "ge"}),
        (
            Dynamics(1e-3, "subtract", True, "threshold", "ge"),
            {"dt": 1e-3, "reset": "subtract", "multi_spike": 1, "clamp": "threshold", "tie": "ge"},
        ),
        (Dynamics(1e-3, clamp=-0.5), {"dt": 1e-3, "reset": "hard", "clamp": -0.5}),
    ],
)
def test_a_graph_remembers_the_step_and_the_reset_and_whatever_is_not_nirs_own(dynamics, remembered):
    metadata = dynamics.metadata()
    assert metadata == remembered
    assert set(metadata) <= set(KEYS)
    # As HDF5 attributes of any reader: no truth values, no None.
    assert {type(value) for value in metadata.values()} <= {float, str, int}


@pytest.mark.parametrize("clamp", [0, -1, -0.25])
def test_a_clamp_of_zero_or_below_is_a_number(clamp):
    assert Dynamics(1e-4, clamp=clamp).clamp == clamp
