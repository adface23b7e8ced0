"""The front of a sweep: what of the original's cost models have that each lose less than all that cost less."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.sax.saxutils import escape

from onnx_tucker.report.markdown import lines
from onnx_tucker.report.numbers import factor, share, small
from onnx_tucker.report.schema import finite
from onnx_tucker.types import Closeness, Plan

SCHEMA = "onnx-tucker/front/1"
HEADERS = ("point", "time", "speed-up", "95 % interval", "FLOPs", "params", "bytes", "error", "score")
WIDTH, HEIGHT, MARGIN = 640, 400, 56
COLOUR = "#1f618d"


@dataclass(frozen=True)
class Spot:
    """One model of a front.

    Attributes:
        shares: what it has of the original's "time", "flops", "params" and "bytes", where that is known.
        speedup: median ratio of the original's time to its own, measured in turn; None where nothing is timed.
        speedup_ci: its 95 % confidence interval.
        error: mean of the relative L2 errors of its outputs.
        outputs: how close each is.
        score: that of `--eval`.
        plan: makes it again.
    """

    shares: Mapping[str, float]
    speedup: float | None
    speedup_ci: tuple[float, float] | None
    error: float
    outputs: Sequence[Closeness]
    score: float | None
    plan: Plan


@dataclass(frozen=True)
class Front:
    """Models of which each loses less than all that cost less, the most costly first.

    Attributes:
        quantity: what they cost: "time", or where nothing is timed "flops".
        original_score: that of `--eval` of the original.
        points: the models.
        environment: what the times depend on.
        settings: the options of the run.
    """

    quantity: str
    original_score: float | None
    points: Sequence[Spot]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]

    def to_json(self) -> str:
        """The front as a JSON document; each plan in it is one for `--plan`."""
        points = [{**asdict(point), "plan": point.plan.to_dict()} for point in self.points]
        document = {"schema": SCHEMA, **asdict(self), "points": points}
        return json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The front as a table."""
        return "\n".join(lines(HEADERS, self.rows())) + "\n"

    def rows(self) -> list[tuple[str, ...]]:
        """A line of text for each model."""
        return [
            (
                str(i + 1),
                share(spot.shares.get("time")),
                factor(spot.speedup),
                "{:.2f} to {:.2f}".format(*spot.speedup_ci) if spot.speedup_ci else "",
                *(share(spot.shares.get(quantity)) for quantity in ("flops", "params", "bytes")),
                small(spot.error),
                "" if spot.score is None else f"{spot.score:.4g}",
            )
            for i, spot in enumerate(self.points)
        ]

    def to_svg(self) -> str:
        """The front as a plot of the score, or where there is none of the error, over the cost."""
        scored = all(spot.score is not None for spot in self.points)
        found = [(spot.shares.get(self.quantity, 1.0), spot.score if scored else spot.error) for spot in self.points]
        known = [(x, float(y)) for x, y in found if y is not None]
        shown = [0.0, *(y for _, y in known), *([self.original_score or 0.0] if scored else [])]
        low, high = min(shown), max(min(shown) + 1e-12, *shown)

        def at(x: float, y: float) -> tuple[float, float]:
            right, top = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
            return MARGIN + right * min(x, 1.0), HEIGHT - MARGIN - top * (y - low) / (high - low)

        dots = [at(*point) for point in known]
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
            'font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<rect x="{MARGIN}" y="{MARGIN}" width="{WIDTH - 2 * MARGIN}" height="{HEIGHT - 2 * MARGIN}" fill="none" '
            'stroke="#ccc"/>',
            f'<text x="{MARGIN}" y="{MARGIN - 12}">{"score" if scored else "relative error of the outputs"}</text>',
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
            f"{escape(self.quantity)}, share of the original</text>",
        ]
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, y = at(tick, low)
            parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{tick:g}</text>')
            value = low + tick * (high - low)
            x, y = at(0.0, value)
            parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOUR}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOUR}"/>' for x, y in dots]
        if scored and self.original_score is not None:
            (left, y), (right, _) = at(0.0, self.original_score), at(1.0, self.original_score)
            parts.append(
                f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="black" stroke-dasharray="3"/>'
            )
        return "\n".join([*parts, "</svg>", ""])


FORMATS: dict[str, Callable[[Front], str]] = {
    ".json": Front.to_json,
    ".md": Front.to_markdown,
    ".svg": Front.to_svg,
}
