"""The same work on threads, processes and a Dask cluster; a worker that dies loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_photo
from typer.testing import CliRunner

pytest.importorskip("distributed")

from napari_hyperthumb import HyperThumbError, cli, encode, pool
from napari_hyperthumb.batch import EncodeOptions, encode_file
from napari_hyperthumb.pool import Pool

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, and a file that is none."""
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        Image.fromarray(np.roll(make_photo(64, 96), 9 * number, 1)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_workers_write_the_same_files_and_list_the_same_failures(folder, tmp_path, model_paths, models, kind):
    words = ["encode", str(folder), "-o", str(tmp_path / "out"), "--model", str(model_paths[2])]
    result = CliRunner().invoke(cli.app, [*words, "--workers", "2", "--pool", kind], catch_exceptions=False)
    assert result.exit_code == 1, result.output
    assert "1 of 7 failed" in result.stderr and "bad.png: not a picture" in result.stderr
    for number in range(COUNT):
        with Image.open(folder / f"{number}.png") as picture:
            expected = encode(np.asarray(picture), model=models[2]).data
        assert (tmp_path / "out" / f"{number}.ht.jpg").read_bytes() == expected
    again = CliRunner().invoke(
        cli.app, [*words, "--workers", "2", "--pool", "threads"], catch_exceptions=False
    )
    assert "7 of 7 failed" in again.stderr and "exists already" in again.stderr


def test_a_pyramid_by_several_workers_is_the_same(tmp_path, model_paths):
    pytest.importorskip("zarr")
    from napari_hyperthumb.pyramid import make_pyramid

    Image.fromarray(make_photo(200, 300)).save(tmp_path / "a.png")
    made = {}
    for name, workers in (("one", None), ("two", Pool(2, "threads"))):
        out = tmp_path / f"{name}.zarr"
        result = make_pyramid(tmp_path / "a.png", out, chunk=64, model=str(model_paths[2]), pool=workers)
        files = (path for path in out.rglob("*") if path.is_file())
        made[name] = result.costs, {path.relative_to(out): path.read_bytes() for path in files}
    (costs, files), (other_costs, other_files) = made["one"], made["two"]
    assert files == other_files
    assert other_costs[0].rms == pytest.approx(costs[0].rms)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [pool._threads(workers) for workers in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [pool._threads(workers) for workers in (1, 2, 8)] == [2, 2, 1]


def test_settings_that_exclude_each_other_are_refused(folder):
    for words in (["--workers", "2", "--scheduler", "tcp://x:1"], ["--workers", "0"]):
        assert CliRunner().invoke(cli.app, ["encode", str(folder), *words]).exit_code == 2
    result = CliRunner().invoke(cli.app, ["encode", "-", "--workers", "2"], input=b"")
    assert result.exit_code == 2 and "standard input" in result.stderr


def start(*words: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "dask", *words], **quiet)


def until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own: address, workers."""
    import json

    file = tmp_path / "scheduler.json"
    place = ("--scheduler-file", str(file))
    processes = [start("scheduler", *place, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        until(file.exists)
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
        processes += [
            start("worker", *place, *options, "--local-directory", str(tmp_path / f"worker{number}"))
            for number in range(2)
        ]
        yield json.loads(file.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_worker_loses_nothing(folder, tmp_path, model_paths, models, cluster):
    address, workers = cluster
    from dask.distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    options = EncodeOptions(model=str(model_paths[2]), level=0.0, effort="best", seconds=0.5)
    pieces = [
        (str(folder / f"{number}.png"), str(tmp_path / f"{number}.ht.jpg"), options)
        for number in range(COUNT)
    ]
    killed_at: list[float] = []

    def tell(done: float) -> None:
        if not killed_at:
            killed_at.append(done)
            os.kill(workers[0].pid, signal.SIGKILL)

    outcomes = list(Pool(scheduler=address).run(encode_file, pieces, tell))
    assert killed_at == [1] and workers[0].wait(10) == -signal.SIGKILL
    assert sorted(outcome.index for outcome in outcomes) == list(range(COUNT))
    assert all(outcome.error is None for outcome in outcomes)
    for number in range(COUNT):
        assert (tmp_path / f"{number}.ht.jpg").stat().st_size > 300
    assert not list(tmp_path.glob(".*"))


def test_a_scheduler_that_isnt_there_is_named(monkeypatch):
    monkeypatch.setattr(pool, "TIMEOUT", 0.5)
    with pytest.raises(HyperThumbError, match=r"127\.0\.0\.1:9.*dask scheduler"):
        list(Pool(scheduler="tcp://127.0.0.1:9").run(encode_file, [("a", "b", EncodeOptions())], print))
