"""What size or quality the user wants, and the coding of an image that meets it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count

from .errors import RateError
from .metrics import mse, psnr_from_mse
from .model import LEVELS
from .pipeline import Coding, PreparedImage, Report
from .pixels import to_levels
from .refine import BYTES_PER_LEVEL, State, fit_bytes, refine, rounds_towards
from .search import Trial, search_level

PSNR_SLOPE = 2.5
"""How many dB a level brings, about."""
PSNR_TOLERANCE = 0.05
"""dB more than wanted that a file may have."""
GAINED = 1.0
"""dB that a file has more after the descents and rounds that every file gets, about."""
SAVED = {2: 1.02, 4: 1.0}
"""How much larger a plain file is than one after the passes that every file gets, by scale, about."""
COARSEST = -4.0
"""Below level -1 only the tables grow; at this level they have reached their limit."""


@dataclass(frozen=True)
class Target:
    """What is wanted: bytes at most, dB at least, or a level."""

    kind: str
    """"nbytes", "psnr" or "level"."""
    value: float


def parse_target(
    shape: tuple[int, ...],
    bpp: float | None,
    nbytes: int | None,
    psnr: float | None,
    level: float | None,
) -> Target:
    """The one target among those given; level 0 where none is. Raises RateError for bad ones."""
    given = {"bpp": bpp, "nbytes": nbytes, "psnr": psnr, "level": level}
    chosen = [(kind, float(value)) for kind, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise RateError(f"give one of bpp, nbytes, psnr and level, not {len(chosen)} of them")
    kind, value = chosen[0] if chosen else ("level", 0.0)
    if not math.isfinite(value):
        raise RateError(f"{kind} must be a finite number, not {value}")
    if kind == "level" and not LEVELS[0] <= value <= LEVELS[1]:
        raise RateError(f"level must be from {LEVELS[0]:g} to {LEVELS[1]:g}, not {value:g}")
    if kind != "level" and value <= 0:
        raise RateError(f"{kind} must be more than 0, not {value:g}")
    if kind == "bpp":
        # A rate that was itself computed from whole bytes must not lose one of them to rounding.
        return Target("nbytes", math.floor(min(value * shape[0] * shape[1] / 8 * (1 + 1e-12), 2.0**62)))
    return Target(kind, math.floor(value) if kind == "nbytes" else value)


@dataclass(frozen=True)
class Candidate:
    """The best coding at one scale."""

    coding: Coding
    prepared: PreparedImage
    inside: bool
    """Whether the target lies within the model's levels."""

    @cached_property
    def error(self) -> float:
        """Mean squared error of what the bytes decode to, in 8-bit levels squared."""
        return _decoded_error(self.prepared, self.coding)


def _decoded_error(prepared: PreparedImage, coding: Coding) -> float:
    decoded = prepared.decoded(coding)
    # In levels, strip by strip: squares of the values themselves may overflow, or vanish.
    total = 0.0
    for start in range(0, decoded.shape[0], 256):
        rows = slice(start, start + 256)
        ours, theirs = (to_levels(array[rows], prepared.format) for array in (prepared.array, decoded))
        total += mse(ours, theirs) * len(ours)
    return total / int(decoded.shape[0])


def _trial_reports(report: Report) -> Iterator[Report]:
    """Progress of one trial after the other, whose number isn't known: always rising, never done."""
    for trial in count():
        yield lambda fraction, trial=trial: report(1 - 0.8 ** (trial + fraction))  # type: ignore[misc]


def _plain_for_bytes(prepared: PreparedImage, wanted: float, reports: Iterator[Report]) -> Coding:
    """The largest plain coding of no more than `wanted` bytes. Raises RateError."""

    def measure(level: float) -> tuple[float, Coding]:
        coding = prepared.code(level, next(reports), rounds=0)
        return math.log(len(coding.data)), coding

    below, above = search_level(
        measure,
        math.log(max(wanted, 1)),
        low=COARSEST,
        high=LEVELS[1],
        start=0.0,
        slope=BYTES_PER_LEVEL,
        tolerance=0.01,
    )
    if below is None:
        least = len(above.result.data) if above else 0
        raise RateError(
            f"{wanted:.0f} bytes can't be reached at scale {prepared.model.scale}: "
            f"the smallest file of this image has about {least} bytes"
        )
    return below.result


def _before_the_last_round(
    prepared: PreparedImage, plain: Coding, reports: Iterator[Report], nbytes: int | None = None
) -> tuple[State, float]:
    """Descended and moved as every file is, at the level of a plain coding, but for the last round.

    nbytes: size to come near to. Returns the weight of a bit in the last round too.
    """
    quantised = prepared.descended(plain.level, plain.tables, next(reports))
    state = State.at(prepared, plain.level, plain.tables, quantised, next(reports))
    rounds = rounds_towards(nbytes, state, prepared.net.passes.rounds - 1, reports)
    return deque(chain([(state, 1.0)], rounds), maxlen=1).pop()


def _for_bytes(prepared: PreparedImage, wanted: int, report: Report) -> Candidate:
    reports = _trial_reports(report)
    rounds = prepared.net.passes.rounds
    if rounds:
        try:
            plain = _plain_for_bytes(prepared, SAVED[prepared.model.scale] * wanted, reports)
        except RateError:  # the smallest there is may still do, below
            rounds = 0
    if rounds:
        inside = LEVELS[0] <= plain.level < LEVELS[1]
        steered = wanted if plain.level < LEVELS[1] else None
        state, weight = _before_the_last_round(prepared, plain, reports, steered)
        if steered is None:  # there may be room to spare: the file of the highest level
            highest = state.write(state.moved())
            if len(highest.data) <= wanted:
                return Candidate(highest, prepared, inside)
        coding = fit_bytes(state, wanted, weight=weight)
        if coding is None:  # more moves reach further
            coding = fit_bytes(replace(state, share=1.0), wanted)
        if coding:
            return Candidate(coding, prepared, inside)
    plain = _plain_for_bytes(prepared, wanted, reports)
    return Candidate(plain, prepared, LEVELS[0] <= plain.level < LEVELS[1])


def _psnr(prepared: PreparedImage, coding: Coding) -> float:
    return psnr_from_mse(max(_decoded_error(prepared, coding), 1e-9))


def _search_psnr(
    prepared: PreparedImage,
    wanted: float,
    reports: Iterator[Report],
    *,
    rounds: int | None = None,
    start: float = 0.0,
) -> list[Trial[Coding]]:
    """Codings from 0 to `PSNR_TOLERANCE` above the wanted dB, or next to that on both sides."""

    def measure(level: float) -> tuple[float, Coding]:
        coding = prepared.code(level, next(reports), rounds=rounds)
        return _psnr(prepared, coding), coding

    found = search_level(
        measure,
        wanted + PSNR_TOLERANCE,
        low=LEVELS[0],
        high=LEVELS[1],
        start=start,
        slope=PSNR_SLOPE,
        tolerance=PSNR_TOLERANCE,
        trials=10,
    )
    return [trial for trial in found if trial is not None]


def _fit_psnr(state: State, wanted: float) -> Coding | None:
    """One more round of moves, its price of a bit chosen so that the file comes to just over the wanted dB.

    None where no price within a factor of 4 does it.
    """

    def measure(cheapness: float) -> tuple[float, Coding]:
        coding = state.write(state.moved(2**-cheapness))
        return _psnr(state.prepared, coding), coding

    found = search_level(
        measure,
        wanted + PSNR_TOLERANCE,
        low=-2.0,
        high=2.0,
        start=0.0,
        slope=0.1,
        tolerance=PSNR_TOLERANCE,
        trials=6,
    )
    good = [t for t in found if t is not None and 0 <= t.value - wanted <= 2 * PSNR_TOLERANCE]
    return min(good, key=lambda trial: trial.value).result if good else None


def _for_psnr(prepared: PreparedImage, wanted: float, report: Report) -> Candidate:
    reports = _trial_reports(report)
    rounds, start = prepared.net.passes.rounds, 0.0
    if rounds:  # plain files first: they are quickly made
        plain = _search_psnr(prepared, wanted - GAINED, reports, rounds=0)
        nearest = min(plain, key=lambda trial: abs(trial.value + GAINED - wanted))
        start = nearest.level
        if abs(nearest.value + GAINED - wanted) < 1:
            coding = _fit_psnr(_before_the_last_round(prepared, nearest.result, reports)[0], wanted)
            if coding:
                return Candidate(coding, prepared, True)
    trials = _search_psnr(prepared, wanted, reports, start=start)
    good = [trial for trial in trials if trial.value >= wanted]
    if not good:
        reached = max(trial.value for trial in trials)
        raise RateError(
            f"{wanted:g} dB can't be reached at scale {prepared.model.scale}: "
            f"this image comes to {reached:.2f} dB at most"
        )
    best = min(good, key=lambda trial: len(trial.result.data))
    return Candidate(best.result, prepared, True)


def meet_target(prepared: PreparedImage, target: Target, report: Report) -> Candidate:
    """The coding that meets the target at the scale of the prepared image. Raises RateError."""
    if target.kind == "level":
        return Candidate(prepared.code(target.value, report), prepared, True)
    if target.kind == "nbytes":
        return _for_bytes(prepared, int(target.value), report)
    return _for_psnr(prepared, target.value, report)


def best_of(candidates: list[Candidate], target: Target) -> Candidate:
    """The candidate to keep: fewest bytes for a PSNR, otherwise the smaller error.

    Where the target lies within the levels of one scale only, that scale is taken unmeasured.
    """
    if len(candidates) == 1:
        return candidates[0]
    if target.kind == "psnr":
        return min(candidates, key=lambda c: len(c.coding.data))
    inside = [c for c in candidates if c.inside]
    return inside[0] if len(inside) == 1 else min(candidates, key=lambda c: c.error)


def improve(chosen: Candidate, target: Target, seconds: float, report: Report) -> Candidate:
    """The candidate, or what `refine` makes of it where that meets the same target better."""
    prepared, level = chosen.prepared, chosen.coding.level
    if target.kind == "level":
        return Candidate(refine(prepared, level, seconds=seconds, report=report), prepared, True)
    if target.kind == "nbytes":
        nbytes = int(target.value)
        coding = refine(prepared, level, nbytes=nbytes, seconds=seconds, report=report)
        better = Candidate(coding, prepared, chosen.inside)
        fits = len(coding.data) <= nbytes
        return better if fits and better.error < chosen.error else chosen
    best = chosen
    for _ in range(3):
        coding = refine(prepared, level, seconds=seconds / 3, report=report)
        better = Candidate(coding, prepared, True)
        above = psnr_from_mse(max(better.error, 1e-9)) - target.value
        if above >= 0 and len(coding.data) < len(best.coding.data):
            best = better
        if 0 <= above < 0.1 or level <= LEVELS[0]:
            break
        level = max(LEVELS[0], level - (above - 0.05) / PSNR_SLOPE)
    return best
