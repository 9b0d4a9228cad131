"""What size costs: time and peak memory of pyramids from 1 to 400 Mpx, workers, seams, JPEG XL.

python benchmarks/scale.py sizes 1 4 16 64          # each in a process of its own, from a tiled TIFF
python benchmarks/scale.py sizes 400 --minutes 3    # stops after 3 minutes of work; again: goes on
python benchmarks/scale.py workers FOLDER 1 2       # throughput of `hyperthumb encode --workers N`
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
    before = json.loads(notes.read_text()) if notes.exists() and out.exists() else {"seconds": 0.0, "runs": 0}
    start, fraction = time.perf_counter(), 0.0

    def progress(done: float) -> None:
        nonlocal fraction
        fraction = done
        if time.perf_counter() - start > 60 * minutes:
            raise OutOfTimeError

    made = None
    with contextlib.suppress(OutOfTimeError):
        made = make_pyramid(path, out, measure=False, progress=progress)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {
        "megapixels": megapixels,
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
    """A table of time and memory, each size in a process of its own."""
    print(f"{'Mpx':>5} {'seconds':>9} {'s/Mpx':>7} {'peak GiB':>9} {'bpp':>6} {'runs':>5}")
    for size in megapixels:
        source(size)
        words = [sys.executable, __file__, "one", str(size), "--minutes", str(minutes)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        done = found["done"] * size
        rate = "-" if found["bpp"] is None else f"{found['bpp']:.3f}"
        print(
            f"{size:5d} {found['seconds']:9.1f} {found['seconds'] / max(done, 1e-9):7.2f} "
            f"{found['peak_gib']:9.2f} {rate:>6} {found['runs']:5d}"
            + ("" if found["bpp"] else f"  {found['done']:.0%} done; again to go on"),
            flush=True,
        )


def workers(folder: Path, counts: list[int]) -> None:
    """Pictures a second with so many worker processes, their start not counted, and CPU time for each.

    On a machine with other work, CPU time says more: where it stays the same, the workers don't disturb each
    other, and so many free cores do so many times the work.
    """
    from napari_hyperthumb.batch import EncodeOptions, encode_file
    from napari_hyperthumb.pool import Pool

    def timed(source: str, target: str, options: EncodeOptions) -> float:
        begun = time.process_time()
        encode_file(source, target, options)
        return time.process_time() - begun

    files = sorted(p for p in folder.iterdir() if p.is_file())
    with tempfile.TemporaryDirectory() as out:
        for count in counts:
            options = EncodeOptions(level=0.0, scale=2)
            warm = [(str(files[0]), f"{out}/warm{n}.ht.jpg", options) for n in range(2 * count)]
            pieces = warm + [(str(file), f"{out}/{file.stem}.ht.jpg", options) for file in files]
            stamps: list[float] = []
            cpu: list[float] = []
            for outcome in Pool(count).run(timed, pieces, lambda done: None):
                assert outcome.error is None, outcome.error
                stamps.append(time.perf_counter())
                if outcome.index >= len(warm):
                    cpu.append(outcome.value)
            begun = stamps[len(warm) - 1]
            rate = (len(pieces) - len(warm)) / (stamps[-1] - begun)
            print(f"{count} workers: {rate:.2f} pictures/s, {np.mean(cpu):.2f} CPU-s a picture", flush=True)


def _crops(folder: Path, side: int) -> list[np.ndarray]:
    from PIL import Image

    rng = np.random.default_rng(0)
    crops = []
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        with Image.open(file) as picture:
            if min(picture.size) < side:
                continue
            pixels = np.asarray(picture.convert("RGB"))
        top, left = (int(rng.integers(0, n - side + 1)) for n in pixels.shape[:2])
        crops.append(pixels[top : top + side, left : left + side])
    return crops


def seams(folder: Path) -> None:
    """RMS error by distance from the seams, relative to the whole image's; mean over crops of pictures."""
    import zarr
    from PIL import Image

    from napari_hyperthumb.pyramid import make_pyramid

    crops = _crops(folder, 384)
    print(f"{len(crops)} crops of 384x384, chunks of 128; pixels from the seam: 0 to 5")
    for scale in (2, 4):
        for margin in (0, 4 * scale, 12 * scale):
            found = []
            for crop in crops:
                with tempfile.TemporaryDirectory() as temporary:
                    path = Path(temporary) / "a.png"
                    Image.fromarray(crop).save(path)
                    make_pyramid(
                        path, path.with_suffix(".zarr"), chunk=128, scale=scale, margin=margin, measure=False
                    )
                    back = np.moveaxis(zarr.open_array(path.with_suffix(".zarr") / "0", mode="r")[...], 0, -1)
                error = ((back.astype(float) - crop) ** 2).mean(2)
                at = np.array([128, 256])
                lines = [[*(at + distance), *(at - 1 - distance)] for distance in range(6)]
                near = np.array([(error[one].mean() + error[:, one].mean()) / 2 for one in lines])
                found.append(near / error.mean())
            print(f"scale {scale} margin {margin:2d}: ", np.sqrt(np.mean(found, 0)).round(3), flush=True)


def jxl(folder: Path) -> None:
    """Bytes of the same thumbnails as JPEG and inside JPEG XL."""
    from napari_hyperthumb import encode
    from napari_hyperthumb.transport import from_jxl, to_jxl

    crops = _crops(folder, 512)
    for scale, level in ((2, -0.5), (2, 0.5), (4, 0.0)):
        plain = packed = 0
        for crop in crops:
            data = encode(crop, level=level, scale=scale).data
            inside = to_jxl(data)
            assert from_jxl(inside) == data
            plain, packed = plain + len(data), packed + len(inside)
        print(
            f"scale {scale} level {level:+.1f}: {plain} bytes, {packed} in JPEG XL, {packed / plain - 1:+.1%}"
        )


def science(folder: Path) -> None:
    """16-bit images of a folder at level 0 and 1: error in their own units, and steps that come back."""
    from napari_hyperthumb import decode, encode
    from napari_hyperthumb.batch import read_with_axes
    from napari_hyperthumb.channels import cost_of

    print(f"{'image':40} {'range':>13} level {'bpp':>6} {'max':>7} {'RMS':>8} of range  values")
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            array, axes = read_with_axes(str(file), None)
        except ValueError:
            continue
        if array.dtype != np.uint16 or axes not in (None, "YX") or array.ndim != 2:
            continue
        low, high = float(array.min()), float(array.max())
        for level in (0.0, 1.0):
            thumbnail = encode(array, level=level, scale=2)
            back = decode(thumbnail.data)
            cost = cost_of(array, back, (low, high))
            assert back.min() >= low and back.max() <= high and back.min() < back.max()
            share, values = cost.rms / (high - low), len(np.unique(back))
            print(
                f"{file.name[-40:]:40} {low:6.0f} {high:6.0f} {level:5.1f} {thumbnail.bpp:6.3f} "
                f"{cost.maximum:7.0f} {cost.rms:8.2f} {share:8.2%} {values:7d}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["sizes", "one", "workers", "seams", "jxl", "science"])
    parser.add_argument("words", nargs="+", help="sizes in Mpx, or a folder and numbers of workers")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop each pyramid after so long")
    given = parser.parse_args()
    if given.what == "one":
        one(int(given.words[0]), given.minutes)
    elif given.what == "sizes":
        sizes([int(word) for word in given.words], given.minutes)
    elif given.what == "workers":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        workers(Path(given.words[0]), [int(word) for word in given.words[1:]] or [1, 2])
    else:
        {"seams": seams, "jxl": jxl, "science": science}[given.what](Path(given.words[0]))


if __name__ == "__main__":
    main()
