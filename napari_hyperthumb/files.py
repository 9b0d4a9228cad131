"""Picture files on disk: finding, reading, and writing them whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import HyperThumbError, HyperThumbWarning, ImageError
from .pixels import Array

THUMBNAIL_SUFFIX = ".ht.jpg"
STACK_SUFFIX = ".ht.tif"
JXL_SUFFIX = ".ht.jxl"
OUR_SUFFIXES = (THUMBNAIL_SUFFIX, STACK_SUFFIX, JXL_SUFFIX)
TIFF = (".tif", ".tiff")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".jp2", ".gif", *TIFF)
MAX_PIXELS = 2_000_000_000
"""Pictures that claim more pixels than this aren't opened."""


def find_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Files as they are; folders searched deeply for names that look like pictures."""
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*"))
            inside = (p for p in found if p.suffix.lower() in SUFFIXES or is_ours(p))
            yield from (p for p in inside if p.is_file())
        else:
            yield path


def is_ours(path: Path) -> bool:
    """Whether a file is called what we call thumbnails and stacks of them."""
    return path.name.lower().endswith(OUR_SUFFIXES)


def read_image(path: str | Path) -> Array:
    """A picture as an array: (H, W), (H, W, 3) or (H, W, 4), TIFF in whatever shape it has.

    Integer and float samples keep their dtype. Raises ImageError naming the file and the cause.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not a picture")
    try:
        with path.open("rb") as file:
            return read_image_file(file, str(path))
    except OSError as error:
        raise ImageError(f"{path}: can't be read: {error.strerror or error}") from error


def read_image_file(file: BinaryIO, name: str) -> Array:
    """As `read_image`, from a seekable binary file; `name` stands in messages."""
    magic = file.read(4)
    file.seek(0)
    if not magic:
        raise ImageError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _read_tiff(file, name) if magic in TIFF_MAGIC else _read_pillow(file, name)
    except HyperThumbError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture that can be read") from error
    except (MemoryError, OverflowError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: too large to open: {error}") from error
    except Exception as error:  # damaged files end in any of a dozen types, struct.error and zlib.error too
        raise ImageError(f"{name}: can't be read, the file may be damaged: {error}") from error


def _check_size(name: str, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise ImageError(f"{name}: claims {pixels} pixels, more than {MAX_PIXELS}")


def _read_pillow(file: BinaryIO, name: str) -> Array:
    with Image.open(file) as opened:
        image: Image.Image = opened
        _check_size(name, image.width * image.height)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(
                f"{name}: has {frames} frames; animations and multi-page files are coded picture by "
                "picture: extract the one you want"
            )
        if image.mode in ("CMYK", "LAB", "HSV"):
            raise ImageError(f"{name}: is {image.mode}; convert it to RGB first")
        if _loses_bits(image):
            warnings.warn(
                f"{name}: 16-bit colour is read at 8 bits; save it as TIFF to keep them all",
                HyperThumbWarning,
                stacklevel=4,
            )
        image = ImageOps.exif_transpose(image)  # cameras store pictures lying on their side
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
        elif image.mode == "YCbCr":
            image = image.convert("RGB")
        return np.asarray(image)


def _loses_bits(image: Image.Image) -> bool:
    """Whether Pillow, whose colour has 8 bits, reads a PNG or PPM of 16."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    deep_png = ("RGB;16", "RGBA;16", "LA;16")
    return any(
        tile.args[1] > 255 if tile.codec_name in ("ppm", "ppm_plain") else str(tile.args).startswith(deep_png)
        for tile in getattr(image, "tile", [])
    )


def tiff_axes(file: BinaryIO) -> str | None:
    """What the axes of a TIFF's first image are, such as "CYX"; None where it doesn't say, or isn't a TIFF.

    Unknown axes are "Q" and "I". Leaves the file at its beginning.
    """
    import tifffile

    magic = file.read(4)
    file.seek(0)
    if magic not in TIFF_MAGIC:
        return None
    try:
        with tifffile.TiffFile(file) as tiff:
            return str(tiff.series[0].axes)
    except Exception:  # reading it will say what is wrong
        return None
    finally:
        file.seek(0)


def _read_tiff(file: BinaryIO, name: str) -> Array:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            _check_size(name, int(np.prod(series.shape, dtype=np.float64)))
            array = np.asarray(series.asarray())
            axes = str(series.axes)
    except tifffile.TiffFileError as error:
        raise ImageError(f"{name}: not a TIFF file that can be read: {error}") from error
    if axes == "SYX" and array.shape[0] in (3, 4):
        array = np.moveaxis(array, 0, -1)
    return np.squeeze(array) if array.ndim > 3 else array


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then rename.

    Raises HyperThumbError when the target can't be written; nothing is left behind then.
    """
    path = Path(path)
    try:
        temporary = path.with_name(f".{path.name[:40]}-{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise HyperThumbError(f"{path}: can't be written: {cause}") from error


def image_bytes(array: Array, suffix: str) -> bytes:
    """An array as the bytes of a PNG or TIFF file.

    TIFF holds every dtype; PNG holds uint8 (gray, RGB) and uint16 gray.
    """
    buffer = io.BytesIO()
    if suffix.lower() in TIFF:
        import tifffile

        photometric = "rgb" if array.ndim == 3 else "minisblack"
        tifffile.imwrite(buffer, array, photometric=photometric, compression="zlib")
        return buffer.getvalue()
    if suffix.lower() != ".png":
        raise ImageError(f"can't write {suffix or 'a file without an ending'}: use .png or .tif")
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2):
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()
    raise ImageError(f"PNG can't hold {array.dtype} of shape {array.shape}: write .tif instead")


def write_image(path: str | Path, array: Array) -> None:
    """Write an array as PNG or TIFF, whole or not at all; see `image_bytes`."""
    path = Path(path)
    try:
        data = image_bytes(array, path.suffix)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    write_atomically(path, data)


def bare_name(path: Path) -> str:
    """The name without its ending; `photo.ht.jpg` and `cells.ome.tif` lose both of them."""
    name = path.name
    for suffix in (*OUR_SUFFIXES, *(f".ome{suffix}" for suffix in TIFF)):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
