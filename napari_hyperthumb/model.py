"""The networks: encoder, quantisation predictor and frequency-aware decoder.

After Qi et al., "Real-Time 6K Image Rescaling with Rate-distortion Optimization", CVPR 2023
(arXiv 2304.01064), with smaller networks, a rate level that the user moves, and two scales from one
code path. Both convolutional networks run at a stride of 4 HR pixels whatever the scale.

Units: planes are zero-centred Y, Cb, Cr in 8-bit levels (see `jpeg`); inside the networks they are
divided by 128. `level` is -1 (smallest file) .. +1 (largest), shape (N,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .device import mixed_precision
from .errors import ModelError
from .jpeg import (
    BLOCK,
    COEFFICIENTS,
    Rounding,
    dct_8x8,
    dequantise,
    idct_8x8,
    quantise,
    rgb_to_ycbcr,
    round_ste,
    shrink,
    steps,
    ycbcr_to_rgb,
)

STRIDE = 4
"""HR pixels a side behind one position of the residual trunks."""
UNIT = 128.0
LEVELS = (-1.0, 1.0)


class Passes(NamedTuple):
    """Forwards and backwards through the decoder for one file."""

    descents: int
    """Before coefficients are rounded."""
    settling: int
    """While that happens; not without descents."""
    rounds: int
    """Of moves. 0: none of the three."""


BEST = Passes(24, 32, 8)
"""With effort "best", where weights don't say otherwise."""
PASSES = (*Passes._fields, *(f"best_{name}" for name in Passes._fields))
"""Settings that count them."""
MOST_PASSES = 64
"""Of each kind."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What builds a model; stored in the header of its weights."""

    scale: int
    encoder_channels: int = 48
    encoder_blocks: int = 5
    encoder_level_blocks: int = 2
    decoder_channels: int = 40
    decoder_blocks: int = 5
    decoder_hidden: int = 0
    """Channels inside the decoder's blocks; 0: as many as between them."""
    frequency_hidden: int = 128
    frequency_channels: int = 32
    predictor_hidden: int = 192
    dead_zone: float = 0.1
    rate_weight: float = 100.0
    """Squared error, in 8-bit levels, that one bit a pixel is worth at level 0."""
    rate_slope: float = 1.7
    """How fast that falls: by its exponential in a level."""
    thumbnail_weight: float = 1.0
    """Of the thumbnail's squared error beside the image's, where coefficients are chosen (module `moves`)."""
    thumbnail_fall: float = 0.0
    """How fast that falls above level 0: by its exponential in a level."""
    descents: int = 1
    settling: int = 4
    rounds: int = 5
    """That every file gets: see `Passes`. A decoder that gains less from each may get more of them."""
    best_descents: int = BEST.descents
    best_settling: int = BEST.settling
    best_rounds: int = BEST.rounds
    """The same with effort "best"."""

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int) or self.scale not in (2, 4):
            raise ModelError(f"scale must be 2 or 4, not {self.scale!r}")
        for name in (
            "encoder_channels",
            "encoder_blocks",
            "encoder_level_blocks",
            "decoder_channels",
            "decoder_blocks",
            "decoder_hidden",
            "frequency_hidden",
            "frequency_channels",
            "predictor_hidden",
            *PASSES,
        ):
            value, counted = getattr(self, name), name in PASSES
            least = 0 if counted or name == "decoder_hidden" else 1
            most = MOST_PASSES if counted else 1024
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ModelError(f"{name} must be an integer from {least} to {most}, not {value!r}")
        if self.encoder_level_blocks > self.encoder_blocks:
            raise ModelError("encoder_level_blocks must be from 1 to encoder_blocks")
        if not 0 <= self.dead_zone < 0.5:
            raise ModelError("dead_zone must be from 0 to less than 0.5")
        if not (0 <= self.rate_weight < 1e6 and 0 <= self.rate_slope <= 10):
            raise ModelError("rate_weight must be from 0 to 1e6 and rate_slope from 0 to 10")
        if not (0 <= self.thumbnail_weight < 1e3 and 0 <= self.thumbnail_fall <= 10):
            raise ModelError("thumbnail_weight must be from 0 to 1e3 and thumbnail_fall from 0 to 10")

    def trade_off(self, level: Tensor) -> Tensor:
        """Squared error that one bit a pixel is worth at levels (N,): what they are trained for."""
        return self.rate_weight * torch.exp(-self.rate_slope * level)

    @property
    def decoder_inner(self) -> int:
        """Channels inside the decoder's blocks."""
        return self.decoder_hidden or self.decoder_channels

    @property
    def block(self) -> int:
        """HR pixels a side behind one 8x8 block of the thumbnail: HR sizes are padded to it."""
        return BLOCK * self.scale

    @property
    def encoder_halo(self) -> int:
        """HR pixels around a tile that the encoder's output inside it depends on, whole blocks."""
        convolutions = 2 * self.encoder_blocks + 2
        bicubic = 2 * self.scale + 1  # support of the anti-aliased kernel
        return whole(max(convolutions * STRIDE, bicubic), self.block)

    @property
    def decoder_halo(self) -> int:
        """As `encoder_halo`, for the decoder."""
        trunk = (2 * self.decoder_blocks + 2) * STRIDE  # the upsampling beside it reaches less far
        frequency = 2 * self.block  # two 3x3 convolutions on the grid of blocks
        return whole(trunk, self.block) + frequency


def whole(size: int, unit: int) -> int:
    """A size brought up to whole units."""
    return -(-size // unit) * unit


def _conv(inputs: int, outputs: int, *, gain: float = 1.0, kernel: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    if gain != 1.0:
        with torch.no_grad():
            conv.weight.mul_(gain)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class FiLM(nn.Module):
    """Scale and shift of feature maps from a vector (Perez et al., arXiv 1709.07871).

    channels: of each layer's feature maps. Returns a pair (scale, shift) for each layer, both
    (N, channels, 1, 1); the identity at the start.
    """

    def __init__(self, inputs: int, hidden: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.net = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * sum(self.channels))
        )
        last = self.net[2]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = self.net(vector)[:, :, None, None]  # scale and shift of the first layer, of the second, ...
        pairs = (part.chunk(2, 1) for part in out.split([2 * count for count in self.channels], 1))
        return [(1 + scale, shift) for scale, shift in pairs]


class ResidualBlock(nn.Module):
    """x + conv(relu(film(conv(x)))): the film can be folded into the first convolution."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.a = _conv(channels, hidden)
        self.b = _conv(hidden, channels, gain=0.1)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        y = self.a(x)
        if torch.is_grad_enabled():
            if film is not None:
                y = y * film[0] + film[1]
            out: Tensor = x + self.b(F.relu(y))
        else:  # the same without copies: nothing has to be kept for a gradient
            if film is not None:
                y = torch.addcmul(film[1], y, film[0])
            out = self.b(y.relu_())
            out += x
        return out


def bicubic_down(planes: Tensor, scale: int) -> Tensor:
    """(N, C, H, W) to (N, C, H/scale, W/scale), anti-aliased: the thumbnail one would make by hand."""
    size = (planes.shape[2] // scale, planes.shape[3] // scale)
    return F.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)


class Encoder(nn.Module):
    """HR planes to LR planes.

    `trunk` doesn't see the level: its features are computed once per image. `tail` does.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.level_blocks = config.encoder_level_blocks
        channels = config.encoder_channels
        self.head = _conv(3 * STRIDE**2, channels)
        self.body = nn.ModuleList(ResidualBlock(channels) for _ in range(config.encoder_blocks))
        self.film = FiLM(1, 32, [channels] * config.encoder_level_blocks)
        self.out = _conv(channels, 3 * (STRIDE // config.scale) ** 2, gain=0.05)

    def base(self, planes: Tensor) -> Tensor:
        """The LR planes that `tail` starts from: bicubic ones. They don't depend on the level."""
        return bicubic_down(planes, self.scale)

    def trunk(self, planes: Tensor) -> Tensor:
        """(N, 3, H, W), sides multiples of 4, to features (N, encoder_channels, H/4, W/4)."""
        h: Tensor = self.head(F.pixel_unshuffle(planes / UNIT, STRIDE))
        for block in self.body[: -self.level_blocks]:
            h = block(h)
        return h

    def tail(self, features: Tensor, lr: Tensor, level: Tensor) -> Tensor:
        """Features and the bicubic LR planes to the LR planes of the thumbnail, (N, 3, H/scale, W/scale)."""
        h = features
        films = self.film(level[:, None])
        for block, film in zip(self.body[-self.level_blocks :], films, strict=True):
            h = block(h, film)
        residual: Tensor = F.pixel_shuffle(self.out(h), STRIDE // self.scale)
        return lr + residual * UNIT

    def forward(self, planes: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """HR planes to (LR planes, bicubic LR planes)."""
        lr = self.base(planes)
        return self.tail(self.trunk(planes), lr, level), lr


class QuantisationPredictor(nn.Module):
    """Statistics of the image and the level to the logarithm of two quantisation tables.

    The statistics come from the bicubic LR, which doesn't depend on the level, and the level enters
    through positive slopes only: every step falls as the level rises, by construction.
    """

    base: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.predictor_hidden
        self.net = nn.Sequential(
            nn.Linear(2 * COEFFICIENTS, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3 * 2 * COEFFICIENTS),
        )
        last = self.net[4]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.05)
            last.bias.zero_()
        index = torch.arange(COEFFICIENTS, device="cpu")  # on "meta", torch imports sympy for it: a second
        diagonal = (index // BLOCK + index % BLOCK).float()
        luma, chroma = math.log(14.0) + 0.03 * diagonal, math.log(20.0) + 0.05 * diagonal
        self.register_buffer("base", torch.stack([luma, chroma]))  # (2, 64)

    @classmethod
    def statistics(cls, lr: Tensor) -> Tensor:
        """Mean magnitude of each luma and chroma coefficient of LR planes: (N, 128).

        lr: (N, 3, h, w), h and w multiples of 8.
        """
        return cls.pooled(dct_8x8(lr).abs().mean((3, 4)))

    @staticmethod
    def sums(lr: Tensor) -> Tensor:
        """What of the statistics adds up over the tiles of an image: (1, 3, h, w) to (3, 64) float64,
        on the CPU."""
        return dct_8x8(lr).abs().cpu().double().sum((0, 3, 4))

    @staticmethod
    def pooled(mean: Tensor) -> Tensor:
        """`sums` / number of blocks, (N, 3, 64), to statistics (N, 128)."""
        return torch.cat([mean[:, 0], (mean[:, 1] + mean[:, 2]) / 2], 1)

    def forward(self, statistics: Tensor, level: Tensor) -> Tensor:
        """(N, 128) and (N,) to real-valued tables within 1 .. 255, (N, 2, 64)."""
        out = self.net(torch.log1p(statistics) / 2 - 1)
        offset, low, high = out.reshape(-1, 3, 2, COEFFICIENTS).unbind(1)
        at = level[:, None, None]
        slope = torch.where(at < 0, F.softplus(low), F.softplus(high))
        logs = self.base + offset - at * slope
        tables: Tensor = logs.clamp(0.0, math.log(255.0)).exp()
        return tables


def integer_tables(tables: Tensor, rounding: Rounding = torch.round) -> Tensor:
    """Tables as a baseline JPEG stores them: whole numbers 1 .. 255."""
    return rounding(tables).clamp(1, 255)


def as_gray(tables: Tensor) -> Tensor:
    """Tables of a file with one component: there is no chroma table, so luma stands for both."""
    return tables[:, :1].expand_as(tables)


class FrequencyAwareDecoder(nn.Module):
    """What the file holds (coefficients, tables) to HR planes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.unshuffle = STRIDE // config.scale
        self.shuffle = config.block // STRIDE
        hidden, channels = config.frequency_hidden, config.decoder_channels
        self.frequency = nn.Sequential(
            _conv(3 * COEFFICIENTS, hidden),
            nn.ReLU(),
            _conv(hidden, hidden),
            nn.ReLU(),
            _conv(hidden, config.frequency_channels * self.shuffle**2, kernel=1),
        )
        self.head = _conv(3 * self.unshuffle**2 + config.frequency_channels, channels)
        inner = config.decoder_inner
        self.body = nn.ModuleList(ResidualBlock(channels, inner) for _ in range(config.decoder_blocks))
        self.film = FiLM(2 * COEFFICIENTS, 64, [channels] + [inner] * config.decoder_blocks)
        self.out = _conv(channels, 3 * STRIDE**2, gain=0.1)

    def films(self, tables: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Tables (N, 2, 64) to the scale and shift behind the head and in each block."""
        return self.film(tables.log().flatten(1) - 2)  # type: ignore[no-any-return]

    def forward(self, lr: Tensor, dequantised: Tensor, tables: Tensor) -> Tensor:
        """LR planes (N, 3, h, w), their coefficients (N, 3, 64, h/8, w/8) and tables to HR planes."""
        films = self.films(tables)
        frequency = self.frequency(dequantised.flatten(1, 2) / UNIT)  # (N, k*s*s, h/8, w/8)
        pixels = F.pixel_unshuffle(lr / UNIT, self.unshuffle)
        h = self.head(torch.cat([pixels, F.pixel_shuffle(frequency, self.shuffle)], 1))
        h = h * films[0][0] + films[0][1]
        for block, film in zip(self.body, films[1:], strict=True):
            h = block(h, film)
        residual = F.pixel_shuffle(self.out(h), STRIDE)
        up = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return up + residual * UNIT


def planes_kept(planes: Tensor, gray: Tensor | None) -> Tensor:
    """1 for the planes a file has, 0 for the colours of those `gray` (N,) says: (N, 3, 1, 1)."""
    keep = torch.ones_like(planes[:, :, :1, :1])
    if gray is not None:
        keep[gray, 1:] = 0
    return keep


class Held(NamedTuple):
    """What files hold."""

    quantised: Tensor
    """Coefficients (N, 3, 64, h/8, w/8)."""
    tables: Tensor
    """(N, 2, 64)"""


class Coded(NamedTuple):
    """What one pass through a model gives; planes and RGB are zero-centred, in 8-bit levels."""

    hr: Tensor
    """Reconstruction, RGB (N, 3, H, W)."""
    lr: Tensor
    """Planes that a viewer shows (N, 3, H/scale, W/scale)."""
    bicubic: Tensor
    """Planes of the bicubic thumbnail, same shape."""
    scaled: Tensor
    """Coefficients / tables before rounding (N, 3, 64, h/8, w/8)."""
    quantised: Tensor
    """The same, rounded: what the file holds."""
    tables: Tensor
    """Whole-numbered tables (N, 2, 64)."""


class HyperThumbModel(nn.Module):
    """Encoder, quantisation predictor and decoder, trained together."""

    gain: Tensor
    mixed: torch.dtype | None = None
    """Of the encoder's and decoder's layers in training; tables, DCT and what is left are float32 always."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.predictor = QuantisationPredictor(config)
        self.decoder = FrequencyAwareDecoder(config)
        self.register_buffer("gain", torch.full((3, COEFFICIENTS), float(config.scale**2)))

    @property
    def passes(self) -> Passes:
        """That every file gets."""
        c = self.config
        return Passes(c.descents, c.settling, c.rounds)

    @property
    def best_passes(self) -> Passes:
        """Those of effort "best"."""
        c = self.config
        return Passes(c.best_descents, c.best_settling, c.best_rounds)

    def bit_price(self, level: Tensor) -> Tensor:
        """Squared error, averaged over pixels and colours, that one bit a pixel is worth at levels (N,)."""
        return self.config.trade_off(level)

    def thumbnail_price(self, level: Tensor) -> Tensor:
        """Squared error of the image that a squared error of one pixel of the thumbnail is worth, (N,)."""
        c = self.config
        return c.scale**2 * c.thumbnail_weight * torch.exp(-c.thumbnail_fall * level.clamp_min(0))

    def curvature(self, tables: Tensor, channels: int) -> Tensor:
        """Second derivative of an image's error (see `moves`) in each quantised coefficient.

        (N, channels, 64, 1, 1): the decoder's mean squared gain of each coefficient, found in training,
        times the squared steps.
        """
        return 2 * self.gain[:channels, :, None, None] * steps(tables, channels).square()

    def tables(self, statistics: Tensor, level: Tensor, rounding: Rounding = torch.round) -> Tensor:
        """Whole-numbered tables (N, 2, 64)."""
        return integer_tables(self.predictor(statistics, level), rounding)

    def quantise(self, coefficients: Tensor, tables: Tensor, rounding: Rounding = torch.round) -> Tensor:
        """`jpeg.quantise` with this model's dead zone."""
        return quantise(coefficients, tables, rounding, self.config.dead_zone)

    def rounded(self, scaled: Tensor) -> Tensor:
        """Coefficients / tables (C, 64, h, w) as this model rounds them."""
        return shrink(scaled[None], self.config.dead_zone)[0].round()

    def decode(self, quantised: Tensor, tables: Tensor) -> Tensor:
        """Quantised coefficients (N, 3, 64, h, w) and tables (N, 2, 64) to HR planes."""
        dequantised = dequantise(quantised, tables)
        return self._decoded(idct_8x8(dequantised), dequantised, tables)

    def _decoded(self, lr: Tensor, dequantised: Tensor, tables: Tensor) -> Tensor:
        with mixed_precision(lr.device, self.mixed):
            out: Tensor = self.decoder(lr, dequantised, tables)
        return out

    def gradient(self, quantised: Tensor, tables: Tensor, rgb: Tensor, keep: Tensor) -> Tensor:
        """d error / d quantised of each image; error as in `moves`, rgb as in `forward`."""
        with torch.enable_grad():
            leaf = quantised.detach().requires_grad_(True)
            error = ycbcr_to_rgb(self.decode(leaf, tables.detach()) * keep).float() - rgb
            return torch.autograd.grad(error.square().sum() / 3, leaf)[0]

    def measured_gain(
        self, quantised: Tensor, tables: Tensor, rgb: Tensor, keep: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The decoder's mean squared gain of each coefficient, (3, 64), as `gain` holds it.

        From the change of the gradient under random signs v: the mean of v * Hv is the diagonal of H
        (Bekas et al., Applied Numerical Mathematics 57, 2007).
        """
        half = torch.randint(0, 2, quantised.shape, generator=generator).to(quantised) - 0.5
        up, down = (self.gradient(quantised + v, tables, rgb, keep) for v in (half, -half))
        second = (up - down) * 2 * half / steps(tables, 3).square()
        weight = keep[..., None].expand_as(second).sum((0, 3, 4)).clamp_min(1)
        return (second.sum((0, 3, 4)) / weight / 2).clamp_min(0)

    def forward(
        self, rgb: Tensor, level: Tensor, gray: Tensor | None = None, held: Held | None = None
    ) -> Coded:
        """One differentiable pass, as trained, with straight-through rounding.

        rgb: (N, 3, H, W), H and W multiples of `config.block`, zero-centred 8-bit levels.
        level: (N,). gray: (N,) booleans, which images are to be coded with one component.
        held: what files of these images hold, to be decoded instead of what the encoder makes.
        """
        planes = rgb_to_ycbcr(rgb)
        if held is not None:
            bicubic = self.encoder.base(planes)
            scaled, (quantised, tables) = held.quantised, held
        else:
            with mixed_precision(rgb.device, self.mixed):
                lr, bicubic = self.encoder(planes, level)
            lr = lr * planes_kept(lr, gray)
            tables = self.tables(self.predictor.statistics(bicubic), level, round_ste)
            if gray is not None:
                tables = torch.where(gray[:, None, None], as_gray(tables), tables)
            coefficients = dct_8x8(lr)
            scaled = quantise(coefficients, tables, lambda x: x)
            quantised = scaled + (self.quantise(coefficients, tables) - scaled).detach()
        dequantised = dequantise(quantised, tables)
        shown = idct_8x8(dequantised)
        hr = ycbcr_to_rgb(self._decoded(shown, dequantised, tables) * planes_kept(shown, gray))
        return Coded(hr, shown, bicubic, scaled, quantised, tables)
