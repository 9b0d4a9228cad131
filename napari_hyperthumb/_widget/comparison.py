"""One picture by several codecs at the same number of bytes: its numbers, and a figure. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..texts import decibels, human_bytes
from . import preferences
from .jobs import Report
from .sources import Plane, Region

if TYPE_CHECKING:
    from ..compare import Coded

ORIGINAL = "Original"
SSIM_PIXELS = 2**20
"""SSIM of larger parts takes too long while somebody pans."""


@dataclass(frozen=True)
class Score:
    """How good a part of a picture is."""

    psnr: float
    ssim: float | None


@dataclass(frozen=True)
class Comparison:
    """A picture, and what the codecs make of it."""

    plane: Plane
    images: Mapping[str, np.ndarray] = field(repr=False)
    """By name, the original first; all in the original's dtype and values."""
    rows: Sequence[Coded]
    """Ours first."""
    peak: float
    """Width of the value range."""
    thumbnail: bytes = field(repr=False)
    scale: int

    def difference(self, a: str, b: str, *, signed: bool) -> np.ndarray:
        """(H, W) float32: `b` minus `a`, or the mean over channels of its absolute value."""
        from ..session import difference

        return difference(self.images[b], self.images[a], signed=signed)

    def crop(self, name: str, region: Region) -> np.ndarray:
        """A part of one of the images."""
        (top, bottom), (left, right) = region
        return self.images[name][top:bottom, left:right]

    def score(self, region: Region, report: Report) -> dict[str, Score]:
        """PSNR and SSIM of a part, by name."""
        from ..compare import SSIM_SIDE
        from ..metrics import psnr, ssim

        original = self.crop(ORIGINAL, region)
        sides = original.shape[:2]
        wide = min(sides) >= SSIM_SIDE and sides[0] * sides[1] <= SSIM_PIXELS
        scores = {}
        for number, row in enumerate(self.rows):
            part = self.crop(row.name, region)
            quality = ssim(original, part, self.peak) if wide else None
            scores[row.name] = Score(psnr(original, part, self.peak), quality)
            report((number + 1) / len(self.rows))
        return scores


def compare_at(
    plane: Plane,
    *,
    data: bytes | None,
    bpp: float,
    names: Sequence[str],
    device: str,
    weights: str = "",
    report: Report,
) -> Comparison:
    """Code a plane with us and with the codecs of those names, all at the same number of bytes.

    data: a thumbnail of it that exists; None: a new one is made, of about `bpp`. weights: a file with
    other weights than the bundled ones.
    """
    from ..compare import available_codecs
    from ..session import Session, as_original
    from ..targets import parse_target

    session = Session(
        plane.array(),
        device=device,
        models=preferences.models(weights),
        value_range=plane.value_range,
        alpha="drop" if plane.has_alpha else "refuse",
    )

    def first(fraction: float) -> None:
        report(fraction / 2)

    if data is not None:
        step = session.reopen(data, report=first)
    else:
        target = parse_target(session.shape, bpp, None, None, None)
        step = session.encode(target, with_ssim=False, report=first)
    codecs = [codec for codec in available_codecs() if codec.name in names]
    rows = session.compare(step, codecs, report=lambda fraction: report(0.5 + fraction / 2))
    images = {ORIGINAL: session.array, rows[0].name: step.image}
    images |= {row.name: as_original(row.image, session.format) for row in rows[1:]}
    return Comparison(plane, images, rows, step.peak, step.thumbnail.data, step.thumbnail.scale)


def draw_figure(
    comparison: Comparison,
    region: Region,
    names: Sequence[str],
    scores: Mapping[str, Score],
    path: str,
    limits: tuple[float, float],
    colormap: np.ndarray | None = None,
) -> None:
    """Write the part `region` of each image side by side, labelled, as PNG, PDF or SVG.

    limits: values shown black and white. colormap: (N, 4) colours of a gray image; None: gray.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    (top, bottom), (left, right) = region
    aspect = (bottom - top) / (right - left)
    columns = len(names) if len(names) <= 3 else -(-len(names) // 2)
    lines = -(-len(names) // columns)
    width = 3.4
    figure = Figure(figsize=(columns * width, lines * (width * aspect + 0.55) + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    whole = {row.name: row for row in comparison.rows}
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for one in axes:
        one.set_axis_off()
    low, high = limits
    for one, name in zip(axes, names, strict=False):
        part = comparison.crop(name, region)
        if part.ndim == 3:
            shown = np.clip((part.astype(np.float32) - low) / (high - low), 0, 1)
            one.imshow(shown, interpolation="nearest")
        else:
            cmap = "gray" if colormap is None else ListedColormap(colormap)
            one.imshow(part, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        text = name
        if name in scores:
            text += f"  ·  {decibels(scores[name].psnr)}"
            text += "" if scores[name].ssim is None else f"  ·  SSIM {scores[name].ssim:.3f}"
            text += f"\n{human_bytes(whole[name].nbytes)} for the whole image"
        else:
            text += f"\n{human_bytes(comparison.plane.raw_bytes)} uncompressed"
        one.set_title(text, fontsize=9, loc="left")
    shape = comparison.plane.shape
    where = f"rows {top}–{bottom}, columns {left}–{right} of {shape[0]} × {shape[1]}"
    figure.suptitle(f"{comparison.plane.layer.name}: {where}", fontsize=9, x=0.004, ha="left")
    figure.savefig(path, dpi=200)
