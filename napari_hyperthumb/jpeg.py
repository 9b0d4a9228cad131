"""What JPEG does to numbers: colour, 8x8 DCT, zigzag order and quantisation, all differentiable.

Planes are Y, Cb, Cr in units of 8-bit levels, centred on zero (-128 .. 127), shape (N, C, H, W).
Coefficients are (N, C, 64, H/8, W/8), in natural (row by row) order along the third axis.
Tables are (N, 2, 64): luma, then chroma.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
COEFFICIENTS = BLOCK * BLOCK
Rounding = Callable[[Tensor], Tensor]

# JFIF 1.02, section 7: ITU-R BT.601 weights, full range.
_RGB_TO_YCBCR = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
_YCBCR_TO_RGB = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]])


def _zigzag() -> tuple[int, ...]:
    def key(index: int) -> tuple[int, int]:
        row, column = divmod(index, BLOCK)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return tuple(sorted(range(COEFFICIENTS), key=key))


ZIGZAG = _zigzag()
"""``ZIGZAG[k]`` is the natural index of the k-th coefficient in file order (ITU T.81, figure A.6)."""


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) RGB to Y, Cb, Cr; both centred on zero, in 8-bit levels."""
    return torch.einsum("ij,njhw->nihw", _RGB_TO_YCBCR.to(rgb), rgb)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Inverse of `rgb_to_ycbcr`."""
    return torch.einsum("ij,njhw->nihw", _YCBCR_TO_RGB.to(ycbcr), ycbcr)


def three_planes(luma: Tensor) -> Tensor:
    """One plane (N, 1, ...) with two empty ones for the colours, as the networks take gray images."""
    empty = torch.zeros_like(luma)
    return torch.cat([luma, empty, empty], 1)


def _dct_matrix(like: Tensor) -> Tensor:
    n = torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def dct_8x8(planes: Tensor) -> Tensor:
    """Orthonormal DCT-II of each 8x8 block (ITU T.81, A.3.3).

    planes: (N, C, H, W), H and W multiples of 8. Returns (N, C, 64, H/8, W/8).
    """
    n, c, h, w = planes.shape
    blocks = planes.reshape(n, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    m = _dct_matrix(planes)
    out = torch.einsum("ui,ncyixj,vj->ncuvyx", m, blocks, m)
    return out.reshape(n, c, COEFFICIENTS, h // BLOCK, w // BLOCK)


def idct_8x8(coefficients: Tensor) -> Tensor:
    """Inverse of `dct_8x8`: (N, C, 64, h, w) to (N, C, 8h, 8w)."""
    n, c, _, h, w = coefficients.shape
    blocks = coefficients.reshape(n, c, BLOCK, BLOCK, h, w)
    m = _dct_matrix(coefficients)
    out = torch.einsum("ui,ncuvyx,vj->ncyixj", m, blocks, m)
    return out.reshape(n, c, h * BLOCK, w * BLOCK)


def steps(tables: Tensor, channels: int) -> Tensor:
    """Tables (N, 2, 64) as step sizes beside coefficients: (N, channels, 64, 1, 1), channels 1 or 3."""
    which = [0] if channels == 1 else [0, 1, 1]
    return tables[:, which, :, None, None]


def quantise(
    coefficients: Tensor, tables: Tensor, rounding: Rounding = torch.round, dead_zone: float = 0.0
) -> Tensor:
    """Coefficients / tables, rounded.

    coefficients: (N, C, 64, h, w), C 1 or 3; tables: (N, 2, 64).
    dead_zone: how far the rounding threshold of AC coefficients moves away from zero, 0 .. 0.5
    (a Laplacian source coded with an entropy coder is best quantised with one: Sullivan, IEEE
    Trans. IT 42(5), 1996). `rounding` is the function that rounds: `torch.round` in use,
    `round_ste` in training.
    """
    return rounding(shrink(coefficients / steps(tables, coefficients.shape[1]), dead_zone))


def shrink(scaled: Tensor, dead_zone: float) -> Tensor:
    """AC values nearer to zero by `dead_zone`, (N, C, 64, h, w); the gradient is that of the values."""
    if not dead_zone:
        return scaled
    shift = torch.full((1, 1, COEFFICIENTS, 1, 1), dead_zone).to(scaled)
    shift[:, :, 0] = 0
    return scaled + (F.relu(scaled.abs() - shift) * scaled.sign() - scaled).detach()


def dequantise(quantised: Tensor, tables: Tensor) -> Tensor:
    """Inverse of `quantise`, but for what rounding lost."""
    return quantised * steps(tables, quantised.shape[1])


def round_ste(x: Tensor) -> Tensor:
    """Round; the gradient passes as if it hadn't (straight-through estimator)."""
    return x + (x.round() - x).detach()
