"""The authors' released checkpoint to weights of ours.

Their file is a pickle of PyTorch. It is read with ``weights_only=True``, which builds tensors and nothing
else, and every entry must be one that we know: a missing, unexpected or misshapen one is an error.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import MAX_BYTES, check_state, save_checkpoint
from .errors import ModelError
from .paper import PaperConfig, PaperModel

NAMES = (
    ("encoder.", "encoder."),
    ("table_predictor.", "predictor."),
    ("coefficient_decoder.", "decoder.coefficients."),
    ("decoder.", "decoder.pixels."),
)
"""Beginnings of the published parameter names, and what they are called here."""
_CONSTANT_TABLE = re.compile(r"losslessJPEG\.[YC]_TABLE")
_ENTROPY = re.compile(
    r"entropy_bottleneck\.bottlenecks\.[01]\."
    r"(_?(matrix|bias|factor)\d|(matrices|biases|factors)\.\d|quantiles|target"
    r"|_offset|_quantized_cdf|_cdf_length|(_?likelihood_)?lower_bound\.bound)"
)
"""CompressAI's two factorised priors, by the names that its versions gave their parts."""


@dataclass(frozen=True)
class Released:
    """The released weights under our names."""

    state: dict[str, Tensor]
    entropy: int
    """Entries of the entropy model. They estimate bits while training; a JPEG has its own code, so they
    are left behind."""


def convert(entries: Mapping[str, object], where: str) -> Released:
    """Published names and tensors to ours, float32. Raises ModelError for anything but all of them."""
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    entropy = 0
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(f"{where}: the entry {key!r} is no named tensor")
        ours = next((new + key[len(old) :] for old, new in NAMES if key.startswith(old)), None)
        if ours is not None:
            state[ours] = value.detach().float().contiguous()
        elif _ENTROPY.fullmatch(key):
            entropy += 1
        elif _CONSTANT_TABLE.fullmatch(key):
            # Tables that are predicted replace these; others than ones would scale the coefficients.
            if not bool((value == 1).all()):
                raise ModelError(f"{where}: {key} isn't all ones: a model without table prediction")
        else:
            unexpected.append(key)
    if unexpected:
        raise ModelError(f"{where}: unexpected weights: {', '.join(sorted(unexpected)[:5])}")
    check_state(state, PaperConfig(), where)
    return Released(state, entropy)


def read_released(path: str | Path) -> Released:
    """Read ``HyperThumbnail_4x_net_g_latest.pth`` or a file like it (state under ``params``).

    Raises ModelError for files that aren't one.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    if size > MAX_BYTES:
        raise ModelError(f"{path}: {size} bytes is too large for the released weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's, on pickles it may not read: then it says so
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        # Without PyTorch's words: they advise to load the file in a way that runs what is in it.
        raise ModelError(f"{path}: not a PyTorch file of plain tensors, or a damaged one") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("params"), Mapping):
        raise ModelError(f"{path}: no weights under 'params', where the released checkpoint has them")
    return convert(content["params"], str(path))


def import_weights(source: str | Path, target: str | Path, name: str = "paper-x4") -> Released:
    """Write the released weights as a .safetensors file that everything here takes as a model.

    They are kept in float32. name: what files coded with them say. Raises ModelError.
    """
    if Path(target).suffix != ".safetensors":
        raise ModelError(f"{target}: weights are kept in .safetensors files")
    released = read_released(source)
    net = PaperModel(PaperConfig())
    net.load_state_dict(released.state)
    notes = {"source": Path(source).name, "architecture": "Qi et al., CVPR 2023"}
    save_checkpoint(target, net, name=name, notes=notes, dtype=torch.float32)
    return released
