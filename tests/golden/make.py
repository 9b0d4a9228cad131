"""Makes the golden files: tiny fixed weights, thumbnails of format version 1, and what they decode to.

DON'T RERUN THIS TO MAKE A FAILING TEST PASS. The files stand for those that people have stored:
they must decode to the same pictures for ever. When `test_golden.py` fails, the decoder has changed
what old files look like, and that is the bug. New kinds of files get a new name and are added
beside the old ones; this script refuses to overwrite any.

    python tests/golden/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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
        "rgb-x2": photo,
        "gray-x4": photo[..., 1],
        "uint16-x2": photo[..., 0].astype(np.uint16) * 200 + 1000,
        "odd-x4": photo[:37, :51],
    }
    names = [f"golden-x{scale}.safetensors" for scale in (2, 4)]
    names += [f"{name}{ending}" for name in pictures for ending in (".ht.jpg", ".png")]
    taken = [name for name in names if (HERE / name).exists()]
    if taken:
        sys.exit(f"{', '.join(taken)}: golden files are never made again")
    for scale in (2, 4):
        save_checkpoint(HERE / f"golden-x{scale}.safetensors", golden_net(scale), name=f"golden-x{scale}")
    for name, picture in pictures.items():
        weights = HERE / f"golden-{name[-2:]}.safetensors"
        thumbnail = encode(picture, level=0.5, model=weights)
        thumbnail.save(HERE / f"{name}.ht.jpg")
        decoded = decode(thumbnail.data, model=weights)
        Image.fromarray(decoded).save(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
