"""Makes NAME.int8 beside weights: ranges and biases with which the decoder runs in eight bits (extra "fast").

    python scripts/quantise.py [--pictures ../shared/data/train] [WEIGHTS.safetensors ...]

Default: all bundled weights. Rerun it after new weights (`make int8`): an int8 file of other weights is left
unread. Calibrated with nncf on crops of training pictures (never of pictures one wants to report on) that our
own encoder coded at rates from end to end. The loss against float32 is measured on other crops, as this CPU
runs eight bits (with bfloat16 beside them where it has instructions for that), and written
into the file with the finest tables for which it is small enough; where none are, the file is never chosen by
itself. The last convolution stays as it is where eight bits are good enough for more levels that way. A
minute or two for each.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_hyperthumb.backend import Backend
from napari_hyperthumb.backend_openvino import OpenVINODecoder, condition_inputs, graph
from napari_hyperthumb.checkpoint import BUNDLED, Model, bundled_path, load_checkpoint
from napari_hyperthumb.errors import ImageError, ModelError
from napari_hyperthumb.files import find_images, read_image
from napari_hyperthumb.int8 import MAX_LOSS, SUFFIX, Int8, Rounded, save_int8
from napari_hyperthumb.jpeg import COEFFICIENTS
from napari_hyperthumb.model import STRIDE, UNIT, HyperThumbModel
from napari_hyperthumb.pipeline import PreparedImage
from napari_hyperthumb.pixels import check_image, eight_bit
from napari_hyperthumb.plain import Conditions, PlainDecoder, conditions, plain_decoder

SIDE, HELD_OUT_SIDE = 256, 512
"""HR pixels of a crop to calibrate with, and of one to measure with."""
CALIBRATION, HELD_OUT = 60, 50
"""Pictures."""
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LAST = "out"
"""The convolution that makes a third of what eight bits cost."""


class Sample(NamedTuple):
    """A crop as the decoder gets it."""

    level: float
    conditions: Conditions
    quantised: NDArray[np.float32]
    """(h, w, C * 64)"""
    crop: NDArray[np.uint8]


def samples(model: Model, pictures: Sequence[Path], rng: np.random.Generator, side: int) -> Iterator[Sample]:
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
        quantised, tables = prepared.coefficients(level)
        with torch.inference_mode():
            found = conditions(model.net.decoder, torch.from_numpy(tables).float()[None], 3)
        yield Sample(level, found, quantised.flatten(0, 1).permute(1, 2, 0).contiguous().numpy(), crop)


def quantised(
    plain: PlainDecoder, model: Model, calibration: Sequence[Sample], exact: Sequence[str] = ()
) -> Int8:
    """Ranges and biases as nncf finds them. exact: convolutions that stay as they are."""
    import nncf

    size = calibration[0].quantised.shape[:2]
    nncf.set_log_level(logging.ERROR)
    network = graph(plain, (size[0], size[1]), eight_bit=False)
    data = nncf.Dataset(calibration, lambda s: (s.quantised[None], *condition_inputs(s.conditions)))
    ignored = nncf.IgnoredScope(
        names=["pixels", "head_pixels", "up", *exact],
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
    return Int8(dict(_rounded(done)), model.digest, loss=0.0, finest=0.0)


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


def pixels(
    plain: PlainDecoder, found: Conditions, quantised: NDArray[np.float32], chosen: Backend, digest: str
) -> NDArray[np.float64]:
    """What 8-bit output decodes to, (H, W, 3)."""
    size = (quantised.shape[0], quantised.shape[1])
    decoder = OpenVINODecoder(plain, found, size, chosen, eight_bit=True, key=(digest,))
    (out,) = decoder.outputs([torch.from_numpy(quantised).unflatten(2, (-1, COEFFICIENTS))])
    height, width = out.shape[:2]
    blocks = out.reshape(height, width, STRIDE, STRIDE, 3).swapaxes(1, 2)
    return blocks.reshape(height * STRIDE, width * STRIDE, 3).astype(np.float64)


def measured(plain: PlainDecoder, held_out: Sequence[Sample], int8: Int8) -> tuple[int, Int8]:
    """With its loss, and the finest tables for which it is small enough; before it how many levels are."""
    backends = Backend("openvino"), Backend("openvino-int8", int8)
    lost: dict[float, list[float]] = {level: [] for level in LEVELS}
    steps: dict[float, list[float]] = {level: [] for level in LEVELS}
    for level, found, coefficients, crop in held_out:
        exact, rounded = (
            float(((pixels(plain, found, coefficients, chosen, int8.digest) - crop) ** 2).mean())
            for chosen in backends
        )
        lost[level].append(10 * np.log10(rounded / exact))
        steps[level].append(float(found.steps[:COEFFICIENTS].mul(UNIT).log().mean()))
    losses, logs = ([float(np.mean(values[level])) for level in LEVELS] for values in (lost, steps))
    for level, loss, log in zip(LEVELS, losses, logs, strict=True):
        print(f"  level {level:4}: {loss:.4f} dB, log of luma steps {log:.2f}")
    # From the coarsest tables on, as far as the loss stays within bounds.
    good = list(itertools.takewhile(lambda loss: loss <= MAX_LOSS, losses))
    if not good:
        return 0, replace(int8, loss=losses[0])
    finest = min(steps[LEVELS[-1]])
    if len(good) < len(LEVELS):
        around = slice(len(good) - 1, len(good) + 1)
        finest = float(np.interp(MAX_LOSS, losses[around], logs[around]))
    return len(good), replace(int8, loss=max(good), finest=finest)


def quantise(path: Path, pictures: Sequence[Path]) -> None:
    """Make the int8 file beside these weights."""
    model = load_checkpoint(path)
    if not isinstance(model.net, HyperThumbModel):
        raise ModelError(f"{path}: the published architecture has no int8 decoder")
    rng = np.random.default_rng(0)
    order = [pictures[index] for index in rng.permutation(len(pictures))]
    calibration = list(samples(model, order[:CALIBRATION], rng, SIDE))
    held_out = list(samples(model, order[CALIBRATION:][:HELD_OUT], rng, HELD_OUT_SIDE))
    if len(calibration) < len(LEVELS) or len(held_out) < len(LEVELS):
        raise ImageError(f"too few colour pictures of {HELD_OUT_SIDE} pixels a side or more")
    plain = plain_decoder(model.net, 3)
    print("  all convolutions in eight bits:")
    levels, int8 = measured(plain, held_out, quantised(plain, model, calibration))
    if levels < len(LEVELS):
        print("  all but the last one:")
        more, without = measured(plain, held_out, quantised(plain, model, calibration, [LAST]))
        int8 = without if more > levels else int8
    target = path.with_suffix(SUFFIX)
    save_int8(target, int8)
    size = target.stat().st_size
    print(f"{target}: {size} bytes, of {int8.digest}; at most {int8.loss:.4f} dB from {int8.finest:.2f} on")
    if int8.loss > MAX_LOSS:
        print("  over the limit: never chosen by itself")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", nargs="*", type=Path, help=".safetensors; default: the bundled ones")
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data/train"), help="%(default)s")
    options = parser.parse_args(arguments)
    try:
        pictures = list(find_images([options.pictures]))
        for path in options.weights or [bundled_path(name) for name in BUNDLED.values()]:
            quantise(path, pictures)
    except (ImportError, ValueError) as error:  # HyperThumbError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
