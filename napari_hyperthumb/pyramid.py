"""Whole-slide images and larger: an OME-Zarr 0.5 pyramid of thumbnails.

make_pyramid("slide.tif", "slide.zarr", level=0)

One grid of thumbnail files serves two levels of the pyramid. Level 0 is the image, reconstructed chunk by
chunk when it is asked for; level 1, `scale` times smaller, are the thumbnails themselves. Two arrays share
the folder of chunks; only the codec's `view` differs (module `zarr_codec`). Half of level 1 is level 2, coded
into a grid of its own that serves level 3, and so on until a level fits into one chunk.

Chunks are written whole or not at all, one file each, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .channels import Cost, Index, Layout, Percentile, Ranges, cost_of, data_range, joined, value_ranges
from .codec import decode, model_for
from .device import pick_device
from .errors import DependencyError, ImageError
from .files import write_atomically
from .pipeline import PreparedImage, Report, no_report
from .pixels import DTYPES, Array, ValueRange, check_image
from .pool import Pool, serial
from .regions import LARGE, Regions, open_regions, read_whole

try:
    import zarr

    from .zarr_codec import HyperThumbCodec, chunk_path
except ImportError as error:
    raise DependencyError(f"pyramids need zarr: {LARGE}") from error

KEY = "hyperthumb"
"""Of the group's attributes: how it was made."""
CHUNK = 512
"""Pixels of the image a side, in every level that is reconstructed."""
MARGIN = 4
"""Pixels of the thumbnail that it shows of its chunk's neighbours on every side: they make seams invisible.
Four, so that seams lie in the middle of 8x8 blocks, whose edges have the larger error anywhere."""
OME_VERSION = "0.5"
_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


@dataclass(frozen=True)
class Settings:
    """What a pyramid is made of and how; a run goes on only where all of it is the same."""

    source: str
    nbytes: int
    """Of the source's file, 0 for a folder."""
    axes: str
    """Of the image, planes last."""
    shape: tuple[int, ...]
    dtype: str
    level: float
    scale: int
    chunk: int
    margin: int
    wanted: str
    """The value range as it was asked for."""
    weights: str
    """Name and digest."""


@dataclass(frozen=True)
class Grid:
    """Chunks that serve the levels 2 `number` and 2 `number` + 1."""

    number: int
    layout: Layout
    """Of the level that is reconstructed, planes last."""
    factor: int
    """Side of the image / side of that level."""

    def bands(self, chunk: int) -> Iterator[tuple[Index, int]]:
        """Each plane's index with each of its rows of chunks."""
        for index in self.layout.indices():
            for row in range(-(-self.layout.plane[0] // chunk)):
                yield index, row


@dataclass(frozen=True)
class Band:
    """A row of chunks of one plane: the piece of work that one worker does at a time."""

    out: str
    source: str
    axes: str
    alpha: str
    grid: Grid
    index: Index
    row: int
    limits: ValueRange
    level: float
    scale: int
    chunk: int
    margin: int
    model: str | None
    device: str
    measure: bool
    linked: bool


@dataclass(frozen=True)
class Coded:
    """What became of a band."""

    chunks: int
    """Coded now; those found done aren't among them."""
    channel: int
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Made:
    """A finished pyramid."""

    path: Path
    levels: int
    shape: tuple[int, ...]
    nbytes: int
    """Of all files."""
    chunks: int
    """Coded in this run."""
    skipped: int
    """Found done."""
    ranges: tuple[ValueRange, ...]
    costs: tuple[Cost, ...] = field(default=())
    """Of level 0, each channel, over the chunks coded in this run; empty where they weren't measured."""

    @property
    def bpp(self) -> float:
        """Bits of all files per pixel of the image."""
        height, width = self.shape[-2:]
        return 8 * self.nbytes / (height * width)


# ---- geometry --------------------------------------------------------------------------------


def smaller(layout: Layout, factor: int) -> Layout:
    """The layout of planes so many times smaller."""
    at = len(layout.stacked)
    height, width = (-(-side // factor) for side in layout.plane)
    return Layout(layout.axes, (*layout.shape[:at], height, width, *layout.shape[at + 2 :]))


def grids(layout: Layout, scale: int, chunk: int) -> list[Grid]:
    """The grids of a pyramid, the image's own first."""
    out: list[Grid] = []
    factor = 1
    while True:
        out.append(Grid(len(out), layout, factor))
        layout, factor = smaller(layout, scale), factor * scale
        if max(layout.plane) <= chunk:
            return out
        layout, factor = smaller(layout, 2), factor * 2


def stored_axes(layout: Layout) -> str:
    """Axes in the order OME-Zarr wants: time, channel or colour, depth, rows, columns."""
    have = layout.axes.replace("S", "C")
    return "".join(axis for axis in "TCZYX" if axis in have)


def stored_shape(layout: Layout, plane: tuple[int, int], stacked: Callable[[str], int]) -> tuple[int, ...]:
    """A shape or chunk shape in that order; stacked: the length on each of the other axes."""
    lengths = {"Y": plane[0], "X": plane[1]}
    if layout.rgb:
        lengths["C"] = 3
    return tuple(lengths[axis] if axis in lengths else stacked(axis) for axis in stored_axes(layout))


def chunk_index(layout: Layout, index: Index, row: int, column: int) -> Index:
    """Of a chunk in the stored grid; index: on the axes of `layout.stacked`."""
    place = dict(zip(layout.axes, index, strict=False))
    place.update(Y=row, X=column)
    return tuple(place.get(axis, 0) for axis in stored_axes(layout))


# ---- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """A level read at half its size: means of 2x2 pixels, the last row and column repeated."""

    array: Any
    layout: Layout
    """Of the larger level."""

    def read(self, index: Index, rows: slice, columns: slice) -> Array:
        """As `Regions.read`."""
        height, width = self.layout.plane
        place: dict[str, Any] = dict(zip(self.layout.axes, index, strict=False))
        place["Y"] = slice(2 * rows.start, min(2 * rows.stop, height))
        place["X"] = slice(2 * columns.start, min(2 * columns.stop, width))
        if self.layout.rgb:
            place["C"] = slice(None)
        part = np.asarray(self.array[tuple(place[axis] for axis in stored_axes(self.layout))])
        if self.layout.rgb:
            part = np.moveaxis(part, 0, -1)
        odd = [(0, length % 2) for length in part.shape[:2]] + [(0, 0)] * (part.ndim - 2)
        part = np.pad(part, odd, mode="edge").astype(np.float64)
        mean = (part[::2, ::2] / 4 + part[1::2, ::2] / 4) + (part[::2, 1::2] / 4 + part[1::2, 1::2] / 4)
        dtype = np.dtype(self.array.dtype)
        return (np.rint(mean) if dtype.kind in "iu" else mean).astype(dtype)


def _read(band: Band, rows: slice, columns: slice) -> Array:
    """Pixels of the level that a band codes."""
    if band.grid.number == 0:
        with open_regions(band.source, band.axes, alpha=band.alpha) as regions:
            return np.array(regions.read(band.index, rows, columns))
    below = Path(band.out) / str(2 * band.grid.number - 1)
    array = zarr.open_array(below, mode="r")
    height, width = array.shape[-2:]
    layout = band.grid.layout
    at = len(layout.stacked)
    larger = Layout(layout.axes, (*layout.shape[:at], height, width, *layout.shape[at + 2 :]))
    return Half(array, larger).read(band.index, rows, columns)


def _around(start: int, stop: int, margin: int, length: int) -> tuple[slice, tuple[int, int]]:
    """What to read for start..stop with a margin, and how often its ends are repeated beyond the image."""
    low, high = start - margin, stop + margin
    inside = slice(max(low, 0), min(high, length))
    return inside, (inside.start - low, high - inside.stop)


# ---- one band --------------------------------------------------------------------------------


def code_band(band: Band, report: Report = no_report) -> Coded:
    """Code the chunks of a band that aren't there yet."""
    layout, chunk, margin = band.grid.layout, band.chunk, band.margin
    height, width = layout.plane
    top = band.row * chunk
    files = {}
    for column in range(-(-width // chunk)):
        at = chunk_path(chunk_index(layout, band.index, band.row, column))
        path = Path(band.out) / str(2 * band.grid.number) / at
        if not path.exists():
            files[column] = path
    if not files:
        report(1.0)
        return Coded(0, layout.channel(band.index), ())
    rows, above_below = _around(top, top + chunk, margin, height)
    first, last = min(files) * chunk, (max(files) + 1) * chunk
    columns, _ = _around(first, last, margin, width)
    pixels = _read(band, rows, columns)
    model, device = model_for(band.model, band.scale), pick_device(band.device)
    costs = []
    for done, (column, path) in enumerate(files.items()):
        left = column * chunk
        across, sides = _around(left, left + chunk, margin, width)
        part = pixels[:, across.start - columns.start : across.stop - columns.start]
        part = np.pad(part, [above_below, sides, (0, 0)][: part.ndim], mode="edge")
        lengths = min(chunk, height - top), min(chunk, width - left)
        array, fmt = check_image(part, alpha="refuse", value_range=band.limits)
        # Half of the margin counts too: where error stops counting, it is larger.
        prepared = PreparedImage(array, fmt, model, device, counted=_square(margin, lengths, margin // 2))
        data = prepared.code(band.level).data
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        if not band.linked:
            _link(band, path)
        if band.measure and band.grid.number == 0:
            back = decode(data, model=model, device=band.device)
            inside = _square(margin, lengths)
            costs.append(cost_of(part[inside], back[inside], band.limits))
        report((done + 1) / len(files))
    return Coded(len(files), layout.channel(band.index), tuple(costs))


def _square(margin: int, lengths: tuple[int, int], around: int = 0) -> tuple[slice, slice]:
    """A chunk in the picture that is coded with its margin; around: so many pixels of that too."""
    height, width = (slice(margin - around, margin + length + around) for length in lengths)
    return height, width


def _link(band: Band, path: Path) -> None:
    """A second name for a chunk's file, where a folder can't have one."""
    root = Path(band.out)
    other = root / str(2 * band.grid.number + 1) / path.relative_to(root / str(2 * band.grid.number))
    other.parent.mkdir(parents=True, exist_ok=True)
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


# ---- the whole -------------------------------------------------------------------------------


def _wanted_text(wanted: Ranges) -> str:
    return json.dumps(asdict(wanted) if isinstance(wanted, Percentile) else wanted)


def _stream_ranges(regions: Regions, wanted: Ranges, chunk: int) -> tuple[ValueRange, ...]:
    """As `value_ranges`, a band of rows at a time."""
    layout = regions.layout
    rule = wanted if isinstance(wanted, Percentile) else None
    if not (rule or wanted == "data" or (wanted is None and regions.dtype != np.uint8)):
        return value_ranges(np.empty((), regions.dtype), layout, wanted)
    height, width = layout.plane
    out = []
    for channel in range(layout.channels):
        places = list(product(layout.indices(channel), range(0, height, chunk)))
        bands = (
            regions.read(index, slice(top, min(top + chunk, height)), slice(0, width))
            for index, top in places
        )
        out.append(data_range(bands, rule, len(places)))
    return tuple(out)


def make_pyramid(
    source: str | Path,
    out: str | Path,
    *,
    level: float = 0.0,
    scale: int = 2,
    chunk: int = CHUNK,
    margin: int | None = None,
    axes: str | None = None,
    value_range: Ranges = None,
    alpha: str = "refuse",
    model: str | None = None,
    device: str = "auto",
    measure: bool = True,
    force: bool = False,
    pool: Pool | None = None,
    progress: Report = no_report,
) -> Made:
    """Make an OME-Zarr 0.5 image in which one stored grid serves two levels; or go on with one.

    source: TIFF, Zarr array, OME-Zarr image, or any picture; TIFF and Zarr are read by region.
    out: a new folder, or one that was begun with the same settings: chunks found there aren't coded again.
    level, scale: as in `encode`; every chunk is coded at the same level. chunk: pixels a side, a multiple of
    64. margin: pixels of the neighbours stored with each chunk, a multiple of `scale`; None: 4 of the
    thumbnail's.
    axes: letters of "TCZYXS" for files that don't say. value_range: as in `encode_stack`; for the whole
    image, in one pass over it before the work.
    measure: decode every chunk, for `Made.costs`. force: replace a pyramid of ours that is there.
    pool: workers, on this machine or another (module `pool`); None: here, one chunk after the other.
    progress: called with the fraction done; an exception raised there ends the work, and the next call
    goes on with it.

    Raises ImageError, ModelError, DeviceError, DependencyError.
    """
    margin = MARGIN * scale if margin is None else margin
    if chunk < 64 or chunk % 64 or not 0 <= margin <= 128 or margin % scale:
        raise ImageError(
            f"chunk must be a multiple of 64 and margin one of the scale, at most 128; "
            f"not {chunk} and {margin}"
        )
    with ExitStack() as after, open_regions(source, axes, alpha=alpha) as regions:
        after.callback(read_whole.cache_clear)
        return _make(
            regions,
            Path(source).absolute(),
            Path(out).absolute(),
            level=float(level),
            scale=scale,
            chunk=chunk,
            margin=margin,
            value_range=value_range,
            alpha=alpha,
            model=model,
            device=device,
            measure=measure,
            force=force,
            pool=pool,
            progress=progress,
        )


def _make(
    regions: Regions,
    file: Path,
    path: Path,
    *,
    level: float,
    scale: int,
    chunk: int,
    margin: int,
    value_range: Ranges,
    alpha: str,
    model: str | None,
    device: str,
    measure: bool,
    force: bool,
    pool: Pool | None,
    progress: Report,
) -> Made:
    if regions.dtype.name not in DTYPES:
        raise ImageError(f"{file}: dtype {regions.dtype} can't be coded lossily")
    layout = regions.layout
    if layout.rgb and "C" in layout.axes:
        raise ImageError(f"{file}: colours and channels at once can't be stored; code channels by themselves")
    used = model_for(model, scale)
    settings = Settings(
        source=file.name,
        nbytes=0 if file.is_dir() else file.stat().st_size,
        axes=layout.axes,
        shape=layout.shape,
        dtype=regions.dtype.name,
        level=level,
        scale=scale,
        chunk=chunk,
        margin=margin,
        wanted=_wanted_text(value_range),
        weights=f"{used.name}-{used.digest}",
    )
    group, ranges = _begin(path, settings, force, lambda: _stream_ranges(regions, value_range, chunk))
    work = grids(layout, scale, chunk)
    linked = [_create(path, grid, settings, regions.dtype) for grid in work]
    totals = [sum(1 for _ in grid.bands(chunk)) for grid in work]
    coded: list[Coded] = []
    shared: dict[str, Any] = {
        "out": str(path),
        "source": str(file),
        "axes": regions.axes,
        "alpha": alpha,
        "level": level,
        "scale": scale,
        "chunk": chunk,
        "margin": margin,
        "model": None if model is None else str(Path(model).absolute()) if Path(model).exists() else model,
        "device": device,
        "measure": measure,
    }
    # A band of grid n has 1/4^n of the chunks of one of grid 0, about.
    weights = [total / (2 * scale) ** grid.number for grid, total in zip(work, totals, strict=True)]
    begun = 0.0
    for grid, total, weight, link in zip(work, totals, weights, linked, strict=True):
        bands = [
            Band(grid=grid, index=index, row=row, limits=ranges[layout.channel(index)], linked=link, **shared)
            for index, row in grid.bands(chunk)
        ]
        first, share = begun / sum(weights), weight / sum(weights)

        def tell(done: float, first: float = first, share: float = share, total: int = total) -> None:
            progress(first + share * done / total)

        run = pool.run if pool and len(bands) > 1 else serial
        for outcome in run(code_band, [(band,) for band in bands], tell):
            if outcome.error is not None:
                raise outcome.error
            coded.append(outcome.value)
        begun += weight
    _finish(group, work, regions, settings, ranges)
    chunks = sum(one.chunks for one in coded)
    everything = sum(
        total * -(-grid.layout.plane[1] // chunk) for grid, total in zip(work, totals, strict=True)
    )
    costs = tuple(
        joined([cost for one in coded if one.channel == channel for cost in one.costs])
        for channel in range(layout.channels)
    )
    return Made(
        path,
        2 * len(work),
        stored_shape(layout, layout.plane, lambda axis: layout.shape[layout.axes.index(axis)]),
        _size(path),
        chunks,
        everything - chunks,
        ranges,
        costs if measure and any(one.costs for one in coded) else (),
    )


def _size(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path):  # doesn't follow links: each chunk counts once
        total += sum((Path(folder) / name).stat().st_size for name in files)
    return total


def _begin(
    path: Path, settings: Settings, force: bool, find: Callable[[], tuple[ValueRange, ...]]
) -> tuple[Any, tuple[ValueRange, ...]]:
    """The group to write to, and the value ranges, those of the earlier run where there was one."""
    mine = json.loads(json.dumps(asdict(settings)))
    if path.exists():
        about = _made(path)
        if about is None:
            raise ImageError(f"{path}: exists already and isn't a pyramid of ours; give another name")
        if force:
            shutil.rmtree(path)
        else:
            other = [key for key in mine if mine[key] != about.get("settings", {}).get(key)]
            if other:
                raise ImageError(
                    f"{path}: was begun with another {other[0]} ({about['settings'].get(other[0])}, now "
                    f"{mine[other[0]]}): --force starts over"
                )
            for left in path.rglob(".*-????????"):  # of a run that was killed while writing
                left.unlink(missing_ok=True)
            return zarr.open_group(path, mode="r+"), tuple((low, high) for low, high in about["ranges"])
    ranges = find()
    group = zarr.create_group(path)
    group.attrs[KEY] = {"settings": mine, "ranges": [list(pair) for pair in ranges], "complete": False}
    return group, ranges


def _made(path: Path) -> dict[str, Any] | None:
    """How a pyramid of ours was made; None for anything else."""
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        about = attributes[KEY]
        return about if isinstance(about["settings"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _create(path: Path, grid: Grid, settings: Settings, dtype: np.dtype[Any]) -> bool:
    """The two arrays of a grid. Returns whether they share one folder of chunks."""
    layout, chunk, scale = grid.layout, settings.chunk, settings.scale
    colour = (-4 if "Z" in layout.axes else -3) if layout.rgb else None
    small = smaller(layout, scale)
    for view, number, one, side in (
        ("image", 2 * grid.number, layout, chunk),
        ("thumbnail", 2 * grid.number + 1, small, chunk // scale),
    ):
        folder = path / str(number)
        if not (folder / "zarr.json").exists():
            codec = HyperThumbCodec(level=settings.level, scale=scale, colour_axis=colour, view=view)
            zarr.create_array(
                folder,
                shape=stored_shape(one, one.plane, lambda axis: layout.shape[layout.axes.index(axis)]),
                chunks=stored_shape(one, (side, side), lambda axis: 1),
                dtype=dtype,
                serializer=codec,
                compressors=None,
                filters=None,
                fill_value=0,
                dimension_names=list(stored_axes(layout).lower()),
            )
    (path / str(2 * grid.number) / "c").mkdir(exist_ok=True)
    link = path / str(2 * grid.number + 1) / "c"
    if link.is_symlink():
        return True
    if link.exists():
        return False
    try:
        link.symlink_to(Path("..") / str(2 * grid.number) / "c", target_is_directory=True)
    except OSError:  # file systems and accounts without symbolic links
        return False
    return True


def _finish(
    group: Any, work: Sequence[Grid], regions: Regions, settings: Settings, ranges: Sequence[ValueRange]
) -> None:
    """The metadata that makes the group an image: last, so that none is taken for whole before it is."""
    axes = stored_axes(work[0].layout)
    kinds = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
    named: list[dict[str, str]] = [{"name": axis.lower(), "type": kinds[axis]} for axis in axes]
    for axis in named:
        if axis["name"] in "yx" and regions.unit:
            axis["unit"] = regions.unit
    datasets = []
    for grid, view in product(work, (0, 1)):
        factor = grid.factor * (settings.scale if view else 1)
        size = dict(zip("YX", regions.pixel_size, strict=True))
        scale = [size.get(axis, 1.0) * (factor if axis in "YX" else 1) for axis in axes]
        # The first pixel's middle moves: it stands for `factor` of them.
        shift = [(factor - 1) / 2 * size[axis] if axis in "YX" else 0.0 for axis in axes]
        datasets.append(
            {
                "path": str(2 * grid.number + view),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    group.attrs["ome"] = {
        "version": OME_VERSION,
        "multiscales": [
            {
                "name": Path(settings.source).name,
                "axes": named,
                "datasets": datasets,
                "type": "hyperthumb",
                "metadata": {"description": "odd levels are the thumbnails that hold the even ones"},
            }
        ],
        "omero": {"channels": _omero(work[0].layout, regions.channels, ranges)},
    }
    about = dict(group.attrs[KEY])
    group.attrs[KEY] = {**about, "complete": True}


def _omero(layout: Layout, names: Sequence[str], ranges: Sequence[ValueRange]) -> list[dict[str, Any]]:
    """Names, colours and contrast limits for viewers."""
    if layout.rgb:
        names, ranges = ("red", "green", "blue"), [ranges[0]] * 3
        colours: tuple[str, ...] = ("FF0000", "00FF00", "0000FF")
    else:
        count = layout.channels
        names = names if len(names) == count else [f"channel {number}" for number in range(count)]
        colours = tuple(_COLOURS[(number + (count > 1)) % len(_COLOURS)] for number in range(count))
    return [
        {
            "label": name,
            "color": colour,
            "active": True,
            "window": {"min": low, "max": high, "start": low, "end": high},
        }
        for name, colour, (low, high) in zip(names, colours, ranges, strict=True)
    ]
