"""Bytes of a thumbnail: quantised coefficients, tables and metadata to a JPEG file and back.

The file is written and read with Pillow in YCbCr on both sides, so no colour conversion rounds
anything, and at sizes of whole 8x8 blocks: the size in the frame header alone is set to that of the
thumbnail afterwards, and back again before reading. The blocks at the right and lower edges keep
all of their coefficients that way.

`torchjpeg` (exact coefficients even where a plane leaves 0 .. 255) is an optional backend of the same
two functions. It crashes the process on crafted files, so it is never the default.
"""

from __future__ import annotations

import io
import re
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import mozjpeg_lossless_optimization as mozjpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .errors import DependencyError, HyperThumbError, ImageError, ThumbnailError
from .jpeg import BLOCK, COEFFICIENTS, dct_8x8, dequantise, idct_8x8, steps
from .pixels import DTYPES, Format

MAX_SIDE = 65_496
"""libjpeg's limit for one side of a JPEG (65,500), in whole blocks: planes are coded padded to them."""
STRIP = 64
"""Rows of blocks transformed at a time, which bounds the memory of large images."""
CACHED_ROWS = 4
"""The same where there are several passes over them, which had better find them in the cache."""
MAX_FILE = 2**31
BACKENDS = ("pillow", "torchjpeg")

_COMMENT = b"HyperThumb "
"""How our JPEG comment begins: one line of words, which viewers, exiftool and `file` show."""
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PROPERTY = re.compile(rb'ht:Thumbnail="([^"<>&]{1,300})"')
"""Where the same words stood in files of version 1. The XMP packet cost 190 bytes more in every file."""
VERSIONS = ("1", "2")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What weights may be called: their name stands in the file."""
_SOI, _EOI, _SOS, _APP0, _APP1, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xFE
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive Huffman
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


@dataclass(frozen=True)
class Metadata:
    """What a thumbnail says about the image in it."""

    scale: int
    shape: tuple[int, int]
    """HR height and width."""
    model: str
    digest: str
    """First 16 hex digits of the SHA-256 of the weights."""
    format: Format

    def to_text(self, tables: NDArray[np.int64]) -> str:
        """``2 SCALE WIDTHxHEIGHT MODEL DIGEST CHECK [DTYPE LOW HIGH]``, the first being the version."""
        height, width = self.shape
        text = f"{VERSIONS[-1]} {self.scale} {width}x{height} {self.model} {self.digest} {_check(tables)}"
        low, high = self.format.range
        if (self.format.dtype, low, high) != ("uint8", 0.0, 255.0):
            text += f" {self.format.dtype} {low!r} {high!r}"
        return text


@dataclass(frozen=True)
class Contents:
    """What a JPEG file holds."""

    quantised: Tensor
    """int16 (C, 64, h/8, w/8), natural order; C is 1 (gray) or 3."""
    tables: NDArray[np.int64]
    """(2, 64), luma and chroma; a gray file has luma twice."""
    size: tuple[int, int]
    """LR height and width."""
    metadata: Metadata | None
    """None for a JPEG that isn't ours or has lost it."""
    lost: tuple[str, ...]
    """What another program did to the file, in words."""
    own_tables: bool
    """Whether the metadata vouches for the tables being those that the file was made with."""


@dataclass(frozen=True)
class Frame:
    """The frame header of a JPEG and where it lies."""

    offset: int
    """Of the two bytes of the height."""
    height: int
    width: int
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factors of each component."""
    progressive: bool
    words: bytes
    """What `Metadata.to_text` wrote; empty where there is nothing of ours."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width in whole blocks of 8: the file has data for at least this much."""
        return -(-self.height // BLOCK) * BLOCK, -(-self.width // BLOCK) * BLOCK


def _check(tables: NDArray[np.int64]) -> str:
    """Four hex digits that change when another program saves the picture with its own tables."""
    return f"{zlib.crc32(tables.astype('<u2').tobytes()) & 0xFFFF:04x}"


# ---- markers ---------------------------------------------------------------------------------


def read_frame(data: bytes) -> Frame:
    """Walk the markers up to the first scan. Raises ThumbnailError for anything but a usual JPEG."""
    if not data:
        raise ThumbnailError("the file is empty")
    if data[:2] != bytes([0xFF, _SOI]):
        raise ThumbnailError("not a JPEG file")
    at, words, frame = 2, b"", None
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ThumbnailError("the JPEG is truncated or damaged before its picture data")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == _EOI or length < 2 or len(body) != length - 2:
            raise ThumbnailError("the JPEG is truncated or damaged before its picture data")
        if marker in (_COM, _APP1):
            words = words or _our_words(marker, body)
        elif marker in _OTHER_FRAMES:
            raise ThumbnailError("a lossless, hierarchical or arithmetic JPEG, which isn't one of ours")
        elif marker in _FRAMES:
            if frame is not None:
                raise ThumbnailError("the JPEG has two frame headers")
            frame = _parse_frame(body, at + 5, marker == 0xC2)
        elif marker == _SOS:
            if frame is None:
                raise ThumbnailError("the JPEG has no frame header")
            return Frame(*frame, words=words)
        at += 2 + length


def _our_words(marker: int, body: bytes) -> bytes:
    """Ours in a comment, or in the XMP packet of version 1."""
    if marker == _COM:
        return body[len(_COMMENT) :] if body.startswith(_COMMENT) else b""
    found = _PROPERTY.search(body) if body.startswith(_XMP) else None
    return found[1] if found else b""


def _parse_frame(
    body: bytes, offset: int, progressive: bool
) -> tuple[int, int, int, tuple[tuple[int, int], ...], bool]:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise ThumbnailError("the JPEG's frame header is damaged")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if body[0] != 8:
        raise ThumbnailError(f"a JPEG of {body[0]} bits a sample; thumbnails have 8")
    if body[5] == 4:
        raise ThumbnailError("a CMYK JPEG; convert it to RGB to look at it: it isn't a thumbnail of ours")
    if body[5] not in (1, 3):
        raise ThumbnailError(f"a JPEG with {body[5]} components; thumbnails have 1 or 3")
    if height == 0 or width == 0:
        raise ThumbnailError("the JPEG says it has no rows or no columns")
    sampling = tuple((body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3))
    return offset, height, width, sampling, progressive


def _with_size(data: bytes, frame: Frame, height: int, width: int) -> bytes:
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data[: frame.offset] + size + data[frame.offset + 4 :]


def _parse_metadata(words: bytes, gray: bool) -> tuple[Metadata, str]:
    """Metadata and the check digits."""
    damaged = f"the thumbnail's metadata is damaged: {words[:300]!r}"
    fields = words[:300].decode("latin-1").split()
    try:
        version, scale, size, name, digest, check, *rest = fields
        if version not in VERSIONS:
            raise ThumbnailError(
                f"the thumbnail has format version {version}; this program reads versions "
                f"{' and '.join(VERSIONS)}: update it"
            )
        width, height = (int(x) for x in size.split("x"))
        dtype, low, high = rest if rest else ("uint8", "0.0", "255.0")
        fmt = Format(dtype, (float(low), float(high)), gray)
        good = (
            int(scale) in (2, 4)
            and 0 < width < 2**20
            and 0 < height < 2**20
            and NAME.fullmatch(name)
            and re.fullmatch("[0-9a-f]{16}", digest)
            and dtype in DTYPES
            and np.isfinite(fmt.range).all()
            and fmt.range[0] <= fmt.range[1]
        )
    except ThumbnailError:
        raise
    except (ValueError, OverflowError) as error:
        raise ThumbnailError(damaged) from error
    if not good:
        raise ThumbnailError(damaged)
    return Metadata(int(scale), (height, width), name, digest, fmt), check


# ---- writing ---------------------------------------------------------------------------------


def write_jpeg(
    quantised: Tensor,
    tables: NDArray[np.int64],
    size: tuple[int, int],
    metadata: Metadata | None = None,
    *,
    backend: str = "pillow",
) -> bytes:
    """A JPEG file, 4:4:4 or gray, with optimised Huffman tables.

    quantised: whole numbers (C, 64, h, w), C 1 or 3, natural order. tables: (2, 64), 1 .. 255.
    size: LR height and width, at most 8h and 8w. Progressive coding is used where it is smaller.
    Raises ImageError for sides that a JPEG can't have.
    """
    if max(size) > MAX_SIDE:
        raise ImageError(
            f"the thumbnail would have {size[1]}x{size[0]} pixels; a JPEG has at most {MAX_SIDE} a "
            "side: use a larger scale, or store the image in chunks (hyperthumb pyramid)"
        )
    comment = b"" if metadata is None else _COMMENT + metadata.to_text(tables).encode()
    if backend == "torchjpeg":
        return _smaller(_with_comment(_write_torchjpeg(quantised, tables, size), comment))
    table = torch.from_numpy(tables).float()[None]
    samples = torch.cat([_samples(strip, table) for strip in torch.split(quantised, STRIP, 2)], 1).numpy()
    if samples.shape[0] == 1:
        image, used = Image.fromarray(samples[0]), [tables[0].tolist()]
    else:
        pixels = np.ascontiguousarray(samples.transpose(1, 2, 0))
        height, width = pixels.shape[:2]
        image = Image.frombytes("YCbCr", (width, height), pixels.tobytes())
        used = tables.tolist()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", qtables=used, subsampling=0, optimize=True, comment=comment)
    data = buffer.getvalue()
    return _smaller(_with_size(data, read_frame(data), *size))


def _with_comment(data: bytes, comment: bytes) -> bytes:
    """The file with a comment behind its APP0 (or SOI)."""
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == bytes([0xFF, _APP0]) else 2
    segment = bytes([0xFF, _COM]) + (len(comment) + 2).to_bytes(2, "big") + comment
    return data[:at] + (segment if comment else b"") + data[at:]


def _samples(quantised: Tensor, table: Tensor) -> Tensor:
    """8-bit samples (C, 8h, 8w) that a viewer shows."""
    planes = idct_8x8(dequantise(quantised[None], table))[0]
    return (planes + 128).round_().clamp_(0, 255).to(torch.uint8)


def _smaller(data: bytes) -> bytes:
    """The same coefficients with mozjpeg's choice of scans, if that takes fewer bytes."""
    optimised: bytes = mozjpeg.optimize(data, copy=mozjpeg.COPY_MARKERS.ALL)
    return min(data, optimised, key=len)


# ---- reading ---------------------------------------------------------------------------------


def check_claims(data: bytes, frame: Frame) -> None:
    """Refuse sizes that so few bytes can't hold, before anything is allocated.

    Each block of each component takes a bit or more for its DC coefficient.
    """
    height, width = frame.padded
    blocks = (height // BLOCK) * (width // BLOCK)
    if blocks > 8 * len(data):
        raise ThumbnailError(
            f"the JPEG claims {frame.width}x{frame.height} pixels in {len(data)} bytes: "
            "it is truncated or made up"
        )


def read_jpeg(data: bytes, *, backend: str = "pillow") -> Contents:
    """What a JPEG file holds, whether it is one of ours or not.

    Raises ThumbnailError for anything that isn't a whole, usual JPEG.
    """
    if len(data) > MAX_FILE:
        raise ThumbnailError(f"{len(data)} bytes is more than a thumbnail can have")
    frame = read_frame(data)
    check_claims(data, frame)
    lost: list[str] = []
    components = len(frame.sampling)
    if backend == "torchjpeg":
        quantised, tables = _read_torchjpeg(data, components)
    else:
        samples, tables = _read_planes(data, frame)
        quantised = _quantised(samples, torch.from_numpy(tables).float()[None])
    if len(set(frame.sampling)) > 1:
        lost.append("its colour was subsampled by another program")
    metadata, own_tables = None, False
    if frame.words:
        metadata, check = _parse_metadata(frame.words, components == 1)
        own_tables = check == _check(tables)
        if not own_tables:
            lost.append("it was saved again by another program, with other quantisation tables")
        wanted = tuple(-(-side // metadata.scale) for side in metadata.shape)
        if wanted != (frame.height, frame.width):
            lost.append(
                f"it was resized or cropped from {wanted[1]}x{wanted[0]} to "
                f"{frame.width}x{frame.height} pixels"
            )
    return Contents(quantised, tables, (frame.height, frame.width), metadata, tuple(lost), own_tables)


def _quantised(samples: Tensor, table: Tensor) -> Tensor:
    """Coefficients (C, 64, h, w) of 8-bit samples (C, H, W); in memory a block's lie together.

    What `quantise(dct_8x8(samples - 128), table)` gives, by one matrix product: most of the time of reading
    a file was spent there.
    """
    channels, height, width = samples.shape
    blocks = samples.reshape(channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = blocks.permute(1, 3, 0, 2, 4)  # (h, w, C, 8, 8)
    basis = dct_8x8(torch.eye(COEFFICIENTS).reshape(COEFFICIENTS, 1, BLOCK, BLOCK)).reshape(COEFFICIENTS, -1)
    gray = 128 * basis.sum(0)
    step = steps(table, channels).reshape(channels, COEFFICIENTS)
    out = torch.empty((*blocks.shape[:2], channels, COEFFICIENTS), dtype=torch.int16)
    for strip, part in zip(torch.split(blocks, CACHED_ROWS), torch.split(out, CACHED_ROWS), strict=True):
        found = torch.matmul(strip.flatten(3).float(), basis)
        part.copy_(found.sub_(gray).div_(step).round_())
    return out.permute(2, 3, 0, 1)


def _read_planes(data: bytes, frame: Frame) -> tuple[Tensor, NDArray[np.int64]]:
    """8-bit samples in whole blocks (C, H, W), and tables (2, 64)."""
    whole = _with_size(data, frame, *frame.padded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(whole), formats=["JPEG"])
            if len(frame.sampling) == 3:
                image.draft("YCbCr", image.size)
            image.load()
    except UnidentifiedImageError as error:
        raise ThumbnailError("not a JPEG that can be read") from error
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ThumbnailError(f"the JPEG is truncated or damaged: {error}") from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ThumbnailError(f"the JPEG is too large to open: {error}") from error
    if image.mode not in ("YCbCr", "L") or image.size != frame.padded[::-1]:
        raise ThumbnailError(f"a JPEG of mode {image.mode}; thumbnails are YCbCr or gray")
    tables = _tables(image)
    samples = np.array(image)
    return torch.from_numpy(samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1)), tables


def _tables(image: Image.Image) -> NDArray[np.int64]:
    found: dict[int, list[int]] = getattr(image, "quantization", {})
    which = [layer[3] for layer in getattr(image, "layer", [])]
    try:
        luma = found[which[0]]
        chroma = found[which[1]] if len(which) > 1 else luma
        tables = np.array([luma, chroma], dtype=np.int64)
    except (KeyError, IndexError, ValueError) as error:
        raise ThumbnailError("the JPEG's quantisation tables are missing or damaged") from error
    if tables.shape != (2, COEFFICIENTS) or tables.min() < 1:
        raise ThumbnailError("the JPEG's quantisation tables are damaged")
    return tables


# ---- torchjpeg -------------------------------------------------------------------------------


def _torchjpeg() -> object:
    try:
        import torchjpeg.codec
    except ImportError as error:
        raise DependencyError(
            "the torchjpeg backend needs torchjpeg: pip install 'napari-hyperthumb[reference]'"
        ) from error
    return torchjpeg.codec


def _grid(quantised: Tensor) -> Tensor:
    """(C, 64, h, w) to torchjpeg's int16 (C, h, w, 8, 8)."""
    c, _, h, w = quantised.shape
    return quantised.permute(0, 2, 3, 1).reshape(c, h, w, BLOCK, BLOCK).round().short().contiguous()


def _write_torchjpeg(quantised: Tensor, tables: NDArray[np.int64], size: tuple[int, int]) -> bytes:
    codec = _torchjpeg()
    colours = quantised.shape[0] == 3
    dimensions = torch.tensor([size] * quantised.shape[0], dtype=torch.int32)
    used = torch.from_numpy(tables[: 2 if colours else 1]).reshape(-1, BLOCK, BLOCK).short()
    if colours:
        used = used[[0, 1, 1]]
    grid = _grid(quantised)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jpg"
        codec.write_coefficients(  # type: ignore[attr-defined]
            str(path), dimensions, used, grid[:1], grid[1:] if colours else None
        )
        return path.read_bytes()


def _read_torchjpeg(data: bytes, components: int) -> tuple[Tensor, NDArray[np.int64]]:
    codec = _torchjpeg()
    # libjpeg errors end the process there: let Pillow, which survives them, decode the file first.
    _read_planes(data, read_frame(data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jpg"
        path.write_bytes(data)
        _, found, luma, chroma = codec.read_coefficients(str(path))  # type: ignore[attr-defined]
    parts = [luma] if chroma is None else [luma, chroma]
    if any(part.shape[1:] != luma.shape[1:] for part in parts) or components not in (1, 3):
        raise HyperThumbError("torchjpeg reads 4:4:4 and gray files only")
    grid = torch.cat(parts)  # (C, h, w, 8, 8)
    quantised = grid.flatten(3).permute(0, 3, 1, 2).short()
    tables = found.reshape(found.shape[0], COEFFICIENTS).long().numpy()
    return quantised, np.stack([tables[0], tables[min(1, len(tables) - 1)]])
