"""Finding the level that meets a target, by coding the image for real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Trial(Generic[T]):
    """One level that was tried."""

    level: float
    value: float
    """Of the quantity that is searched for; it rises with the level."""
    result: T


def search_level(
    measure: Callable[[float], tuple[float, T]],
    wanted: float,
    *,
    low: float,
    high: float,
    start: float,
    slope: float,
    tolerance: float,
    trials: int = 14,
) -> tuple[Trial[T] | None, Trial[T] | None]:
    """The nearest trials on both sides of `wanted`: (at or below, above); None where there is none.

    measure: level to (value, result), value rising with the level, but for small steps. The search is
    a secant one, kept inside of its bracket; it stops when a value lies within `tolerance` below
    `wanted`, when the bracket is empty, or after `trials`. start, slope: the first guess and how
    much the value rises with the level there.
    """
    below: Trial[T] | None = None
    above: Trial[T] | None = None
    level = min(max(start, low), high)
    tried: dict[float, float] = {}
    for _ in range(trials):
        value, result = measure(level)
        tried[level] = value
        trial = Trial(level, value, result)
        if value <= wanted:
            if below is None or value > below.value:
                below = trial
            if wanted - value <= tolerance or level >= high:
                break
        else:
            if above is None or value < above.value:
                above = trial
            if level <= low:
                break
        left = max((at for at, v in tried.items() if v <= wanted), default=low)
        right = min((at for at, v in tried.items() if v > wanted), default=high)
        if right - left < 1e-5:
            break
        nearest, *others = sorted(tried.items(), key=lambda item: abs(item[1] - wanted))
        if below and above and above.level > below.level:
            slope = (above.value - below.value) / (above.level - below.level)
        elif others:  # all on one side: the slope between the two nearest
            slope = (others[0][1] - nearest[1]) / (others[0][0] - nearest[0])
        # Aim a little below: values above are of no use.
        guess = nearest[0] + (wanted - 0.4 * tolerance - nearest[1]) / max(slope, 1e-3)
        inside = left + 0.02 * (right - left), right - 0.02 * (right - left)
        if not inside[0] <= guess <= inside[1]:
            unknown = left not in tried or right not in tried
            guess = min(max(guess, left), right) if unknown else (left + right) / 2
        if guess in tried:
            guess = (left + right) / 2
        if guess in tried:
            break
        level = guess
    return below, above
