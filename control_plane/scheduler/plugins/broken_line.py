"""The broken line through the points of a shape: what a percentage of use is worth.

Source: API reference kubescheduler.config.k8s.io/v1 UtilizationShapePoint.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX
from rayplane.control_plane.scheduler.snapshot import Ints

#: Scores of a shape's points go from 0 to 10.
_SHAPE_SCORE_MAX = 10
Points = tuple[tuple[int, int], ...]
"""(percent of use, score 0 to 10), by rising use."""


def along(shape: Points, percent: Ints) -> Ints:
    """Scores from 0 to 100 at these percentages, in whole numbers that are cut towards zero."""
    points = [(at, score * SCORE_MAX // _SHAPE_SCORE_MAX) for at, score in shape]
    found = np.full(percent.shape, points[-1][1], dtype=np.int64)
    for (x0, y0), (x1, y1) in reversed([*pairwise(points)]):
        rise = (y1 - y0) * (percent - x0)
        step = np.sign(rise) * (np.abs(rise) // max(x1 - x0, 1))
        found = np.where(percent <= x1, y0 + step, found)
    return np.where(percent <= points[0][0], points[0][1], found)
