"""Images through the networks, tile by tile: results equal those of the whole image at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import moves
from .backend import Backend, one_at_a_time, pick_backend
from .backend_torch import TorchDecoder
from .bitstream import MAX_SIDE, STRIP, Metadata, read_jpeg, write_jpeg
from .checkpoint import Model
from .device import decoding_dtype, has_bfloat16, mixed_precision
from .errors import ImageError
from .gradient import DecoderGradient, PaperGradient
from .jpeg import (
    BLOCK,
    COEFFICIENTS,
    dct_8x8,
    dequantise,
    idct_8x8,
    rgb_to_ycbcr,
    steps,
    three_planes,
    ycbcr_to_rgb,
)
from .model import LEVELS, STRIDE, HyperThumbModel, as_gray, whole
from .paper import PaperModel, TileDecoder
from .pixels import Array, Format, from_levels, to_levels
from .plain import MIDDLE, conditions, plain_decoder
from .tiling import Span, Tile, tiles, windows

TILE = 1024
"""HR pixels a side."""
DECODER_TILE, HALF_TILE = 1408, 2400
"""The same for the decoder, which takes less memory, and for one in half precision: windows keep about as
many pixels as such a square, in any shape."""
ONLY_TILE = {2: 3000, 4: 3500}
"""The last of these, by scale, where one window is worked on at a time: less of it is surroundings. With
these 6144x3456 pixels decode within 700 MB."""
GRADIENT_TILE = 832
"""The same where activations are kept for a gradient, in windows too."""
CACHE_BYTES = 400 * 2**20
"""Trunk features kept between levels; a larger image computes them again at every level."""
STEP, MOMENTUM = 0.12, 0.8
"""Of a descent, in units of what the curvature says, and what is kept of the step before."""
SETTLING_STEP = 0.3
"""The same where coefficients are rounded part by part; from 0.45 on it can run away."""
NEAR_ZERO = 0.05
"""Coefficients so small will be 0: they are rounded last, since some of them may grow yet."""
UNSURE = 0.002
"""How far off an error in bfloat16 may be."""
ROOM_BYTES = 100 * 2**20
"""Trunk features that aren't kept while moves are made, which need room of their own."""
Report = Callable[[float], None]
"""Called with the fraction done; what it raises ends the work (that is how to cancel)."""


Show = Callable[[slice, slice, Array], None]
"""Called with the rows and columns of a finished part of a picture, and its pixels."""


def no_report(fraction: float) -> None:
    """The default `Report`."""


def part_of(report: Report, first: float, last: float) -> Report:
    """Reports of a part of the work, which begins and ends at these fractions of the whole."""
    return lambda fraction: report(first + (last - first) * fraction)


def padded_shape(shape: tuple[int, int], block: int) -> tuple[int, int]:
    """Height and width in whole blocks."""
    height, width = (-(-side // block) * block for side in shape)
    return height, width


def thumbnail_size(shape: tuple[int, int], scale: int) -> tuple[int, int]:
    """Height and width of the thumbnail of an image."""
    return -(-shape[0] // scale), -(-shape[1] // scale)


@dataclass(frozen=True)
class Coding:
    """One coded version of an image."""

    data: bytes
    level: float
    tables: NDArray[np.int64]
    """(2, 64)"""


class PreparedImage:
    """An image with everything about it that doesn't depend on the rate level.

    Moving the level reruns the encoder's tail, the predictor and the entropy coder only.

    array, fmt: from `pixels.check_image`. device: where the networks run. counted: rows and columns of the
    pixels whose error counts when coefficients are chosen (slices from start to stop); None: all of them.
    """

    def __init__(
        self,
        array: Array,
        fmt: Format,
        model: Model,
        device: torch.device,
        *,
        counted: tuple[slice, slice] | None = None,
        tile: int = TILE,
        report: Report = no_report,
    ) -> None:
        self.array, self.format, self.model, self.device = array, fmt, model, device
        self.net = model.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._fast = torch.bfloat16 if has_bfloat16(device) else None
        config = self.net.config
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self._counted = counted or (slice(0, self.shape[0]), slice(0, self.shape[1]))
        self.lr_size = thumbnail_size(self.shape, config.scale)
        if max(self.lr_size) > MAX_SIDE:
            raise ImageError(
                f"the thumbnail would have {self.lr_size[1]}x{self.lr_size[0]} pixels; a JPEG has at "
                f"most {MAX_SIDE} a side: use a larger scale, or code the image in parts"
            )
        self.padded = padded_shape(self.shape, config.block)
        self._tiles = list(tiles(self.padded, _whole_tile(tile, config.block), config.encoder_halo))
        features = config.encoder_channels * self.padded[0] * self.padded[1] // 16 * (2 if self._fast else 4)
        self._keep = features <= CACHE_BYTES
        self._features: dict[int, Tensor] = {}
        self._base = np.empty((3, *(side // config.scale for side in self.padded)), np.float32)
        sums: Tensor | float = 0.0
        with torch.inference_mode():
            for index, tile_ in enumerate(self._tiles):
                planes = self._planes(tile_)
                lr = self.net.encoder.base(planes)[0]
                lr = lr[:, tile_.rows.inner(config.scale), tile_.columns.inner(config.scale)]
                core = (slice(None), tile_.rows.core(config.scale), tile_.columns.core(config.scale))
                self._base[core] = lr.cpu().numpy()
                sums = sums + self.net.predictor.sums(lr[None])
                if self._keep:
                    self._features[index] = self._trunk(planes)
                report((index + 1) / len(self._tiles))
            blocks = self._base[0].size // BLOCK**2
            statistics = self.net.predictor.pooled((sums / blocks).float()[None])
            self._statistics = statistics.to(device)

    def levels(self, tile: Tile) -> Tensor:
        """Gray or RGB levels 0 .. 255 of a tile with its surroundings, (h, w, 1 or 3), the edge continued."""
        rows, columns = tile.rows, tile.columns
        part = self.array[rows.low : rows.high, columns.low : columns.high]
        levels = to_levels(part, self.format)
        beyond = [
            (0, span.high - span.low - side) for span, side in zip((rows, columns), part.shape, strict=False)
        ]
        if any(after for _, after in beyond):
            levels = np.pad(levels, (*beyond, (0, 0)), "edge")
        return torch.from_numpy(levels).to(self.device)

    def _planes(self, tile: Tile) -> Tensor:
        """The same as zero-centred Y, Cb, Cr, (1, 3, h, w)."""
        levels = self.levels(tile).permute(2, 0, 1)[None] - 128
        return three_planes(levels) if self.format.gray else rgb_to_ycbcr(levels)

    def _trunk(self, planes: Tensor) -> Tensor:
        with mixed_precision(self.device, self._fast):
            out: Tensor = self.net.encoder.trunk(planes)
        return out

    def lr_planes(self, level: float, report: Report = no_report) -> NDArray[np.float32]:
        """LR planes of the thumbnail before quantisation, (1 or 3, h, w), whole blocks."""
        scale = self.net.config.scale
        channels = 1 if self.format.gray else 3
        out = np.empty((channels, *self._base.shape[1:]), np.float32)
        at = torch.tensor([level], dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            for index, tile in enumerate(self._tiles):
                features = self._features.get(index)
                if features is None:
                    features = self._trunk(self._planes(tile))
                around = (slice(None), tile.rows.outer(scale), tile.columns.outer(scale))
                lr = torch.from_numpy(self._base[around])[None].to(self.device)
                with mixed_precision(self.device, self._fast):
                    planes = self.net.encoder.tail(features, lr, at)[0, :channels]
                inner = planes[:, tile.rows.inner(scale), tile.columns.inner(scale)]
                out[:, tile.rows.core(scale), tile.columns.core(scale)] = inner.cpu().numpy()
                report((index + 1) / len(self._tiles))
        return out

    def tables(self, level: float) -> NDArray[np.int64]:
        """The predicted tables (2, 64). Below level -1 those of -1, made coarser step by step."""
        with torch.inference_mode():
            at = torch.tensor([max(level, LEVELS[0])], dtype=torch.float32, device=self.device)
            steps = self.net.predictor(self._statistics, at)
            coarser = 0.7 * max(0.0, LEVELS[0] - level)
            steps = steps * math.exp(coarser)
            # Flat areas show an error of their mean first: DC steps grow half as fast.
            steps[:, :, 0] /= math.exp(coarser / 2)
            tables = steps.round().clamp(1, 255)
            if self.format.gray:
                tables = as_gray(tables)
        out: NDArray[np.int64] = tables[0].cpu().numpy().astype(np.int64)
        return out

    def release(self, at_least: int = 0) -> None:
        """Forget the trunk's features where they take so many bytes; another level computes them again."""
        held = sum(x.numel() * x.element_size() for x in self._features.values())
        if held >= at_least:
            self._features.clear()

    def code(self, level: float, report: Report = no_report, *, rounds: int | None = None) -> Coding:
        """The file at a level. Levels below -1 use the encoder of -1 and coarser tables.

        rounds: of moves (module `moves`) after the model's descents, each one pass forwards and backwards
        through the decoder; None: the model's own number; 0: neither, for a quick look.
        """
        quantised, tables = self.coefficients(level, report, rounds=rounds)
        return self.write(quantised, tables, level)

    def coefficients(
        self, level: float, report: Report = no_report, *, rounds: int | None = None
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """What the file at a level holds: coefficients (C, 64, h, w) and tables (2, 64); see `code`."""
        tables = self.tables(level)
        descents, settling, own = self.net.passes
        rounds = own if rounds is None else rounds
        if not rounds:
            return self.quantised(level, tables, report), tables
        before = descents + settling
        passes = before + rounds
        quantised = self.descended(level, tables, part_of(report, 0.0, before / passes))
        for index in range(rounds):
            first, last = ((before + at) / passes for at in (index, index + 1))
            _, gradient = self.error_gradient(quantised, tables, part_of(report, first, last))
            offers = self.offers(quantised, gradient, tables, level)
            quantised = self.taken(offers, level, share=moves.DECAY**index)
        return quantised, tables

    def error_gradient(
        self,
        quantised: Tensor,
        tables: NDArray[np.int64],
        report: Report = no_report,
    ) -> tuple[float, Tensor]:
        """The error of what coefficients decode to and its gradient in them, as `moves` defines them.

        In bfloat16 where that is faster: enough to see which coefficients to change.
        """
        block, counted = self.net.config.block, self._counted
        table = torch.from_numpy(tables).float()[None].to(self.device)
        work = windows(self.padded, GRADIENT_TILE, self.net.config.decoder_halo, block)
        out, total = torch.zeros_like(quantised), 0.0
        measure: Callable[[Tensor, Tensor, tuple[slice, slice]], tuple[float, Tensor]]
        if isinstance(self.net, PaperModel):
            measure = PaperGradient(self.net, table)
        else:
            with torch.inference_mode():
                plain = plain_decoder(self.net, len(quantised))
                found = conditions(self.net.decoder, table, len(quantised))
                dtype = self._fast or torch.float32
                measure = DecoderGradient(plain, found, self.device, dtype)
        for index, tile in enumerate(work):
            rows, columns = tile.rows, tile.columns
            cut = (slice(None), slice(None), rows.outer(block), columns.outer(block))
            inside = (_inner(rows, counted[0]), _inner(columns, counted[1]))
            error, gradient = measure(quantised[cut].to(self.device), self.levels(tile), inside)
            out[cut] += gradient.to(out.device)
            total += error
            report((index + 1) / len(work))
        return total, out

    def with_thumbnail(
        self,
        quantised: Tensor,
        gradient: Tensor,
        tables: NDArray[np.int64],
        level: float,
        *,
        together: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The gradient with that of the thumbnail's own error, and the curvature of both.

        quantised, whole numbers or not, gradient: (C, 64, h, w). The curvature is (C, 64, 1, 1).
        together: as `moves.TOGETHER` says.
        """
        table = torch.from_numpy(tables).float()[None].to(self.device)
        curvature = self.net.curvature(table, len(quantised))[0].to(quantised.device)
        if together:
            luma, chroma = moves.TOGETHER[self.net.config.scale]
            curvature[:1] *= luma
            curvature[1:] *= chroma
        step = steps(table, len(quantised))[0].to(quantised.device)
        price = self.net.thumbnail_price(torch.tensor(level))
        out, stiffness = torch.empty_like(gradient), torch.zeros_like(step)
        for start in range(0, quantised.shape[2], STRIP):  # in strips: nothing else of the image's size
            rows = slice(start, start + STRIP)
            base = self._base[: len(quantised), start * BLOCK : (start + STRIP) * BLOCK]
            wanted = dct_8x8(torch.from_numpy(base)[None])[0].to(quantised.device)
            slope, stiffness = moves.thumbnail_terms(quantised[:, :, rows], step, wanted, price)
            out[:, :, rows] = gradient[:, :, rows] + slope
        return out, curvature + stiffness

    def offers(
        self, quantised: Tensor, gradient: Tensor, tables: NDArray[np.int64], level: float
    ) -> moves.Offers:
        """The moves that coefficients (C, 64, h, w) can make; gradient: as `error_gradient` gives it."""
        with torch.no_grad():
            both, curvature = self.with_thumbnail(quantised, gradient, tables, level, together=True)
            return moves.Offers.at(quantised[None], both[None], curvature[None])

    def taken(self, offers: moves.Offers, level: float, *, weight: float = 1.0, share: float = 1.0) -> Tensor:
        """The coefficients (C, 64, h, w) after one round of these moves.

        weight: price of a bit, in units of the level's own. share: of the level's moves in each block.
        """
        at = torch.tensor([level])
        price = self.net.bit_price(at) * moves.CAUTION * weight
        count = moves.per_block(self.net.config.scale, at, share)
        with torch.no_grad():
            return offers.taken(price, count)[0]

    def scaled(self, level: float, tables: NDArray[np.int64], report: Report = no_report) -> Tensor:
        """Coefficients / tables of the thumbnail as the encoder makes it: (1 or 3, 64, h, w)."""
        planes = self.lr_planes(max(level, LEVELS[0]), report)
        step = steps(torch.from_numpy(tables).float()[None], len(planes))
        height, width = (side // BLOCK for side in planes.shape[1:])
        out = torch.empty(len(planes), COEFFICIENTS, height, width)
        for start in range(0, height, STRIP):  # in strips: nothing else of the image's size
            strip = torch.from_numpy(planes[:, start * BLOCK : (start + STRIP) * BLOCK])[None]
            out[:, :, start : start + STRIP] = (dct_8x8(strip) / step)[0]
        return out

    def descended(
        self,
        level: float,
        tables: NDArray[np.int64],
        report: Report = no_report,
        *,
        count: int | None = None,
        settling: int | None = None,
        going: Callable[[], bool] = lambda: True,
    ) -> Tensor:
        """The encoder's coefficients, brought down the slope of error and bits together, then rounded.

        Accelerated proximal gradient steps (Beck and Teboulle, SIAM J. Imaging Sciences 2(1), 2009) scaled by
        the curvature, smaller ones where they led up; the rate is the same surrogate that training descends.
        Returns whole numbers (C, 64, h, w).
        count: of steps, each one pass forwards and backwards; None: the model's own number. settling: of
        larger steps after these, before each of which some coefficients are rounded for good, those nearest
        to a whole number first, so that the others make up for it; None: the model's own number. going:
        asked before each step.
        """
        count = self.net.passes.descents if count is None else count
        settling = self.net.passes.settling if settling is None else settling
        passes = 1 + 3 * (count + settling)
        price = float(self.net.bit_price(torch.tensor(level)))
        at = ahead = best = self.scaled(level, tables, part_of(report, 0.0, 1 / passes))
        if count:
            self.release(ROOM_BYTES)
        least, step, momentum = math.inf, STEP, MOMENTUM  # least: error of the best
        bits = torch.zeros_like(at)

        def priced(scaled: Tensor) -> float:
            return float((bits * scaled.abs()).sum())

        def stepping(scaled: Tensor, gradient: Tensor) -> Tensor:
            slope, curvature = self.with_thumbnail(scaled, gradient, tables, level)
            stepped = scaled - step * slope / curvature
            out: Tensor = torch.copysign((stepped.abs() - step * bits / curvature).clamp_min(0), stepped)
            return out

        for index in range(count):
            if not going():
                break
            if index % 4 == 0:
                bits = moves.slopes(at[None])[0] * price
            error, gradient = self.error_gradient(ahead, tables)
            if error + priced(ahead) > (1 + UNSURE) * (least + priced(best)):
                # Too far: from the best point again, with smaller steps.
                step, momentum = step / 2, momentum / 2
                at = ahead = best
                continue
            least, best = error, ahead
            stepped = stepping(ahead, gradient)
            ahead = stepped + momentum * (stepped - at)
            at = stepped
            report((1 + 3 * (index + 1)) / passes)
        if math.isinf(least):
            plain: Tensor = self.net.rounded(at)
            return plain
        settled = torch.zeros_like(at, dtype=torch.bool)
        step = SETTLING_STEP
        for index in range(settling):
            if not going():
                break
            off = (at - at.round()).abs()
            open_ = ~settled & (at.abs() > NEAR_ZERO)
            if open_.any():
                settled |= open_ & (off <= _smallest(off[open_], 1 / (settling + 1 - index)))
            at = torch.where(settled, at.round(), at)
            _, gradient = self.error_gradient(at, tables)
            at = torch.where(settled, at, stepping(at, gradient))
            report((1 + 3 * (count + index + 1)) / passes)
        # The last step's own error is not measured. What costs more bits than it is worth is at 0 already.
        return at.round()

    def quantised(self, level: float, tables: NDArray[np.int64], report: Report = no_report) -> Tensor:
        """The same, rounded."""
        out = self.scaled(level, tables, report)
        for strip in torch.split(out, STRIP, 2):
            strip.copy_(self.net.rounded(strip))
        return out

    def write(self, quantised: Tensor, tables: NDArray[np.int64], level: float) -> Coding:
        """The file that holds these coefficients."""
        metadata = Metadata(
            self.net.config.scale, self.shape, self.model.name, self.model.digest, self.format
        )
        return Coding(write_jpeg(quantised, tables, self.lr_size, metadata), level, tables)

    def decoded(self, coding: Coding, report: Report = no_report) -> Array:
        """What a file of this image gives back: read from its bytes and reconstructed."""
        contents = read_jpeg(coding.data)
        return reconstruct(
            contents.quantised,
            contents.tables,
            self.shape,
            self.format,
            self.model,
            self.device,
            report=report,
        )


def _smallest(values: Tensor, share: float) -> Tensor:
    """The value that so large a share of them don't exceed."""
    return values.kthvalue(max(1, math.ceil(share * values.numel()))).values


def _whole_tile(tile: int, block: int) -> int:
    return max(1, tile // block) * block


def _aligned(span: tuple[int, int], block: int) -> tuple[int, int]:
    return span[0] // block * block, -(-span[1] // block) * block


def _inner(span: Span, wanted: slice) -> slice:
    """Which of a span's samples lie in a slice from start to stop."""
    return _kept(span, wanted.start, wanted.stop)[1]


def _kept(span: Span, start: int, stop: int) -> tuple[slice, slice]:
    """Where a span's samples go within start..stop, and which of them those are."""
    low, high = max(span.start, start), min(span.stop, stop)
    high = max(low, high)
    return slice(low - start, high - start), slice(low - span.low, high - span.low)


def familiar_tables(
    quantised: Tensor, tables: NDArray[np.int64], model: Model, device: torch.device
) -> tuple[Tensor, NDArray[np.int64]]:
    """The same coefficients in steps that are no finer than those of level +1; they needn't be whole then.

    The decoder takes the steps for how far the coefficients may be off. In a file that another program saved
    they say little about that, and finer ones than the decoder has ever seen make a wreck of the image.
    """
    if isinstance(model.net, PaperModel):  # doesn't look at them
        return quantised, tables
    before = torch.from_numpy(tables).float()[None]
    strips = torch.split(quantised, STRIP, 2)
    sums = sum(dequantise(strip[None], before)[0].abs().double().sum((2, 3)) for strip in strips)
    assert isinstance(sums, Tensor)
    mean = (sums / (quantised.shape[2] * quantised.shape[3])).float()[None]  # (1, C, 64)
    gray = len(quantised) == 1
    net = model.net.to(device)
    with torch.inference_mode():
        statistics = net.predictor.pooled((three_planes(mean) if gray else mean).to(device))
        finest = net.tables(statistics, torch.tensor([LEVELS[1]], device=device))
        after = torch.maximum(before, (as_gray(finest) if gray else finest).cpu())
    ratio = (steps(before, len(quantised)) / steps(after, len(quantised)))[0]
    return quantised * ratio, after[0].numpy().astype(np.int64)


def reconstruct(
    quantised: Tensor,
    tables: NDArray[np.int64],
    shape: tuple[int, int],
    fmt: Format,
    model: Model,
    device: torch.device,
    *,
    region: tuple[tuple[int, int], tuple[int, int]] | None = None,
    tile: int | None = None,
    backend: str = "auto",
    report: Report = no_report,
    show: Show | None = None,
) -> Array:
    """Quantised coefficients (C, 64, h, w) and tables (2, 64) to the HR array.

    shape: HR height and width. region: ((top, bottom), (left, right)) to reconstruct only that.
    backend: one of `backend.BACKENDS`. show: see `codec.decode`.
    Returns (H, W) or (H, W, 3) of the format's dtype.
    """
    chosen = pick_backend(backend, model, device, fmt, shape[0] * shape[1], tables)
    net = model.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    (top, bottom), (left, right) = region or ((0, shape[0]), (0, shape[1]))
    block = net.config.block
    area = (_aligned((top, bottom), block), _aligned((left, right), block))
    channels = () if fmt.gray else (3,)
    # Whole positions of the decoder, so that what it gives is copied once; the surplus is cut off below.
    rows, columns = (
        (low // STRIDE * STRIDE, whole(high, STRIDE)) for low, high in ((top, bottom), (left, right))
    )
    out = np.empty((rows[1] - rows[0], columns[1] - columns[0], *channels), np.dtype(fmt.dtype))
    picture = out[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
    table = torch.from_numpy(tables).float()[None].to(device)
    padded = padded_shape(shape, block)
    tile = tile or _window(chosen, net.config.scale)
    with torch.inference_mode():
        if isinstance(net, PaperModel):
            decode, halo = net.tile_decoder(quantised[None], table)
            work = windows(padded, tile, halo, block, area)
            outputs: Iterator[Array] = (_positions(decode, part, quantised, table, block) for part in work)
        else:
            work = windows(padded, tile, net.config.decoder_halo, block, area)
            outputs = _outputs(chosen, model, net, quantised, table, work, fmt)
        for index, (part, levels) in enumerate(zip(work, outputs, strict=True)):
            kept_rows, inner_rows = _kept(part.rows, *rows)
            kept_columns, inner_columns = _kept(part.columns, *columns)
            _place(levels[_coarse(inner_rows), _coarse(inner_columns)], out[kept_rows, kept_columns], fmt)
            if show:
                part_rows, part_columns = (
                    _kept(part.rows, top, bottom)[0],
                    _kept(part.columns, left, right)[0],
                )
                show(part_rows, part_columns, picture[part_rows, part_columns])
            report((index + 1) / len(work))
    return out if picture.shape == out.shape else picture.copy()


def _window(chosen: Backend, scale: int) -> int:
    if not chosen.half:
        return DECODER_TILE
    return ONLY_TILE[scale] if one_at_a_time() else HALF_TILE


def _outputs(
    chosen: Backend,
    model: Model,
    net: HyperThumbModel,
    quantised: Tensor,
    table: Tensor,
    work: list[Tile],
    fmt: Format,
) -> Iterator[Array]:
    """Pixels (h/4, w/4, 16 * C) of each window, as `plain` lays them out."""
    components, block = len(quantised), net.config.block
    found = conditions(net.decoder, table, components)
    plain = plain_decoder(net, components)

    cuts = (quantised[:, :, part.rows.outer(block), part.columns.outer(block)] for part in work)
    inputs = (cut.permute(2, 3, 0, 1) for cut in cuts)  # (h, w, C, 64)
    key = None if model.path is None else (model.digest,)  # a network that is being trained changes
    if chosen.name == "torch":
        dtype = decoding_dtype(table.device) if fmt.eight_bit else torch.float32
        single = TorchDecoder(plain, found, table.device, eight_bit=fmt.eight_bit, dtype=dtype, key=key)
        return single.outputs(inputs)
    from .backend_openvino import OpenVINODecoder  # 0.2 s, and an extra

    rows, columns = work[0].rows, work[0].columns
    size = ((rows.high - rows.low) // block, (columns.high - columns.low) // block)
    decoder = OpenVINODecoder(plain, found, size, chosen, eight_bit=fmt.eight_bit, key=key)
    return decoder.outputs(inputs)


def _positions(
    decode: TileDecoder, part: Tile, quantised: Tensor, table: Tensor, block: int
) -> NDArray[np.float32]:
    """The same from a decoder of planes, which gives float32."""
    cut = quantised[:, :, part.rows.outer(block), part.columns.outer(block)]
    dequantised = dequantise(cut[None].to(table.device), table)
    gray = len(quantised) == 1
    if gray:
        dequantised = three_planes(dequantised)
    planes = decode(part, idct_8x8(dequantised), dequantised)
    levels = (planes[:, :1] if gray else ycbcr_to_rgb(planes))[0] + MIDDLE
    height, width = levels.shape[1:]
    levels = levels.reshape(-1, height // STRIDE, STRIDE, width // STRIDE, STRIDE).permute(1, 3, 2, 4, 0)
    out: NDArray[np.float32] = levels.flatten(2).cpu().numpy()
    return out


def _coarse(pixels: slice) -> slice:
    return slice(pixels.start // STRIDE, pixels.stop // STRIDE)


def _place(levels: Array, out: Array, fmt: Format) -> None:
    """Pixels (h/4, w/4, 16 * C) into their place (h, w) or (h, w, 3)."""
    height, width = levels.shape[:2]
    if levels.dtype == np.uint8:
        # The four pixels of a row are C words of 32 bits; PyTorch copies with all its threads.
        words = torch.from_numpy(levels.view(np.int32)).view(height, width, STRIDE, -1)
        target = torch.from_numpy(out.reshape(len(out), -1).view(np.int32))
        target.view(height, STRIDE, width, -1).copy_(words.transpose(1, 2))
        return
    pixels = levels.reshape(height, width, STRIDE, STRIDE, -1).swapaxes(1, 2)
    out[:] = from_levels(pixels.reshape(height * STRIDE, width * STRIDE, -1), fmt)
