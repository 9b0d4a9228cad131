"""Weights on disk: safetensors with the model's configuration in the header. Never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .bitstream import NAME
from .errors import ModelError
from .files import write_atomically
from .jpeg import COEFFICIENTS
from .model import HyperThumbModel, ModelConfig
from .paper import PaperConfig, PaperModel

Net = HyperThumbModel | PaperModel
Config = ModelConfig | PaperConfig
OURS, PAPER = "hyperthumb", "paper"
ARCHITECTURES: Mapping[str, type[ModelConfig] | type[PaperConfig]] = {OURS: ModelConfig, PAPER: PaperConfig}
"""What a header may name; one that names none is ours."""
FORMAT = "hyperthumb-weights-1"
MAX_BYTES = 256 * 2**20
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BUNDLED: Mapping[int, str] = {2: "ht-x2", 4: "ht-x4"}
"""Scale to the name of the weights in the package."""


@dataclass(frozen=True)
class Model:
    """A model ready to use, and which weights it has."""

    net: Net
    name: str
    digest: str
    """First 16 hex digits of the SHA-256 of the weights file."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What training wrote about itself: steps, minutes, data."""
    path: Path | None = None
    """The file; None for a network that is still being trained."""

    @property
    def scale(self) -> int:
        """HR side / LR side."""
        return self.net.config.scale


def build(config: Config) -> Net:
    """A network with random weights."""
    return PaperModel(config) if isinstance(config, PaperConfig) else HyperThumbModel(config)


def save_checkpoint(
    path: str | Path,
    net: Net,
    *,
    name: str,
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights and configuration, whole or not at all. `notes` must be JSON values."""
    _check_name(name, str(path))
    state = net.state_dict()
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    header = {
        "format": FORMAT,
        "name": name,
        "config": json.dumps(dataclasses.asdict(net.config)),
        "notes": json.dumps(dict(notes or {})),
    }
    if isinstance(net, PaperModel):  # older versions must not take it for ours
        header["architecture"] = PAPER
    write_atomically(path, save_tensors(tensors, metadata=header))


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise ModelError(
            f"{where}: the name of the weights must be 1 to 64 letters, digits, dots, dashes or "
            f"underscores, not {name!r}: it is written into each thumbnail"
        )


def _config(text: str, architecture: str, where: str) -> Config:
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{where}: made by a newer version: unknown architecture {architecture!r}")
    cls = ARCHITECTURES[architecture]
    try:
        values = json.loads(text)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"made by a newer version: unknown setting {unknown[0]!r}")
        return cls(**values)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{where}: the configuration in the header is damaged: {error}") from error


def _read(path: Path) -> tuple[bytes, dict[str, str]]:
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; bundled: {', '.join(BUNDLED.values())}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"{path}: {size} bytes is too large for weights of ours")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: weights are read from .safetensors files only (never pickle)")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
        return path.read_bytes(), header
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error


def check_state(state: Mapping[str, Tensor], config: Config, where: str) -> None:
    """Raise ModelError unless these are all the weights of such a network, and sound ones."""
    # Sizes first, on the meta device: nothing is allocated for a header that doesn't fit its tensors.
    with torch.device("meta"):
        expected = build(config).state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    wrong = sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k].shape)
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)):
        if keys:
            raise ModelError(f"{where}: {what} weights: {', '.join(keys[:5])}")
    strange = sorted(str(value.dtype) for value in state.values() if value.dtype not in DTYPES)
    if strange:
        raise ModelError(f"{where}: weights of type {strange[0]}, which we never write")
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ModelError(f"{where}: the weights hold NaN or infinite values")


def _build(state: Mapping[str, Tensor], config: Config, where: str) -> Net:
    if isinstance(config, ModelConfig):
        # Weights from before moves were made have no gain of their own: a plain upsampling's stands for it.
        state = {"gain": torch.full((3, COEFFICIENTS), float(config.scale**2)), **state}
    check_state(state, config, where)
    net = build(config)
    net.load_state_dict({key: value.float() for key, value in state.items()})
    return net


def load_checkpoint(path: str | Path) -> Model:
    """Read weights, check every one of them against the configuration, and build the model on the CPU.

    Raises ModelError for anything but a complete file of ours.
    """
    path = Path(path)
    data, header = _read(path)
    if header.get("format") != FORMAT:
        raise ModelError(f"{path}: not weights of HyperThumb (no {FORMAT!r} in its header)")
    config = _config(header.get("config", ""), header.get("architecture", OURS), str(path))
    net = _build(load_tensors(data), config, str(path))
    name = header.get("name", path.stem)
    _check_name(name, str(path))
    try:
        notes = json.loads(header.get("notes", "{}"))
    except (ValueError, RecursionError):
        notes = {}
    if not isinstance(notes, dict):
        notes = {}
    net.eval().requires_grad_(False)
    digest = hashlib.sha256(data).hexdigest()[:16]
    return Model(net, name, digest, notes, path)


def bundled_path(name: str) -> Path:
    """Where the weights `name` of the package lie."""
    return Path(str(resources.files(__package__) / "weights" / f"{name}.safetensors"))
