"""What the explorer does, without anything to look at: from what is wanted to what there is to show.

    engine = Engine(image)
    for update in engine.run(engine.first(bpp=0.3)):
        ...                        # the picture first, then what takes longer

The part of the image that is explored is coded as if it were all there is, so everything shown, curves
too, belongs to that part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..checkpoint import Model
from ..codec import Thumbnail
from ..compare import SSIM_SIDE, Codec, Coded, RatePoint, closest
from ..errors import RateError
from ..metrics import psnr, ssim
from ..pixels import Array, ValueRange, check_image
from ..session import RateCurve, Region, Session, Step, as_eight_bit, as_original, choose, rate_range
from ..targets import Target

BLOCK = 32
"""Crops begin at multiples of this, which every scale codes without padding."""
REST = 0.2
"""Seconds without a new request before SSIM is measured."""
RECONSTRUCTION, ERROR, THUMBNAIL = "reconstruction", "error map", "thumbnail"
EFFORTS = ("fast", "best")
Check = Callable[[float], None]
"""Called often with the fraction done; what it raises ends the work."""


def no_check(fraction: float) -> None:
    """The default `Check`."""


@dataclass(frozen=True)
class Wanted:
    """What the controls say."""

    bpp: float
    scale: int | None
    """None: the better one."""
    effort: str
    right: str
    """What lies right of the swipe line: one of `Engine.rights`."""
    region: Region
    """Of the whole image."""


@dataclass(frozen=True)
class Explored:
    """A part of the image with what is known about it."""

    session: Session
    region: Region
    curves: dict[int, RateCurve]
    rivals: dict[str, tuple[RatePoint, ...]] = field(default_factory=dict)
    """Other codecs' curves, as far as they are measured."""

    def at(self, scale: int | None) -> dict[int, RateCurve]:
        """The curves of one scale, or of all."""
        return self.curves if scale is None else {scale: self.curves[scale]}

    def range(self, scale: int | None) -> tuple[float, float]:
        """Smallest and largest bpp."""
        return rate_range(self.at(scale))


@dataclass(frozen=True)
class Update:
    """Where we are."""

    wanted: Wanted
    explored: Explored
    step: Step
    ssim: float | None = None
    """None while it isn't known yet."""
    rival: Coded | None = None
    """The codec right of the line, at no more bytes than the step."""
    right: Array | None = None
    """The rival's picture in the image's own values; None: the step's."""
    settled: bool = False
    """Whether all there is to say about the rate is said; curves of other codecs may follow."""
    busy: str = ""
    """What is being done, in words."""


class Engine:
    """One image, explored at any rate and on any part. For one thread at a time.

    image, alpha, value_range, device, models: as `session.Session` takes them. crop: pixels a side of
    the part that is explored. Raises ImageError, ModelError, DeviceError, RateError.
    """

    def __init__(
        self,
        image: object,
        *,
        crop: int = 512,
        device: str = "auto",
        models: Mapping[int, Model] | None = None,
        value_range: ValueRange | None = None,
        alpha: str = "refuse",
    ) -> None:
        if crop < BLOCK:
            raise RateError(f"crop must be {BLOCK} pixels or more, not {crop}")
        self.array, self.format = check_image(image, alpha=alpha, value_range=value_range)
        self.crop, self._models, self._device = crop // BLOCK * BLOCK, models, device
        self.shape = (self.array.shape[0], self.array.shape[1])
        self.check: Check = no_check
        """Called often from within long work."""
        self.rest: Check = no_check
        """Called with seconds before what can wait until the slider rests; like `check` it may raise."""
        self.now = self._explored(self.region_at(self.shape[0] // 2, self.shape[1] // 2))
        """The part at hand."""

    @property
    def scales(self) -> tuple[int, ...]:
        """Those there are weights for."""
        return self.now.session.scales

    @property
    def rights(self) -> tuple[str, ...]:
        """What can be looked at right of the swipe line."""
        return (RECONSTRUCTION, ERROR, THUMBNAIL, *(codec.name for codec in self.now.session.codecs()))

    @property
    def whole(self) -> bool:
        """Whether the part at hand is all of the image."""
        return self.now.session.shape == self.shape

    def region_at(self, row: float, column: float) -> Region:
        """The part with its centre about there; the whole image where that isn't much larger."""
        spans = []
        for centre, side in zip((row, column), self.shape, strict=True):
            # A little more than a crop is taken whole: nobody wants to choose among 20 pixels.
            length = side if side <= 1.25 * self.crop else self.crop
            start = min(max(0, round(centre - length / 2)), side - length) // BLOCK * BLOCK
            spans.append((start, start + length))
        return spans[0], spans[1]

    def first(self, *, bpp: float, scale: int | None = None) -> Wanted:
        """What to begin with; the rate is brought within reach."""
        low, high = self.now.range(scale)
        return Wanted(min(max(bpp, low), high), scale, EFFORTS[0], RECONSTRUCTION, self.now.region)

    def run(self, wanted: Wanted) -> Iterator[Update]:
        """Updates for a request: the picture as soon as it is there, then SSIM, the other codec, curves."""
        if wanted.region != self.now.region:
            self.now = self._explored(wanted.region)
        session = self.now.session
        scale, level = choose(self.now.at(wanted.scale), wanted.bpp)
        step = session.step(level, scale, quick=True, report=self.check)
        codec = self._codec(wanted.right)
        best = wanted.effort == "best"
        busy = "Refining the coefficients"
        update = Update(wanted, self.now, step, busy=busy)
        yield update
        self.rest(REST)
        step = session.step(level, scale, report=self.check)
        if best:
            yield replace(update, step=step)
            target = Target("nbytes", step.thumbnail.nbytes)
            step = session.encode(target, scale, effort="best", with_ssim=False, report=self.check)
        update = replace(update, step=step, busy=f"Searching {codec.name}'s quality" if codec else "")
        yield update
        if codec is not None:
            rival = self._rival(codec, step)
            update = replace(update, rival=rival, right=as_original(rival.image, step.format), busy="")
            yield update
        # SSIM takes as long as a step, in one go: the next step must not have to wait for it.
        self.rest(REST)
        quality = step.ssim
        if min(session.shape) >= SSIM_SIDE:
            quality = ssim(step.original, step.image, step.peak)
        update = replace(update, ssim=quality, settled=True)
        yield update
        yield from self._other_curves(update)

    def encode_whole(self, update: Update) -> Thumbnail:
        """The file of the whole image at the level that is looked at; the one on screen if that is all."""
        if self.whole and update.step.whole:
            return update.step.thumbnail
        thumbnail, effort = update.step.thumbnail, update.wanted.effort
        session = self._session(self.array)
        target = Target("level", min(max(thumbnail.level, -1.0), 1.0))
        return session.encode(target, thumbnail.scale, effort=effort, with_ssim=False).thumbnail

    def _session(self, array: Array) -> Session:
        # The range is the whole image's: a crop on its own would take its own minimum and maximum.
        return Session(array, device=self._device, models=self._models, value_range=self.format.range)

    def _explored(self, region: Region) -> Explored:
        (top, bottom), (left, right) = region
        session = self._session(self.array[top:bottom, left:right])
        return Explored(session, region, session.calibrate(quick=True, report=self.check))

    def _codec(self, name: str) -> Codec | None:
        return next((codec for codec in self.now.session.codecs() if codec.name == name), None)

    def _rival(self, codec: Codec, step: Step) -> Coded:
        def encode(image: Array, quality: float) -> bytes:
            self.check(0.0)  # a search tries seven files or more
            return codec.encode(image, quality)

        session = self.now.session
        pixels = as_eight_bit(step.original, session.format)
        found = closest(replace(codec, encode=encode), pixels, step.thumbnail.nbytes)
        # Against the original itself, as ours is: its values may be finer than 8 bits.
        return replace(found, psnr=psnr(step.original, as_original(found.image, session.format), step.peak))

    def _other_curves(self, update: Update) -> Iterator[Update]:
        """What the codecs to compare with do on this part; they are kept."""
        for codec in self.now.session.codecs():
            if codec.name in self.now.rivals:
                continue
            points = []
            for point in self.now.session.codec_points(codec):
                self.check(0.0)
                if not math.isinf(point.psnr):
                    points.append(point)
            self.now = replace(self.now, rivals={**self.now.rivals, codec.name: tuple(points)})
            yield replace(update, explored=self.now)
