"""Many pieces of work on one machine or many: here, on threads or processes, or on a Dask cluster.

The same Dask graph runs on all of them. A piece is a function of this package and arguments that can be
pickled; what a worker that dies had in hand is given to another one.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .errors import DependencyError, HyperThumbError, HyperThumbWarning

TIMEOUT = 20
"""Seconds that a scheduler has to answer."""
KINDS = ("processes", "threads")
Function = Callable[..., Any]
Tell = Callable[[float], None]
"""Called with how many pieces are done; what it raises ends the work."""


@dataclass(frozen=True)
class Outcome:
    """What became of one piece of work."""

    index: int
    value: Any = None
    notes: tuple[str, ...] = ()
    """Warnings of ours."""
    error: HyperThumbError | None = None


def attempt(function: Function, index: int, arguments: Sequence[Any], **options: Any) -> Outcome:
    """Do one piece of work; errors of ours are outcomes, others are raised."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HyperThumbWarning)
        try:
            value, error = function(*arguments, **options), None
        except HyperThumbError as raised:
            value, error = None, raised
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, HyperThumbWarning))
    return Outcome(index, value, notes, error)


def serial(function: Function, pieces: Sequence[Sequence[Any]], tell: Tell) -> Iterator[Outcome]:
    """One piece after the other, here; `function` takes a report of its own as `report`."""
    for index, arguments in enumerate(pieces):
        yield attempt(function, index, arguments, report=lambda fraction, index=index: tell(index + fraction))
        tell(index + 1)


def _on_worker(function: Function, index: int, arguments: Sequence[Any], threads: int) -> Outcome:
    import torch

    if torch.get_num_threads() != threads:  # one model a process, and workers don't fight for cores
        torch.set_num_threads(threads)
    return attempt(function, index, arguments)


def _threads(workers: int) -> int:
    """Of torch, for each of so many workers: the cores shared out, or fewer where OMP_NUM_THREADS says so."""
    share = max(1, (os.cpu_count() or 1) // workers)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


@dataclass(frozen=True)
class Pool:
    """Workers: `workers` of them on this machine, or those of a Dask scheduler.

    kind: "processes", or "threads" of this process.
    scheduler: address of a running one (tcp://host:8786) instead. Its workers need this package, and the same
    paths to the files.
    """

    workers: int = 1
    kind: str = "processes"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.kind not in KINDS:
            raise HyperThumbError(f"a pool needs 1 or more workers, on {' or '.join(KINDS)}")

    def run(self, function: Function, pieces: Sequence[Sequence[Any]], tell: Tell) -> Iterator[Outcome]:
        """Outcomes as they come, in no order.

        Raises DependencyError, or HyperThumbError where no scheduler answers.
        """
        try:
            from dask.delayed import delayed
            from dask.distributed import Client, as_completed
        except ImportError as error:
            raise DependencyError(
                "several workers need dask: pip install 'napari-hyperthumb[large]'"
            ) from error
        threads = 1 if self.scheduler else _threads(self.workers)
        once = delayed(_on_worker, pure=False)
        graph = [once(function, index, arguments, threads) for index, arguments in enumerate(pieces)]
        with ExitStack() as stack:
            client = stack.enter_context(self._client(Client, stack))
            futures = {future: index for index, future in enumerate(client.compute(graph))}
            for done, future in enumerate(as_completed(list(futures), loop=client.loop), 1):
                try:
                    outcome = future.result()
                except HyperThumbError:
                    raise
                except Exception as error:  # a piece that no worker survives, or a failure of ours
                    text = f"the worker failed: {type(error).__name__}: {error}"
                    outcome = Outcome(futures[future], error=HyperThumbError(text))
                tell(done)
                yield outcome

    def _client(self, make: Any, stack: ExitStack) -> Any:
        if self.scheduler is not None:
            try:
                return make(self.scheduler, timeout=TIMEOUT, set_as_default=False)
            except (OSError, ValueError, TimeoutError) as error:
                raise HyperThumbError(
                    f"no Dask scheduler answers at {self.scheduler}: {error}; start one with "
                    "`dask scheduler` and `dask worker ADDRESS`"
                ) from error
        from dask.distributed import LocalCluster

        processes = self.kind == "processes"
        cluster = LocalCluster(
            n_workers=self.workers if processes else 1,
            threads_per_worker=1 if processes else self.workers,
            processes=processes,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
            memory_limit=0,
        )
        return make(stack.enter_context(cluster), set_as_default=False)
