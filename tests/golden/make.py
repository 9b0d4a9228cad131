"""Makes the golden files: tiny fixed weights, thumbnails, and what they decode to.

DON'T RERUN THIS TO MAKE A FAILING TEST PASS. The files stand for those that people have stored:
they must decode to the same pictures for ever. When `test_golden.py` fails, the decoder has changed
what old files look like, and that is the bug. New kinds of files get a new name and are added
beside the old ones; this script makes those that aren't there and leaves the others alone. Those of format
version 1 (rgb-x2, gray-x4, uint16-x2, odd-x4) can't be made any more: the program writes version 2.

    python tests/golden/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from samples import make_photo  # noqa: E402

from napari_hyperthumb import decode, encode  # noqa: E402
from napari_hyperthumb.checkpoint import save_checkpoint  # noqa: E402
from napari_hyperthumb.model import HyperThumbModel, ModelConfig  # noqa: E402


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


if __name__ == "__main__":
    main()
