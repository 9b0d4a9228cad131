"""How good a set of weights is, measured on real files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image

from ..bitstream import read_jpeg
from ..checkpoint import Model
from ..codec import decode, encode
from ..errors import DependencyError
from ..files import read_image
from ..metrics import at_bpp, bpp, psnr, ssim
from ..model import LEVELS
from ..pixels import Array, check_image, eight_bit
from .rate import HEADER_BITS, HuffmanCount

DEFAULT_LEVELS = tuple(np.linspace(*LEVELS, 9).tolist())
TABLE_BPP = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
MS_SSIM_SIDE = 11 * 2**4
"""Its window of 11 pixels on the last of five scales."""


@dataclass(frozen=True)
class Measurement:
    """One image at one level, coded to bytes and decoded from them."""

    image: str
    level: float
    nbytes: float
    estimated_nbytes: float
    """What the training's rate model counts for the same coefficients."""
    bpp: float
    psnr: float
    """dB against the original, over its value range."""
    ssim: float
    ms_ssim: float
    """NaN for an image with a side under `MS_SSIM_SIDE`, which has too few scales."""
    lr_psnr: float
    """dB of the thumbnail as a viewer shows it against the bicubic one."""


def bicubic_thumbnail(array: Array, size: tuple[int, int]) -> np.ndarray:
    """The thumbnail one would make by hand: Pillow's anti-aliased bicubic; size: (height, width)."""
    image = Image.fromarray(eight_bit(array))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def ms_ssim(a: Array, b: Array, peak: float) -> float:
    """Multi-scale SSIM (Wang et al. 2003) by torchmetrics; NaN where the image is too small for it."""
    try:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
    except ImportError as error:
        raise DependencyError("MS-SSIM needs torchmetrics: pip install 'napari-hyperthumb[train]'") from error
    if min(a.shape[:2]) < MS_SSIM_SIDE:
        return math.nan
    x, y = (torch.from_numpy(np.atleast_3d(v).astype(np.float32)).permute(2, 0, 1)[None] for v in (a, b))
    return float(multiscale_structural_similarity_index_measure(x, y, data_range=peak))


def _estimate(data: bytes) -> float:
    quantised = read_jpeg(data).quantised.float()
    gray = torch.tensor([quantised.shape[0] == 1])
    if quantised.shape[0] == 1:
        quantised = torch.cat([quantised, torch.zeros_like(quantised), torch.zeros_like(quantised)])
    with torch.inference_mode():
        bits = HuffmanCount()(quantised[None], quantised[None], gray)
    return (float(bits) + HEADER_BITS) / 8


def measure(name: str, image: Array, model: Model, level: float, *, device: str = "auto") -> Measurement:
    """Encode, decode, compare."""
    array, fmt = check_image(image, alpha="drop")
    thumbnail = encode(array, level=level, model=model, device=device)
    decoded = decode(thumbnail.data, model=model, device=device)
    peak = (fmt.range[1] - fmt.range[0]) or 1.0
    lr = thumbnail.lr
    return Measurement(
        image=name,
        level=level,
        nbytes=thumbnail.nbytes,
        estimated_nbytes=_estimate(thumbnail.data),
        bpp=bpp(thumbnail.nbytes, array.shape),
        psnr=psnr(array, decoded, peak),
        ssim=ssim(array, decoded, peak) if min(array.shape[:2]) >= 11 else math.nan,
        ms_ssim=ms_ssim(array, decoded, peak),
        lr_psnr=psnr(bicubic_thumbnail(array, (lr.shape[0], lr.shape[1])), lr),
    )


def evaluate(
    files: Iterable[Path],
    model: Model,
    *,
    levels: Sequence[float] = DEFAULT_LEVELS,
    device: str = "auto",
) -> Iterator[Measurement]:
    """Every file at every level. Raises ImageError at a file that can't be read."""
    for file in files:
        image = read_image(file)
        for level in levels:
            yield measure(file.name, image, model, level, device=device)


def means(rows: Sequence[Measurement]) -> list[Measurement]:
    """One row a level: the mean over images of every figure (infinite ones left out)."""
    numbers = [f.name for f in fields(Measurement) if f.name not in ("image", "level")]
    out = []
    for level in sorted({row.level for row in rows}):
        part = [row for row in rows if row.level == level]
        values = {}
        for name in numbers:
            finite = [v for v in (getattr(row, name) for row in part) if math.isfinite(v)]
            values[name] = fmean(finite) if finite else math.nan
        out.append(Measurement(image="mean", level=level, **values))
    return out


def estimate_error(rows: Sequence[Measurement]) -> float:
    """Root mean square of (estimated / real - 1)."""
    return math.sqrt(fmean((row.estimated_nbytes / row.nbytes - 1) ** 2 for row in rows))


def at_rates(rows: Sequence[Measurement], rates: Sequence[float] = TABLE_BPP) -> dict[float, float | None]:
    """PSNR of the mean curve (mean bpp and mean PSNR at each level) at fixed rates, dB."""
    curve = [(row.bpp, row.psnr) for row in means(rows)]
    return {rate: at_bpp(curve, rate) for rate in rates}


def to_csv(rows: Sequence[Measurement]) -> str:
    """Rows as CSV, means last."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Measurement)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in [*rows, *means(rows)])
    return buffer.getvalue()


def to_json(rows: Sequence[Measurement]) -> str:
    """Rows, means, PSNR at fixed rates and the rate model's error as JSON (NaN and infinity as null)."""

    def plain(row: Measurement) -> dict[str, object]:
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()
        }

    return json.dumps(
        {
            "images": [plain(row) for row in rows],
            "means": [plain(row) for row in means(rows)],
            "psnr_at_bpp": {str(rate): value for rate, value in at_rates(rows).items()},
            "rate_model_rms_error": estimate_error(rows),
        },
        indent=1,
    )
