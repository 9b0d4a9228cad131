"""One picture coded again and again while someone watches: what sliders and explorers are made of.

    session = Session(image)
    curves = session.calibrate()                      # how level, bpp and PSNR go together here
    scale, level = choose(curves, bpp=0.3)
    step = session.step(level, scale, region=visible) # a part of the image, in a fraction of a second
    step = session.encode(parse_target(...))          # the whole image: step.thumbnail is the file

Everything that doesn't depend on the rate is kept between steps. Nothing here knows of a screen.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .checkpoint import BUNDLED, Model
from .codec import SCALES, Thumbnail, decode, info, load_model, thumbnail_of
from .compare import SSIM_SIDE, Codec, Coded, Pixels, RatePoint, available_codecs, compare, rd_points
from .device import pick_device
from .errors import ImageError, RateError
from .metrics import psnr, ssim
from .model import LEVELS
from .pipeline import Coding, PreparedImage, Report, no_report, part_of
from .pixels import Array, Format, ValueRange, check_image, from_levels, to_levels
from .targets import Target, best_of, improve, meet_target

CALIBRATION_LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
GAINS = {2: (0.57, 0.86, 1.0, 1.56, 1.78), 4: (0.95, 0.93, 1.0, 1.2, 1.37)}
"""dB that a file gains over a quick look at those levels, against the middle one, by scale, about."""
SHARES = {2: (0.975, 0.99, 1.0, 1.015, 1.04), 4: (1.0, 1.0, 1.0, 1.01, 1.01)}
"""The same of its bytes."""
SAMPLE_PIXELS = 2**19
"""Curves of larger images are measured on patches of this many pixels in all."""
PATCHES = 3
"""Such a sample has as many patches a side."""
KEPT_PARTS = 4
"""Prepared parts of an image kept between steps."""

Span = tuple[int, int]
Region = tuple[Span, Span]
"""((top, bottom), (left, right)) in pixels of the image."""


# ---- rate curves -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RateCurve:
    """Level, bpp and PSNR of one image at one scale, as measured; interpolated in log(bpp)."""

    points: tuple[RatePoint, ...]
    """Two or more, rising in level (`quality`) and in bpp."""

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise RateError("a rate curve needs two points or more")

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest bpp."""
        return self.points[0].bpp, self.points[-1].bpp

    def level_at(self, bpp: float) -> float:
        """The level that takes about so many bpp; the nearest end outside of the curve."""
        return self._interpolate(bpp, [p.quality for p in self.points])

    def psnr_at(self, bpp: float) -> float:
        """dB at about so many bpp; that of the nearest end outside of the curve."""
        return self._interpolate(bpp, [p.psnr for p in self.points])

    def bpp_at(self, level: float) -> float:
        """About how many bpp a level takes."""
        levels = [p.quality for p in self.points]
        return float(math.exp(np.interp(level, levels, [math.log(p.bpp) for p in self.points])))

    def with_measured(self, level: float, bpp: float) -> RateCurve:
        """The same curve moved to pass through a file of the whole image: samples are off by a little."""
        share = bpp / self.bpp_at(level)
        return RateCurve(tuple(_moved(p, share) for p in self.points))

    def _interpolate(self, bpp: float, values: Sequence[float]) -> float:
        return float(np.interp(math.log(bpp), [math.log(p.bpp) for p in self.points], values))


def _moved(p: RatePoint, share: float, gain: float = 0.0) -> RatePoint:
    """The same point at `share` times the bytes and `gain` dB more."""
    return replace(p, bpp=p.bpp * share, nbytes=round(p.nbytes * share), psnr=p.psnr + gain)


def rising(points: Sequence[RatePoint]) -> tuple[RatePoint, ...]:
    """Points in order of level, without those that take no more bytes than one before."""
    kept: list[RatePoint] = []
    for point in sorted(points, key=lambda p: p.quality):
        if not kept or point.bpp > kept[-1].bpp:
            kept.append(point)
    if len(kept) == 1:  # an image that takes the same bytes at every level: keep both ends apart
        last = max(points, key=lambda p: p.quality)
        kept.append(replace(last, quality=last.quality, bpp=kept[0].bpp * 1.001))
    return tuple(kept)


def rate_range(curves: Mapping[int, RateCurve]) -> tuple[float, float]:
    """Smallest and largest bpp that some scale reaches."""
    ends = [curve.range for curve in curves.values()]
    return min(low for low, _ in ends), max(high for _, high in ends)


def choose(curves: Mapping[int, RateCurve], bpp: float) -> tuple[int, float]:
    """Scale and level for a rate: of the scales that reach it the one with the higher PSNR."""

    def off(curve: RateCurve) -> float:
        low, high = curve.range
        return max(low / bpp, bpp / high, 1.0)

    nearest = min(off(curve) for curve in curves.values())
    reach = {scale: curve for scale, curve in curves.items() if off(curve) <= nearest * 1.0001}
    scale = max(reach, key=lambda s: reach[s].psnr_at(bpp))
    return scale, reach[scale].level_at(bpp)


# ---- steps -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An image, or a part of it, at one rate: the file, and what it gives back."""

    thumbnail: Thumbnail
    original: Array = field(repr=False)
    """What was coded."""
    image: Array = field(repr=False)
    """What the file decodes to: same shape and dtype."""
    region: Region
    """Where in the image it lies."""
    whole: bool
    """Whether the thumbnail is the file of the whole image, not of a part or a quick look."""
    format: Format
    psnr: float
    """dB against the value range."""
    ssim: float | None
    """None where it wasn't asked for, or the image is too small for it."""
    encode_s: float
    decode_s: float

    @property
    def peak(self) -> float:
        """Width of the value range."""
        return peak(self.format)

    def error(self, *, signed: bool = False) -> Array:
        """(H, W) float32 in the image's own units: the mean over channels of the difference.

        signed: reconstruction minus original; otherwise the mean of its absolute values.
        """
        return difference(self.image, self.original, signed=signed)


def peak(fmt: Format) -> float:
    """Width of the value range; 1 for a constant image."""
    return (fmt.range[1] - fmt.range[0]) or 1.0


def difference(a: Array, b: Array, *, signed: bool = False) -> Array:
    """(H, W) float32: the mean over channels of a - b, or of its absolute value."""
    out = a.astype(np.float32) - b.astype(np.float32)
    out = out if signed else np.abs(out)
    return out if out.ndim == 2 else out.mean(2)


def aligned_region(region: Region, shape: tuple[int, int], block: int, max_pixels: int) -> Region:
    """A region moved to whole blocks, inside of the image, with about `max_pixels` at most.

    A larger one is cut down around its centre, in its own proportions.
    """
    spans = [(max(0, start), min(stop, side)) for (start, stop), side in zip(region, shape, strict=True)]
    if any(stop <= start for start, stop in spans):
        raise RateError("no part of the image is in view")
    area = math.prod(stop - start for start, stop in spans)
    shrink = min(1.0, math.sqrt(max_pixels / area))
    found: list[Span] = []
    for (start, stop), side in zip(spans, shape, strict=True):
        length = max(1, min(side, round((stop - start) * shrink)))
        first = start + (stop - start - length) // 2
        first = first // block * block
        length = -(-length // block) * block
        found.append((first, min(first + length, side)))
    return found[0], found[1]


def _whole(shape: tuple[int, ...]) -> Region:
    return (0, shape[0]), (0, shape[1])


class Session:
    """One image with everything about it that many steps share. Safe to use from two threads.

    image, alpha, value_range: as `codec.encode` takes them, but values outside of the range are
    clipped first, so that errors are those of what is coded. models: scale to weights; None: the
    bundled ones. Raises ImageError, ModelError or DeviceError.
    """

    def __init__(
        self,
        image: object,
        *,
        device: str = "auto",
        models: Mapping[int, Model] | None = None,
        value_range: ValueRange | None = None,
        alpha: str = "refuse",
    ) -> None:
        array, fmt = check_image(image, alpha=alpha, value_range=value_range)
        if value_range is not None:
            array = _clipped(array, fmt)
        self.array, self.format = array, fmt
        self.shape = (array.shape[0], array.shape[1])
        self.device = pick_device(device)
        self._models = models
        self._prepared: OrderedDict[tuple[int, Region], PreparedImage] = OrderedDict()
        self._sample: Array | None = None
        self._lock = threading.Lock()

    @property
    def scales(self) -> tuple[int, ...]:
        """Those there are weights for."""
        return tuple(self._models) if self._models is not None else SCALES

    def model(self, scale: int) -> Model:
        """The weights for a scale."""
        if scale not in self.scales:
            raise RateError(f"scale must be one of {', '.join(map(str, self.scales))}, not {scale!r}")
        return self._models[scale] if self._models is not None else load_model(BUNDLED[scale])

    def prepare(self, scale: int, region: Region | None = None, report: Report = no_report) -> PreparedImage:
        """The image, or a part, with all that doesn't depend on the rate; kept for the next time."""
        region = region or _whole(self.shape)
        key = (scale, region)
        with self._lock:
            if key in self._prepared:
                self._prepared.move_to_end(key)
                return self._prepared[key]
        (top, bottom), (left, right) = region
        part = self.array[top:bottom, left:right]
        prepared = PreparedImage(part, self.format, self.model(scale), self.device, report=report)
        with self._lock:
            self._prepared[key] = prepared
            while len(self._prepared) > KEPT_PARTS:
                self._prepared.popitem(last=False)
        return prepared

    def step(
        self,
        level: float,
        scale: int,
        *,
        region: Region | None = None,
        quick: bool = False,
        with_ssim: bool = False,
        report: Report = no_report,
    ) -> Step:
        """Code the image, or a part as if it were all there is, at a level, and decode it.

        quick: without the moves that a file gets (`PreparedImage.code`), in half the time; a few tenths
        of a dB worse.
        """
        started = time.perf_counter()
        prepared = self.prepare(scale, region, part_of(report, 0.0, 0.4))
        coding = prepared.code(level, part_of(report, 0.4, 0.6), rounds=0 if quick else None)
        seconds = time.perf_counter() - started
        step = self._step(prepared, coding, region, seconds, with_ssim, part_of(report, 0.6, 1.0))
        return replace(step, whole=step.whole and not quick)

    def encode(
        self,
        target: Target,
        scale: int | None = None,
        *,
        effort: str = "fast",
        with_ssim: bool = True,
        report: Report = no_report,
    ) -> Step:
        """Code the whole image to a target, as `codec.encode` does; scale None: the better one.

        effort: "fast" or "best".

        Raises RateError for what can't be reached.
        """
        started = time.perf_counter()
        share = 0.8 if effort == "fast" else 0.1
        scales = self.scales if scale is None else (scale,)
        if scale is None and target.kind == "level":
            scales = scales[:1]
        candidates, failures = [], []
        for index, one in enumerate(scales):
            first, last = share * index / len(scales), share * (index + 1) / len(scales)
            middle = (first + last) / 2
            try:
                prepared = self.prepare(one, None, part_of(report, first, middle))
                candidates.append(meet_target(prepared, target, part_of(report, middle, last)))
            except (RateError, ImageError) as error:
                failures.append(error)
        if not candidates:
            # The largest scale reaches the smallest files, the smallest scale the best quality.
            raise failures[0 if target.kind == "psnr" else -1]
        best = best_of(candidates, target)
        if effort == "best":
            best = improve(best, target, math.inf, part_of(report, share, 0.9))
        seconds = time.perf_counter() - started
        return self._step(best.prepared, best.coding, None, seconds, with_ssim, part_of(report, 0.9, 1.0))

    def reopen(self, data: bytes, *, report: Report = no_report) -> Step:
        """The step that a thumbnail file of this very image stands for.

        Raises ThumbnailError or ModelError; ImageError for a file of another image.
        """
        about = info(data)
        if about.shape != self.shape or about.format.gray != self.format.gray:
            raise ImageError(f"the thumbnail is of an image of {about.shape[1]}x{about.shape[0]} pixels")
        started = time.perf_counter()
        # Weights of the session's own aren't found by their digest among the bundled ones.
        own = (self._models or {}).values()
        model = next((model for model in own if model.digest == about.digest), None)
        decoded = decode(data, model=model, device=str(self.device), progress=part_of(report, 0.0, 0.9))
        thumbnail = Thumbnail(
            data=data,
            scale=about.scale,
            shape=self.array.shape,
            level=math.nan,
            tables=about.tables,
            model=f"{about.model}-{about.digest}",
        )
        return Step(
            thumbnail=thumbnail,
            original=self.array,
            image=decoded,
            region=_whole(self.shape),
            whole=True,
            format=self.format,
            psnr=psnr(self.array, decoded, peak(self.format)),
            ssim=None,
            encode_s=0.0,
            decode_s=time.perf_counter() - started,
        )

    def compare(self, step: Step, codecs: Sequence[Codec], *, report: Report = no_report) -> list[Coded]:
        """A step of the whole image, and every codec at no more than its bytes: 8-bit, with SSIM.

        `as_original` turns their images back into the image's own values.
        """
        original, decoded = (as_eight_bit(array, self.format) for array in (step.original, step.image))
        return compare(original, step.thumbnail, decoded, codecs=codecs, with_ssim=True, progress=report)

    def _step(
        self,
        prepared: PreparedImage,
        coding: Coding,
        region: Region | None,
        encode_s: float,
        with_ssim: bool,
        report: Report,
    ) -> Step:
        started = time.perf_counter()
        decoded = prepared.decoded(coding, report)
        decode_s = time.perf_counter() - started
        original = prepared.array
        wide = with_ssim and min(prepared.shape) >= SSIM_SIDE
        return Step(
            thumbnail=thumbnail_of(prepared, coding),
            original=original,
            image=decoded,
            region=region or _whole(self.shape),
            whole=region is None or region == _whole(self.shape),
            format=self.format,
            psnr=psnr(original, decoded, peak(self.format)),
            ssim=ssim(original, decoded, peak(self.format)) if wide else None,
            encode_s=encode_s,
            decode_s=decode_s,
        )

    # ---- curves ------------------------------------------------------------------------------

    @property
    def sampled(self) -> bool:
        """Whether curves are measured on patches instead of the whole image."""
        return bool(self.shape[0] * self.shape[1] > SAMPLE_PIXELS)

    def sample(self) -> Array:
        """The image, or patches spread over a large one side by side."""
        if not self.sampled:
            return self.array
        if self._sample is None:
            self._sample = _patches(self.array, SAMPLE_PIXELS)
        return self._sample

    def calibrate(
        self, scales: Sequence[int] | None = None, *, quick: bool = False, report: Report = no_report
    ) -> dict[int, RateCurve]:
        """Scale to how level, bpp and PSNR go together for this image: its sample's files, decoded.

        quick: only the one at the middle level is a file; the other points are quick looks, moved by what
        a file gains there and what it gains elsewhere on most images (`GAINS`, `SHARES`): mostly within
        1.5% of the bytes and 0.2 dB, at worst 5% and 0.9 dB, in a third of the time.
        """
        scales = self.scales if scales is None else scales
        curves: dict[int, RateCurve] = {}
        sample, middle = self.sample(), len(CALIBRATION_LEVELS) // 2
        steps = len(scales) * (len(CALIBRATION_LEVELS) + quick)
        done = 0

        def alive(fraction: float) -> None:
            report(done / steps)

        def point(prepared: PreparedImage, level: float, quick: bool) -> RatePoint:
            nonlocal done
            coding = prepared.code(level, alive, rounds=0 if quick else None)
            step = self._step(prepared, coding, None, 0.0, False, alive)
            done += 1
            report(done / steps)
            return RatePoint(level, step.thumbnail.nbytes, step.thumbnail.bpp, step.psnr)

        for scale in scales:
            if sample is self.array:
                prepared = self.prepare(scale, None, alive)
            else:
                prepared = PreparedImage(sample, self.format, self.model(scale), self.device, report=alive)
            points = tuple(point(prepared, level, quick) for level in CALIBRATION_LEVELS)
            if quick:
                look, file = points[middle], point(prepared, CALIBRATION_LEVELS[middle], False)
                gain = file.psnr - look.psnr
                gain, share = gain if math.isfinite(gain) else 0.0, file.bpp / look.bpp
                levels = zip(points, SHARES[scale], GAINS[scale], strict=True)
                points = tuple(_moved(p, share * s, gain * g) for p, s, g in levels)
            curves[scale] = RateCurve(rising(points))
        return curves

    def eight_bit_sample(self) -> Pixels:
        """The sample as the codecs to compare with take it: the value range mapped to 0 .. 255."""
        return as_eight_bit(self.sample(), self.format)

    def codec_points(self, codec: Codec) -> Iterator[RatePoint]:
        """Another codec's rate-distortion curve of the same sample, point by point."""
        yield from rd_points(codec, self.eight_bit_sample())

    def codecs(self) -> tuple[Codec, ...]:
        """The codecs there are to compare with."""
        side = max(self.sample().shape[:2])
        return tuple(codec for codec in available_codecs() if side <= codec.max_side)


def as_eight_bit(array: Array, fmt: Format) -> Pixels:
    """Values to 8-bit samples: the value range becomes 0 .. 255."""
    levels = np.clip(np.rint(to_levels(array, fmt)), 0, 255).astype(np.uint8)
    return levels[:, :, 0] if fmt.gray else levels


def as_original(pixels: Pixels, fmt: Format) -> Array:
    """8-bit samples back to the original's dtype and value range."""
    levels = pixels.astype(np.float32)
    return from_levels(levels[:, :, None] if fmt.gray else levels, fmt)


def _clipped(array: Array, fmt: Format) -> Array:
    low, high = fmt.range
    if array.size and (array.min() < low or array.max() > high):
        return np.clip(array, np.array(low).astype(array.dtype), np.array(high).astype(array.dtype))
    return array


def _patches(array: Array, pixels: int) -> Array:
    """PATCHES x PATCHES patches spread evenly over an image, set side by side."""
    share = math.sqrt(pixels / (array.shape[0] * array.shape[1]))
    rows, columns = (_spread(side, share) for side in array.shape[:2])
    return np.concatenate([np.concatenate([array[r, c] for c in columns], 1) for r in rows], 0)


def _spread(side: int, share: float) -> list[slice]:
    """Slices of whole blocks, evenly over one axis."""
    length = max(32, int(side * share / PATCHES) // 32 * 32)
    if length * PATCHES >= side:
        return [slice(0, side)]
    starts = np.linspace(0, side - length, PATCHES).astype(int)
    return [slice(int(s), int(s) + length) for s in starts]


assert (CALIBRATION_LEVELS[0], CALIBRATION_LEVELS[-1]) == LEVELS
