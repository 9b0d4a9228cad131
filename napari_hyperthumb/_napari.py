"""Reader, writer and sample data. Nothing heavy is imported until one of them is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import HyperThumbError, ImageError, ModelError, NotAThumbnailError, RateError
from .files import JXL_SUFFIX, THUMBNAIL_SUFFIX, bare_name, write_atomically

LayerData = tuple[Any, dict[str, Any], str]
KEY = "hyperthumb"
LARGE = 2**22
"""Pixels from which reading and saving show their progress."""


# ---- reading ---------------------------------------------------------------------------------


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for `*.ht.jpg` and `*.ht.jxl`; None for everything else, ordinary JPEGs included."""
    paths = [path] if isinstance(path, str) else list(path)
    ours = paths and all(str(one).lower().endswith((THUMBNAIL_SUFFIX, JXL_SUFFIX)) for one in paths)
    return read if ours else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Each file as two layers: the thumbnail, and the image it holds, at full resolution above it.

    A JPEG that has lost its metadata comes as its thumbnail alone, with a warning.
    Raises ThumbnailError or ModelError, naming the file, or DependencyError.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for one in paths for layer in read_one(one)]


def read_one(path: str) -> list[LayerData]:
    """The layers of one file."""
    from ._widget import preferences
    from .codec import info
    from .transport import from_jxl

    data = _bytes_of(path)
    name = bare_name(Path(path))
    try:
        data = from_jxl(data)
        about = info(data)
        with progress_in_napari(f"Reconstructing {name}", about.shape) as report:
            image = decoded(data, weights=str(preferences.get("weights")), progress=report)
    except NotAThumbnailError:
        import warnings

        from .errors import HyperThumbWarning

        warnings.warn(
            f"{path}: holds no thumbnail's metadata; to reconstruct it, open the widget HyperThumb: Decode "
            "and choose the scale",
            HyperThumbWarning,
            stacklevel=2,
        )
        return [thumbnail_layer(data, f"{name} thumbnail", 1)]
    except HyperThumbError as error:
        text = str(error).removeprefix("the data: ")
        raise type(error)(f"{path}: {text}") from error
    small = thumbnail_layer(data, f"{name} thumbnail", about.scale)
    small[1]["visible"] = False
    return [small, image_layer(image, f"{name} reconstruction", about.format.range)]


def decoded(data: bytes, *, weights: str, any_model: bool = False, **options: Any) -> Any:
    """As `codec.decode`, where a file with weights is at hand: it is used for what was made with it.

    weights: that file's path, or empty.
    """
    from .codec import decode

    wanted: list[dict[str, Any]] = [{}]
    if weights:  # a thumbnail without metadata doesn't say: take what was chosen
        wanted.insert(0 if "scale" in options else 1, {"model": weights})
    if any_model:
        wanted.append({"any_model": True})
    for number, choice in enumerate(wanted):
        try:
            return decode(data, **choice, **options)
        except ModelError:
            if number == len(wanted) - 1:
                raise
    raise AssertionError("one of them returns or raises")


@contextmanager
def progress_in_napari(what: str, shape: tuple[int, ...]) -> Iterator[Callable[[float], None]]:
    """A report for long work that napari itself calls, on its main thread.

    It moves a bar in the activity dock, and the window answers at each move. Small images and a
    program without a viewer get none.
    """
    napari = sys.modules.get("napari")
    if napari is None or shape[0] * shape[1] < LARGE or napari.current_viewer() is None:
        yield lambda fraction: None
        return
    with napari.utils.progress(total=100, desc=what) as bar:
        yield lambda fraction: bar.update(max(0, round(100 * fraction) - bar.n))


def _bytes_of(path: str) -> bytes:
    from .errors import ThumbnailError

    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ThumbnailError(f"{path}: can't be read: {error.strerror or error}") from error


def thumbnail_layer(data: bytes, name: str, scale: int) -> LayerData:
    """The picture any viewer shows, lying exactly over the image it holds."""
    import io

    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.asarray(opened if opened.mode in ("L", "RGB") else opened.convert("RGB"))
    options: dict[str, Any] = {
        "name": name,
        "rgb": pixels.ndim == 3,
        "scale": (scale, scale),
        "translate": ((scale - 1) / 2,) * 2,
        "metadata": {KEY: {"kind": "thumbnail", "data": data, "whole": True, "scale": scale}},
    }
    if pixels.ndim == 2:
        options["contrast_limits"] = (0, 255)
    return pixels, options, "image"


def image_layer(image: Any, name: str, value_range: tuple[float, float]) -> LayerData:
    """A reconstruction, shown between the original's black and white."""
    options: dict[str, Any] = {"name": name, "rgb": image.ndim == 3, "metadata": {KEY: {"kind": "decoded"}}}
    low, high = value_range
    if image.ndim == 2:
        options["contrast_limits"] = (low, high if high > low else low + 1)
    return image, options, "image"


# ---- writing ---------------------------------------------------------------------------------


def write(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save one image layer as `*.ht.jpg`, at the rate in the plugin's preferences.

    A thumbnail layer is saved as the very file it came from. Raises HyperThumbError.
    """
    if not path.lower().endswith((".jpg", ".jpeg")):
        path += THUMBNAIL_SUFFIX
    known = (attributes.get("metadata") or {}).get(KEY, {})
    if known.get("kind") == "thumbnail" and known.get("whole") and "data" in known:
        write_atomically(path, known["data"])
        return [path]
    write_atomically(path, _encoded(data, attributes))
    return [path]


def _encoded(data: Any, attributes: dict[str, Any]) -> bytes:
    import numpy as np

    from ._widget import preferences
    from .session import Session
    from .targets import Target, parse_target

    multiscale = attributes.get("multiscale", False) or (
        isinstance(data, (list, tuple)) and len(data) > 0 and hasattr(data[0], "shape")
    )
    pixels = data[0] if multiscale else data
    rgb = bool(attributes.get("rgb", False))
    planes = pixels.shape[: -3 if rgb else -2]
    if any(side != 1 for side in planes):
        raise ImageError(
            f"the layer is a stack of shape {tuple(pixels.shape)}: a thumbnail holds one plane. Choose it "
            "with the sliders and press Save thumbnail in the widget HyperThumb: Encode"
        )
    pixels = np.asarray(pixels).reshape(tuple(pixels.shape[len(planes) :]))
    value_range = None
    if pixels.dtype != np.uint8 and not rgb:
        low, high = attributes["contrast_limits"]
        value_range = (float(low), float(high))
    elif rgb and pixels.dtype.kind == "f":
        value_range = (0.0, 1.0)
    session = Session(
        pixels,
        device=str(preferences.get("device")),
        models=preferences.models(str(preferences.get("weights"))),
        value_range=value_range,
        alpha="drop" if rgb and pixels.shape[-1] == 4 else "refuse",
    )
    wanted = parse_target(session.shape, float(preferences.get("save_bpp")), None, None, None)
    with progress_in_napari("Coding a thumbnail", session.shape) as report:
        try:
            step = session.encode(wanted, with_ssim=False, report=report)
        except RateError:  # a tiny image: the file's headers alone take more than that
            step = session.encode(Target("level", -1.0), with_ssim=False)
    return step.thumbnail.data


# ---- sample data -----------------------------------------------------------------------------


def _sample(load: Callable[[], Any], name: str) -> list[LayerData]:
    image = load()
    options: dict[str, Any] = {"name": name, "rgb": image.ndim == 3}
    if image.ndim == 2:
        options["contrast_limits"] = (0, 255)
    return [(image, options, "image")]


def photograph() -> list[LayerData]:
    """A cup of coffee, 600x400 RGB (Rachel Michetti, CC0; comes with scikit-image)."""
    from skimage import data

    return _sample(data.coffee, "coffee")


def histology() -> list[LayerData]:
    """Colon tissue, immunohistochemistry, 512x512 RGB (no known copyright; comes with scikit-image)."""
    from skimage import data

    return _sample(data.immunohistochemistry, "histology")


def moon() -> list[LayerData]:
    """The surface of the moon, 512x512 gray (NASA, public domain; comes with scikit-image)."""
    from skimage import data

    return _sample(data.moon, "moon")
