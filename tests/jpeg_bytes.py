"""JPEG files taken apart and put together again, for tests."""

from __future__ import annotations

from collections.abc import Iterator

# ITU T.81, figure A.6, as printed in every JPEG library.
STANDARD_ZIGZAG = (
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
)  # fmt: skip

COMMENT = b"HyperThumb "


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each segment up to the first scan; start is that of the 0xFF."""
    at = 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, at + 2 + length
        if marker == 0xDA:
            return
        at += 2 + length


def find(data: bytes, *markers: int) -> tuple[int, int]:
    """Start and stop of the first segment with one of these markers."""
    return next((start, stop) for marker, start, stop in segments(data) if marker in markers)


def frame(data: bytes) -> int:
    """Where the frame header starts."""
    return find(data, 0xC0, 0xC1, 0xC2)[0]


def without_metadata(data: bytes) -> bytes:
    """What a program leaves that strips metadata."""
    start, stop = find(data, 0xFE)
    assert data[start + 4 : stop].startswith(COMMENT)
    return data[:start] + data[stop:]


def with_size(data: bytes, height: int, width: int) -> bytes:
    """The same file with another size in its frame header."""
    at = frame(data) + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def scan_bits(data: bytes) -> int:
    """Bits of the entropy-coded data of a file with one scan, without the stuffed zero bytes."""
    _, start = find(data, 0xDA)
    assert data.endswith(b"\xff\xd9")
    return 8 * len(data[start:-2].replace(b"\xff\x00", b"\xff"))
