"""The published HyperThumbnail: the networks of Qi et al., CVPR 2023 (arXiv 2304.01064), for scale 4.

The layers, sizes and constants are those of the authors' released code, so that their checkpoint loads
(module `released`) and gives the same thumbnail, tables and reconstruction. Around them stands the
interface of `model.HyperThumbModel`, and a file is the same container.

What differs from ours, and how it is mapped:

* One rate. Neither network sees a level; the encoder's thumbnail is the same at all of them. The level
  multiplies the predicted tables before they are rounded, as the released code's `inference_scalar` does:
  by 1 at level 0 (the published rate), by `TABLE_FACTOR` at -1 and by its inverse at +1.
* The tables depend on the coefficients of the finished thumbnail, block by block, where ours look at the
  bicubic one. So `encoder.base` is the finished thumbnail here, and `trunk` and `tail` add nothing to it.
* A baseline JPEG holds steps of 1 .. 255: predicted ones outside are clamped.
* Training adds uniform noise where use rounds (Ballé et al., ICLR 2017), to tables and coefficients.

Units as in `model`: planes are zero-centred Y, Cb, Cr in 8-bit levels; inside, networks see RGB of 0 .. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .device import mixed_precision
from .errors import ModelError
from .jpeg import (
    BLOCK,
    COEFFICIENTS,
    ZIGZAG,
    Rounding,
    dct_8x8,
    dequantise,
    idct_8x8,
    quantise,
    rgb_to_ycbcr,
    steps,
    ycbcr_to_rgb,
)
from .model import BEST, STRIDE, Coded, Passes, as_gray, bicubic_down, integer_tables, planes_kept, whole
from .paper_layers import EDSR, ENCODER_SLOPE, BlockMLP, DenseBlock, Down, Up, conv3
from .tiling import Tile, tiles

MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K's RGB samples."""
TABLE_BIAS = 1.49
"""Added to predicted steps: rounded they come to 1 at least, with training's noise to 0.99."""
TABLE_FACTOR = 4.0
COEFFICIENT_RANGE = 10.0
CONTEXT_TILE = 8192
"""HR pixels a side of the pieces in which the coefficient branch runs over a large image."""
TileDecoder = Callable[[Tile, Tensor, Tensor], Tensor]
"""A tile, its LR planes and dequantised coefficients (with their surroundings) to its HR planes."""


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """Sizes of the published networks. The defaults are the released ones; others serve tests."""

    scale: int = 4
    features: int = 64
    """Of the encoder at stride 4; twice as many at each layer further down."""
    down_layers: int = 2
    decoder_features: int = 24
    decoder_blocks: int = 16
    rate_weight: float = 2e-2
    """Of a bit a pixel in the published loss, which takes samples of 0 .. 1."""

    def __post_init__(self) -> None:
        if self.scale != 4:
            raise ModelError(f"the published architecture is for scale 4, not {self.scale!r}")
        for name, most in (("features", 256), ("decoder_features", 256), ("decoder_blocks", 64)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ModelError(f"{name} must be an integer from 1 to {most}, not {value!r}")
        if self.features % 2:
            raise ModelError("features must be even")
        if not isinstance(self.down_layers, int) or not 1 <= self.down_layers <= 3:
            raise ModelError(f"down_layers must be from 1 to 3, not {self.down_layers!r}")

        if not 0 <= self.rate_weight < 1e6:
            raise ModelError("rate_weight must be from 0 to 1e6")

    def trade_off(self, level: Tensor) -> Tensor:
        """`rate_weight` for each of the levels (N,): there is one rate."""
        return torch.full_like(level, self.rate_weight)

    @property
    def block(self) -> int:
        """HR pixels a side behind one 8x8 block of the thumbnail: HR sizes are padded to it."""
        return BLOCK * self.scale

    @property
    def encoder_channels(self) -> int:
        """Channels that `encoder.trunk` gives: none, since all is in `encoder.base`."""
        return 0

    @property
    def encoder_halo(self) -> int:
        """HR pixels around a tile that the encoder's output inside it depends on, whole blocks."""
        reach = (1 + 5 + 1) * STRIDE  # first convolution, dense block, last convolution
        for layer in range(self.down_layers):
            here, below = STRIDE * 2**layer, STRIDE * 2 ** (layer + 1)
            reach += 2 * here + 6 * below  # down: strided convolution and its alignment, 1 + 5
            reach += 2 * below + 7 * here  # up: convolution and shuffle, 2 + 5
        return whole(reach, self.block)

    @property
    def pixel_halo(self) -> int:
        """HR pixels around a tile that the pixel branch depends on, given the coefficient branch."""
        return whole((2 + 2 * self.decoder_blocks) * STRIDE + 4 + 2 + 1, self.block)

    @property
    def coefficient_halo(self) -> int:
        """The same for the coefficient branch, whose trunk runs on whole blocks."""
        return whole((3 + 2 * self.decoder_blocks) * self.block + 16 + 8 + 4, self.block)

    @property
    def decoder_halo(self) -> int:
        """Of both together: over a thousand pixels (see `PaperModel.tile_decoder`)."""
        return self.pixel_halo + self.coefficient_halo


def _mean(like: Tensor) -> Tensor:
    return torch.tensor(MEAN).to(like).reshape(1, 3, 1, 1)


def _to_unit(planes: Tensor) -> Tensor:
    """Zero-centred Y, Cb, Cr to RGB of 0 .. 1."""
    return (ycbcr_to_rgb(planes) + 128) / 255


def _from_unit(rgb: Tensor) -> Tensor:
    """Inverse of `_to_unit`."""
    return rgb_to_ycbcr(rgb * 255 - 128)


# ---- encoder ---------------------------------------------------------------------------------


class PaperEncoder(nn.Module):
    """HR planes to the LR planes of the thumbnail, whatever the level."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        channels = config.features
        self.conv_first = conv3(3 * STRIDE**2, channels)
        self.rdb_first = DenseBlock(channels, channels // 2)
        layers = [channels * 2**i for i in range(config.down_layers)]
        self.down_list = nn.ModuleList(Down(count) for count in layers)
        self.up_list = nn.ModuleList(Up(count) for count in layers)
        self.conv_last = conv3(channels, 3, bias=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """RGB (N, 3, H, W) of 0 .. 1, sides multiples of 16, to RGB (N, 3, H/4, W/4), not clamped."""
        mean = _mean(rgb)
        x = F.leaky_relu(self.conv_first(F.pixel_unshuffle(rgb - mean, STRIDE)), ENCODER_SLOPE)
        x = self.rdb_first(x)
        skipped = []
        for down in self.down_list:
            skipped.append(x)
            x = down(x)
        for up in reversed(self.up_list):
            x = up(skipped.pop(), x)
        out: Tensor = self.conv_last(x) + mean
        return out

    def base(self, planes: Tensor) -> Tensor:
        """HR planes (N, 3, H, W) to the thumbnail's planes (N, 3, H/4, W/4)."""
        return _from_unit(self(_to_unit(planes)).clamp(0, 1))

    def trunk(self, planes: Tensor) -> Tensor:
        """Nothing more is needed: (N, 0, H/4, W/4)."""
        return planes[:, :0, ::STRIDE, ::STRIDE]

    def tail(self, features: Tensor, lr: Tensor, level: Tensor) -> Tensor:
        """The base itself."""
        return lr


# ---- tables ----------------------------------------------------------------------------------


class PaperPredictor(nn.Module):
    """The thumbnail's coefficients to quantisation tables (section 3.2 of the paper).

    `sums`, `pooled` and `forward` are the three parts that `model.QuantisationPredictor` has too: the
    first runs tile by tile. Statistics here are the means over blocks of what the MLPs give.
    """

    def __init__(self) -> None:
        super().__init__()
        self.MLPs = nn.ModuleList(BlockMLP() for _ in range(2))

    def _blocks(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """MLP outputs of all luma, and of all chroma blocks of LR planes: (N, blocks, 64), zigzag order."""
        order = torch.tensor(ZIGZAG, device=lr.device)
        scanned = dct_8x8(lr).index_select(2, order).flatten(3).transpose(2, 3)  # (N, 3, B, 64)
        return self.MLPs[0](scanned[:, 0]), self.MLPs[1](scanned[:, 1:].flatten(1, 2))

    def sums(self, lr: Tensor) -> Tensor:
        """Sums over the blocks of LR planes (1, 3, h, w), on the CPU: (2, 64) float64.

        Those of chroma are halved, since it has two planes.
        """
        luma, chroma = (part.cpu().double().sum((0, 1)) for part in self._blocks(lr))
        return torch.stack([luma, chroma / 2])

    @staticmethod
    def pooled(mean: Tensor) -> Tensor:
        """`sums` / number of blocks, (N, 2, 64), to statistics (N, 128)."""
        return mean.flatten(1)

    def statistics(self, lr: Tensor) -> Tensor:
        """LR planes (N, 3, h, w) to statistics (N, 128): means over blocks, luma and chroma, zigzag order."""
        return torch.cat([part.mean(1) for part in self._blocks(lr)], 1)

    def forward(self, statistics: Tensor, level: Tensor) -> Tensor:
        """(N, 128) and (N,) to real-valued tables (N, 2, 64) in natural order."""
        back = torch.argsort(torch.tensor(ZIGZAG, device=statistics.device))
        steps = statistics.reshape(-1, 2, COEFFICIENTS)[:, :, back] + TABLE_BIAS
        return steps * torch.exp(-math.log(TABLE_FACTOR) * level)[:, None, None]


# ---- decoder ---------------------------------------------------------------------------------


class PaperDecoder(nn.Module):
    """What the file holds to HR planes (section 3.3): the frequency-aware decoder."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        channels, blocks = config.decoder_features, config.decoder_blocks
        self.coefficients = EDSR(3 * COEFFICIENTS, 24, channels, blocks, 3)
        self.pixels = EDSR(3 + 24, 3, channels, blocks, 2)

    def context(self, dequantised: Tensor) -> Tensor:
        """Coefficients (N, 3, 64, h/8, w/8), natural order, to 24 channels at LR size."""
        order = torch.tensor(ZIGZAG, device=dequantised.device)
        out: Tensor = self.coefficients(dequantised.index_select(2, order).flatten(1, 2))
        return out / COEFFICIENT_RANGE

    def reconstruct(self, lr: Tensor, context: Tensor) -> Tensor:
        """LR planes (N, 3, h, w) and the context beside them to HR planes."""
        rgb = self.pixels(torch.cat([_to_unit(lr), context], 1))
        return _from_unit(rgb + _mean(rgb))

    def forward(self, lr: Tensor, dequantised: Tensor, tables: Tensor) -> Tensor:
        """As `model.FrequencyAwareDecoder`; the tables aren't looked at."""
        return self.reconstruct(lr, self.context(dequantised))


# ---- all of it -------------------------------------------------------------------------------


def _with_noise(x: Tensor) -> Tensor:
    """Uniform noise in place of rounding (Ballé et al., arXiv 1611.01704, equation 8)."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


class PaperModel(nn.Module):
    """The published encoder, table predictor and decoder behind the interface of `HyperThumbModel`."""

    passes = Passes(0, 0, 0)
    """Published files are rounded, no more."""
    best_passes = BEST
    BIT_PRICE = 120.0
    mixed: torch.dtype | None = None
    """As in `HyperThumbModel`."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PaperEncoder(config)
        self.predictor = PaperPredictor()
        self.decoder = PaperDecoder(config)

    def bit_price(self, level: Tensor) -> Tensor:
        """As `HyperThumbModel.bit_price`, for `effort="best"`: an estimate.

        Our models' where they have a similar number of bits; it goes with the square of the steps.
        """
        return self.BIT_PRICE * TABLE_FACTOR ** (-2 * level)

    def thumbnail_price(self, level: Tensor) -> Tensor:
        """As `HyperThumbModel.thumbnail_price`: the thumbnail stays as good as before."""
        return torch.full_like(level, self.config.scale**2)

    def curvature(self, tables: Tensor, channels: int) -> Tensor:
        """As `HyperThumbModel.curvature`, with the gain of a plain upsampling."""
        return 2 * self.config.scale**2 * steps(tables, channels).square()

    def tables(self, statistics: Tensor, level: Tensor, rounding: Rounding = torch.round) -> Tensor:
        """Whole-numbered tables (N, 2, 64), 1 .. 255."""
        return integer_tables(self.predictor(statistics, level), rounding)

    def quantise(self, coefficients: Tensor, tables: Tensor, rounding: Rounding = torch.round) -> Tensor:
        """`jpeg.quantise`: plain rounding, no dead zone."""
        return quantise(coefficients, tables, rounding)

    def rounded(self, scaled: Tensor) -> Tensor:
        """Coefficients / tables (C, 64, h, w) as this model rounds them."""
        return scaled.round()

    def decode(self, quantised: Tensor, tables: Tensor) -> Tensor:
        """Quantised coefficients (N, 3, 64, h, w) and tables (N, 2, 64) to HR planes."""
        dequantised = dequantise(quantised, tables)
        out: Tensor = self.decoder(idct_8x8(dequantised), dequantised, tables)
        return out

    def tile_decoder(self, quantised: Tensor, tables: Tensor) -> tuple[TileDecoder, int]:
        """What decodes a tile, and the halo it needs, in HR pixels.

        quantised: of the whole image, (1, 1 or 3, 64, h, w); tables: (1, 2, 64), on the network's device.
        The coefficient branch reaches over a thousand pixels but is 5% of the work: it runs here, over the
        whole image, so that tiles need the pixel branch's surroundings only.
        """
        scale, block = self.config.scale, self.config.block
        padded = (quantised.shape[3] * block, quantised.shape[4] * block)
        context = torch.empty((24, *(side // scale for side in padded)), device=tables.device)
        for tile in tiles(padded, CONTEXT_TILE, self.config.coefficient_halo):
            part = dequantise(_cut(quantised, tile, block).to(tables.device), tables)
            if part.shape[1] == 1:  # a gray file: its colours are empty
                part = torch.cat([part, torch.zeros_like(part), torch.zeros_like(part)], 1)
            part = self.decoder.context(part)[0]
            inner = (slice(None), tile.rows.inner(scale), tile.columns.inner(scale))
            context[:, tile.rows.core(scale), tile.columns.core(scale)] = part[inner]

        def decode(tile: Tile, lr: Tensor, dequantised: Tensor) -> Tensor:
            return self.decoder.reconstruct(lr, _cut(context[None], tile, scale))

        return decode, self.config.pixel_halo

    def forward(self, rgb: Tensor, level: Tensor, gray: Tensor | None = None, held: None = None) -> Coded:
        """One differentiable pass; see `HyperThumbModel.forward`.

        In training mode with noise, at the one published rate whatever `level` says; in evaluation mode
        with rounding, at the level.
        """
        planes = rgb_to_ycbcr(rgb)
        with mixed_precision(rgb.device, self.mixed):
            lr = self.encoder.base(planes).float()
        keep = planes_kept(lr, gray)
        lr = lr * keep
        rounding = _with_noise if self.training else torch.round
        at = torch.zeros_like(level) if self.training else level
        tables = self.tables(self.predictor.statistics(lr), at, rounding)
        if gray is not None:
            tables = torch.where(gray[:, None, None], as_gray(tables), tables)
        coefficients = dct_8x8(lr)
        scaled = quantise(coefficients, tables, lambda x: x)
        # Planes that a gray file doesn't have stay empty, noise or not.
        quantised = rounding(scaled) * keep[..., None]
        dequantised = dequantise(quantised, tables)
        shown = idct_8x8(dequantised)
        with mixed_precision(rgb.device, self.mixed):
            decoded = self.decoder(shown, dequantised, tables).float()
        hr = ycbcr_to_rgb(decoded * keep)
        return Coded(hr, shown, bicubic_down(planes, self.config.scale), scaled, quantised, tables)


def _cut(values: Tensor, tile: Tile, unit: int) -> Tensor:
    """A tile with its surroundings out of samples `unit` HR pixels apart."""
    return values[..., tile.rows.outer(unit), tile.columns.outer(unit)]
