"""How good and how large: PSNR, SSIM, bits per pixel, Bjontegaard deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def mse(a: Array, b: Array) -> float:
    """Mean squared error over all samples of two arrays of one shape, without copying them whole."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    total = 0.0
    for start in range(0, a.shape[0], 256):
        rows = slice(start, start + 256)
        difference = a[rows].astype(np.float64) - b[rows].astype(np.float64)
        total += float(np.vdot(difference, difference))
    return total / a.size


def psnr_from_mse(error: float, peak: float = 255.0) -> float:
    """10 log10(peak^2 / error), dB; infinite for no error."""
    return math.inf if error <= 0 else 10 * math.log10(peak * peak / error)


def psnr(a: Array, b: Array, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio over all samples, no border crop, dB.

    peak: 255 for 8-bit images; for others the width of the original's value range.
    """
    return psnr_from_mse(mse(a, b), peak)


def ssim(a: Array, b: Array, peak: float = 255.0) -> float:
    """Structural similarity, mean over channels: scikit-image, Gaussian weights as in Wang et al. 2004."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(  # type: ignore[no-untyped-call,unused-ignore]
            a.astype(np.float32),
            b.astype(np.float32),
            data_range=peak,
            channel_axis=2 if a.ndim == 3 else None,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def bpp(nbytes: int, shape: Sequence[int]) -> float:
    """Bits of the whole file per HR pixel; shape: (H, W, ...) of the original."""
    return 8 * nbytes / (shape[0] * shape[1])


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> float | None:
    """Bjontegaard delta rate, percent: how many bytes `test` needs against `anchor` at equal PSNR.

    Curves are (bpp, PSNR) points. Piecewise cubic Hermite interpolation (the "pchip" variant of
    VCEG-M33) over the PSNR range both curves cover; None where they share none.
    """
    from scipy.interpolate import PchipInterpolator

    def curve(points: Sequence[tuple[float, float]]) -> tuple[NDArray[np.float64], ...]:
        quality, rate = np.array(sorted((q, r) for r, q in points)).T
        keep = np.concatenate([[True], np.diff(quality) > 1e-9])
        return quality[keep], np.log(rate[keep])

    anchor, test = ([p for p in points if math.isfinite(p[1])] for points in (anchor, test))
    if min(len(anchor), len(test)) < 2:
        return None
    (qa, ra), (qt, rt) = curve(anchor), curve(test)
    low, high = max(qa[0], qt[0]), min(qa[-1], qt[-1])
    if len(qa) < 2 or len(qt) < 2 or high <= low:
        return None
    area = [PchipInterpolator(q, r).integrate(low, high) / (high - low) for q, r in ((qa, ra), (qt, rt))]
    return float(100 * math.expm1(area[1] - area[0]))


def at_bpp(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """PSNR of a (bpp, PSNR) curve at one rate, linear in log(bpp); None outside of the curve."""
    if not points:
        return None
    rates, quality = np.array(sorted(points)).T
    if not rates[0] <= wanted <= rates[-1]:
        return None
    return float(np.interp(math.log(wanted), np.log(rates), quality))
