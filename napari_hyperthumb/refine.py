"""Encoder-side effort: better coefficients for the same decoder, found by looking at what it makes of them.

Every file gets one round of moves (module `moves`); `refine` makes many, fewer at once from round to
round, and meets a number of bytes. Descent on the coefficients before rounding, the obvious way, gives less
and straight-through descent on rounded ones makes pictures worse (docs/experiments.md).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .moves import Offers, count_bits
from .pipeline import Coding, PreparedImage, Report, no_report

ROUNDS = 16
DECAY = 0.82
"""Of the share of moves that a round makes, from one round to the next."""


@dataclass(frozen=True)
class State:
    """Coefficients under their tables, and where their error falls."""

    prepared: PreparedImage
    level: float
    tables: NDArray[np.int64]
    quantised: Tensor
    """Whole numbers (C, 64, h, w)."""
    gradient: Tensor

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
        return self.prepared.offers(self.quantised, self.gradient, self.tables)

    def moved(self, weight: float = 1.0, share: float = 1.0) -> Tensor:
        """The coefficients after one more round; see `PreparedImage.taken`."""
        return self.prepared.taken(self._offers, self.level, weight=weight, share=share)

    def write(self, quantised: Tensor) -> Coding:
        """The file with these coefficients instead."""
        return self.prepared.write(quantised, self.tables, self.level)


def fit_bytes(state: State, nbytes: int, *, share: float = 1.0, weight: float = 1.0) -> Coding | None:
    """One more round of moves, its price of a bit chosen so that the file has just under `nbytes`.

    None where no price within a factor of 32 does it.
    """
    best: Coding | None = None
    low, high = weight / 32, weight * 32  # too large a file, too small a one
    for _ in range(14):
        coding = state.write(state.moved(weight, share))
        size = len(coding.data)
        if size <= nbytes:
            if best is None or size > len(best.data):
                best = coding
            if size >= 0.993 * nbytes:
                break
            high = weight
        else:
            low = weight
        # Bytes fall roughly as the weight to the power of -1/8 in one round.
        guess = weight * (size / (0.9965 * nbytes)) ** 8
        weight = guess if low < guess < high else math.sqrt(low * high)
        if high / low < 1.001:
            break
    return best


def refine(
    prepared: PreparedImage,
    level: float,
    *,
    nbytes: int | None = None,
    seconds: float = math.inf,
    report: Report = no_report,
) -> Coding:
    """A better file than `prepared.code(level)` for the same decoder.

    nbytes: come as near to this size as possible without passing it; None: the trade-off of the
    level. seconds: budget, checked between rounds. The result may still be above nbytes when it is too
    far from what the level gives: the caller compares.
    """
    until = time.monotonic() + seconds
    tables = prepared.tables(level)
    quantised = prepared.quantised(level, tables)
    weight, share = 1.0, 1.0
    state = State.at(prepared, level, tables, quantised)
    overhead = 0.0
    if nbytes is not None:  # what the count leaves out: headers, less what progressive scans save
        overhead = 8 * len(state.write(quantised).data) - float(count_bits(quantised[None]))
    for index in range(ROUNDS):
        report(index / (ROUNDS + 1))
        quantised = state.moved(weight, share)
        if nbytes is not None:
            bits = float(count_bits(quantised[None])) + overhead
            weight *= min(max((bits / (8 * nbytes)) ** 3, 0.8), 1.25)
        state = State.at(prepared, level, tables, quantised)
        share *= DECAY
        if time.monotonic() > until:
            break
    coding = fit_bytes(state, nbytes, share=share, weight=weight) if nbytes is not None else None
    report(1.0)
    return coding or state.write(state.moved(weight, share))
