"""Encoder-side effort: better coefficients for the same decoder, found by looking at what it makes of them.

Every file gets a few descents, with coefficients that needn't be whole, and then rounds of moves (module
`moves`). `refine` makes many of both, rounds part by part in between, and meets a number of bytes.
Straight-through descent on rounded coefficients, the obvious way, makes pictures worse (docs/experiments.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .moves import DECAY, Offers, count_bits
from .pipeline import Coding, PreparedImage, Report, no_report, part_of

SAVING = 0.05
"""Share of the bytes that refinement saves: it begins so much above the wanted size."""
POWER, MOST = 12, 3.0
"""How the weight of a bit follows a file's size between rounds: its excess to this power, at most so much."""
BYTES_PER_LEVEL = 0.85
"""How the logarithm of a file's size rises with the level, about."""


@dataclass(frozen=True)
class State:
    """Coefficients under their tables, and where their error falls."""

    prepared: PreparedImage
    level: float
    tables: NDArray[np.int64]
    quantised: Tensor
    """Whole numbers (C, 64, h, w)."""
    gradient: Tensor
    share: float = 1.0
    """Of the level's moves that the next round makes."""

    @classmethod
    def at(
        cls,
        prepared: PreparedImage,
        level: float,
        tables: NDArray[np.int64],
        quantised: Tensor,
        report: Report = no_report,
    ) -> State:
        """Measure the gradient."""
        _, gradient = prepared.error_gradient(quantised, tables, report)
        return cls(prepared, level, tables, quantised, gradient)

    @cached_property
    def _offers(self) -> Offers:
        return self.prepared.offers(self.quantised, self.gradient, self.tables, self.level)

    def moved(self, weight: float = 1.0) -> Tensor:
        """The coefficients after one more round; weight: see `PreparedImage.taken`."""
        return self.prepared.taken(self._offers, self.level, weight=weight, share=self.share)

    def after(self, weight: float = 1.0, report: Report = no_report) -> State:
        """One more round made, and the gradient measured again."""
        state = State.at(self.prepared, self.level, self.tables, self.moved(weight), report)
        return replace(state, share=self.share * DECAY)

    def write(self, quantised: Tensor) -> Coding:
        """The file with these coefficients instead."""
        return self.prepared.write(quantised, self.tables, self.level)


def fit_bytes(state: State, nbytes: int, *, weight: float = 1.0) -> Coding | None:
    """One more round of moves, its price of a bit chosen so that the file has just under `nbytes`.

    None where no price within a factor of 32 does it.
    """
    best: Coding | None = None
    low, high = weight / 32, weight * 32  # too large a file, too small a one
    for _ in range(14):
        coding = state.write(state.moved(weight))
        size = len(coding.data)
        if size <= nbytes:
            if best is None or size > len(best.data):
                best = coding
            if size >= 0.993 * nbytes:
                break
            high = weight
        else:
            low = weight
        # Bytes fall roughly as the weight to the power of -1/8 in one round with a share of 1.
        guess = weight * min(max((size / (0.9965 * nbytes)) ** (8 / state.share), 0.2), 5)
        weight = guess if low < guess < high else math.sqrt(low * high)
        if high / low < 1.001:
            break
    return best


def rounds_towards(
    nbytes: int | None, state: State, count: int, reports: Iterator[Report]
) -> Iterator[tuple[State, float]]:
    """Rounds of moves, one after the other, and the weight that a bit should have in the next one.

    nbytes: size to come near to, so that little is left for `fit_bytes`; None: the trade-off of the level.
    """
    weight, overhead = 1.0, 0.0
    if nbytes is not None:  # what the count leaves out: headers, less what progressive scans save
        overhead = 8 * len(state.write(state.quantised).data) - float(count_bits(state.quantised[None]))
    for _ in range(count):
        state = state.after(weight, next(reports))
        if nbytes is not None:
            bits = float(count_bits(state.quantised[None])) + overhead
            weight *= min(max((bits / (8 * nbytes)) ** POWER, 1 / MOST), MOST)
        yield state, weight


def refine(
    prepared: PreparedImage,
    level: float,
    *,
    nbytes: int | None = None,
    seconds: float = math.inf,
    report: Report = no_report,
) -> Coding:
    """A better file than `prepared.code(level)` for the same decoder.

    nbytes: come as near to this size as possible without passing it, `level` being that of a plain file of
    about this size; None: the trade-off of the level. seconds: budget, checked between passes. The result may
    still be above nbytes when it is too far from what the level gives: the caller compares.
    """
    until = time.monotonic() + seconds
    descents, settling, count = prepared.net.best_passes
    before = descents + settling
    passes = before + count + 2

    def going() -> bool:
        return time.monotonic() < until

    if nbytes is not None:
        level = min(level + SAVING / BYTES_PER_LEVEL, 1.0)
    tables = prepared.tables(level)
    quantised = prepared.descended(
        level,
        tables,
        count=descents,
        settling=settling,
        going=going,
        report=lambda done: report(done * before / passes),
    )
    state, weight = State.at(prepared, level, tables, quantised), 1.0
    reports = (part_of(report, (before + at) / passes, (before + at + 1) / passes) for at in range(count))
    rounds = rounds_towards(nbytes, state, count, reports)
    while going() and (moved := next(rounds, None)):
        state, weight = moved
    coding = fit_bytes(state, nbytes, weight=weight) if nbytes is not None else None
    report(1.0)
    return coding or state.write(state.moved(weight))
