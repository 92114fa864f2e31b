"""How often to save so that least is lost: the time that saving costs against the work that a failure costs.

Source: J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
Generation Computer Systems 22 (2006), equation 37; to first order Young's (1974), sqrt(2 * cost * mtbf).
"""

from __future__ import annotations

import math
import os

from linnaeus.saving._account import SaveRecord


def best_interval_seconds(cost_seconds: float, mtbf_seconds: float) -> float:
    """Return the working time between two saves that minimises the expected loss.

    Args:
        cost_seconds: What one save takes from training.
        mtbf_seconds: The mean time between failures.
    """
    if cost_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    ratio = cost_seconds / (2 * mtbf_seconds)
    return math.sqrt(2 * cost_seconds * mtbf_seconds) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_seconds


def interval_for(record: SaveRecord | None, mtbf_hours: float) -> float:
    """Return how many seconds to leave between saves, as far as one save has told.

    A save costs what training stood still, and the share of the processors that writing took. Before anything
    is known the answer is 0: the first save is made at once, which also shows early that saving works.
    Intervals shorter than two saves take to write would only make them wait for each other.
    """
    if record is None:
        return 0.0
    cost_seconds = record.blocked_seconds + record.cpu_seconds / (os.cpu_count() or 1)
    return max(best_interval_seconds(cost_seconds, mtbf_hours * 3600), 2 * record.write_seconds)
