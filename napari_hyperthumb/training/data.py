"""Folders of pictures to random crops."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import HyperThumbError, TrainingError
from ..files import find_images, read_image
from ..pixels import eight_bit

MIN_SIDE = 32
"""A picture with a shorter side than this teaches nothing and is skipped."""
MOST_ZOOM = 2.0
"""How much larger, a side, the part of a picture may be that becomes a crop."""


@dataclass(frozen=True)
class Batch:
    """Crops for one step."""

    rgb: Tensor
    """(N, 3, patch, patch), zero-centred 8-bit levels, float32."""
    gray: Tensor
    """(N,) booleans: coded with one component."""


def _channels(image: NDArray[np.generic]) -> list[NDArray[np.uint8]]:
    """A picture as 8-bit pictures to train on: RGB whole, other channel counts plane by plane."""
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[:, :, :3]
    if image.ndim == 3 and image.shape[2] not in (1, 3):
        channels_first = image.shape[0] < image.shape[2]
        planes = np.moveaxis(image, 0, 2) if channels_first else image
        if planes.shape[2] > 16:
            raise TrainingError(f"a picture of shape {image.shape} has too many channels")
        return [out for i in range(planes.shape[2]) for out in _channels(planes[:, :, i])]
    samples = eight_bit(image)
    return [samples[:, :, None] if samples.ndim == 2 else samples]


def _drawn(files: Sequence[Path], share: float, seed: int) -> list[Path]:
    """A share of the files, the same for the same seed, in their order."""
    order = np.random.default_rng(seed).permutation(len(files))
    return [files[i] for i in sorted(order[: round(share * len(files))])]


def _reduced(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.LANCZOS))


class CropSource:
    """Decoded pictures of some folders, and random crops from them.

    Crops are drawn from the seed and the number of the step alone, so a resumed run sees what an
    uninterrupted one would have seen.

    folders: files and folders, searched deeply. shares: of the crops, how many come from each of
    them, in the same order; None: by the number and size of their pictures.
    zoom: share of the crops that are larger parts of the picture, reduced (up to `MOST_ZOOM` times).
    held_out: share of the files kept apart.
    memory_bytes: above this the pixels lie in a temporary file, mapped into memory.
    skipped: called with a line for each file that can't be used.
    Raises TrainingError when nothing usable is found.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        patch: int,
        shares: Sequence[float] | None = None,
        gray: float = 0.0,
        zoom: float = 0.0,
        held_out: float = 0.0,
        seed: int = 0,
        memory_bytes: int = 2**31,
        skipped: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.patch, self.gray, self.zoom, self.seed = patch, gray, zoom, seed
        if shares is not None and (len(shares) != len(folders) or min(shares, default=0) <= 0):
            raise TrainingError("give each folder a share of the crops, more than 0")
        self.train: list[NDArray[np.uint8]] = []
        weights: list[NDArray[np.float64]] = []
        self._room = memory_bytes
        listed = [sorted(find_images([folder])) for folder in folders]
        # Known by where they really lie: folders may overlap.
        apart = {file.resolve(): file for files in listed for file in _drawn(files, held_out, seed)}
        for index, files in enumerate(listed):
            images = self._decode([f for f in files if f.resolve() not in apart], skipped)
            self.train += images
            # Larger pictures hold more crops, but not so much more that small ones are never seen.
            weight = np.sqrt([float(i.shape[0] * i.shape[1]) for i in images])
            weights.append(weight if shares is None else shares[index] * weight / weight.sum())
        self.held_out = self._decode(apart.values(), skipped)
        if not self.train:
            names = ", ".join(str(folder) for folder in folders)
            raise TrainingError(
                f"{names}: no usable picture (at least {MIN_SIDE} pixels a side) among "
                f"{sum(map(len, listed))} files; give a folder with PNG, TIFF, JPEG or WebP pictures"
            )
        self._share = np.cumsum(np.concatenate(weights))
        self._share /= self._share[-1]

    def _decode(self, files: Iterable[Path], skipped: Callable[[str], None]) -> list[NDArray[np.uint8]]:
        images: list[NDArray[np.uint8]] = []
        spilled: list[tuple[int, tuple[int, ...]]] = []  # start in the temporary file, and shape
        with tempfile.TemporaryFile(prefix="hyperthumb-") as spill:
            for file in files:
                try:
                    decoded = _channels(read_image(file))
                except HyperThumbError as error:
                    text = str(error)
                    skipped(f"skipped: {text if str(file) in text else f'{file}: {text}'}")
                    continue
                for image in decoded:
                    if min(image.shape[:2]) < MIN_SIDE:
                        skipped(f"skipped: {file}: smaller than {MIN_SIDE} pixels")
                        continue
                    self._room -= image.nbytes
                    if self._room >= 0:
                        images.append(image)
                    else:
                        spilled.append((spill.tell(), image.shape))
                        spill.write(image.tobytes())
            if spilled:
                spill.flush()
                # One mapping for all, as each takes a file descriptor. It outlives the closed file.
                pixels = np.memmap(spill, np.uint8, "r")
                images += [pixels[at : at + math.prod(shape)].reshape(shape) for at, shape in spilled]
        return images

    def _crop(self, image: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Tensor, bool]:
        size = self.patch
        most = min(MOST_ZOOM, min(image.shape[:2]) / size)
        reduced = most > 1 and rng.random() < self.zoom
        side = round(size * rng.uniform(1, most)) if reduced else size
        top, left = (int(rng.integers(max(whole - side, 0) + 1)) for whole in image.shape[:2])
        crop = np.asarray(image[top : top + side, left : left + side])
        if reduced:
            crop = np.stack([_reduced(plane, size) for plane in np.moveaxis(crop, 2, 0)], 2)
        pad = [(0, size - crop.shape[0]), (0, size - crop.shape[1]), (0, 0)]
        crop = np.pad(crop, pad, mode="symmetric")
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop[::-1]
        if rng.random() < 0.5:
            crop = crop.transpose(1, 0, 2)
        gray = crop.shape[2] == 1
        planes = torch.from_numpy(crop.transpose(2, 0, 1).copy()).float() - 128
        if not gray and rng.random() < self.gray:
            weights = torch.tensor([0.299, 0.587, 0.114])
            planes, gray = torch.einsum("c,chw->hw", weights, planes)[None], True
        return planes.expand(3, -1, -1), gray

    def _batch(
        self, images: list[NDArray[np.uint8]], picks: Sequence[int], rng: np.random.Generator
    ) -> Batch:
        crops, gray = zip(*(self._crop(images[i], rng) for i in picks), strict=True)
        return Batch(torch.stack(crops), torch.tensor(gray))

    def batch(self, step: int, size: int, rank: int = 0) -> Batch:
        """Crops of one step on one process."""
        rng = np.random.default_rng([self.seed, step, rank])
        picks = np.searchsorted(self._share, rng.random(size))
        return self._batch(self.train, [int(i) for i in picks], rng)

    def validation(self, size: int) -> Batch:
        """The same crops every time, from held-out files (from training files if none is held out)."""
        images = self.held_out or self.train
        rng = np.random.default_rng([self.seed, 2**32 - 1])
        return self._batch(images, [i % len(images) for i in range(size)], rng)
