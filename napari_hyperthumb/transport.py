"""The finished JPEG inside JPEG XL: the identical file comes back, and it travels in fewer bytes.

JPEG XL can store a JPEG's coefficients with a better entropy coder, and everything needed to make the same
bytes again ("lossless transcoding", ISO/IEC 18181-2). Viewers that know JPEG XL show the thumbnail.
"""

from __future__ import annotations

from typing import Any

from .errors import DependencyError, HyperThumbError, ThumbnailError

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
MAX_JPEG = 2**28
"""Bytes that a JPEG out of JPEG XL may have: room is made before it is read."""
_GROWTH = 64
"""How much larger than its JPEG XL a JPEG may be, with 64 KiB to spare; ours are not 1.3 times."""


def _imagecodecs() -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise DependencyError("JPEG XL needs imagecodecs: pip install 'napari-hyperthumb[jxl]'") from error
    return imagecodecs


def is_jxl(data: bytes) -> bool:
    """Whether these bytes are JPEG XL."""
    return data.startswith((_CONTAINER, _CODESTREAM))


def to_jxl(jpeg: bytes) -> bytes:
    """A JPEG as JPEG XL. Raises HyperThumbError where it can't be done without loss."""
    codec = _imagecodecs()
    try:
        data = bytes(codec.jpegxl_encode_jpeg(jpeg, usecontainer=True, numthreads=1))
    except codec.JpegxlError as error:
        raise HyperThumbError(f"can't be stored as JPEG XL: {error}") from error
    if from_jxl(data) != jpeg:
        raise HyperThumbError("can't be stored as JPEG XL: another JPEG would come back; use .ht.jpg")
    return data


def from_jxl(data: bytes) -> bytes:
    """The JPEG inside JPEG XL; anything else as it is. Raises ThumbnailError."""
    if not is_jxl(data):
        return data
    codec = _imagecodecs()
    room = bytearray(min(MAX_JPEG, _GROWTH * len(data) + 65_536))
    try:
        return bytes(codec.jpegxl_decode_jpeg(data, out=room, numthreads=1))
    except (codec.JpegxlError, ValueError) as error:
        raise ThumbnailError(f"JPEG XL without a whole JPEG inside: {error}") from error
