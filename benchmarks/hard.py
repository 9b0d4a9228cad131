"""What HyperThumb is bad at: PSNR against JPEG and WebP at equal bytes on difficult pictures.

    python benchmarks/hard.py [FOLDER] [--side 512] [--bpp 0.3 0.6] [--every N]

FOLDER: pictures of any kind; each channel of a picture that isn't RGB counts as one, mapped to 8 bits by
its range. The middle of each, --side pixels at most, is coded at each rate; the other codecs get the same
number of bytes. Without FOLDER: made-up ones only, which are always added: text, thin lines, and strips 8 and
24 pixels high. Groups are the words before the first "__" or "-" of the file names.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_hyperthumb import HyperThumbError, decode, encode
from napari_hyperthumb.compare import available_codecs, closest
from napari_hyperthumb.files import find_images, read_image
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.training.data import _channels as eight_bit_pictures

OTHERS = ("JPEG", "WebP")
LIMIT_DB = -0.5
"""How far below JPEG an image may be before it is named."""


def made_up(side: int) -> Iterator[tuple[str, np.ndarray]]:
    """Text, lines, and pictures with extreme sides."""
    import skimage.data

    for points in (12, 18, 28):
        page = Image.new("RGB", (side, side), "white")
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(points)
        words = "The quick brown fox jumps over the lazy dog 0123456789. " * 4
        for line in range(side // (points + 6)):
            draw.text((6, 4 + line * (points + 6)), words[line * 3 :], "black", font)
        yield f"text-{points}pt", np.asarray(page)
    lines = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(lines)
    for index in range(0, side, 16):
        draw.line((index, 0, side - index, side), ("black", "red", "blue")[index // 16 % 3])
    yield "lines-1px", np.asarray(lines)
    photo = skimage.data.astronaut()
    for height in (8, 24):
        strip = np.concatenate([photo[top : top + height] for top in range(100, 400, height)][:12], 1)
        yield f"strip-{height}x{strip.shape[1]}", strip
        yield f"strip-{strip.shape[1]}x{height}", np.ascontiguousarray(strip.transpose(1, 0, 2))


def pictures(folder: Path | None, side: int, every: int) -> Iterator[tuple[str, np.ndarray]]:
    for path in [] if folder is None else list(find_images([folder]))[::every]:
        try:
            planes = eight_bit_pictures(read_image(path))
        except HyperThumbError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        for plane in planes[:3]:
            top, left = (max(0, (length - side) // 2) for length in plane.shape[:2])
            middle = plane[top : top + side, left : left + side]
            if middle.min() < middle.max() and min(middle.shape[:2]) >= 8:
                yield path.name, np.ascontiguousarray(middle[..., 0] if middle.shape[2] == 1 else middle)
    yield from made_up(side)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.3, 0.6])
    parser.add_argument("--every", type=int, default=1, help="only one file in so many")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    codecs = [codec for codec in available_codecs() if codec.name in OTHERS]
    found: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    behind = []
    for name, image in pictures(options.folder, options.side, options.every):
        group = re.split(r"__|-", name)[0]
        for rate in options.bpp:
            try:
                thumbnail = encode(image, bpp=rate)
            except HyperThumbError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            ours = min(psnr(image, decode(thumbnail.data), 255.0), 99.0)
            others = [closest(codec, image, thumbnail.nbytes) for codec in codecs]
            gains = tuple(
                # Where the other codec has no file so small it isn't compared.
                float("nan") if o.exceeds else ours - min(o.psnr, 99.0)
                for o in others
            )
            found.setdefault((group, rate), []).append((ours, *gains))
            if gains[0] < LIMIT_DB:
                behind.append(f"{name} at {rate:g} bpp: {gains[0]:+.2f} dB against JPEG ({ours:.2f} dB)")
    print("Mean PSNR of ours, and mean difference in dB to the others at equal bytes (and the worst).\n")
    print("| pictures | bpp | number | ours | " + " | ".join(f"against {name}" for name in OTHERS) + " |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for (group, rate), rows in sorted(found.items()):
        cells = []
        for column in (1, 2):
            values = [row[column] for row in rows if np.isfinite(row[column])]
            cells.append(f"{fmean(values):+.2f} ({min(values):+.2f})" if values else "-")
        mean = fmean(row[0] for row in rows)
        print(f"| {group} | {rate:g} | {len(rows)} | {mean:.2f} | " + " | ".join(cells) + " |")
    print(f"\nMore than {-LIMIT_DB:g} dB behind JPEG:", *(behind or ["none"]), sep="\n* ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
