"""The `hyperthumb` command.

Exit codes: 0 all done, 1 some file failed (they are listed at the end), 2 wrong usage, 130 interrupted.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import __version__
from .batch import (
    CONTAINERS,
    EncodeOptions,
    cost_lines,
    encode_file,
    encoded,
    parse_ranges,
    read_with_axes,
    target_of,
    write_into,
)
from .errors import HyperThumbError
from .files import (
    TIFF,
    TIFF_MAGIC,
    bare_name,
    find_images,
    image_bytes,
    is_ours,
    read_image,
    read_image_file,
)
from .pool import Outcome, Pool, attempt

STREAM = "-"
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A high-resolution image inside a small ordinary JPEG thumbnail, and back.",
)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_out = Console(highlight=False, soft_wrap=True)


class BackendName(str, Enum):
    """Choices of --backend."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    int8 = "openvino-int8"


class Scale(str, Enum):
    """Choices of --scale."""

    auto = "auto"
    two = "2"
    four = "4"


class Effort(str, Enum):
    """Choices of --effort."""

    fast = "fast"
    best = "best"


class Container(str, Enum):
    """Choices of --container."""

    jpg = "jpg"
    jxl = "jxl"


class Kind(str, Enum):
    """Choices of --pool."""

    processes = "processes"
    threads = "threads"


class Alpha(str, Enum):
    """Choices of --alpha."""

    refuse = "refuse"
    drop = "drop"


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or - for standard input.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="File, folder (for many inputs), or - for standard output."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no result lines.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
ModelFile = Annotated[
    str | None, typer.Option("--model", help="Weights (.safetensors) instead of the bundled ones.")
]
ValueRangeOption = Annotated[
    tuple[float, float] | None,
    typer.Option("--range", help="Values that become black and white (default: the data's own)."),
]
PercentileOption = Annotated[
    tuple[float, float] | None,
    typer.Option("--percentile", help="The same by rank, for each channel, such as 0.1 99.9."),
]
ChannelRanges = Annotated[
    list[str] | None,
    typer.Option("--channel-range", help="The same as LOW:HIGH, once for each channel."),
]
Axes = Annotated[
    str | None,
    typer.Option(help="What a stack's axes are, letters of TCZYXS, where the file doesn't say."),
]
Workers = Annotated[int | None, typer.Option(help="Work on so many files or rows at a time.")]
PoolKind = Annotated[Kind, typer.Option("--pool", help="What the workers are.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers do it.")]


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: str
    target: str | None
    """None for a job that writes no file."""


def _fail(text: str) -> typer.Exit:
    _err.print(f"hyperthumb: {text}", markup=False)
    return typer.Exit(2)


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    name_of: Callable[[Path], str],
    wanted: Callable[[Path], bool],
) -> list[Job]:
    """What goes where. Folders are searched for files that are `wanted` and keep their layout below
    an output folder. Raises HyperThumbError for targets that can't hold all of it."""
    pairs: list[tuple[str, Path]] = []  # source, and its place relative to the output folder
    for text in inputs:
        path = Path(text)
        if text == STREAM:
            pairs.append((STREAM, Path(name_of(Path("stdin")))))
        elif path.is_dir():
            found = [p for p in find_images([path]) if wanted(p)]
            if not found:
                raise HyperThumbError(f"{path}: no picture in this folder")
            pairs += [(str(p), p.relative_to(path).with_name(name_of(p))) for p in found]
        else:
            pairs.append((text, Path(name_of(path))))
    many = len(pairs) > 1 or any(Path(text).is_dir() for text in inputs)
    if output is None:
        return [
            Job(source, STREAM if source == STREAM else str(Path(source).with_name(place.name)))
            for source, place in pairs
        ]
    if output == STREAM or (not many and not Path(output).is_dir()):
        if many:
            raise HyperThumbError("standard output holds one result only; give a folder with --output")
        return [Job(pairs[0][0], output)]
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise HyperThumbError(f"{folder}: is a file; many inputs need a folder")
    return [Job(source, str(folder / place)) for source, place in pairs]


def _check_free(target: str | None, force: bool) -> None:
    if target is not None and target != STREAM and Path(target).exists() and not force:
        raise HyperThumbError(f"{Path(target)}: exists already; --force replaces it")


def _write(target: str | None, data: bytes, force: bool) -> None:
    assert target is not None
    _check_free(target, force)
    if target == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    write_into(target, data)


def _read_stream() -> io.BytesIO:
    return io.BytesIO(sys.stdin.buffer.read())


def _is_tiff(source: str | io.BytesIO) -> bool:
    """Whether a thumbnail file is a stack of them."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:4] in TIFF_MAGIC
    try:
        with Path(source).open("rb") as file:
            return file.read(4) in TIFF_MAGIC
    except OSError:  # reading it will say what is wrong
        return False


Work = Callable[[Job, Callable[[float], None]], dict[str, Any]]


def pool_of(workers: int | None, kind: Kind, scheduler: str | None) -> Pool | None:
    """The workers that were asked for. Ends the program for settings that exclude each other."""
    if workers is None and scheduler is None:
        return None
    if workers is not None and scheduler is not None:
        raise _fail("give one of --workers and --scheduler")
    try:
        return Pool(1 if workers is None else workers, kind.value, scheduler)
    except HyperThumbError as error:
        raise _fail(str(error)) from error


def _serially(
    jobs: Sequence[Job], work: Work, tell: Callable[[float], None], begin: Callable[[Job], None]
) -> Iterator[Outcome]:
    for index, job in enumerate(jobs):
        begin(job)
        yield attempt(work, index, (job, lambda fraction, index=index: tell(index + fraction)))
        tell(index + 1)


def run_jobs(
    jobs: Sequence[Job],
    work: Work,
    line: Callable[[dict[str, Any]], str],
    *,
    as_json: bool,
    quiet: bool,
    pool: Pool | None = None,
    remote: Callable[[Job], tuple[Any, ...]] | None = None,
) -> None:
    """Do every job, whatever happens to the others; then print what failed and exit with 1 if any did.

    pool, remote: workers, and the arguments of `encode_file` for a job; without them each job is `work`.
    """
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    to_stdout = any(job.target == STREAM for job in jobs)
    if to_stdout and as_json:
        raise _fail("--json and a picture can't both go to standard output")
    if pool is not None and any(STREAM in (job.source, job.target) for job in jobs):
        raise _fail("workers read and write files, not standard input and output")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    taken: dict[str, str] = {}

    def checked(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        target = job.target or job.source
        if target != STREAM and taken.setdefault(target, job.source) != job.source:
            raise HyperThumbError(f"{job.source}: would be written over the result of {taken[target]}")
        return work(job, progress)

    with Progress(*columns, console=_err, transient=True, disable=quiet or not _err.is_terminal) as bar:
        task = bar.add_task("", total=len(jobs))

        def tell(done: float) -> None:
            bar.update(task, completed=done)

        def begin(job: Job) -> None:
            bar.update(task, description=Path(job.source).name[-40:])

        def take(job: Job, outcome: Outcome) -> None:
            for note in outcome.notes:
                _err.print(f"warning: {note}", markup=False)
            if outcome.error is not None:
                text = str(outcome.error)
                failures.append(text if job.source in text else f"{job.source}: {text}")
                return
            results.append({**outcome.value, "warnings": list(outcome.notes)})
            if not (quiet or as_json or to_stdout):
                _out.print(line(outcome.value), markup=False)

        if pool is None or remote is None:
            for outcome in _serially(jobs, checked, tell, begin):
                take(jobs[outcome.index], outcome)
        else:
            ready: list[Job] = []
            for job in jobs:  # what can't be is said before the work
                outcome = attempt(lambda job: checked(job, tell) and None, 0, (job,))
                if outcome.error is None:
                    ready.append(job)
                else:
                    take(job, outcome)
            bar.update(task, total=len(ready))
            try:
                for outcome in pool.run(encode_file, [remote(job) for job in ready], tell):
                    take(ready[outcome.index], outcome)
            except HyperThumbError as error:
                raise _fail(str(error)) from error
    if as_json:
        _out.print_json(json.dumps({"results": results, "failures": failures}))
    if failures:
        _err.print(f"{len(failures)} of {len(jobs)} failed:", markup=False)
        for text in failures:
            _err.print(f"  {text}", markup=False)
        raise typer.Exit(1)


def _jobs(
    inputs: Sequence[str],
    output: str | None,
    name_of: Callable[[Path], str],
    wanted: Callable[[Path], bool],
) -> list[Job]:
    try:
        return plan_jobs(inputs, output, name_of, wanted)
    except HyperThumbError as error:
        raise _fail(str(error)) from error


@app.command("encode")
def encode_command(
    inputs: Inputs,
    output: Output = None,
    bpp: Annotated[float | None, typer.Option(help="Bits a pixel of the image, whole file.")] = None,
    nbytes: Annotated[int | None, typer.Option("--bytes", help="Largest file size in bytes.")] = None,
    psnr: Annotated[float | None, typer.Option(help="Lowest PSNR in dB.")] = None,
    level: Annotated[float | None, typer.Option(help="Rate level, -1 (smallest) to 1. Default: 0.")] = None,
    scale: Annotated[Scale, typer.Option(help="Image side / thumbnail side.")] = Scale.auto,
    effort: Annotated[
        Effort, typer.Option(help="best: dozens of passes for a better file, same decoder.")
    ] = Effort.fast,
    seconds: Annotated[float | None, typer.Option(help="Budget of --effort best, each picture.")] = None,
    value_range: ValueRangeOption = None,
    percentile: PercentileOption = None,
    channel_range: ChannelRanges = None,
    axes: Axes = None,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report", help="Print the error in the image's own units. Default: not for uint8."
        ),
    ] = None,
    container: Annotated[
        Container, typer.Option(help="jxl: the same JPEG inside JPEG XL, some bytes smaller.")
    ] = Container.jpg,
    workers: Workers = None,
    pool: PoolKind = Kind.processes,
    scheduler: Scheduler = None,
    alpha: Annotated[Alpha, typer.Option(help="What to do with an alpha channel.")] = Alpha.refuse,
    device: Device = "auto",
    model: ModelFile = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Code pictures into thumbnails: photo.png becomes photo.ht.jpg beside it, a stack a TIFF of them."""
    if sum(target is not None for target in (bpp, nbytes, psnr, level)) > 1:
        raise _fail("give one of --bpp, --bytes, --psnr and --level")
    try:
        limits = parse_ranges(value_range, percentile, channel_range or ())
    except HyperThumbError as error:
        raise _fail(str(error)) from error
    options = EncodeOptions(
        bpp=bpp,
        nbytes=nbytes,
        psnr=psnr,
        level=level,
        scale="auto" if scale is Scale.auto else int(scale.value),
        effort=effort.value,
        seconds=seconds,
        device=device,
        model=model,
        value_range=limits,
        axes=axes,
        alpha=alpha.value,
        measure=report,
        container=container.value,
    )
    together = pool_of(workers, pool, scheduler)

    def place(job: Job) -> str:
        assert job.target is not None
        named = job.target in (STREAM, output)
        return job.target if named else target_of(job.source, job.target, options)

    def work(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        target = place(job)
        _check_free(target, force)  # before the work, too
        if together is not None:
            return {}
        array, known = read_with_axes(_read_stream() if job.source == STREAM else job.source, options.axes)
        made = encoded(array, known, options, progress)
        _write(target, made.data, force)
        return {"input": job.source, "output": target, **made.facts}

    def remote(job: Job) -> tuple[Any, ...]:
        """With absolute paths, for workers that run elsewhere."""
        used = None if model is None else str(Path(model).absolute()) if Path(model).exists() else model
        paths = (str(Path(path).absolute()) for path in (job.source, place(job)))
        return (*paths, replace(options, model=used))

    def line(r: dict[str, Any]) -> str:
        planes = f"  {r['planes']} planes {r['axes']}" if "planes" in r else ""
        size = f"{r['bytes']:,} bytes  {r['bpp']:.3f} bpp  scale {r['scale']}"
        return "\n".join([f"{r['output']}  {size}{planes}", *cost_lines(r)])

    jobs = _jobs(
        inputs, output, lambda p: bare_name(p) + CONTAINERS[container.value], lambda p: not is_ours(p)
    )
    run_jobs(jobs, work, line, as_json=as_json, quiet=quiet, pool=together, remote=remote)


@app.command("decode")
def decode_command(
    inputs: Inputs,
    output: Output = None,
    scale: Annotated[int | None, typer.Option(help="For a JPEG that lost its metadata: 2 or 4.")] = None,
    model: ModelFile = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Decode with other weights than the file's, at a loss.")
    ] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse larger images.")] = None,
    device: Device = "auto",
    backend: Annotated[
        BackendName, typer.Option(help="What runs the decoder; auto also looks at HYPERTHUMB_BACKEND.")
    ] = BackendName.auto,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct the images in thumbnails: photo.ht.jpg becomes photo.png (or .tif for float data)."""
    from .codec import MAX_PIXELS, decode

    def work(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        source = _read_stream() if job.source == STREAM else job.source
        options: dict[str, Any] = {
            "scale": scale,
            "model": model,
            "any_model": any_model,
            "device": device,
            "backend": backend.value,
            "max_pixels": MAX_PIXELS if max_pixels is None else max_pixels,
            "progress": progress,
        }
        if _is_tiff(source):
            return decode_stack(job, source, options)
        image = decode(source, **options)
        png = image.dtype.name == "uint8" or (image.dtype.name == "uint16" and image.ndim == 2)
        target = job.target or STREAM
        if target not in (STREAM, output) and not png:  # nobody named this file
            target = str(Path(target).with_suffix(".tif"))
        suffix = ".png" if png else ".tif"
        _write(target, image_bytes(image, suffix if target == STREAM else Path(target).suffix), force)
        return {
            "input": job.source,
            "output": target,
            "shape": list(image.shape),
            "dtype": image.dtype.name,
        }

    def decode_stack(job: Job, source: str | io.BytesIO, options: dict[str, Any]) -> dict[str, Any]:
        from .stack import array_bytes, open_stack

        stack = open_stack(source.getvalue() if isinstance(source, io.BytesIO) else source)
        target = job.target or STREAM
        if target not in (STREAM, output):
            target = str(Path(target).with_suffix(".tif"))
        if target != STREAM and Path(target).suffix.lower() not in TIFF:
            raise HyperThumbError(f"{target}: only TIFF holds a stack: write .tif instead")
        _check_free(target, force)
        array = stack.decode(**options)
        _write(target, array_bytes(array, stack.layout, stack.channels), force)
        shape = list(array.shape)
        return {"input": job.source, "output": target, "shape": shape, "dtype": array.dtype.name}

    def line(r: dict[str, Any]) -> str:
        shape = r["shape"]
        many = len(shape) > 3 or (len(shape) == 3 and shape[2] != 3)
        size = "x".join(map(str, shape)) if many else f"{shape[1]}x{shape[0]}"
        return f"{r['output']}  {size}  {r['dtype']}"

    jobs = _jobs(inputs, output, lambda p: bare_name(p) + ".png", is_ours)
    run_jobs(jobs, work, line, as_json=as_json, quiet=quiet)


@app.command("info")
def info_command(
    inputs: Inputs,
    tables: Annotated[bool, typer.Option("--tables", help="Print the quantisation tables.")] = False,
    as_json: Json = False,
) -> None:
    """Say what thumbnail files are: scale, sizes, bits a pixel, weights, tables."""
    from .codec import info

    def work(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        source = _read_stream() if job.source == STREAM else job.source
        stack: dict[str, Any] = {}
        if _is_tiff(source):
            from .stack import open_stack

            whole = open_stack(source.getvalue() if isinstance(source, io.BytesIO) else source)
            stack = {
                "axes": whole.layout.axes,
                "stack": list(whole.layout.shape),
                "planes": len(whole.planes),
                "ranges": [list(pair) for pair in whole.ranges],
            }
            found = replace(whole.info, nbytes=whole.nbytes, bpp=whole.bpp)
        else:
            found = info(source)
        (height, width), (lr_height, lr_width) = found.shape, found.lr_size
        return {
            "input": job.source,
            "bytes": found.nbytes,
            "bpp": found.bpp,
            "scale": found.scale,
            "width": width,
            "height": height,
            "thumbnail_width": lr_width,
            "thumbnail_height": lr_height,
            "channels": 1 if found.format.gray else 3,
            "dtype": found.format.dtype,
            "range": list(found.format.range),
            "model": found.model,
            "digest": found.digest,
            "luma": found.tables[0].tolist(),
            "chroma": found.tables[1].tolist(),
            "lost": list(found.lost),
            **stack,
        }

    def line(r: dict[str, Any]) -> str:
        kind = "gray" if r["channels"] == 1 else "RGB"
        low, high = r["range"]
        text = [
            f"{r['input']}",
            f"  image      {r['width']}x{r['height']} {kind} {r['dtype']}, values {low:g} to {high:g}",
            f"  thumbnail  {r['thumbnail_width']}x{r['thumbnail_height']} (scale {r['scale']})",
            f"  size       {r['bytes']:,} bytes, {r['bpp']:.4f} bits a pixel",
            f"  weights    {r['model']} ({r['digest']})",
        ]
        if "stack" in r:
            text.insert(1, f"  stack      {'x'.join(map(str, r['stack']))} {r['axes']}, {r['planes']} planes")
            for number, (low, high) in enumerate(r["ranges"]) if len(r["ranges"]) > 1 else ():
                text.append(f"  channel {number}  values {low:g} to {high:g}")
        text += [f"  lost       {lost}" for lost in r["lost"]]
        for name in ("luma", "chroma") if tables else ():
            text.append(f"  {name}")
            text += ["    " + " ".join(f"{step:3d}" for step in row) for row in r[name]]
        return "\n".join(text)

    jobs = _jobs(inputs, None, lambda p: p.name, is_ours)
    run_jobs([Job(job.source, None) for job in jobs], work, line, as_json=as_json, quiet=False)


@app.command("compare")
def compare_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture, or - for standard input.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="PNG with crops side by side. Default: NAME.compare.png."),
    ] = None,
    bpp: Annotated[float | None, typer.Option(help="Bits a pixel. Default: 0.3.")] = None,
    nbytes: Annotated[int | None, typer.Option("--bytes", help="File size in bytes.")] = None,
    scale: Annotated[Scale, typer.Option(help="Image side / thumbnail side.")] = Scale.auto,
    device: Device = "auto",
    model: ModelFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Ours against JPEG, WebP and AVIF (JPEG XL where installed) at the same number of bytes."""
    from .codec import decode, encode
    from .compare import compare
    from .pixels import eight_bit
    from .sheet import sheet

    if bpp is not None and nbytes is not None:
        raise _fail("give one of --bpp and --bytes")
    target = output or (
        "stdin.compare.png"
        if image == STREAM
        else str(Path(image).with_name(bare_name(Path(image)) + ".compare.png"))
    )

    def work(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        _check_free(job.target, force)  # before the work, too
        streamed = job.source == STREAM
        array = read_image_file(_read_stream(), "standard input") if streamed else read_image(job.source)
        original = eight_bit(array)
        thumbnail = encode(
            original,
            bpp=0.3 if bpp is None and nbytes is None else bpp,
            nbytes=nbytes,
            scale="auto" if scale is Scale.auto else int(scale.value),
            device=device,
            model=model,
            progress=lambda fraction: progress(0.5 * fraction),
        )
        decoded = decode(thumbnail.data, model=model, device=device)
        rows = compare(original, thumbnail, decoded, with_ssim=True)
        buffer = io.BytesIO()
        sheet(original, rows).save(buffer, "PNG")
        _write(target, buffer.getvalue(), force)
        return {
            "input": job.source,
            "output": target,
            "codecs": [
                {
                    "name": row.name,
                    "bytes": row.nbytes,
                    "bpp": 8 * row.nbytes / (original.shape[0] * original.shape[1]),
                    "psnr": row.psnr if math.isfinite(row.psnr) else None,  # JSON has no infinity
                    "ssim": row.ssim,
                    "exceeds": row.exceeds,
                }
                for row in rows
            ],
        }

    def line(r: dict[str, Any]) -> str:
        text = [f"{'codec':<16}{'bytes':>10}{'bpp':>9}{'PSNR dB':>10}{'SSIM':>9}"]
        for c in r["codecs"]:
            mark = "  (its smallest file is larger)" if c["exceeds"] else ""
            psnr = "exact" if c["psnr"] is None else f"{c['psnr']:.2f}"
            ssim = "-" if c["ssim"] is None else f"{c['ssim']:.4f}"
            text.append(f"{c['name']:<16}{c['bytes']:>10,}{c['bpp']:>9.4f}{psnr:>10}{ssim:>9}{mark}")
        return "\n".join([*text, f"picture: {r['output']}"])

    run_jobs([Job(image, target)], work, line, as_json=as_json, quiet=False)


def _version(value: bool) -> None:
    if value:
        _out.print(f"hyperthumb {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command."""
    from ._cli_pyramid import add_pyramid_command
    from ._cli_training import add_training_commands

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that can't be printed ends no work
    add_pyramid_command(app)
    add_training_commands(app)
    app()


if __name__ == "__main__":
    main()
