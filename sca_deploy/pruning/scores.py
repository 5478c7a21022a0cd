"""How active a channel is: the scores channels are ranked by.

Averages over time, samples and space of a population's membrane potential V before the reset, which
is what the threshold sees, and of its spikes S:

    potential  mean |V|           the SCA paper's importance (Li et al., ICML 2024)
    activity   mean S + |V after the reset|           its released code's
    rate       mean S             the firing rate
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sca_deploy.errors import unknown_name

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    """Mean over every axis but the channel's, which is the third: (T, N, C, ...) to (C,)."""
    return values.mean([axis for axis in range(values.dim()) if axis != 2])


def _potential(v: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    return _per_channel(v.abs())


def _activity(v: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    # After the reset a neuron that fired holds 0, so S + |V| is 1 there and |V| elsewhere.
    return _per_channel(torch.where(spikes > 0, spikes, v.abs()))


def _rate(v: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    return _per_channel(spikes)


SCORES: dict[str, Score] = {"potential": _potential, "activity": _activity, "rate": _rate}


def score(name: str) -> Score:
    """The named score: (potentials, spikes), both (T, N, C, ...), to one number a channel (C,).

    Raises:
        UsageError: if there is no score of that name.
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    return SCORES[name]
