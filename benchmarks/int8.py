"""What eight bits cost: mean PSNR of the decoder in float32 and in eight bits, at equal files.

    python benchmarks/int8.py KODAK [--scales 2 4] [--bpp 0.2 0.3 0.6]

Each picture is coded at five levels as every file is, and each file decoded by both; the means over the
pictures are interpolated at the wanted bpp, in log(bpp). Needs openvino.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from napari_hyperthumb import decode, info, load_model
from napari_hyperthumb.backend import fineness
from napari_hyperthumb.checkpoint import BUNDLED
from napari_hyperthumb.errors import ModelError
from napari_hyperthumb.files import find_images, read_image
from napari_hyperthumb.int8 import int8_of
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def measure(paths: Sequence[Path], scale: int, wanted: Sequence[float]) -> None:
    model = load_model(BUNDLED[scale])
    int8 = int8_of(model)
    if int8 is None:
        raise ModelError(f"{model.name} has no int8 file of its own: make int8")
    found = np.empty((len(paths), len(LEVELS), 4))  # bpp, float32, eight bits, whether auto takes them
    for index, path in enumerate(paths):
        image = read_image(path)
        prepared = PreparedImage(*check_image(image), model, torch.device("cpu"))
        for at, level in enumerate(LEVELS):
            data = prepared.code(level).data
            decoded = [decode(data, backend=name, device="cpu") for name in ("torch", "openvino-int8")]
            about = info(data)
            chosen = fineness(about.tables.reshape(2, -1)) >= int8.finest
            found[index, at] = about.bpp, psnr(image, decoded[0]), psnr(image, decoded[1]), chosen
        print(f"  {path.name}", file=sys.stderr, flush=True)
    bpp, exact, rounded, chosen = found.mean(0).T
    print(f"\nscale {scale}, {len(paths)} pictures\n")
    print("| level | bpp | float32 dB | eight bits dB | loss dB | worst picture | taken by auto |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    worst = (found[:, :, 1] - found[:, :, 2]).max(0)
    for row in zip(LEVELS, bpp, exact, rounded, exact - rounded, worst, chosen, strict=True):
        print("| {:g} | {:.3f} | {:.2f} | {:.2f} | {:.4f} | {:.4f} | {:.0%} |".format(*row))
    for one in wanted:
        if bpp[0] <= one <= bpp[-1]:
            lost = np.interp(np.log(one), np.log(bpp), exact - rounded)
            print(f"at {one:g} bpp: {lost:.4f} dB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--bpp", nargs="+", type=float, default=[0.2, 0.3, 0.6])
    options = parser.parse_args(arguments)
    try:
        paths = sorted(find_images([options.folder]))
        for scale in options.scales:
            measure(paths, scale, options.bpp)
    except ValueError as error:  # HyperThumbError is one
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
