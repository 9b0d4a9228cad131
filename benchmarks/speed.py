"""Speed and memory of HyperThumb beside AVIF, WebP and JPEG.

    python benchmarks/speed.py [--image FILE] [--sizes 768x512 1K 2K 4K 6K] [--repeats 7] [--decode-only]
    python benchmarks/speed.py --memory [6K] [--decode-only]
    python benchmarks/speed.py --cold

Times are medians over the repeats. All operations take turns within each repeat, so that other load on
the machine meets all of them alike. Ours code to a wanted bpp, as users do, which searches the level with
several files ("level given": the one pass that remains when the level is known). The other codecs are
handed the quality that gives our number of bytes: their search isn't timed.

Decoding is timed with every backend, beside the published decoder (`paper.py` in PyTorch, scale 4, random
weights) and a convolution of 64 channels, which stands for the machine's peak: how much of it a decoder
reaches is its multiplications over its time.

--decode-only searches for our levels and the others' qualities on a part of the picture, leaves our moves out
and times no encoding: 6K takes many minutes otherwise. --memory runs each operation in a process of its own
and reports its peak resident memory (ru_maxrss). --cold shows where the time of a first decode goes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_hyperthumb.compare import Pixels

# Nothing heavy up here: the process that starts the memory children must stay small, since a child's
# ru_maxrss begins at what its parent held.

TARGETS = ((2, 0.3), (4, 0.15))
"""Our scale and the bpp that goes with it."""
SAMPLE = 768
"""Pixels a side of the part on which --decode-only searches for levels and qualities."""
REFERENCE = "AVIF, speed 6"
PAPER, PEAK = "published decoder (x4), torch", "3x3 convolution of 64 channels, float32, torch"
Size = tuple[int, int]
"""Width and height."""


NAMED = {"1K": (1024, 576), "2K": (2048, 1152), "4K": (3840, 2160), "6K": (6144, 3456)}


def size(text: str) -> Size:
    """768x512, or a name like 6K, as numbers."""
    if text.upper() in NAMED:
        return NAMED[text.upper()]
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: a size is like 768x512") from error


def synthetic(width: int, height: int) -> Pixels:
    """Overlapping discs and boxes under noise that fades towards fine detail, as photographs do.

    Always the same for a size, and of the same bits per pixel for all of them.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    scene = Image.new("RGB", (width, height), (120, 130, 140))
    draw = ImageDraw.Draw(scene)
    for _ in range(max(8, width * height // 4000)):
        x, y = rng.integers(width), rng.integers(height)
        w, h = (int(side) for side in 10 + rng.exponential(40, 2))
        gray = rng.integers(20, 236)
        fill = tuple(int(value) for value in np.clip(gray + rng.integers(-40, 41, 3), 0, 255))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - w, y - h, x + w, y + h), fill=fill)
    noise = np.zeros((height, width), np.float32)
    for wavelength, strength in ((128, 16), (64, 14), (32, 11), (16, 9), (8, 7), (4, 5), (2, 3)):
        grid = (height // wavelength + 2, width // wavelength + 2)
        coarse = Image.fromarray(rng.normal(0, strength, grid).astype(np.float32))
        noise += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    out = np.array(scene)
    for channel in range(3):
        out[:, :, channel] = np.clip(out[:, :, channel] + noise, 0, 255)
    return out


def picture(path: Path | None, width: int, height: int) -> Pixels:
    """The synthetic picture, or the given one, tiled and cropped to the size."""
    import numpy as np

    if path is None:
        return synthetic(width, height)
    from napari_hyperthumb.errors import ImageError
    from napari_hyperthumb.files import read_image

    image = read_image(path)
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ImageError(f"{path}: must be an 8-bit colour picture")
    times = (-(-height // image.shape[0]), -(-width // image.shape[1]), 1)
    return np.ascontiguousarray(np.tile(image[:, :, :3], times)[:height, :width])


# ---- time ------------------------------------------------------------------------------------


@dataclass
class Timed:
    """One way of coding, and the seconds its encoding and decoding took."""

    name: str
    nbytes: int
    encode: Callable[[], object] | None
    decode: Callable[[], object] | None
    gmac: float | None = None
    """Thousand million multiplications of a decode in float32, where they are known."""
    encode_times: list[float] = field(default_factory=list)
    decode_times: list[float] = field(default_factory=list)
    first_times: list[float] = field(default_factory=list)
    """Until the first part of the picture could be shown, in every decode."""


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pillow_options(name: str, quality: float, threads: int) -> dict[str, Any]:
    """What a user would pass to Image.save."""
    if name == "JPEG":
        return {"quality": int(quality), "optimize": True}
    if name == "WebP":
        return {"quality": quality, "method": 6}
    return {"quality": int(quality), "speed": 6, "max_threads": threads}


def pillow_timed(name: str, image: Pixels, nbytes: int, wanted: argparse.Namespace) -> Timed:
    """A codec of Pillow's at the quality that gives at most nbytes (--decode-only: to a part)."""
    from PIL import Image

    from napari_hyperthumb.compare import available_codecs, closest

    codec = next(codec for codec in available_codecs() if codec.name == name)
    part = image[:SAMPLE, :SAMPLE] if wanted.decode_only else image
    coded = closest(codec, part, nbytes * part.size // image.size)
    assert coded.quality is not None
    options = pillow_options(name, coded.quality, wanted.threads)

    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, name, **options)
        return buffer.getvalue()

    data = encode()

    def decode() -> None:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()

    label = {"AVIF": REFERENCE, "WebP": "WebP, method 6"}.get(name, name)
    return Timed(label + (" (no smaller file)" if coded.exceeds else ""), len(data), encode, decode)


def our_file(image: Pixels, scale: int, bpp: float, device: str) -> tuple[bytes, float]:
    """A file without moves, and its level: one that gives a part of the picture about so many bpp."""
    from napari_hyperthumb import load_model
    from napari_hyperthumb.device import pick_device
    from napari_hyperthumb.pipeline import PreparedImage
    from napari_hyperthumb.pixels import check_image

    def prepared(part: Pixels) -> PreparedImage:
        return PreparedImage(*check_image(part), load_model(f"ht-x{scale}"), pick_device(device))

    part = image[:SAMPLE, :SAMPLE]
    sample, low, high = prepared(part), -1.0, 1.0
    for _ in range(4):
        level = (low + high) / 2
        large = 8 * len(sample.code(level, rounds=0).data) > bpp * part.shape[0] * part.shape[1]
        low, high = (low, level) if large else (level, high)
    return prepared(image).code(level, rounds=0).data, level


def gmac(net: Any, pixels: int) -> float:
    """Of the convolutions of a decoder, ours or the published, over an image without surroundings."""
    import torch

    total = 0.0

    def count(module: Any, inputs: Any, out: Any) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    from napari_hyperthumb.jpeg import COEFFICIENTS

    block, scale, blocks = net.config.block, net.config.scale, 8
    convolutions = [m for m in net.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    side = blocks * block
    with torch.inference_mode():
        coefficients = torch.zeros(1, 3, COEFFICIENTS, blocks, blocks)
        lr = torch.zeros(1, 3, side // scale, side // scale)
        net.decoder(lr, coefficients, torch.ones(1, 2, COEFFICIENTS))
    for hook in hooks:
        hook.remove()
    return total / side**2 * pixels / 1e9


def backends(scale: int, device: str) -> list[str]:
    """Those that can run."""
    from napari_hyperthumb import load_model
    from napari_hyperthumb.backend import has_openvino
    from napari_hyperthumb.int8 import int8_of

    if device != "cpu" or not has_openvino():
        return ["torch"]
    int8 = int8_of(load_model(f"ht-x{scale}")) is not None
    return ["torch", "openvino", *(["openvino-int8"] if int8 else [])]


def our_timed(image: Pixels, scale: int, bpp: float, options: argparse.Namespace) -> list[Timed]:
    """Ours to a wanted bpp, and at the level that was found for it; decoded with each backend."""
    from napari_hyperthumb import decode, encode, load_model

    device, pixels = options.device, image.shape[0] * image.shape[1]
    rows: list[Timed] = []
    if options.decode_only:
        data, level = our_file(image, scale, bpp, device)
    else:
        found = encode(image, bpp=bpp, scale=scale, device=device)
        data, level = found.data, max(found.level, -1.0)
        one_pass = encode(image, level=level, scale=scale, device=device)
        rows = [
            Timed(
                f"HyperThumb x{scale}",
                found.nbytes,
                lambda: encode(image, bpp=bpp, scale=scale, device=device),
                None,
            ),
            Timed(
                f"HyperThumb x{scale}, level given",
                one_pass.nbytes,
                lambda: encode(image, level=level, scale=scale, device=device),
                None,
            ),
        ]

    work = gmac(load_model(f"ht-x{scale}").net, pixels) if device == "cpu" else None

    def decoded(backend: str) -> Timed:
        firsts: list[float] = []

        def run() -> None:
            began, shown = time.perf_counter(), []
            decode(data, device=device, backend=backend, show=lambda *_: shown.append(time.perf_counter()))
            firsts.append(shown[0] - began)

        reference = None if backend.endswith("int8") else work
        return Timed(f"HyperThumb x{scale}, {backend}", len(data), None, run, reference, first_times=firsts)

    return rows + [decoded(name) for name in backends(scale, device)]


def paper_timed(image: Pixels, options: argparse.Namespace) -> Timed:
    """The published decoder, from coefficients: its speed doesn't depend on weights, nor on the file."""
    import torch

    from napari_hyperthumb.bitstream import read_jpeg
    from napari_hyperthumb.checkpoint import Model
    from napari_hyperthumb.device import pick_device
    from napari_hyperthumb.paper import PaperConfig, PaperModel
    from napari_hyperthumb.pipeline import reconstruct
    from napari_hyperthumb.pixels import Format

    torch.manual_seed(0)
    net = PaperModel(PaperConfig()).eval().requires_grad_(False)
    model, device = Model(net, "paper", "0" * 16), pick_device(options.device)
    data, _ = our_file(image, 4, TARGETS[1][1], options.device)

    def decode() -> object:
        contents = read_jpeg(data)
        shape = (image.shape[0], image.shape[1])
        return reconstruct(contents.quantised, contents.tables, shape, Format(), model, device)

    work = gmac(net, image.shape[0] * image.shape[1]) if options.device == "cpu" else None
    return Timed(PAPER, len(data), None, decode, work)


def peak_timed() -> Timed:
    """A convolution that runs as fast as any, on the CPU."""
    import torch
    from torch.nn import functional as F

    x, weight = torch.randn(1, 64, 256, 256), torch.randn(64, 64, 3, 3)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))

    def run() -> None:
        with torch.inference_mode():
            for _ in range(10):
                F.conv2d(x, weight, padding=1)

    return Timed(PEAK, 0, None, run, 10 * x.numel() * weight[0].numel() / 1e9)


def measure(rows: Sequence[Timed], repeats: int) -> None:
    """Fill in the times; the rows take turns."""
    for repeat in range(repeats + 1):
        for row in rows:
            for action, times in ((row.encode, row.encode_times), (row.decode, row.decode_times)):
                took = seconds(action) if action else None
                if repeat and took is not None:  # the first round warms caches up
                    times.append(took)
        print(f"  {repeat} of {repeats} repeats", file=sys.stderr, flush=True)


def short(value: float) -> str:
    """Two digits at least."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def table(rows: Sequence[Timed], pixels: int) -> str:
    """Markdown."""

    def cells(times: Sequence[float], reference: Sequence[float]) -> list[str]:
        if not times:
            return ["-"] * 3
        middle = median(times)
        ratio = f"{middle / median(reference):.3g}" if reference else "-"
        return [short(1e3 * middle), short(1e9 * middle / pixels), ratio]

    def times_of(start: str) -> list[float]:
        return next((row.decode_times for row in rows if row.name.startswith(start)), [])

    def rate(row: Timed) -> float:
        return (row.gmac or 0.0) / median(row.decode_times)

    avif = next((row for row in rows if row.name.startswith(REFERENCE)), None)
    paper, peak = times_of(PAPER), next(row for row in rows if row.name == PEAK)
    heads = "bytes | encode, ms | ms/Mpx | / AVIF | decode, ms | ms/Mpx | / AVIF"
    lines = [f"| | {heads} | paper's / it | of peak | first part, ms |", "| --- |" + " ---: |" * 10]
    for row in rows:
        if row is peak:
            continue
        coding = cells(row.encode_times, avif.encode_times if avif else [])
        decoding = cells(row.decode_times, avif.decode_times if avif else [])
        faster = f"{median(paper) / median(row.decode_times):.3g}" if row.decode_times and paper else "-"
        share = f"{rate(row) / rate(peak):.0%}" if row.decode_times and row.gmac else "-"
        first = short(1e3 * median(row.first_times[1:])) if row.first_times else "-"
        cells_of = [f"{row.nbytes:,}", *coding, *decoding, faster, share, first]
        lines.append(f"| {row.name} | {' | '.join(cells_of)} |")
    lines.append(f"\nPeak: {2 * rate(peak):.0f} GFLOP/s ({PEAK}).")
    return "\n".join(lines)


def time_all(options: argparse.Namespace) -> None:
    import torch
    from PIL import AvifImagePlugin, features

    torch.set_num_threads(options.threads)
    AvifImagePlugin.DEFAULT_MAX_THREADS = options.threads
    print(describe_machine(options.threads, options.device))
    names = [name for name in ("AVIF", "WebP", "JPEG") if name == "JPEG" or features.check(name.lower())]
    for width, height in options.sizes:
        image = picture(options.image, width, height)
        for scale, bpp in TARGETS:
            print(f"{width}x{height}, {bpp:g} bpp", file=sys.stderr, flush=True)
            rows = our_timed(image, scale, bpp, options)
            rows += [paper_timed(image, options), peak_timed()]
            rows += [pillow_timed(name, image, rows[0].nbytes, options) for name in names]
            if options.decode_only:
                for row in rows:
                    row.encode = None
            measure(rows, options.repeats)
            print(f"\n{width}x{height}, {bpp:g} bpp, medians of {options.repeats}:\n")
            print(table(rows, width * height), flush=True)


def processor() -> str:
    """Name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_machine(threads: int, device: str) -> str:
    import torch
    from PIL import __version__ as pillow
    from PIL import features

    where = torch.cuda.get_device_name() if device.startswith("cuda") else device
    return (
        f"{processor()}, {os.cpu_count()} cores, {threads} thread(s), ours on {where}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, Pillow {pillow}, "
        f"libavif {features.version('avif')}, libwebp {features.version('webp')}"
    )


# ---- memory ----------------------------------------------------------------------------------


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def our_action(
    work: str, scale: int, source: Path, target: Path, options: argparse.Namespace
) -> Callable[[], object]:
    """Encode or decode with ours; imports, weights and input are loaded already."""
    import numpy as np
    import torch

    from napari_hyperthumb import decode, encode, load_model

    torch.set_num_threads(options.threads)
    load_model(f"ht-x{scale}")
    if work == "encode":
        image, bpp = np.load(source), dict(TARGETS)[scale]
        if options.decode_only:
            return lambda: target.write_bytes(our_file(image, scale, bpp, "cpu")[0])
        return lambda: target.write_bytes(encode(image, bpp=bpp, scale=scale, device="cpu").data)
    data = target.read_bytes()
    return lambda: decode(data, device="cpu", backend=work.removeprefix("decode "))


def pillow_action(work: str, name: str, source: Path, target: Path, threads: int) -> Callable[[], object]:
    """The same with a codec of Pillow's, at a middling quality."""
    import numpy as np
    from PIL import AvifImagePlugin, Image

    AvifImagePlugin.DEFAULT_MAX_THREADS = threads
    if work == "encode":
        image = np.load(source)
        options = pillow_options(name, 40, threads)
        return lambda: Image.fromarray(image).save(target, name, **options)

    def decode() -> object:
        with Image.open(target) as picture:
            return np.asarray(picture)

    return decode


def child(work: str, name: str, folder: Path, options: argparse.Namespace) -> None:
    """One operation in this process; what it took goes to stdout as JSON."""
    source, target = folder / "image.npy", folder / f"{name}.bin"
    if work == "image":
        import numpy as np

        np.save(source, picture(options.image, *options.memory))
        return
    if name.startswith("x"):
        action = our_action(work, int(name[1:]), source, target, options)
    else:
        action = pillow_action(work, name, source, target, options.threads)
    before = peak_mib()
    took = seconds(action)
    print(json.dumps({"before": before, "peak": peak_mib(), "seconds": took}))


def start(work: str, name: str, folder: str, options: argparse.Namespace) -> dict[str, float]:
    """Run `child` in a new process."""
    print(f"  {work} {name}", file=sys.stderr, flush=True)
    width, height = options.memory
    command = [sys.executable, __file__, "--child", work, name, folder]
    command += ["--memory", f"{width}x{height}", "--threads", str(options.threads)]
    if options.image is not None:
        command += ["--image", str(options.image)]
    if options.decode_only:
        command += ["--decode-only"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout or "{}")
    return result


def available() -> tuple[str, ...]:
    """As `backends`, but nothing is imported for it."""
    openvino = ("openvino", "openvino-int8") if find_spec("openvino") else ()
    return ("torch", *openvino)


def memory_all(options: argparse.Namespace) -> None:
    width, height = options.memory
    print(f"{processor()}, {os.cpu_count()} cores, {options.threads} thread(s)\n")
    print(f"{width}x{height} ({3 * width * height / 2**20:.0f} MiB of RGB), peak resident memory:\n")
    print("| | MiB | of them before the work | seconds |")
    print("| --- | ---: | ---: | ---: |")
    names = {"x2": "HyperThumb x2", "x4": "HyperThumb x4", "AVIF": REFERENCE, "JPEG": "JPEG"}
    with tempfile.TemporaryDirectory() as folder:
        start("image", "image", folder, options)
        for name, label in names.items():
            ours = name.startswith("x")
            for work in (
                "encode",
                *((f"decode {backend}" for backend in available()) if ours else ("decode",)),
            ):
                took = start(work, name, folder, options)
                if options.decode_only and work == "encode":
                    continue
                numbers = f"{took['peak']:.0f} | {took['before']:.0f} | {took['seconds']:.1f}"
                print(f"| {label}, {work} | {numbers} |", flush=True)


# ---- a new process ---------------------------------------------------------------------------


def cold_child(backend: str, file: Path) -> None:
    """Decode a file, and print the seconds of each stage since this process began to run our code."""
    stages: dict[str, float] = {}
    last = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[name], last = now - last, now

    import napari_hyperthumb

    stage("import napari_hyperthumb")
    assert "torch" not in sys.modules
    import torch

    stage("import torch")
    import napari_hyperthumb.codec

    stage("the rest of the codec")
    if backend.startswith("openvino"):
        import napari_hyperthumb.backend_openvino

        stage("import openvino")
    torch.set_num_threads(os.cpu_count() or 1)
    about = napari_hyperthumb.info(file)
    napari_hyperthumb.load_model(f"ht-x{about.scale}")
    stage("weights")
    napari_hyperthumb.decode(file, device="cpu", backend=backend)
    stage("first decode")
    napari_hyperthumb.decode(file, device="cpu", backend=backend)
    stage("second decode")
    print(json.dumps(stages))


def cold_all(options: argparse.Namespace) -> None:
    from napari_hyperthumb import load_model

    width, height = 768, 512
    load_model("ht-x2")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cold.ht.jpg"
        file.write_bytes(our_file(picture(options.image, width, height), 2, TARGETS[0][1], "cpu")[0])
        for backend in backends(2, "cpu"):
            runs = []
            for _ in range(options.repeats):
                command = [sys.executable, __file__, "--child", "cold", backend, str(file)]
                began = time.perf_counter()
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                whole = time.perf_counter() - began
                stages = json.loads(done.stdout)
                runs.append({**stages, "whole process": whole - stages["second decode"]})
            print(f"\n{width}x{height} in a new process, {backend}, medians of {options.repeats}:\n")
            print("| stage | seconds |\n| --- | ---: |")
            for name in runs[0]:
                print(f"| {name} | {median(run[name] for run in runs):.3f} |", flush=True)


# ---- the command line ------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image", type=Path, help="tiled and cropped to each size; default: a synthetic one")
    parser.add_argument("--sizes", nargs="+", type=size, default=[(768, 512)], help="default: 768x512")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--device", default="cpu", help="for ours; default: %(default)s")
    parser.add_argument("--memory", nargs="?", type=size, const=(6144, 3456), help="measure memory instead")
    parser.add_argument("--cold", action="store_true", help="time a first decode in a new process instead")
    parser.add_argument("--decode-only", action="store_true", help="don't time encoding")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.child:
            work, name, folder = options.child
            if work == "cold":
                cold_child(name, Path(folder))
                return 0
            child(work, name, Path(folder), options)
        elif options.memory:
            memory_all(options)
        elif options.cold:
            cold_all(options)
        else:
            time_all(options)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd)} failed", file=sys.stderr)
        return 1
    except ValueError as error:  # HyperThumbError is one
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
