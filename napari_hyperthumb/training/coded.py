"""Crops with the coefficients of real files, for the last phase: the decoder alone.

Descents and moves change what the encoder gives, and a decoder that was trained on plain rounding expects
other coefficients than files hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Model
from ..jpeg import three_planes
from ..model import LEVELS, Held, HyperThumbModel
from ..pipeline import PreparedImage
from ..pixels import check_image
from .data import Batch, CropSource

POOL = 256
"""Crops that are kept: coding one takes longer than a step of the decoder, so each is seen a few times."""


@dataclass(frozen=True)
class _Crop:
    rgb: Tensor
    gray: bool
    level: float
    held: Held


class CodedCrops:
    """A pool of coded crops, to which every so many steps add one.

    net: codes them, as it is at that step.
    """

    def __init__(
        self, net: HyperThumbModel, source: CropSource, device: torch.device, seed: int, recode: int = 1
    ) -> None:
        self._model = Model(net, "training", "")
        self._source, self._device, self._seed, self._recode = source, device, seed, recode
        self._pool: list[_Crop] = []

    def _code(self, crop: Batch, level: float) -> _Crop:
        gray = bool(crop.gray[0])
        pixels = (crop.rgb[0].permute(1, 2, 0) + 128).round().byte().cpu().numpy()
        array, fmt = check_image(np.ascontiguousarray(pixels[:, :, 0] if gray else pixels))
        prepared = PreparedImage(array, fmt, self._model, self._device)
        quantised, tables = prepared.coefficients(level)
        with torch.inference_mode(False):
            whole = quantised[None].to(self._device, copy=True)
            table = torch.from_numpy(tables).float()[None].to(self._device)
            held = Held(three_planes(whole) if gray else whole, table)
        return _Crop(crop.rgb, gray, level, held)

    def batch(self, step: int, size: int, rank: int = 0) -> tuple[Batch, Tensor, Held]:
        """Crops of one step on one process, their levels (N,) and coefficients."""
        rng = np.random.default_rng([self._seed, step, rank, 11])
        new = size if not self._pool else 1
        if len(self._pool) < POOL // 4 or step % self._recode == 0:
            crops = self._source.batch(step, new, rank)
            for rgb, gray in zip(torch.split(crops.rgb, 1), torch.split(crops.gray, 1), strict=True):
                self._pool.append(self._code(Batch(rgb, gray), float(rng.uniform(*LEVELS))))
        del self._pool[:-POOL]
        return collated([self._pool[i] for i in rng.permutation(len(self._pool))[:size]])

    def coded(self, crops: Batch, level: float) -> Held:
        """Coefficients of these crops."""
        parts = zip(torch.split(crops.rgb, 1), torch.split(crops.gray, 1), strict=True)
        return collated([self._code(Batch(*part), level) for part in parts])[2]


def collated(crops: list[_Crop]) -> tuple[Batch, Tensor, Held]:
    """Several as one."""
    batch = Batch(torch.cat([c.rgb for c in crops]), torch.tensor([c.gray for c in crops]))
    quantised, tables = (torch.cat(parts) for parts in zip(*(c.held for c in crops), strict=True))
    return batch, torch.tensor([c.level for c in crops]), Held(quantised, tables)
