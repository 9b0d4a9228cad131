"""What the encode widget does, without the widget: sessions, previews, whole encodings, curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from . import preferences
from .jobs import Report, Runner, Work
from .sources import Plane, Region

if TYPE_CHECKING:
    from ..compare import Codec, RatePoint
    from ..session import RateCurve, Session, Step

PREVIEW_PIXELS = 640 * 640
"""Pixels that a slider step codes at most; a larger view shows its middle until the slider is let go."""
BLOCK = 32
"""Previews begin at multiples of this, which every scale can code by itself."""


@dataclass(frozen=True)
class Wanted:
    """What the controls say."""

    plane: Plane
    region: Region
    """The part on the canvas."""
    scale: int | None
    """None: the better one."""
    device: str
    effort: str = "fast"
    weights: str = ""
    """A file with weights; empty: the bundled ones."""


@dataclass(frozen=True)
class Opened:
    """A picture that is being worked on."""

    key: tuple[object, ...]
    session: Session
    curves: dict[int, RateCurve]

    def at(self, scale: int | None) -> dict[int, RateCurve]:
        """The curves of one scale, or of all."""
        return self.curves if scale is None else {scale: self.curves[scale]}


@dataclass(frozen=True)
class Result:
    """A step, and what it belongs to."""

    wanted: Wanted
    opened: Opened
    step: Step


class View(Protocol):
    """What the controller asks of the widget."""

    def show_range(self, low: float, high: float) -> None:
        """The bits per pixel that the slider covers."""

    def show_curves(self, curves: dict[int, RateCurve], sampled: bool) -> None:
        """Our own rate-distortion curves of a new picture."""

    def show_rival(self, name: str, points: Sequence[RatePoint]) -> None:
        """The curve of another codec."""

    def show_result(self, result: Result) -> None:
        """A part or the whole of the image, coded."""

    def show_busy(self, text: str) -> None:
        """What is being done."""

    def show_progress(self, fraction: float) -> None:
        """How far that is."""

    def show_error(self, error: Exception) -> None:
        """What went wrong."""


class EncodeController:
    """Turns what the user does into work, and hands what comes back to the view."""

    def __init__(self, view: View, runner: Runner, background: Runner) -> None:
        self._view, self._runner, self._background = view, runner, background
        self._opened: Opened | None = None
        self._long = False  # whether what runs is a whole image, which a new preview may interrupt
        self._rivals: list[Codec] = []
        self._refused: tuple[object, ...] | None = None  # a picture that can't be coded: say so once

    def preview(self, wanted: Wanted, bpp: float) -> None:
        """Code the part in view at about a rate."""
        if self._long:
            self._runner.cancel()
        self._submit(wanted, bpp, part=True)

    def settle(self, wanted: Wanted, bpp: float) -> None:
        """Code the whole image at about a rate: the slider has come to rest."""
        self._submit(wanted, bpp, part=False)

    def encode(self, wanted: Wanted, kind: str, value: float) -> None:
        """Code the whole image to a target: "bpp", "nbytes" or "psnr"."""

        def work(report: Report) -> Result:
            from ..pipeline import part_of
            from ..targets import parse_target

            opened = self._open(wanted, part_of(report, 0.0, 0.3))
            wishes = (value if kind == one else None for one in ("bpp", "nbytes", "psnr", "level"))
            target = parse_target(opened.session.shape, *wishes)  # type: ignore[arg-type]
            step = opened.session.encode(
                target, wanted.scale, effort=wanted.effort, report=part_of(report, 0.3, 1.0)
            )
            return Result(wanted, opened, step)

        self._runner.cancel()
        self._run(work, wanted, "Encoding", long=True)

    def cancel(self) -> None:
        """Stop whatever is being done, curves too."""
        self._rivals = []
        self._runner.cancel()
        self._background.cancel()

    def forget(self) -> None:
        """Another picture: nothing of the old one is wanted any more."""
        self.cancel()
        self._opened = None

    def _submit(self, wanted: Wanted, bpp: float, *, part: bool) -> None:
        if self._refused == _key(wanted):
            return

        def work(report: Report) -> Result:
            from ..pipeline import part_of
            from ..session import aligned_region, choose

            opened = self._open(wanted, part_of(report, 0.0, 0.3))
            scale, level = choose(opened.at(wanted.scale), bpp)
            region = None
            if part:
                region = aligned_region(wanted.region, opened.session.shape, BLOCK, PREVIEW_PIXELS)
            rest = part_of(report, 0.3, 1.0)
            step = opened.session.step(
                level, scale, region=region, quick=part, with_ssim=not part, report=rest
            )
            return Result(wanted, opened, step)

        if self._opened is None or self._opened.key != _key(wanted):
            text: str | None = "Measuring what a bit buys on this picture"
        else:
            text = None if part else "Coding the whole image"
        self._run(work, wanted, text, long=not part)

    def _run(self, work: Work, wanted: Wanted, text: str | None, *, long: bool) -> None:
        def failed(error: Exception) -> None:
            self._refused = _key(wanted)
            self._view.show_error(error)

        self._long, self._refused = long, None
        if text is None:  # a preview is over before anybody has read what is being done
            self._runner.submit(work, self._done, failed)
            return
        self._view.show_busy(text)
        self._runner.submit(work, self._done, failed, self._view.show_progress)

    def _open(self, wanted: Wanted, report: Report) -> Opened:
        """On the worker's thread: the session of this picture, measured once."""
        key = _key(wanted)
        if self._opened is not None and self._opened.key == key:
            return self._opened
        from ..session import Session

        session = Session(
            wanted.plane.array(),
            device=wanted.device,
            models=preferences.models(wanted.weights),
            value_range=wanted.plane.value_range,
            alpha="drop" if wanted.plane.has_alpha else "refuse",
        )
        return Opened(key, session, session.calibrate(quick=True, report=report))

    def _done(self, result: Result) -> None:
        opened = result.opened
        fresh = self._opened is None or self._opened.key != opened.key
        if result.step.whole:
            thumbnail = result.step.thumbnail
            curve = opened.curves[thumbnail.scale]
            if curve.points[0].quality <= thumbnail.level <= curve.points[-1].quality:
                moved = curve.with_measured(thumbnail.level, thumbnail.bpp)
                opened = replace(opened, curves={**opened.curves, thumbnail.scale: moved})
        self._opened = opened
        if fresh:
            self._announce(opened, result.wanted.scale)
        self._view.show_result(result)

    def range_for(self, scale: int | None) -> tuple[float, float] | None:
        """The bpp that a scale reaches on the picture at hand, once it is known."""
        if self._opened is None:
            return None
        from ..session import rate_range

        return rate_range(self._opened.at(scale))

    def point_at(self, scale: int | None, bpp: float) -> tuple[float, float] | None:
        """Where on the picture's curve a rate lies, (bpp, PSNR), once the curve is known."""
        if self._opened is None:
            return None
        from ..session import choose

        curves = self._opened.at(scale)
        best, level = choose(curves, bpp)
        return curves[best].bpp_at(level), curves[best].psnr_at(bpp)

    def _announce(self, opened: Opened, scale: int | None) -> None:
        low_high = self.range_for(scale)
        if low_high is not None:
            self._view.show_range(*low_high)
        self._view.show_curves(opened.curves, opened.session.sampled)
        self._rivals = list(opened.session.codecs())
        self._next_rival(opened)

    def _next_rival(self, opened: Opened) -> None:
        if not self._rivals or self._opened is None or self._opened.key != opened.key:
            return
        codec = self._rivals.pop(0)

        def work(report: Report) -> list[RatePoint]:
            points = []
            for point in opened.session.codec_points(codec):
                points.append(point)
                report(0.0)
            return points

        def done(points: list[RatePoint]) -> None:
            self._view.show_rival(codec.name, points)
            self._next_rival(opened)

        self._background.submit(work, done, lambda error: self._next_rival(opened))


def _key(wanted: Wanted) -> tuple[object, ...]:
    return (*wanted.plane.key, wanted.device, wanted.weights)
