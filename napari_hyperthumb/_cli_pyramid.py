"""`hyperthumb pyramid`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .batch import cost_lines, parse_ranges
from .cli import (
    Alpha,
    Axes,
    ChannelRanges,
    Device,
    Force,
    Json,
    Kind,
    ModelFile,
    PercentileOption,
    PoolKind,
    Quiet,
    Scheduler,
    ValueRangeOption,
    Workers,
    pool_of,
)
from .errors import HyperThumbError, HyperThumbWarning

_err = Console(stderr=True, highlight=False, soft_wrap=True)
_out = Console(highlight=False, soft_wrap=True)


def pyramid_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="TIFF, Zarr, OME-Zarr, or a picture.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.zarr", help="A new folder, or one to go on with.")],
    level: Annotated[float, typer.Option(help="Rate level, -1 (smallest) to 1.")] = 0.0,
    scale: Annotated[int, typer.Option(help="Image side / thumbnail side: 2 or 4.")] = 2,
    chunk: Annotated[int, typer.Option(help="Pixels of a chunk a side, a multiple of 64.")] = 512,
    axes: Axes = None,
    value_range: ValueRangeOption = None,
    percentile: PercentileOption = None,
    channel_range: ChannelRanges = None,
    alpha: Annotated[Alpha, typer.Option(help="What to do with an alpha channel.")] = Alpha.refuse,
    workers: Workers = None,
    pool: PoolKind = Kind.processes,
    scheduler: Scheduler = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Measure the error, in the image's own units.")
    ] = True,
    device: Device = "auto",
    model: ModelFile = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Code a large image chunk by chunk into an OME-Zarr pyramid of thumbnails.

    Ctrl-C stops it; the same command goes on where it was.
    """
    together = pool_of(workers, pool, scheduler)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        limits = parse_ranges(value_range, percentile, channel_range or ())
        from .pyramid import make_pyramid

        silent = quiet or not _err.is_terminal
        with (
            warnings.catch_warnings(),
            Progress(*columns, console=_err, transient=True, disable=silent) as bar,
        ):
            warnings.simplefilter("always", HyperThumbWarning)
            warnings.showwarning = lambda message, *place: _err.print(f"hyperthumb: {message}", markup=False)
            task = bar.add_task(source.name[-40:], total=1.0)
            made = make_pyramid(
                source,
                output,
                level=level,
                scale=scale,
                chunk=chunk,
                axes=axes,
                value_range=limits,
                alpha=alpha.value,
                model=model,
                device=device,
                measure=report,
                force=force,
                pool=together,
                progress=lambda fraction: bar.update(task, completed=fraction),
            )
    except HyperThumbError as error:
        _err.print(f"hyperthumb: {error}", markup=False)
        raise typer.Exit(1) from error
    facts: dict[str, Any] = {
        "input": str(source),
        "output": str(output),
        "bytes": made.nbytes,
        "bpp": made.bpp,
        "levels": made.levels,
        "shape": list(made.shape),
        "coded": made.chunks,
        "found": made.skipped,
        "ranges": [list(pair) for pair in made.ranges],
        "error": [{"max": c.maximum, "rms": c.rms, "clipped": c.clipped} for c in made.costs],
    }
    if as_json:
        _out.print_json(json.dumps(facts))
    elif not quiet:
        done = f"{made.chunks} chunks coded" + (f", {made.skipped} found done" if made.skipped else "")
        size = f"{made.nbytes:,} bytes  {made.bpp:.3f} bpp  {made.levels} levels  {done}"
        _out.print("\n".join([f"{output}  {size}", *cost_lines(facts)]), markup=False)


def add_pyramid_command(app: typer.Typer) -> None:
    """Add it to the command."""
    app.command("pyramid")(pyramid_command)
