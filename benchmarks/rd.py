"""Rate-distortion of HyperThumb and of the codecs people use, on a folder of pictures, with real files.

    python benchmarks/rd.py FOLDER [--out DIR] [--jobs N]

Every picture is coded and decoded at every step of every codec's ladder. Written to DIR: rd.csv (a row
per picture, codec and quality), rd.md (the summary, also printed) and rd.png (the curves).

The summary reads mean curves: bpp and PSNR are averaged over the pictures at each quality, and PSNR at a
fixed bpp is interpolated linearly in log(bpp). BD-rate is the change in bytes against JPEG at equal PSNR,
over the PSNR range that both curves cover. A second table compares each picture at its own equal bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from napari_hyperthumb.compare import Codec, Pixels, available_codecs, hyperthumb, rd_points
from napari_hyperthumb.errors import HyperThumbError, ImageError
from napari_hyperthumb.files import find_images, read_image, write_atomically
from napari_hyperthumb.metrics import at_bpp, bd_rate

RATES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
ANCHOR = "JPEG"
OURS = "HyperThumb"
BEST = " (best)"
"""Ends the name of our curves with effort "best"."""
BETTER = f"{OURS}, better scale"
PUBLISHED = "Published x4"
EXACT = 99.0
"""dB that a lossless file counts in a mean."""
Curve = list[tuple[float, float]]
"""(mean bpp, mean PSNR), smallest first."""


@dataclass(frozen=True)
class Row:
    """One picture in one file."""

    image: str
    codec: str
    quality: float
    width: int
    height: int
    bytes: int
    bpp: float
    psnr: float


@dataclass(frozen=True)
class Task:
    """One picture and one codec, described so that another process can take it."""

    path: Path
    codec: str
    scale: int = 0
    """0: not ours."""
    model: Path | None = None
    qualities: tuple[float, ...] | None = None
    effort: str = "fast"

    def load(self) -> Codec:
        if self.scale:
            return hyperthumb(self.scale, model=self.model, effort=self.effort)
        return next(codec for codec in available_codecs(psnr_tuned=True) if codec.name == self.codec)


def rgb_or_gray(path: Path) -> Pixels:
    """A picture as the codecs take it; alpha is dropped, anything but 8 bits refused."""
    image = read_image(path)
    if image.dtype != np.uint8:
        raise ImageError(f"{path}: is {image.dtype}, not 8-bit")
    return np.ascontiguousarray(image[:, :, :3]) if image.ndim == 3 else image


def run(task: Task) -> list[Row]:
    """Code and decode one picture along one codec's ladder."""
    image = rgb_or_gray(task.path)
    height, width = image.shape[:2]
    return [
        Row(task.path.name, task.codec, p.quality, width, height, p.nbytes, p.bpp, p.psnr)
        for p in rd_points(task.load(), image, task.qualities)
    ]


def one_thread() -> None:
    """For worker processes: they fill the cores by being many."""
    import torch

    torch.set_num_threads(1)


def run_all(tasks: Sequence[Task], jobs: int) -> Iterator[list[Row]]:
    """The rows of each task, in order."""
    if jobs <= 1:
        yield from map(run, tasks)
        return
    # Not fork: torch's threads don't survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=one_thread) as pool:
        yield from pool.map(run, tasks)


# ---- what to run -----------------------------------------------------------------------------


def plain(name: str) -> str:
    """A codec's name as people type it: "AVIF (PSNR)" is avifpsnr."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def chosen_codecs(names: Sequence[str] | None) -> list[str]:
    """Names of the codecs to compare with; None: all there are."""
    known = [codec.name for codec in available_codecs(psnr_tuned=True)]
    if names is None:
        return known
    by_name = {plain(name): name for name in known}
    unknown = [name for name in names if plain(name) not in by_name]
    if unknown:
        raise HyperThumbError(f"no codec {unknown[0]!r} here; there are {', '.join(by_name)}")
    return [by_name[plain(name)] for name in names]


def our_tasks(scales: Sequence[int], models: Sequence[Path]) -> list[Task]:
    """Ours at the bundled weights of each scale, or with the given weights instead."""
    from napari_hyperthumb import load_model

    if not models:
        return [Task(Path(), hyperthumb(scale).name, scale) for scale in scales]
    loaded = [(path, load_model(path).scale) for path in models]
    tasks = []
    for path, scale in loaded:
        alone = sum(other == scale for _, other in loaded) == 1
        name = f"{OURS} x{scale}" if alone else f"{OURS} x{scale} {path.stem}"
        tasks.append(Task(Path(), name, scale, path))
    return tasks


def published_task(path: Path) -> Task:
    """The published architecture beside ours; its label says whether its weights were trained here."""
    from napari_hyperthumb import load_model
    from napari_hyperthumb.paper import PaperModel

    model = load_model(path)
    if not isinstance(model.net, PaperModel):
        raise HyperThumbError(f"{path}: weights of our own networks; give them with --model")
    minutes = model.notes.get("minutes")
    kind = f"{minutes:g} min of training" if isinstance(minutes, (int, float)) else "released weights"
    return Task(Path(), f"{PUBLISHED}, {kind}", model.scale, path)


# ---- the summary -----------------------------------------------------------------------------


def mean_curves(rows: Iterable[Row]) -> dict[str, Curve]:
    """Codec to its mean curve."""

    def key(row: Row) -> tuple[str, float]:
        return row.codec, row.quality

    curves: dict[str, Curve] = {}
    for (codec, _), group in groupby(sorted(rows, key=key), key):
        part = list(group)
        curves.setdefault(codec, []).append(
            (fmean(r.bpp for r in part), fmean(min(r.psnr, EXACT) for r in part))
        )
    return {codec: sorted(points) for codec, points in curves.items()}


def better_scale(ours: Sequence[Curve]) -> Curve:
    """Per rate the better of these curves; it may jump where one of them begins or ends."""
    rates = sorted({rate for curve in ours for rate, _ in curve} | set(RATES))
    better = []
    for rate in rates:
        reached = [value for curve in ours if (value := at_bpp(curve, rate)) is not None]
        if reached:
            better.append((rate, max(reached)))
    return better


def summary(curves: dict[str, Curve], images: int) -> str:
    """The Markdown table: mean PSNR at fixed mean bpp, and BD-rate."""
    lines = [
        f"Mean RGB PSNR (dB) of {images} images at fixed mean bpp, and BD-rate against {ANCHOR}.",
        "",
        "| bpp | " + " | ".join(f"{rate:g}" for rate in RATES) + f" | BD-rate vs {ANCHOR} |",
        "| --- |" + " ---: |" * (len(RATES) + 1),
    ]
    shown = dict(curves)
    for best, name in ((False, BETTER), (True, BETTER + BEST)):
        ours = [c for n, c in curves.items() if n.startswith(OURS) and n.endswith(BEST) == best]
        if len(ours) > 1:
            shown[name] = better_scale(ours)
    for name, curve in shown.items():
        values = [at_bpp(curve, rate) for rate in RATES]
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        delta = bd_rate(curves[ANCHOR], curve) if ANCHOR in curves and name != ANCHOR else None
        cells.append("-" if delta is None else f"{delta:+.1f}%")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture_by_picture(rows: Sequence[Row]) -> str:
    """The second Markdown table: how far ours is ahead of each codec in files of the same size.

    Ours: at the scale that is better for that picture and rate, as `encode(bpp=...)` chooses.
    """
    curves: dict[str, dict[str, Curve]] = {}
    for row in rows:
        points = curves.setdefault(row.codec, {}).setdefault(row.image, [])
        points.append((row.bpp, min(row.psnr, EXACT)))
    lines = [
        f"{OURS}, better scale, minus the codec in files of equal size, picture by picture: mean in dB, and",
        "in how many pictures it is ahead, of those in which both reach this rate.",
        "",
        "| bpp | " + " | ".join(f"{rate:g}" for rate in RATES) + " |",
        "| --- |" + " ---: |" * len(RATES),
    ]
    for best in (False, True):
        ours = [c for n, c in curves.items() if n.startswith(OURS) and n.endswith(BEST) == best]
        for name in STYLES:
            if ours and name in curves:
                cells = [_lead(ours, curves[name], rate) for rate in RATES]
                lines.append(f"| {name}{', ours' + BEST if best else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lead(ours: Sequence[dict[str, Curve]], theirs: dict[str, Curve], rate: float) -> str:
    leads = []
    for image, curve in theirs.items():
        reached = [value for one in ours if (value := at_bpp(one.get(image, []), rate)) is not None]
        their = at_bpp(curve, rate)
        if reached and their is not None:
            leads.append(max(reached) - their)
    return f"{fmean(leads):+.2f} ({sum(x > 0 for x in leads)} of {len(leads)})" if leads else "-"


STYLES = {
    "JPEG": ("#7f8790", "-", "s"),
    "WebP": ("#2a9d62", "-", "^"),
    "AVIF": ("#2166ac", "-", "D"),
    "AVIF (PSNR)": ("#2166ac", "--", "D"),
    "JPEG XL": ("#8e5cd9", "-", "v"),
}
OUR_COLOURS = ("#d7301f", "#fc8d2a", "#a50f5e", "#c9a800")


def plot(curves: dict[str, Curve], images: int, path: Path) -> None:
    """Draw the mean curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(8.4, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left, right = 0.05, 1.25
    ours = iter(OUR_COLOURS * len(curves))
    seen: list[float] = []
    for name, curve in curves.items():
        own = name.startswith(OURS)
        colour, line, marker = (next(ours), "-", "o") if own else STYLES.get(name, ("#444444", ":", "x"))
        rates, quality = zip(*curve, strict=True)
        seen += [value for rate, value in curve if left <= rate <= right]
        axes.plot(
            rates,
            quality,
            color=colour,
            linestyle=line,
            marker=marker,
            label=name,
            linewidth=2.4 if own else 1.5,
            markersize=5 if own else 4,
            zorder=3 if own else 2,
        )
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    if seen:
        axes.set_ylim(math.floor(min(seen)) - 0.5, math.ceil(max(seen)) + 0.5)
    axes.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("bits per pixel of the original (whole file)")
    axes.set_ylabel("RGB PSNR, dB")
    axes.set_title(f"Mean of {images} images", loc="left", fontsize=11)
    axes.grid(color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


# ---- files and the command line --------------------------------------------------------------


def to_csv(rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Row)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue().encode()


def from_csv(path: Path) -> list[Row]:
    """Rows of an earlier run."""
    with path.open(newline="") as file:
        return [
            Row(
                image=line["image"],
                codec=line["codec"],
                quality=float(line["quality"]),
                width=int(line["width"]),
                height=int(line["height"]),
                bytes=int(line["bytes"]),
                bpp=float(line["bpp"]),
                psnr=float(line["psnr"]),
            )
            for line in csv.DictReader(file)
        ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="pictures, searched deeply")
    parser.add_argument("--out", type=Path, default=Path("runs/rd"), help="default: %(default)s")
    parser.add_argument("--codecs", nargs="*", help="jpeg webp avif avifpsnr jpegxl; default: all there are")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--scales", nargs="*", type=int, default=[2, 4], choices=(2, 4))
    parser.add_argument(
        "--model", nargs="+", type=Path, default=[], help="weights instead of the bundled ones of --scales"
    )
    parser.add_argument(
        "--published", type=Path, help="weights of the published architecture (hyperthumb import-weights)"
    )
    parser.add_argument("--levels", nargs="+", type=float, help="of ours; default: -1 to 1 in 9 steps")
    parser.add_argument(
        "--best",
        nargs="*",
        type=float,
        help='ours with effort "best" too (5 to 6 times the passes), at these levels or those of --levels',
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--reuse", type=Path, help="rd.csv of an earlier run, for codecs not run now")
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace, paths: Sequence[Path]) -> list[Row]:
    """Run everything; progress goes to stderr."""
    levels = None if options.levels is None else tuple(options.levels)
    ours = our_tasks(options.scales, options.model)
    if options.published is not None:
        ours.append(published_task(options.published))
    others = chosen_codecs(options.codecs)
    tasks = [Task(path, name) for path in paths for name in others]
    tasks += [replace(own, path=path, qualities=levels) for path in paths for own in ours]
    if options.best is not None:
        best = tuple(options.best) or levels
        tasks += [
            replace(own, path=path, codec=own.codec + BEST, qualities=best, effort="best")
            for path in paths
            for own in ours
        ]
    rows: list[Row] = []
    start = time.perf_counter()
    for index, part in enumerate(run_all(tasks, options.jobs)):
        rows += part
        passed = time.perf_counter() - start
        left = passed / (index + 1) * (len(tasks) - index - 1)
        task = tasks[index]
        text = f"{index + 1}/{len(tasks)} {task.path.name} {task.codec}: {passed:.0f} s, {left:.0f} s to go"
        print(text, file=sys.stderr, flush=True)
    if options.reuse is not None:
        names, new = {path.name for path in paths}, {row.codec for row in rows}
        old = [row for row in from_csv(options.reuse) if row.image in names and row.codec not in new]
        incomplete = {c for c in {r.codec for r in old} if {r.image for r in old if r.codec == c} != names}
        if incomplete:
            raise HyperThumbError(f"{options.reuse}: lacks images for {', '.join(sorted(incomplete))}")
        rows = old + rows
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        paths = list(find_images([options.folder]))[: options.limit]
        if not paths:
            raise HyperThumbError(f"{options.folder}: no pictures in it")
        rows = measured(options, paths)
        curves = mean_curves(rows)
        # JPEG first, the newest last, ours at the end.
        order = [*STYLES, *sorted(name for name in curves if name not in STYLES)]
        curves = {name: curves[name] for name in order if name in curves}
        text = summary(curves, len(paths)) + "\n" + picture_by_picture(rows)
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / "rd.csv", to_csv(rows))
        write_atomically(options.out / "rd.md", text.encode())
        plot(curves, len(paths), options.out / "rd.png")
    except HyperThumbError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    print(f"\n{options.out / 'rd.csv'}, rd.md, rd.png", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
