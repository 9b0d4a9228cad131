"""What size costs: time and peak memory of pyramids from 1 to 400 Mpx, workers, seams, JPEG XL.

python benchmarks/scale.py sizes 1 4 16 64          # each in a process of its own, from a tiled TIFF
python benchmarks/scale.py sizes 400 --minutes 3    # stops after 3 minutes of work; again: goes on
python benchmarks/scale.py workers FOLDER 1 2       # throughput of `encode --workers N`, and its ceiling
python benchmarks/scale.py seams FOLDER             # error at seams and beside them
python benchmarks/scale.py jxl FOLDER               # bytes of the same files inside JPEG XL
python benchmarks/scale.py science FOLDER           # error of 16-bit images in their own units
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(tempfile.gettempdir()) / "hyperthumb-scale"
"""Where sources and unfinished pyramids stay between runs."""


def _tiles() -> list[bytes]:
    """64 compressed tiles of 256x256: colours, edges and grain that fit together in a square of eight."""
    rng = np.random.default_rng(0)
    out = []
    for top, left in np.ndindex(8, 8):
        y, x = np.mgrid[:256, :256] + 256 * np.array([top, left])[:, None, None]
        turn = 2 * np.pi / 2048
        cells = np.sin(89 * turn * x) * np.sin(67 * turn * y) + np.sin(36 * turn * (x + y))
        tile = np.stack([200 - 40 * (cells > 0.7), 150 + 40 * cells, 190 - 30 * np.sin(5 * turn * x)], 2)
        tile += rng.normal(0, 6, (256, 256, 1))
        out.append(zlib.compress(np.clip(tile, 0, 255).astype(np.uint8).tobytes()))
    return out


def source(megapixels: int) -> Path:
    """A synthetic RGB slide as a tiled TIFF, written tile by tile."""
    import tifffile

    side = round((megapixels * 1e6) ** 0.5 / 256)
    path = CACHE / f"{256 * side}.tif"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    tiles = _tiles()
    with tifffile.TiffWriter(path.with_suffix(".part"), bigtiff=True) as tiff:
        tiff.write(
            (tiles[top % 8 * 8 + left % 8] for top, left in np.ndindex(side, side)),
            shape=(256 * side, 256 * side, 3),
            dtype=np.uint8,
            tile=(256, 256),
            photometric="rgb",
            compression="zlib",
        )
    path.with_suffix(".part").rename(path)
    return path


class OutOfTimeError(Exception):
    """Enough for now."""


def one(megapixels: int, minutes: float) -> None:
    """Make one pyramid and print what it took as JSON; adds to what earlier runs took."""
    from napari_hyperthumb.pyramid import make_pyramid

    path = source(megapixels)
    out, notes = path.with_suffix(".zarr"), path.with_suffix(".json")
    before = (
        json.loads(notes.read_text())
        if notes.exists() and out.exists()
        else {"seconds": 0.0, "cpu": 0.0, "runs": 0}
    )
    start, fraction = time.perf_counter(), 0.0

    def progress(done: float) -> None:
        nonlocal fraction
        fraction = done
        if time.perf_counter() - start > 60 * minutes:
            raise OutOfTimeError

    made = None
    with contextlib.suppress(OutOfTimeError):
        made = make_pyramid(path, out, measure=False, progress=progress)
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss / 2**20
    found = {
        "megapixels": megapixels,
        "cpu": before["cpu"] + used.ru_utime + used.ru_stime,
        "seconds": before["seconds"] + time.perf_counter() - start,
        "runs": before["runs"] + 1,
        "peak_gib": max(before.get("peak_gib", 0.0), peak),
        "done": fraction,
        "bpp": None if made is None else made.bpp,
        "found_done": None if made is None else made.skipped,
    }
    notes.write_text(json.dumps(found))
    print(json.dumps(found))


def sizes(megapixels: list[int], minutes: float) -> None:
    """A table of time and memory, each size in a process of its own.

    CPU seconds hardly depend on what else the machine does; alone, and with one thread, they are the time.
    """
    print(f"{'Mpx':>5} {'seconds':>9} {'CPU-s':>8} {'CPU-s/Mpx':>9} {'peak GiB':>9} {'bpp':>6} {'runs':>5}")
    for size in megapixels:
        source(size)
        words = [sys.executable, __file__, "one", str(size), "--minutes", str(minutes)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        done = found["done"] * size
        rate = "-" if found["bpp"] is None else f"{found['bpp']:.3f}"
        print(
            f"{size:5d} {found['seconds']:9.1f} {found['cpu']:8.1f} {found['cpu'] / max(done, 1e-9):9.2f} "
            f"{found['peak_gib']:9.2f} {rate:>6} {found['runs']:5d}"
            + ("" if found["bpp"] else f"  {found['done']:.0%} done; again to go on"),
            flush=True,
        )


def _pieces(folder: Path, out: str, count: int) -> list[tuple[str, str, Any]]:
    """So many pictures to encode, the folder's own over and over."""
    from napari_hyperthumb.batch import EncodeOptions

    files = sorted(p for p in folder.iterdir() if p.is_file())
    options = EncodeOptions(level=0.0, scale=2)
    return [(str(files[n % len(files)]), f"{out}/{n}.ht.jpg", options) for n in range(count)]


def _timed(source: str, target: str, options: Any) -> tuple[int, float, float, float]:
    """Encode one picture; this process, when it began and ended, CPU seconds."""
    from napari_hyperthumb.batch import encode_file

    begun, cpu = time.time(), time.process_time()
    encode_file(source, target, options)
    return os.getpid(), begun, time.time(), time.process_time() - cpu


def _pool_rate(folder: Path, count: int, pictures: int) -> tuple[float, float, float]:
    """Pictures a second of so many workers, CPU seconds a picture, and seconds in all with their start.

    The sum of what each worker makes of its pictures but the first two: its start doesn't count.
    """
    from napari_hyperthumb.pool import Pool

    with tempfile.TemporaryDirectory() as out:
        pieces = _pieces(folder, out, pictures + 2 * count)
        work: dict[int, list[tuple[float, float]]] = {}
        cpu: list[float] = []
        start = time.perf_counter()
        for outcome in Pool(count).run(_timed, pieces, lambda done: None):
            assert outcome.error is None, outcome.error
            process, begun, ended, used = outcome.value
            work.setdefault(process, []).append((begun, ended))
            cpu.append(used)
        seconds = time.perf_counter() - start
    rate = 0.0
    for spans in work.values():
        spans.sort()
        rate += len(spans[2:]) / (spans[-1][1] - spans[2][0])
    return rate, float(np.median(cpu)), seconds


def alone(folder: Path, pictures: int) -> None:
    """Encode pictures in this process, once told to begin through standard input; print the seconds."""
    with tempfile.TemporaryDirectory() as out:
        pieces = _pieces(folder, out, pictures + 2)
        for piece in pieces[:2]:
            _timed(*piece)
        print("ready", flush=True)
        sys.stdin.readline()
        begun = time.perf_counter()
        for piece in pieces[2:]:
            _timed(*piece)
        print(time.perf_counter() - begun, flush=True)


def _side_by_side(folder: Path, count: int, pictures: int) -> float:
    """Pictures a second of so many independent processes that know nothing of each other."""
    words = [sys.executable, __file__, "alone", str(folder), "--pictures", str(pictures)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(words, **pipes) for _ in range(count)]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    seconds = [float(process.communicate()[0]) for process in processes]
    return sum(pictures / one for one in seconds)


def workers(folder: Path, counts: list[int], pictures: int, rounds: int) -> None:
    """Throughput of several workers against one, and what the machine itself gives: independent processes.

    Each has one thread. One after the other, `rounds` times; the best of each. The ceiling is what so many
    processes reach that share nothing: two threads of one core give far less than two cores.
    """
    print(f"{pictures} pictures a worker, best of {rounds}; start-up of the workers isn't counted")
    rates: dict[int, float] = {}
    ceilings: dict[int, float] = {}
    for number in range(rounds):
        for count in counts:
            rate, cpu, seconds = _pool_rate(folder, count, pictures * count)
            ceiling = _side_by_side(folder, count, pictures)
            rates[count] = max(rates.get(count, 0.0), rate)
            ceilings[count] = max(ceilings.get(count, 0.0), ceiling)
            print(
                f"round {number + 1}, {count} worker{'s' * (count > 1)}: {rate:.2f} pictures/s, "
                f"{cpu:.2f} CPU-s a picture, {seconds:.1f} s with start-up; "
                f"independent processes {ceiling:.2f} pictures/s",
                flush=True,
            )
    first = counts[0]
    for count in counts[1:]:
        ratio, ceiling = rates[count] / rates[first], ceilings[count] / ceilings[first]
        print(
            f"{count} workers against {first}: {ratio:.2f} times the throughput; independent processes "
            f"{ceiling:.2f} times; {ratio / ceiling:.0%} of that ceiling"
        )


def _crops(folder: Path, side: int, count: int) -> list[np.ndarray]:
    """A square of each of so many pictures that are large enough, from all over the folder."""
    from PIL import Image

    rng = np.random.default_rng(0)
    crops = []
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        with Image.open(file) as picture:
            if min(picture.size) < side:
                continue
            pixels = np.asarray(picture.convert("RGB"))
        top, left = (int(rng.integers(0, n - side + 1)) for n in pixels.shape[:2])
        crops.append(pixels[top : top + side, left : left + side].copy())
    return crops[:: max(1, len(crops) // count)][:count]


def _squared_errors(pixels: np.ndarray, scale: int, margin: int) -> np.ndarray:
    """Of a pyramid with chunks of 128, at each pixel."""
    import zarr
    from PIL import Image

    from napari_hyperthumb.pyramid import make_pyramid

    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "a.png"
        out = path.with_suffix(".zarr")
        Image.fromarray(pixels).save(path)
        make_pyramid(path, out, chunk=128, scale=scale, margin=margin, measure=False)
        back = np.moveaxis(zarr.open_array(out / "0", mode="r")[...], 0, -1)
    return ((back.astype(float) - pixels) ** 2).mean(2)


def seams(folder: Path, count: int) -> None:
    """RMS error by distance from the seams, of the same pixels on seams and in the middle of chunks.

    Each picture is coded twice, the second time moved by half a chunk: error depends on a pixel's place in
    the blocks of 8x8 and on what it shows, and both stay the same.
    """
    crops = _crops(folder, 448, count)
    distances = range(6)
    print(f"{len(crops)} crops of 448x448, chunks of 128; pixels from the seam: 0 to 5")
    for scale in (2, 4):
        for margin in (0, 4 * scale, 12 * scale):
            found = []
            for crop in crops:
                still = _squared_errors(crop[:384, :384], scale, margin)[64:, 64:]
                moved = _squared_errors(crop[64:, 64:], scale, margin)[:320, :320]
                on, off = np.zeros(len(distances)), np.zeros(len(distances))
                for seam, (with_it, without) in (
                    (64, (still, moved)),
                    (192, (still, moved)),
                    (128, (moved, still)),
                    (256, (moved, still)),
                ):
                    for n in distances:
                        for line in (seam + n, seam - 1 - n):
                            on[n] += with_it[line].mean() + with_it[:, line].mean()
                            off[n] += without[line].mean() + without[:, line].mean()
                found.append(np.stack([on, off]) / off.mean())
            on, off = np.sqrt(np.mean(found, 0))
            each = np.sqrt([one[0] / one[1] for one in found])
            sure = (each[:, 0] / each[:, 2]).std() / len(found) ** 0.5
            with np.printoptions(precision=3, floatmode="fixed"):
                print(
                    f"scale {scale} margin {margin:2d}: on seams {on}, in the middle {off}, ratio {on / off}"
                )
            raw, place = on[0] / on[2], off[0] / off[2]
            print(
                f"  at the seam against 2 pixels inside: {raw - 1:+.1%}, the same places in the middle: "
                f"{place - 1:+.1%}; so by the seam {raw / place - 1:+.1%} (standard error {sure:.1%})",
                flush=True,
            )


def jxl(folder: Path, count: int) -> None:
    """Bytes of the same coefficients as Pillow's plain JPEG, as ours, and inside JPEG XL."""
    import io

    from PIL import Image

    from napari_hyperthumb import encode
    from napari_hyperthumb.transport import from_jxl, to_jxl

    crops = _crops(folder, 512, count)
    print(
        f"{len(crops)} crops of 512x512, bytes: baseline JPEG, with Huffman tables of its own, ours, JPEG XL"
    )
    for scale, level in ((2, -0.5), (2, 0.5), (4, 0.0)):
        sums = np.zeros(4, np.int64)
        for crop in crops:
            data = encode(crop, level=level, scale=scale).data
            inside = to_jxl(data)
            assert from_jxl(inside) == data
            files = [io.BytesIO(), io.BytesIO()]
            with Image.open(io.BytesIO(data)) as picture:
                picture.draft("YCbCr", picture.size)  # no rounding between: the same coefficients
                same = {"qtables": picture.quantization, "comment": picture.info["comment"], "subsampling": 0}
                for file, optimize in zip(files, (False, True), strict=True):
                    picture.save(file, "JPEG", optimize=optimize, **same)
            sums += [*(file.tell() for file in files), len(data), len(inside)]
        plain, optimised, ours, packed = (int(total) for total in sums)
        print(
            f"scale {scale} level {level:+.1f}: {plain}, {optimised}, {ours}, {packed}; JPEG XL to them: "
            f"{packed / plain - 1:+.1%}, {packed / optimised - 1:+.1%}, {packed / ours - 1:+.1%}"
        )


def science(folder: Path) -> None:
    """16-bit images and channels of a folder: error in their own units; none wraps or flattens."""
    from napari_hyperthumb import encode_stack
    from napari_hyperthumb.batch import read_with_axes

    print(f"{'image':36} {'range':>13} scale level {'bpp':>6} {'max':>6} {'RMS':>8} of range  corr. values")
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            array, axes = read_with_axes(str(file), None)
        except ValueError:
            continue
        if array.dtype != np.uint16:
            continue
        for scale, level in ((2, 0.0), (4, 0.0), (2, 1.0)):
            stack = encode_stack(array, axes or "YX", level=level, scale=scale)
            decoded = stack.decode()
            several = stack.layout.channels > 1
            for channel, ((low, high), cost) in enumerate(zip(stack.ranges, stack.costs or (), strict=True)):
                before, back = (one[channel] if several else one for one in (array, decoded))
                assert back.min() >= low and back.max() <= high and cost.clipped == 0
                alike = np.corrcoef(before.ravel(), back.ravel())[0, 1]
                name = file.stem + (f" {channel}" if several else "")
                print(
                    f"{name[-36:]:36} {low:6.0f} {high:6.0f} {scale:5d} {level:5.1f} {stack.bpp:6.3f} "
                    f"{cost.maximum:6.0f} {cost.rms:8.2f} {cost.rms / (high - low):8.2%} {alike:6.3f} "
                    f"{len(np.unique(back)):6d}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["sizes", "one", "workers", "alone", "seams", "jxl", "science"])
    parser.add_argument("words", nargs="+", help="sizes in Mpx, or a folder and numbers of workers")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop each pyramid after so long")
    parser.add_argument("--pictures", type=int, default=24, help="that each worker encodes, or crops")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    given = parser.parse_args()
    if given.what == "one":
        one(int(given.words[0]), given.minutes)
    elif given.what == "sizes":
        sizes([int(word) for word in given.words], given.minutes)
    elif given.what == "workers":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        counts = [int(word) for word in given.words[1:]] or [1, 2]
        workers(Path(given.words[0]), counts, given.pictures, given.rounds)
    elif given.what == "science":
        science(Path(given.words[0]))
    elif given.what == "alone":
        alone(Path(given.words[0]), given.pictures)
    else:
        {"seams": seams, "jxl": jxl}[given.what](Path(given.words[0]), given.pictures)


if __name__ == "__main__":
    main()
