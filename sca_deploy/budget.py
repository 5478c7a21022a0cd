"""What a chip has left for a network: limits on what it takes there.

    cores        neurocores, as the compiler would split the layers, which is never fewer than the lower bound
    words        synapse words of 64 bits, over all cores
    synops       synaptic operations a sample, weights of 0 left out
    energy-nj    dynamic energy a sample, nJ, at typical prices
    step-us      time of a step, us, at typical times

Cores and words follow from a network's integers alone; the others depend on what it is shown as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sca_deploy.errors import UsageError, unknown_name

STRUCTURAL = ("cores", "words")
"""Resources that do not depend on the input."""
ACTIVE = ("synops", "energy-nj", "step-us")
"""Resources that depend on how much is fired."""
RESOURCES = (*STRUCTURAL, *ACTIVE)
WORDS = {
    "cores": "cores",
    "words": "synapse words",
    "synops": "synaptic operations a sample",
    "energy-nj": "nJ of dynamic energy a sample",
    "step-us": "us a step",
}
"""Resources in words, with their units."""


def read_budget(flags: Iterable[str]) -> dict[str, float]:
    """The limits that `--budget cores=32 --budget energy-nj=500` (or `cores=32,energy-nj=500`) names.

    Raises:
        UsageError: if a resource is unknown or named twice, or a limit is no positive number.
    """
    found: dict[str, float] = {}
    for part in (part.strip() for flag in flags for part in flag.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise UsageError(f"--budget {part!r} names no limit", "write RESOURCE=NUMBER, such as cores=32")
        if name in found:
            raise UsageError(f"--budget names {name} twice", "give one limit for each resource")
        try:
            found[name] = _number(value)
        except ValueError:
            raise UsageError(f"--budget {part}: {value!r} is no number", "such as cores=32") from None
    check_budget(found, "--budget")
    return found


def check_budget(limits: Mapping[str, object], where: str) -> None:
    """See that limits can be meant.

    Args:
        where: what holds them, as the user knows it.

    Raises:
        UsageError: if a resource is unknown, or a limit is no positive number.
    """
    for name, limit in limits.items():
        if name not in RESOURCES:
            raise unknown_name(f"resource of {where}", str(name), RESOURCES)
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not number or not 0 < float(str(limit)) < float("inf"):
            raise UsageError(f"{where}: {name} is {limit!r}, it must be a positive number", f"such as {name}=32")
        if name in STRUCTURAL and float(str(limit)) < 1:
            raise UsageError(f"{where}: {name} is {limit}, a network takes 1 at least", f"such as {name}=32")


def kept(evaluation: Mapping[str, Any], limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Limits against what `evaluate` found on the test set.

    Returns:
        For every limit {"name", "limit", "value", "kept", "label": how the value is known}.
    """
    figures, labels = evaluation["figures"], evaluation["labels"]
    takes = {
        "cores": (figures["cores_compiler_like"], labels["cores_compiler_like"]),
        "words": (sum(layer["synapse_words_total"] for layer in evaluation["map"]["layers"]), labels["cores"]),
        "synops": (figures["synops_per_sample"], labels["synops_per_sample"]),
        "energy-nj": (figures["energy_nj_per_sample"]["typical"], labels["energy_nj_per_sample"]),
        "step-us": (figures["step_time_ns"]["typical"] / 1000, labels["step_time_ns"]),
    }
    return [
        {
            "name": name,
            "limit": limit,
            "value": takes[name][0],
            "kept": takes[name][0] <= limit,
            "label": takes[name][1],
        }
        for name, limit in limits.items()
    ]


def number(limit: float) -> str:
    """A limit as it would be asked for."""
    return str(int(limit)) if float(limit).is_integer() else f"{limit:.12g}"


def amount(resource: str, value: float) -> str:
    """A value of a resource for people: 32 cores, 1,234.5 nJ of dynamic energy a sample."""
    whole = resource in STRUCTURAL and float(value).is_integer()
    shown = f"{value:,.0f}" if whole or value >= 1000 else f"{value:,.4g}"
    return f"{shown} {WORDS[resource].removesuffix('s') if whole and value == 1 else WORDS[resource]}"


def _number(text: str) -> float:
    """A whole number as such, as a config file has it, so that the two ways of asking are the same."""
    value = float(text)
    return int(value) if value.is_integer() else value
