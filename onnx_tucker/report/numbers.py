"""Numbers for people: short, with a unit, and a dash for what is not known."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context

UNKNOWN = "–"


def count(value: float | None) -> str:
    """A count in full below 100,000, then with k, M, G or T and three digits."""
    if value is None:
        return UNKNOWN
    if abs(value) < 100_000:
        return f"{value:,.0f}"
    scale, unit = next(((s, u) for s, u in ((1e3, "k"), (1e6, "M"), (1e9, "G")) if abs(value) < s * 1000), (1e12, "T"))
    return f"{value / scale:.4g} {unit}"


def milliseconds(value: float | None) -> str:
    """A time in ms with three digits."""
    return UNKNOWN if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def factor(value: float | None) -> str:
    """A ratio such as x2.74."""
    return UNKNOWN if value is None else f"x{value:.2f}"


def share(value: float | None) -> str:
    """A share in per cent."""
    return UNKNOWN if value is None else f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"


def least(value: float) -> str:
    """A share that is needed, with three digits, rounded up so that what is shown suffices."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).create_decimal_from_float(value)):g}"


def small(value: float | None) -> str:
    """An error with two digits."""
    return UNKNOWN if value is None else "0" if value == 0 else f"{value:.2g}"
