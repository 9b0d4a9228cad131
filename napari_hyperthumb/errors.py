"""Every error this package raises on purpose.

HyperThumbError (ValueError)
├── ImageError        the picture that was handed in can't be coded
├── ThumbnailError    the file that was handed in can't be decoded
│   └── NotAThumbnailError   a readable JPEG without our metadata: decode it with a given scale
├── ModelError        weights that can't be loaded, or that don't belong to the file
├── RateError         the wanted size or quality can't be reached
├── DeviceError       the wanted device isn't there
├── DependencyError   an optional package is missing; the message names the extra that brings it
└── TrainingError     a configuration, a folder or a run that training can't go on with
HyperThumbWarning (UserWarning)   the picture came back, but something was lost on the way
"""

from __future__ import annotations

__all__ = [
    "DependencyError",
    "DeviceError",
    "HyperThumbError",
    "HyperThumbWarning",
    "ImageError",
    "ModelError",
    "NotAThumbnailError",
    "RateError",
    "ThumbnailError",
    "TrainingError",
]


class HyperThumbError(ValueError):
    """Base of all errors raised on purpose; its text says what is wrong and what to do."""


class ImageError(HyperThumbError):
    """The picture that was handed in can't be coded."""


class ThumbnailError(HyperThumbError):
    """The file that was handed in can't be decoded."""


class NotAThumbnailError(ThumbnailError):
    """A readable JPEG without our metadata. It decodes when the scale is given."""


class ModelError(HyperThumbError):
    """Weights that can't be loaded, or that don't belong to the file."""


class RateError(HyperThumbError):
    """The wanted size or quality can't be reached."""


class DeviceError(HyperThumbError):
    """The wanted device isn't there."""


class DependencyError(HyperThumbError):
    """An optional package is missing."""


class TrainingError(HyperThumbError):
    """A configuration, a folder or a run that training can't go on with."""


class HyperThumbWarning(UserWarning):
    """The picture came back, but something was lost on the way."""
