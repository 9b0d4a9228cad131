"""Settings of a training run, read from YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import ARCHITECTURES, OURS, PAPER, Config
from ..errors import DependencyError, ModelError, TrainingError

PARTS = ("all", "decoder")
DISTORTIONS = ("mse", "log-mse", "charbonnier", "l1", "published")
PRECISIONS = ("auto", "float32", "bfloat16")
RATES = ("huffman", "nonzero", "entropy-bottleneck")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training run.

    The loss of an image at a level is ``(D(hr) + mu * bpp + guidance * D(lr)) / normaliser`` with
    ``mu = model.trade_off(level)``; D is `distortion` in 8-bit levels, hr the
    reconstruction against the original, lr the thumbnail as a viewer shows it against the bicubic
    one. With "mse" the normaliser is ``sqrt(mu)``, which lets every level pull alike; otherwise 1.
    "log-mse" is what stands in the brackets in dB, ``10 * log10((...))`` with mean squares, so every image
    pulls alike too: what a mean of PSNRs asks for.
    "published" is the authors': samples of 0 .. 1, absolute error for hr, squared error for lr.
    """

    name: str
    model: Config
    """Sizes of the networks; which settings there are depends on `architecture`."""
    architecture: str = OURS
    """"hyperthumb", or "paper" for the published one (module `paper`), trained at its one rate."""
    patch: int = 192
    """Side of the random crops, HR pixels, a multiple of the model's block."""
    batch: int = 4
    """Crops a step on each process."""
    minutes: float | None = None
    """Wall-clock budget of the run, all its calls together; the schedule ends with it. This or `steps`."""
    steps: int | None = None
    learning_rate: float = 5e-4
    final_learning_rate: float = 0.02
    """Of `learning_rate`, where the cosine ends."""
    warmup_steps: int = 100
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the running mean of the weights, which is what a checkpoint ships."""
    distortion: str = "mse"
    rate: str = "huffman"
    guidance: float = 0.1
    guidance_fall: float = 0.0
    """How fast that falls above level 0, by its exponential in a level. Larger files have room to spare for
    a good thumbnail, and would otherwise spend it on a better one than anybody needs."""
    trained: str = "all"
    """"all", or "decoder": the last phase, on coefficients as files hold them (module `coded`)."""
    recode: int = 1
    """Steps for each crop that is coded anew there, which takes longer than a step."""
    distilled: float = 0.0
    """Share of hr that is counted, there, against what a teacher's decoder makes of the same coefficients,
    instead of against the original (Hinton et al., arXiv 1503.02531): for a decoder that has become smaller,
    which has far less noise to learn through that way. The teacher: --teacher, or else the weights that the
    run starts from."""
    eight_bits: bool = False
    """Whether the decoder that is trained there computes with what eight bits make of its inputs and weights
    (module `eight_bits`), so that it loses less by them."""
    gray: float = 0.05
    """Share of colour crops turned to grayscale and coded with one component."""
    zoom: float = 0.0
    """Share of crops taken from up to twice as large a part of the picture, and reduced."""
    precision: str = "auto"
    """Of the encoder's and decoder's layers: bfloat16 where the device has instructions for it, or as named.
    Weights, tables, DCT and losses are float32 always."""
    held_out: float = 0.04
    """Share of the files, never trained on, that a run measures itself with."""
    seed: int = 0
    checkpoint_minutes: float = 5.0
    memory_mb: int = 2048
    """Decoded pixels kept in memory; a larger set is decoded once into a temporary file."""

    def __post_init__(self) -> None:
        def check(good: bool, text: str) -> None:
            if not good:
                raise TrainingError(f"training configuration: {text}")

        check(self.architecture in ARCHITECTURES, f"architecture must be one of {tuple(ARCHITECTURES)}")
        cls = ARCHITECTURES[self.architecture]
        check(isinstance(self.model, cls), f"architecture {self.architecture} takes a {cls.__name__}")
        check(self.distortion in DISTORTIONS, f"distortion must be one of {DISTORTIONS}")
        check(self.precision in PRECISIONS, f"precision must be one of {PRECISIONS}")
        check(self.rate in RATES, f"rate must be one of {RATES}")
        block = self.model.block
        check(
            self.patch >= block and self.patch % block == 0,
            f"patch must be a multiple of {block} at scale {self.model.scale}, not {self.patch}",
        )
        check(self.batch >= 1, "batch must be at least 1")
        check(
            (self.minutes is None) != (self.steps is None),
            "give a budget: either minutes or steps",
        )
        check((self.minutes or self.steps or 0) > 0, "the budget must be more than 0")
        check(self.learning_rate > 0, "learning_rate must be more than 0")
        check(0 < self.adam_beta2 < 1, "adam_beta2 must be between 0 and 1")
        check(
            self.architecture != PAPER or self.rate != "huffman",
            "rate: huffman counts whole numbers, but the architecture paper trains with noise instead of "
            "rounding; choose entropy-bottleneck (published) or nonzero",
        )
        check(0 <= self.ema < 1, "ema must be from 0 to less than 1")
        check(0 <= self.gray <= 1, "gray must be from 0 to 1")
        check(0 <= self.zoom <= 1, "zoom must be from 0 to 1")
        check(0 <= self.held_out < 1, "held_out must be from 0 to less than 1")
        check(self.guidance >= 0, "guidance must not be negative")
        check(self.guidance_fall >= 0, "guidance_fall must not be negative")
        check(self.trained in PARTS, f"trained must be one of {PARTS}")
        check(self.recode >= 1, "recode must be at least 1")
        check(0 <= self.distilled <= 1, "distilled must be from 0 to 1")
        check(
            not self.distilled or (self.trained == "decoder" and self.distortion == "mse"),
            "distilled goes with trained: decoder and distortion: mse only",
        )
        check(
            not self.eight_bits or self.trained == "decoder",
            "eight_bits goes with trained: decoder only",
        )
        check(
            self.trained == "all" or self.architecture == OURS,
            "trained: decoder is for our own architecture only",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML file."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Fields:
    """Names and types that a section of the YAML file may hold."""

    cls: type
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(f.name for f in dataclasses.fields(self.cls)))

    def check(self, values: object, where: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise TrainingError(f"{where}: expected a mapping of settings")
        unknown = sorted(str(key) for key in values if key not in self.names)
        if unknown:
            raise TrainingError(
                f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(sorted(self.names))}"
            )
        types = {f.name: str(f.type) for f in dataclasses.fields(self.cls)}
        for key, value in values.items():
            wanted = types[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            good = (
                (value is None and "None" in wanted)
                or (wanted == "Config" and isinstance(value, dict))
                or ("str" in wanted and isinstance(value, str))
                or ("bool" in wanted and isinstance(value, bool))
                or ("float" in wanted and number)
                or ("int" in wanted and number and isinstance(value, int))
            )
            if not good:
                raise TrainingError(f"{where}: {key} must be {wanted}, not {value!r}")
        return values


def config_from_dict(values: object, where: str = "configuration", **changes: Any) -> TrainingConfig:
    """A configuration from plain values; `changes` replace settings of the same name, a budget the other.

    Raises TrainingError for unknown settings, wrong types and values that don't fit together.
    """
    values = dict(_Fields(TrainingConfig).check(values, where))
    values.update({key: value for key, value in changes.items() if value is not None})
    for budget, other in (("minutes", "steps"), ("steps", "minutes")):
        if changes.get(budget) is not None and changes.get(other) is None:
            values[other] = None
    architecture = values.get("architecture", OURS)
    if architecture not in ARCHITECTURES:
        raise TrainingError(f"{where}: architecture must be one of {', '.join(ARCHITECTURES)}")
    sizes = ARCHITECTURES[architecture]
    model = _Fields(sizes).check(values.get("model", {}), f"{where}, model")
    try:
        return TrainingConfig(**{**values, "model": sizes(**model)})
    except (TypeError, ModelError) as error:
        raise TrainingError(f"{where}: {error}") from error


def load_config(path: str | Path, **changes: Any) -> TrainingConfig:
    """Read a YAML file; see `config_from_dict`."""
    try:
        import yaml
    except ImportError as error:
        raise DependencyError(
            "reading a training configuration needs PyYAML: pip install 'napari-hyperthumb[train]'"
        ) from error
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: can't read the configuration: {error}") from error
    return config_from_dict(values, str(path), **changes)
