"""Makes NAME.int8 beside weights: ranges and biases with which the decoder runs in eight bits (extra "fast").

    python scripts/quantise.py [--pictures ../shared/data/train] [WEIGHTS.safetensors ...]

Default: all bundled weights. Rerun it after new weights: an int8 file of other weights is left unread. Calibrated
with nncf on crops of training pictures (never of pictures one wants to report on) that our own encoder
coded at rates from end to end; the loss against float32 is measured on other crops and written into the file,
and where it is over the limit (`int8.MAX_LOSS`) the file is never chosen by itself. Two minutes for each.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_hyperthumb.backend_openvino import OpenVINODecoder, graph
from napari_hyperthumb.checkpoint import BUNDLED, Model, bundled_path, load_checkpoint
from napari_hyperthumb.files import find_images, read_image
from napari_hyperthumb.int8 import MAX_LOSS, SUFFIX, Int8, Rounded, save_int8
from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image, eight_bit
from napari_hyperthumb.plain import PlainDecoder, conditions, plain_decoder

SIDE = 256
"""HR pixels of a crop."""
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
FLOATS: tuple[str, ...] = ()
"""Convolutions that stay in float32."""
Sample = tuple[NDArray[np.float32], Any, NDArray[np.uint8]]
"""Scaled coefficients, the file's conditions, and the crop itself."""


def samples(model: Model, pictures: Sequence[Path], rng: np.random.Generator, side: int = SIDE) -> Iterator[Sample]:
    """A crop of each picture, coded at a level by turns."""
    assert isinstance(model.net, HyperThumbModel)
    device = torch.device("cpu")
    for index, path in enumerate(pictures):
        image = eight_bit(read_image(path))
        if image.ndim == 2 or min(image.shape[:2]) < side:
            continue
        y, x = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        crop = np.ascontiguousarray(image[y : y + side, x : x + side])
        prepared = PreparedImage(*check_image(crop), model, device)
        level = LEVELS[index % len(LEVELS)]
        tables = prepared.tables(level)
        quantised = prepared.quantised(level, tables)
        with torch.inference_mode():
            found = conditions(model.net.decoder, torch.from_numpy(tables).float()[None], 3)
            scaled = quantised.flatten(0, 1).permute(1, 2, 0) * found.steps
        yield scaled.contiguous().numpy(), found, crop


def quantised(plain: PlainDecoder, model: Model, calibration: Sequence[Sample]) -> Int8:
    """Ranges and biases as nncf finds them."""
    import nncf

    size = calibration[0][0].shape[:2]
    network = graph(plain, (size[0], size[1]), eight_bit=False)
    data = nncf.Dataset(calibration, lambda s: (s[0][None], s[1].films.flatten(0, 1).numpy()))
    ignored = nncf.IgnoredScope(
        names=["pixels", "head_pixels", "up", *FLOATS],
        types=["Add", "Multiply", "Concat", "DepthToSpace"],
        validate=False,
    )
    done = nncf.quantize(
        network,
        data,
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=True,
        ignored_scope=ignored,
    )
    return Int8(dict(_rounded(done)), model.digest, 0.0)


def _rounded(network: Any) -> Iterator[tuple[str, Rounded]]:
    for node in network.get_ops():
        if node.get_type_name() != "Convolution":
            continue
        source, weight = (node.input_value(index).get_node() for index in (0, 1))
        if source.get_type_name() != "FakeQuantize":
            continue
        low, high = (source.input_value(index).get_node().data.reshape(-1) for index in (1, 2))
        # nncf leaves whole numbers, -127 .. 127, times a scale for each output.
        assert weight.get_type_name() == "Multiply", weight
        most = 127 * weight.input_value(1).get_node().data.reshape(-1)
        (target,) = node.output(0).get_target_inputs()
        (bias,) = (v.get_node() for v in target.get_node().input_values() if v.get_node() is not node)
        yield (
            node.get_friendly_name(),
            Rounded(
                torch.tensor([low[0], high[0]]).float(),
                torch.from_numpy(most.copy()).float(),
                torch.from_numpy(bias.data.reshape(-1).copy()).float(),
            ),
        )


def pixels(plain: PlainDecoder, sample: Sample, int8: Int8 | None) -> NDArray[np.float64]:
    scaled, found, crop = sample
    size = (scaled.shape[0], scaled.shape[1])
    key = ("quantise", int8 and id(int8))
    decoder = OpenVINODecoder(plain, found, size, eight_bit=True, int8=int8, key=key)
    (out,) = decoder.outputs([scaled])
    blocks = out.reshape(crop.shape[0] // 4, crop.shape[1] // 4, 4, 4, 3)
    return blocks.swapaxes(1, 2).reshape(crop.shape).astype(np.float64)


def loss(plain: PlainDecoder, held_out: Sequence[Sample], int8: Int8) -> list[float]:
    """Mean loss in dB at each level."""
    lost: dict[int, list[float]] = {}
    for index, sample in enumerate(held_out):
        crop = sample[2].astype(np.float64)
        errors = [((pixels(plain, sample, bits) - crop) ** 2).mean() for bits in (None, int8)]
        lost.setdefault(index % len(LEVELS), []).append(10 * np.log10(errors[1] / errors[0]))
    return [float(np.mean(values)) for values in lost.values()]
