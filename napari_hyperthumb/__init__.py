"""Learned image codec: a high-resolution image inside a small ordinary JPEG thumbnail.

from napari_hyperthumb import encode, decode
encode(image, bpp=0.3).save("photo.ht.jpg")
image = decode("photo.ht.jpg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    DependencyError,
    DeviceError,
    HyperThumbError,
    HyperThumbWarning,
    ImageError,
    ModelError,
    NotAThumbnailError,
    RateError,
    ThumbnailError,
    TrainingError,
)

if TYPE_CHECKING:
    from ._jupyter.panel import explore
    from .channels import Cost, Percentile
    from .codec import Info, Thumbnail, decode, encode, info, load_model
    from .stack import Channel, Stack, encode_stack, open_stack

__version__ = "0.1.0"
__all__ = [
    "Channel",
    "Cost",
    "DependencyError",
    "DeviceError",
    "HyperThumbError",
    "HyperThumbWarning",
    "ImageError",
    "Info",
    "ModelError",
    "NotAThumbnailError",
    "Percentile",
    "RateError",
    "Stack",
    "Thumbnail",
    "ThumbnailError",
    "TrainingError",
    "decode",
    "encode",
    "encode_stack",
    "explore",
    "info",
    "load_model",
    "open_stack",
]
_NOTEBOOK = ("anywidget", "ipywidgets", "IPython", "traitlets", "matplotlib")
_LAZY = {
    **dict.fromkeys(("Info", "Thumbnail", "decode", "encode", "info", "load_model"), ".codec"),
    **dict.fromkeys(("Channel", "Stack", "encode_stack", "open_stack"), ".stack"),
    **dict.fromkeys(("Cost", "Percentile"), ".channels"),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: napari's start-up must not pay for it (PEP 562).
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    if name == "explore":
        try:
            return getattr(import_module("._jupyter.panel", __name__), name)
        except ImportError as error:
            if (error.name or "").split(".")[0] not in _NOTEBOOK:
                raise
            raise DependencyError(
                f"the explorer needs {error.name}: pip install 'napari-hyperthumb[notebook]'"
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
