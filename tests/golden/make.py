"""Makes the golden files: tiny fixed weights, thumbnails, a stack, a pyramid, and what they decode to.

DON'T RERUN THIS TO MAKE A FAILING TEST PASS. The files stand for those that people have stored:
they must decode to the same pictures for ever. When `test_golden.py` fails, the decoder has changed
what old files look like, and that is the bug. New kinds of files get a new name and are added
beside the old ones; this script makes those that aren't there and leaves the others alone. Those of format
version 1 (rgb-x2, gray-x4, uint16-x2, odd-x4) can't be made any more: the program writes version 2.

    python tests/golden/make.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import zarr
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from samples import make_photo  # noqa: E402

from napari_hyperthumb import Channel, decode, encode, encode_stack  # noqa: E402
from napari_hyperthumb.checkpoint import save_checkpoint  # noqa: E402
from napari_hyperthumb.codec import WEIGHTS  # noqa: E402
from napari_hyperthumb.model import HyperThumbModel, ModelConfig  # noqa: E402
from napari_hyperthumb.pyramid import make_pyramid  # noqa: E402


def golden_net(scale: int) -> HyperThumbModel:
    """Random weights, the last layers large enough for every part of the decoder to show."""
    torch.manual_seed(scale)
    config = ModelConfig(
        scale=scale,
        encoder_channels=4,
        encoder_blocks=1,
        encoder_level_blocks=1,
        decoder_channels=6,
        decoder_blocks=1,
        frequency_hidden=4,
        frequency_channels=2,
        predictor_hidden=4,
    )
    net = HyperThumbModel(config)
    with torch.no_grad():
        for layer in (net.decoder.out, net.decoder.body[0].b, net.decoder.film.net[2], net.encoder.out):
            layer.weight.mul_(4)
        net.decoder.frequency[4].weight.mul_(12)
    return net


def main() -> None:
    photo = make_photo(64, 80)
    pictures = {
        "rgb-version-2-x4": photo,
        "float32-version-2-x2": photo[:50, :70, 0].astype(np.float32) / 7 - 3,
    }
    for scale in (2, 4):
        path = HERE / f"golden-x{scale}.safetensors"
        if not path.exists():
            save_checkpoint(path, golden_net(scale), name=f"golden-x{scale}")
    for name, picture in pictures.items():
        if (HERE / f"{name}.ht.jpg").exists():
            continue
        weights = HERE / f"golden-{name[-2:]}.safetensors"
        thumbnail = encode(picture, level=0.5, model=weights)
        thumbnail.save(HERE / f"{name}.ht.jpg")
        decoded = decode(thumbnail.data, model=weights)
        np.save(HERE / f"{name}.npy", decoded)
    make_stack(photo)
    make_small_pyramid(photo)


def make_stack(photo: np.ndarray) -> None:
    """Two channels of two planes, uint16, with names, colours and a range for each channel."""
    if (HERE / "stack-x2.ht.tif").exists():
        return
    cells = np.array(
        [[photo[:40, :56, c].astype(np.uint16) * (90 * c + 40) + z for z in (0, 9)] for c in (0, 1)]
    )
    named = (Channel("DAPI", (0, 0, 255)), Channel("µ", (0, 255, 0)))
    weights = HERE / "golden-x2.safetensors"
    stack = encode_stack(
        cells, "CZYX", level=0.5, value_range=[(0, 10_000), (900, 30_000)], channels=named, model=weights
    )
    stack.save(HERE / "stack-x2.ht.tif")
    np.savez_compressed(HERE / "stack-x2.npz", stack.decode(model=weights))


def make_small_pyramid(photo: np.ndarray) -> None:
    """Two levels of two gray chunks."""
    out = HERE / "pyramid-x2.zarr"
    if out.exists():
        return
    weights = HERE / "golden-x2.safetensors"
    os.environ[WEIGHTS] = str(weights)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "slide.png"
        Image.fromarray(photo[..., 1]).save(source)
        make_pyramid(source, out, level=0.5, chunk=64, model=str(weights), measure=False)
    levels = {number: zarr.open_array(out / number, mode="r")[...] for number in "01"}
    np.savez_compressed(HERE / "pyramid-x2.npz", **levels)


if __name__ == "__main__":
    main()
