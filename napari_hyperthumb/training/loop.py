"""The training loop: one readable pass from crops to weights.

The same code runs on a CPU, on one GPU, and on several under `torchrun` (DistributedDataParallel).
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..checkpoint import build, load_checkpoint, save_checkpoint
from ..device import has_bfloat16, pick_device
from ..errors import ModelError, TrainingError
from ..files import write_atomically
from ..jpeg import ycbcr_to_rgb
from ..metrics import psnr_from_mse
from ..model import LEVELS, Coded, Held, HyperThumbModel, planes_kept
from .coded import CodedCrops
from .config import TrainingConfig, config_from_dict
from .data import Batch, CropSource
from .eight_bits import round_decoder
from .grow import grow
from .rate import rate_model
from .shrink import drop_blocks, shrink_decoder

STATE, WEIGHTS, LOG, SHEET = "state.safetensors", "weights.safetensors", "log.csv", "samples.png"
SHRINK_CROPS = 16
"""Crops on which it is seen what of a larger decoder matters."""
GAIN_EVERY, GAIN_SHARE = 25, 0.1
"""How often the decoder's gain is measured, in steps, and how much of a measurement its mean takes over."""
_LOG_FIELDS = ("step", "minutes", "loss", "psnr", "bpp", "lr_psnr", "val_psnr", "val_bpp", "val_loss")


@dataclass(frozen=True)
class Progress:
    """What a run reports; figures are means over the last few hundred steps, bpp an estimate."""

    step: int
    fraction: float
    """Of the budget that is used up, 0 .. 1."""
    minutes: float
    loss: float
    psnr: float
    bpp: float
    lr_psnr: float

    @property
    def minutes_left(self) -> float:
        """Estimate."""
        return self.minutes * (1 - self.fraction) / max(self.fraction, 1e-9)


@dataclass(frozen=True)
class Terms:
    """Loss of a batch and its parts."""

    loss: Tensor
    mse: Tensor
    bpp: Tensor
    lr_mse: Tensor


def loss_terms(
    coded: Coded,
    batch: Batch,
    level: Tensor,
    rate: nn.Module,
    config: TrainingConfig,
    taught: Tensor | None = None,
) -> Terms:
    """The loss that `TrainingConfig` states; every term a mean over the batch.

    taught: what a larger decoder makes of the same, RGB as `batch`; None: nothing is distilled.
    """
    pixels = batch.rgb.shape[2] * batch.rgb.shape[3]
    bpp = rate(coded.scaled, coded.quantised, batch.gray) / pixels
    shown, wanted = ycbcr_to_rgb(coded.lr), ycbcr_to_rgb(coded.bicubic)
    hr_error = coded.hr.float() - batch.rgb
    lr_error = (shown - wanted).float()
    mse, lr_mse = _mean_square(hr_error), _mean_square(lr_error)
    mu = config.model.trade_off(level)
    guidance = config.guidance * torch.exp(-config.guidance_fall * level.clamp_min(0))
    if config.distortion == "mse":
        far = mse
        if taught is not None:
            far = torch.lerp(mse, _mean_square(coded.hr.float() - taught), config.distilled)
        loss = (far + mu * bpp + guidance * lr_mse) / mu.sqrt().clamp_min(1e-6)
    elif config.distortion == "log-mse":
        loss = 10 * torch.log10((mse + mu * bpp + guidance * lr_mse).clamp_min(1e-3))
    elif config.distortion == "published":
        loss = hr_error.abs().mean((1, 2, 3)) / 255 + mu * bpp + guidance * lr_mse / 255**2
    else:
        soft = 0.0 if config.distortion == "l1" else 1.0
        hr, lr = (
            (e.square() + soft).sqrt().mean((1, 2, 3)) if soft else e.abs().mean((1, 2, 3))
            for e in (hr_error, lr_error)
        )
        loss = hr + mu * bpp + guidance * lr
    return Terms(loss.mean(), mse.mean(), bpp.mean(), lr_mse.mean())


def _mean_square(error: Tensor) -> Tensor:
    """Of each image."""
    return error.square().mean((1, 2, 3))


class Trainer:
    """One run in one folder.

    folder: where the state, the weights, the log and the sample sheet go.
    start: weights to begin from (a checkpoint file), None for random ones; those of smaller networks grow
    into these, and of a larger decoder stays what matters most. A folder that holds a state goes on from it
    instead. teacher: weights that `distilled` counts against, None for those of `start`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        source: CropSource,
        folder: str | Path,
        *,
        start: str | Path | None = None,
        teacher: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        self.config, self.source, self.folder = config, source, Path(folder)
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = pick_device(device)
        if self.device.type == "cuda" and self.world > 1:
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)
        torch.manual_seed(config.seed)
        self.net = build(config.model)
        if start is not None:
            self._start_from(start)
        self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        mixed = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(self.device))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.net.mixed = torch.bfloat16 if mixed else None
        self._teacher = self._teacher_from(teacher or start) if config.distilled else None
        self._coded: CodedCrops | None = None
        if config.trained == "decoder" and isinstance(self.ema, HyperThumbModel):
            self.net.requires_grad_(False)
            self.net.decoder.requires_grad_(True)
            self._coded = CodedCrops(self.ema, source, self.device, config.seed, config.recode)
            if config.eight_bits:
                assert isinstance(self.net, HyperThumbModel)
                round_decoder(self.net.decoder)
        self.rate = rate_model(config.rate).to(self.device)
        self.trained = nn.ModuleDict({"net": self.net, "rate": self.rate})
        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(parameters, config.learning_rate, (0.9, config.adam_beta2))
        self.step, self.seconds = 0, 0.0
        self.stop_requested = False
        if (self.folder / STATE).exists():
            self._resume()

    # ---- state -------------------------------------------------------------------------------

    def _teacher_from(self, path: str | Path | None) -> HyperThumbModel:
        if path is None:
            raise TrainingError("distilled: give the weights that are the teacher with --teacher or --start")
        net = load_checkpoint(path).net
        if not isinstance(net, HyperThumbModel) or net.config.scale != self.config.model.scale:
            raise TrainingError(f"{path}: a teacher must be of our own architecture, and of the same scale")
        net.mixed = self.net.mixed
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def _start_from(self, start: str | Path) -> None:
        net = load_checkpoint(start).net
        if net.config == self.config.model:
            self.net.load_state_dict(net.state_dict())
            return
        differ = (
            f"{start}: its networks differ from the configuration: {net.config} against {self.config.model}"
        )
        if not (isinstance(net, HyperThumbModel) and isinstance(self.net, HyperThumbModel)):
            raise TrainingError(differ)
        size, inner = (
            min(getattr(net.config, name), getattr(self.net.config, name))
            for name in ("decoder_channels", "decoder_inner")
        )
        narrower = (size, inner) != (net.config.decoder_channels, net.config.decoder_inner)
        blocks = self.config.model.decoder_blocks
        if narrower or blocks < net.config.decoder_blocks:
            crops = self.source.batch(0, SHRINK_CROPS)
            net = shrink_decoder(net, size, inner, crops) if narrower else net
            net = drop_blocks(net, blocks, crops)
        try:
            grow(self.net, net)
        except ModelError as error:
            raise TrainingError(f"{differ}; they can't grow to it: {error}") from error

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"net.{k}": v for k, v in self.trained.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}

    def _resume(self) -> None:
        path = self.folder / STATE
        try:
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
            tensors = load_file(path)
            old = config_from_dict(json.loads(header["config"]), str(path))
            if old.model != self.config.model:
                raise TrainingError(
                    f"{path}: the run in this folder trains other networks; choose another folder"
                )
            groups: dict[str, dict[str, Tensor]] = {"net": {}, "ema": {}, "adam": {}}
            for key, value in tensors.items():
                group, rest = key.split(".", 1)
                groups[group][rest] = value
            self.trained.load_state_dict(groups["net"])
            self.ema.load_state_dict(groups["ema"])
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in groups["adam"].items():
                index, name = key.split(".", 1)
                moments.setdefault(int(index), {})[name] = value
            state = self.optimiser.state_dict()
            state["state"] = moments
            self.optimiser.load_state_dict(state)
            self.step, self.seconds = int(header["step"]), float(header["seconds"])
        except TrainingError:
            raise
        except Exception as error:  # a damaged file can fail in many ways; none may pass silently
            raise TrainingError(
                f"{path}: can't go on from this state ({error}); delete it to start again"
            ) from error

    def save(self) -> None:
        """Write state and weights, each whole or not at all; the weights are the EMA's, in fp16."""
        if self.rank:
            return
        header = {
            "config": json.dumps(self.config.to_dict()),
            "step": str(self.step),
            "seconds": str(self.seconds),
        }
        write_atomically(self.folder / STATE, save_tensors(self._state(), metadata=header))
        notes = {"steps": self.step, "minutes": round(self.seconds / 60, 1), "seed": self.config.seed}
        save_checkpoint(self.folder / WEIGHTS, self.ema, name=self.config.name, notes=notes)

    # ---- one step ----------------------------------------------------------------------------

    def fraction(self) -> float:
        """Of the budget that is used up."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        return min(1.0, self.seconds / 60 / (self.config.minutes or 1))

    def _learning_rate(self) -> float:
        c = self.config
        cosine = 0.5 * (1 + math.cos(math.pi * self.fraction()))
        factor = c.final_learning_rate + (1 - c.final_learning_rate) * cosine
        return c.learning_rate * factor * min(1.0, (self.step + 1) / max(1, c.warmup_steps))

    def _forward(
        self,
        net: nn.Module,
        batch: Batch,
        level: Tensor,
        held: Held | None = None,
        taught: Tensor | None = None,
    ) -> tuple[Terms, Coded]:
        coded: Coded = net(batch.rgb, level, batch.gray, held)
        return loss_terms(coded, batch, level, self.rate, self.config, taught), coded

    @torch.no_grad()
    def _taught(self, batch: Batch, level: Tensor, held: Held | None) -> Tensor | None:
        """What the teacher makes of these coefficients."""
        if self._teacher is None:
            return None
        coded: Coded = self._teacher(batch.rgb, level, batch.gray, held)
        return coded.hr.float()

    def _levels(self, size: int) -> Tensor:
        rng = np.random.default_rng([self.config.seed, self.step, self.rank, 7])
        # One level from each of `size` equal parts of the range: less noise than independent ones.
        parts = (np.arange(size) + rng.random(size)) / size
        low, high = LEVELS
        return torch.tensor(low + (high - low) * rng.permutation(parts), dtype=torch.float32)

    def _crops(self) -> tuple[Batch, Tensor, Held | None]:
        """Crops of this step, their levels, and their coefficients where only the decoder is trained."""
        size, held = self.config.batch, None
        if self._coded is None:
            batch, level = self.source.batch(self.step, size, self.rank), self._levels(size)
        else:
            batch, level, held = self._coded.batch(self.step, size, self.rank)
        return self._to_device(batch), level.to(self.device), held

    def _to_device(self, batch: Batch) -> Batch:
        rgb = batch.rgb.to(self.device, memory_format=torch.channels_last)
        return Batch(rgb, batch.gray.to(self.device))

    @torch.no_grad()
    def _measure_gain(self, coded: Coded, batch: Batch) -> None:
        if not (isinstance(self.net, HyperThumbModel) and isinstance(self.ema, HyperThumbModel)):
            return
        generator = torch.Generator().manual_seed(self.config.seed + self.step)
        keep = planes_kept(coded.lr.detach(), batch.gray)
        now = self.ema.measured_gain(coded.quantised.detach(), coded.tables, batch.rgb, keep, generator)
        there = keep.sum((0, 2, 3)) > 0  # planes that any of these files has
        self.net.gain[there] = self.net.gain[there].lerp(now.float()[there], GAIN_SHARE)

    def train_step(self, net: nn.Module) -> Terms:
        """One update. Raises TrainingError, with the weights as they were, when it isn't finite."""
        batch, level, held = self._crops()
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        taught = self._taught(batch, level, held)
        terms, coded = self._forward(net, batch, level, held, taught)
        # Not where passes code the crops: they take longer steps where the gain is low, too long ones spoil
        # the coefficients, and a decoder that learns to ignore those has a lower gain still.
        if self.step % GAIN_EVERY == 0 and self._coded is None:
            self._measure_gain(coded, batch)
        self.optimiser.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        self._average_gradients(self.rate)  # those of the networks are averaged on the way
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.clip)
        if not (torch.isfinite(terms.loss) and torch.isfinite(norm)):
            raise TrainingError(
                f"step {self.step}: the loss or its gradient is not finite; the state before it was "
                "kept. Try a smaller learning_rate or clip"
            )
        self.optimiser.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for stale, fresh in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                stale.copy_(fresh)
        return terms

    # ---- the run -----------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, crops: int = 12) -> tuple[Terms, Image.Image]:
        """Losses of the EMA weights on held-out crops, and a sheet: original, thumbnail, result."""
        self.ema.eval()
        rows, terms = [], []
        batch = self._to_device(self.source.validation(crops))
        low, high = LEVELS
        for start in range(0, crops, 4):
            part = Batch(batch.rgb[start : start + 4], batch.gray[start : start + 4])
            count = len(part.gray)
            for at in (low, (low + high) / 2, high):
                held = self._coded.coded(part, at) if self._coded else None
                level = torch.full((count,), at, device=self.device)
                term, coded = self._forward(self.ema, part, level, held)
                terms.append(term)
                if start == 0:
                    scale = self.config.model.scale
                    big = ycbcr_to_rgb(coded.lr).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
                    rows += [torch.cat([part.rgb[i], big[i], coded.hr[i].float()], 2) for i in range(count)]
        mean = Terms(*(torch.stack([getattr(t, f) for t in terms]).mean() for f in Terms.__annotations__))
        half = len(rows) // 2
        sheet = torch.cat([torch.cat(rows[:half], 1), torch.cat(rows[half : 2 * half], 1)], 2)
        pixels = (sheet + 128).clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return mean, Image.fromarray(np.ascontiguousarray(pixels))

    def _log(self, progress: Progress) -> None:
        import io

        terms, sheet = self.validate()
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        write_atomically(self.folder / SHEET, buffer.getvalue())
        path = self.folder / LOG
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_LOG_FIELDS)
            figures: Sequence[Any] = (
                progress.minutes, progress.loss, progress.psnr, progress.bpp, progress.lr_psnr,
                psnr_from_mse(terms.mse.item()), terms.bpp.item(), terms.loss.item(),
            )  # fmt: skip
            writer.writerow([self.step, *(f"{x:.4f}" for x in figures)])

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step at hand instead of in its middle."""
        previous: dict[int, Any] = {}

        def stop(signum: int, frame: object) -> None:
            self.stop_requested = True

        with contextlib.suppress(ValueError):  # not the main thread: the caller sets stop_requested
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for old, handler in previous.items():
                signal.signal(old, handler)

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Train until the budget is used up or `stop_requested` is set; returns the weights' path.

        report: called about once a second. State and weights are written every
        `checkpoint_minutes` and at the end, whatever ends the run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{self.folder}: can't be made: {error.strerror or error}") from error
        with self._interruptible(), self._distributed() as net:
            sums, count = np.zeros(4), 0
            mean = np.zeros(4)
            last_report = last_save = started = time.monotonic()
            before = self.seconds
            progress = Progress(self.step, self.fraction(), self.seconds / 60, *([math.nan] * 4))
            try:
                while self.fraction() < 1 and not self._stop():
                    terms = self.train_step(net)
                    sums += [x.item() for x in (terms.loss.detach(), terms.mse, terms.bpp, terms.lr_mse)]
                    count += 1
                    now = time.monotonic()
                    self.seconds = self._together(before + now - started)
                    if now - last_report >= 1 or self.fraction() >= 1:
                        mean, last_report = sums / count, now
                        progress = Progress(
                            self.step, self.fraction(), self.seconds / 60, mean[0],
                            psnr_from_mse(mean[1]), mean[2], psnr_from_mse(mean[3]),
                        )  # fmt: skip
                        report(progress)
                        if count > 500:
                            sums, count = np.zeros(4), 0
                    if now - last_save >= 60 * self.config.checkpoint_minutes:
                        last_save = now
                        self._checkpoint(progress)
            finally:
                self._checkpoint(progress)
        return self.folder / WEIGHTS

    def _checkpoint(self, progress: Progress) -> None:
        if self.rank == 0:
            self.save()
            self._log(progress)

    # ---- several processes -------------------------------------------------------------------

    @contextlib.contextmanager
    def _distributed(self) -> Iterator[nn.Module]:
        if self.world == 1:
            yield self.net
            return
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend)
        # Kept, so that it is freed from Python, which then lets other threads run. Freed by the wrapped
        # networks it would wait, with the interpreter locked, for a thread that may need the interpreter.
        self._group = torch.distributed.group.WORLD
        try:
            ids = [self.device.index] if self.device.type == "cuda" else None
            yield nn.parallel.DistributedDataParallel(self.net, device_ids=ids)
        finally:
            torch.distributed.destroy_process_group()

    def _average_gradients(self, module: nn.Module) -> None:
        """What DistributedDataParallel does, for a module that it doesn't wrap."""
        if self.world == 1:
            return
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def _agree(self, value: float) -> float:
        """Rank 0's value, on every process: clocks and signals differ, decisions must not."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(tensor, 0)
        return float(tensor.item())

    def _together(self, seconds: float) -> float:
        return self._agree(seconds)

    def _stop(self) -> bool:
        return self._agree(float(self.stop_requested)) > 0
