"""Do the scores that pruning ranks channels by agree with what the channels turn out to be worth?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from sca_deploy.errors import ScaDeployError

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
ALL = "all"
"""The layer name of the rows over all layers together."""


def rank_correlations(
    values: Mapping[str, npt.ArrayLike],
    scores: Mapping[str, npt.ArrayLike],
    layers: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Rank correlation of every score with every value, over all channels and within each layer.

    Args:
        values: what channels are worth, e.g. {"shapley": (channels,)}.
        scores: what ranks them, e.g. {"potential": (channels,)}; the same channels in the same order.
        layers: each channel's layer; without it there are no rows within layers.
        seed: of the bootstrap over channels.
        resamples: how many bootstrap samples the interval rests on.

    Returns:
        {"layer" (or "all"), "target", "score", "channels", "spearman", "spearman_low", "spearman_high",
        "spearman_p", "kendall", "kendall_p"}: Spearman's rho with the 95 % percentile bootstrap interval, and
        Kendall's tau-b, two-sided p-values. All None where a side is constant or fewer than 3 channels exist.

    Raises:
        ScaDeployError: if lengths differ or a value is not finite.
    """
    targets = {name: _checked("value", name, array) for name, array in values.items()}
    ranked_by = {name: _checked("score", name, array) for name, array in scores.items()}
    names = None if layers is None else np.asarray(layers)
    _check_lengths({**targets, **ranked_by} | ({} if names is None else {"layers": names}))
    groups: dict[str, Any] = {ALL: slice(None)}
    if names is not None:
        groups |= {layer: names == layer for layer in dict.fromkeys(layers or ())}
    return [
        {"layer": layer, "target": target, "score": score, **_correlation(v[members], s[members], seed, resamples)}
        for layer, members in groups.items()
        for target, v in targets.items()
        for score, s in ranked_by.items()
    ]


def _correlation(value: Array, score: Array, seed: int, resamples: int) -> dict[str, Any]:
    keys = ("spearman", "spearman_low", "spearman_high", "spearman_p", "kendall", "kendall_p")
    row: dict[str, Any] = {"channels": len(value), **dict.fromkeys(keys)}
    if len(value) < 3 or np.ptp(value) == 0 or np.ptp(score) == 0:
        return row
    spearman, kendall = stats.spearmanr(value, score), stats.kendalltau(value, score)
    low, high = _bootstrap(value, score, seed, resamples)
    numbers = (spearman.statistic, low, high, spearman.pvalue, kendall.statistic, kendall.pvalue)
    return row | {key: float(number) for key, number in zip(keys, numbers, strict=True)}


def _bootstrap(value: Array, score: Array, seed: int, resamples: int) -> tuple[float, float]:
    """Percentile interval of Spearman's rho over channels drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(0, len(value), (resamples, len(value)))
    a, b = (stats.rankdata(array[drawn], axis=1) for array in (value, score))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    rho = (a * b).sum(1)[norm > 0] / norm[norm > 0]  # a resample that drew equal values only has no rank to compare
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(rho, (tail, 100 - tail))
    return float(low), float(high)


def _checked(kind: str, name: str, array: npt.ArrayLike) -> Array:
    numbers: Array = np.asarray(array, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ScaDeployError(f"{kind} '{name}' of shape {numbers.shape} is not one finite number a channel")
    return numbers


def _check_lengths(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ScaDeployError(f"channels do not match: {listed}", "give every score and value for the same channels")
