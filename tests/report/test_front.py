"""The plot of a front."""

from __future__ import annotations

import re

from onnx_tucker.report.front import HEIGHT, Front, Spot
from onnx_tucker.types import Plan


def test_a_score_below_zero_is_within_the_plot() -> None:
    found = ((0.9, -0.2), (0.5, -0.5))
    spots = [Spot({"flops": share}, None, None, 0.1, (), score, Plan(())) for share, score in found]
    plot = Front("flops", -1.0, spots, {}, {}).to_svg()
    heights = [float(y) for y in re.findall(r' (?:y1|cy)="(.*?)"', plot)]
    assert len(heights) == 3
    assert all(0 < y < HEIGHT for y in heights)
    assert heights[-1] == max(heights)
