"""One file in, one file out: what the command does for each input, here or on another machine's worker."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .channels import Cost, Percentile, Ranges, cost_of
from .errors import HyperThumbError, ImageError
from .files import (
    JXL_SUFFIX,
    STACK_SUFFIX,
    THUMBNAIL_SUFFIX,
    bare_name,
    read_image,
    read_image_file,
    tiff_axes,
    write_atomically,
)
from .pixels import Array, ValueRange

CONTAINERS = {"jpg": THUMBNAIL_SUFFIX, "jxl": JXL_SUFFIX}


def no_report(fraction: float) -> None:
    """As `pipeline.no_report`, without torch."""


@dataclass(frozen=True)
class EncodeOptions:
    """How files are coded; the codec's own words (see `encode` and `encode_stack`)."""

    bpp: float | None = None
    nbytes: int | None = None
    psnr: float | None = None
    level: float | None = None
    scale: int | str = "auto"
    effort: str = "fast"
    seconds: float | None = None
    device: str = "auto"
    model: str | None = None
    value_range: Ranges = None
    axes: str | None = None
    """Of stacks, where the file doesn't say or says it wrongly."""
    alpha: str = "refuse"
    measure: bool | None = None
    """Say what it cost in the image's own units; None: of data that isn't uint8."""
    container: str = "jpg"
    """"jpg" or "jxl"; stacks are TIFF files."""


@dataclass(frozen=True)
class Encoded:
    """A coded file, before it is written."""

    data: bytes
    suffix: str
    """What its name should end in."""
    facts: dict[str, Any]
    """For people and scripts."""


def _picture_axes(axes: str | None, array: Array) -> str | None:
    """The axes of a stack; None for one picture."""
    if axes is None or len(axes) == 2 or array.ndim == 2:
        return None
    if set(axes) == set("YXS") and array.shape[axes.index("S")] in (3, 4):
        return None if axes == "YXS" else axes
    return axes


def encoded(array: Array, axes: str | None, options: EncodeOptions, report: Any = no_report) -> Encoded:
    """Code an array: one picture to a thumbnail, more to a stack of them.

    axes: as the file or the user says; None or two letters: one picture.
    """
    from .codec import decode, encode

    measure = array.dtype.name != "uint8" if options.measure is None else options.measure
    common: dict[str, Any] = {
        "bpp": options.bpp,
        "psnr": options.psnr,
        "level": options.level,
        "scale": options.scale,
        "effort": options.effort,
        "seconds": options.seconds,
        "device": options.device,
        "model": options.model,
    }
    axes = _picture_axes(axes, array)
    if axes is not None:
        from .stack import encode_stack

        if options.nbytes is not None:
            raise ImageError("a stack is coded plane by plane: --bytes fits no plane; give --bpp")
        if options.container != "jpg":
            raise ImageError("a stack becomes a TIFF of thumbnails: --container is for single pictures")
        wanted = {key: value for key, value in common.items() if value is not None}
        stack = encode_stack(
            array, axes, value_range=options.value_range, measure=measure, progress=report, **wanted
        )
        costs = stack.costs
        facts = {"planes": len(stack.planes), "axes": stack.layout.axes, "bpp": stack.bpp}
        about = stack.info
        facts |= {"scale": about.scale, "level": options.level, "model": f"{about.model}-{about.digest}"}
        data, suffix = stack.to_bytes(), STACK_SUFFIX
    else:
        limits = _range_of(array, options.value_range)
        thumbnail = encode(
            array,
            nbytes=options.nbytes,
            value_range=limits,
            alpha=options.alpha,
            progress=report,
            **common,
        )
        costs = None
        data, suffix = thumbnail.data, CONTAINERS[options.container]
        if measure:
            back = decode(data, model=options.model, device=options.device)
            wide = array.reshape(back.shape) if array.size == back.size else array[..., : back.ndim and 3]
            costs = (cost_of(wide, back, limits or (float(wide.min()), float(wide.max()))),)
        if options.container == "jxl":
            from .transport import to_jxl

            data = to_jxl(data)
        facts = {"bpp": 8 * len(data) / (thumbnail.shape[0] * thumbnail.shape[1]), "scale": thumbnail.scale}
        facts |= {"level": thumbnail.level, "model": thumbnail.model}
    facts |= {"bytes": len(data), "shape": list(array.shape), "dtype": array.dtype.name}
    if costs is not None:
        facts["error"] = [_cost_facts(cost) for cost in costs]
    return Encoded(data, suffix, facts)


def _range_of(array: Array, wanted: Ranges) -> ValueRange | None:
    """The value range of one picture; None: the codec's own choice."""
    if wanted is None or (isinstance(wanted, str) and wanted == "data" and array.dtype.name != "uint8"):
        return None
    from .channels import Layout, value_ranges

    colours = array[..., :3] if array.ndim == 3 and array.shape[-1] == 4 else array
    layout = Layout("YXS" if array.ndim == 3 else "YX", colours.shape)
    return value_ranges(colours, layout, wanted)[0]


def _cost_facts(cost: Cost) -> dict[str, float]:
    return {"max": cost.maximum, "rms": cost.rms, "clipped": cost.clipped}


def cost_lines(facts: dict[str, Any]) -> list[str]:
    """What coding cost, a line for each channel."""
    costs = facts.get("error") or []
    texts = [str(Cost(one["max"], one["rms"], one["clipped"], 0)) for one in costs]
    if len(texts) == 1:
        return [f"  {texts[0]}"]
    return [f"  channel {number}: {text}" for number, text in enumerate(texts)]


def read_with_axes(source: str | io.BytesIO, axes: str | None) -> tuple[Array, str | None]:
    """A picture or stack and what its axes are; axes: what the user says, which goes first."""
    if isinstance(source, io.BytesIO):
        known = tiff_axes(source)
        array = read_image_file(source, "standard input")
    else:
        path = Path(source)
        known = None
        if path.is_file():
            with path.open("rb") as file:
                known = tiff_axes(file)
        array = read_image(path)
    if axes is not None:
        return array, axes.upper()
    if known == "SYX" and array.ndim == 3 and array.shape[2] in (3, 4):  # `read_image` put the colours last
        known = "YXS"
    if known is None or not set(known) <= set("TCZYXS") or len(known) != array.ndim:
        if array.ndim > 3 or (array.ndim == 3 and known is not None and array.shape[2] not in (1, 2, 3, 4)):
            raise ImageError(
                f"has shape {array.shape} and doesn't say what its axes are: give --axes, such as ZYX or CYX"
            )
        return array, None
    return array, known


def is_stack(source: str, axes: str | None) -> bool:
    """Whether a file will become a stack, as far as its head tells. axes: what the user says."""
    known = axes
    if known is None:
        try:
            with Path(source).open("rb") as file:
                known = tiff_axes(file)
        except OSError:  # reading it will say what is wrong
            return False
    return known is not None and len(known) > 2 and set(known.upper()) not in ({*"YXS"}, {*"YXQ"}, {*"YXI"})


def target_of(source: str, target: str, options: EncodeOptions) -> str:
    """Where the result goes that nobody named: `target` with the ending of what it will be."""
    suffix = STACK_SUFFIX if is_stack(source, options.axes) else CONTAINERS[options.container]
    return str(Path(target).with_name(bare_name(Path(target)) + suffix))


def encode_file(source: str, target: str, options: EncodeOptions, report: Any = no_report) -> dict[str, Any]:
    """Code a file into another, whole or not at all; an older target is replaced.

    Raises HyperThumbError. Returns facts for people and scripts.
    """
    array, axes = read_with_axes(source, options.axes)
    made = encoded(array, axes, options, report)
    write_into(target, made.data)
    return {"input": source, "output": target, **made.facts}


def write_into(target: str, data: bytes) -> None:
    """Write a file whole or not at all, its folder too. Raises HyperThumbError."""
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HyperThumbError(f"{path.parent}: can't be made: {error.strerror or error}") from error
    write_atomically(path, data)


def parse_ranges(
    value_range: Sequence[float] | None, percentile: Sequence[float] | None, channel_ranges: Sequence[str]
) -> Ranges:
    """The one of the command's three options that was given. Raises ImageError."""
    if sum((value_range is not None, percentile is not None, bool(channel_ranges))) > 1:
        raise ImageError("give one of --range, --percentile and --channel-range")
    if value_range is not None:
        return float(value_range[0]), float(value_range[1])
    if percentile is not None:
        return Percentile(float(percentile[0]), float(percentile[1]))
    if not channel_ranges:
        return None
    try:
        pairs = [tuple(float(end) for end in text.split(":")) for text in channel_ranges]
        return [(low, high) for low, high in pairs]
    except ValueError as error:
        raise ImageError(f"--channel-range is LOW:HIGH, once for each channel: {error}") from error
