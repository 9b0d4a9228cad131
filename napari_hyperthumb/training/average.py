"""The mean of weights from several runs that began with the same ones, which is better than any of them.

After Wortsman et al., "Model soups", ICML 2022 (arXiv 2203.05482), with equal shares.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch

from ..errors import TrainingError
from ..model import HyperThumbModel
from .grow import OBJECTIVE


@torch.no_grad()
def average(nets: Sequence[HyperThumbModel]) -> HyperThumbModel:
    """A model with the mean of their parameters; configuration and the decoder's gain are the first's.

    Raises TrainingError where their networks differ.
    """
    first = nets[0]
    kept = {name: getattr(first.config, name) for name in OBJECTIVE}
    if any(dataclasses.replace(net.config, **kept) != first.config for net in nets):
        raise TrainingError("weights of different networks have no mean")
    out = copy.deepcopy(first)
    for mean, *values in zip(out.parameters(), *(net.parameters() for net in nets), strict=True):
        mean.copy_(torch.stack(values).mean(0))
    return out
