"""The results of a study over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from sca_deploy.evaluate import LABELS

Row = dict[str, Any]
DESCRIBING = ("arm", "seed", "method", "regrow_by", "steps", "epochs", "keep", "inside_budget")


def summarised(rows: Sequence[Row]) -> list[Row]:
    """One row for every arm and figure: mean and spread over the seeds, and where the figure comes from.

    `std` is the sample standard deviation; it is empty for a single seed.
    """
    result = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        for figure in (key for key in of_arm[0] if key not in DESCRIBING):
            values = [float(row[figure]) for row in of_arm]
            result.append(
                {
                    "arm": arm,
                    "figure": figure,
                    "seeds": len(values),
                    "mean": round(statistics.mean(values), 6),
                    "std": round(statistics.stdev(values), 6) if len(values) > 1 else "",
                    "min": min(values),
                    "max": max(values),
                    "label": LABELS[figure] if figure in LABELS else LABELS[figure.rpartition("_")[0]],
                }
            )
    return result
