"""`hyperthumb train`, `hyperthumb evaluate` and `hyperthumb import-weights`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track
from rich.table import Table

from .errors import HyperThumbError
from .files import find_images, write_atomically

_err = Console(stderr=True, highlight=False, soft_wrap=True)
_out = Console(highlight=False, soft_wrap=True)


def _stop(error: HyperThumbError) -> typer.Exit:
    _err.print(f"hyperthumb: {error}", markup=False)
    return typer.Exit(1)


def train_command(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Pictures to train on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; an old run goes on.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file (see configs/). Default: built-in settings of --scale.")
    ] = None,
    scale: Annotated[int, typer.Option(help="2 or 4, without --config.")] = 2,
    start: Annotated[str | None, typer.Option(help="Weights to begin from: a file, ht-x2 or ht-x4.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Weights to learn from (distilled), as --start, which is the default."),
    ] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="Share of the crops from each folder, in their order.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Train on a folder of pictures. Ctrl-C stops after the step at hand; the same command goes on.

    Several GPUs: torchrun --nproc-per-node N -m napari_hyperthumb.cli train ...
    """
    import torch

    from .codec import weights_path
    from .training.config import config_from_dict, load_config
    from .training.data import CropSource
    from .training.loop import Progress as Step
    from .training.loop import Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if minutes is None and steps is None and config is None:
            minutes = 60.0
        settings = (
            load_config(config, minutes=minutes, steps=steps)
            if config
            else config_from_dict(
                {"name": f"ht-x{scale}", "model": {"scale": scale}}, minutes=minutes, steps=steps
            )
        )
        source = CropSource(
            folders,
            patch=settings.patch,
            shares=share,
            gray=settings.gray,
            zoom=settings.zoom,
            held_out=settings.held_out,
            seed=settings.seed,
            memory_bytes=settings.memory_mb * 2**20,
            skipped=lambda line: _err.print(line, markup=False),
        )
        begin, larger = (weights_path(name) if name else None for name in (start, teacher))
        trainer = Trainer(settings, source, output, start=begin, teacher=larger, device=device)
    except HyperThumbError as error:
        raise _stop(error) from error
    if trainer.rank:
        trainer.run()
        return
    _err.print(
        f"{len(source.train)} pictures to train on, {len(source.held_out)} held out, "
        f"on {trainer.device}, from step {trainer.step}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    last_minute = -1
    with Progress(*columns, console=_err) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(step: Step) -> None:
            nonlocal last_minute
            text = (
                f"step {step.step}  loss {step.loss:.3f}  PSNR {step.psnr:.2f} dB  "
                f"{step.bpp:.3f} bpp (estimate)  LR {step.lr_psnr:.2f} dB  {step.minutes_left:.0f} min left"
            )
            bar.update(task, completed=step.fraction, description=text)
            if not _err.is_terminal and int(step.minutes) != last_minute:
                last_minute = int(step.minutes)
                _err.print(text)

        try:
            weights = trainer.run(show)
        except HyperThumbError as error:
            raise _stop(error) from error
    _out.print(str(weights), markup=False)
    if trainer.stop_requested:
        _err.print("stopped; the same command goes on from here")
        raise typer.Exit(130)


def evaluate_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures or folders.")],
    model: Annotated[str, typer.Option(help="Weights: a file, ht-x2 or ht-x4.")] = "ht-x2",
    baseline: Annotated[
        str | None, typer.Option(help="Weights to compare with; exit code 1 when these are worse.")
    ] = None,
    level: Annotated[list[float] | None, typer.Option(help="Levels. Default: nine from -1 to 1.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every measurement as CSV.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure weights on pictures, with real files: bpp, PSNR, SSIM, MS-SSIM, and the thumbnail's PSNR."""
    from .codec import load_model
    from .files import read_image
    from .training import evaluation as ev

    levels = tuple(level) if level else ev.DEFAULT_LEVELS
    try:
        files = list(find_images(inputs))
        if not files:
            raise HyperThumbError(f"{', '.join(map(str, inputs))}: no picture there")
        models = [load_model(name) for name in (model, baseline) if name is not None]
        runs: list[list[ev.Measurement]] = [[] for _ in models]
        for file in track(files, "evaluating", console=_err, transient=True, disable=not _err.is_terminal):
            image = read_image(file)
            for rows, one in zip(runs, models, strict=True):
                rows += [ev.measure(file.name, image, one, at, device=device) for at in levels]
        if csv:
            write_atomically(csv, ev.to_csv(runs[0]).encode())
        if as_json:
            write_atomically(as_json, ev.to_json(runs[0]).encode())
    except HyperThumbError as error:
        raise _stop(error) from error
    table = Table(title=f"{models[0].name} {models[0].digest}: means over {len(files)} pictures")
    for name in ("level", "bytes", "bpp", "PSNR", "SSIM", "MS-SSIM", "LR PSNR"):
        table.add_column(name, justify="right")
    for r in ev.means(runs[0]):
        table.add_row(
            f"{r.level:+.2f}",
            f"{r.nbytes:,.0f}",
            f"{r.bpp:.4f}",
            f"{r.psnr:.2f}",
            f"{r.ssim:.4f}",
            f"{r.ms_ssim:.4f}",
            f"{r.lr_psnr:.2f}",
        )
    _out.print(table)
    _out.print(f"estimated against real bytes: {100 * ev.estimate_error(runs[0]):.1f}% rms")
    rates = [ev.at_rates(rows) for rows in runs]
    for rate in ev.TABLE_BPP:
        values = [r[rate] for r in rates]
        if values[0] is not None:
            text = f"PSNR at {rate:g} bpp: {values[0]:.2f} dB"
            if len(values) > 1 and values[1] is not None:
                text += f"  ({values[0] - values[1]:+.2f} against {models[1].name} {models[1].digest})"
            _out.print(text)
    if baseline is not None:
        gains = [
            a - b
            for a, b in zip(rates[0].values(), rates[1].values(), strict=True)
            if a is not None and b is not None
        ]
        mean = sum(gains) / len(gains) if gains else math.nan
        _out.print(f"mean difference: {mean:+.3f} dB")
        if not mean >= 0:
            raise typer.Exit(1)


def import_weights_command(
    source: Annotated[Path, typer.Argument(metavar="FILE.pth", help="The authors' released checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where our file goes.")],
    name: Annotated[str, typer.Option(help="What thumbnails coded with them say.")] = "paper-x4",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
) -> None:
    """Turn the released weights of the published HyperThumbnail (scale 4) into a file for --model.

    Nothing in the file is run: it is read as plain tensors only.
    """
    from .checkpoint import load_checkpoint
    from .released import import_weights

    try:
        if target.exists() and not force:
            raise HyperThumbError(f"{target}: exists already; --force replaces it")
        released = import_weights(source, target, name)
        model = load_checkpoint(target)
    except HyperThumbError as error:
        raise _stop(error) from error
    values = sum(tensor.numel() for tensor in released.state.values())
    _out.print(f"{target}  {model.name} ({model.digest}), {values:,} values", markup=False)
    if released.entropy:
        _err.print(f"{released.entropy} entries of the entropy model, which only training needs, left behind")


def add_training_commands(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)
    app.command("import-weights")(import_weights_command)
