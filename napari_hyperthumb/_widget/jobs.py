"""Work off the main thread: one job at a time, the latest request wins, all can be cancelled. No Qt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Report = Callable[[float], None]
Work = Callable[[Report], Any]
"""Runs on another thread; calls its argument with the fraction done, which raises when cancelled."""


class CancelledError(Exception):
    """Raised inside of work that nobody wants any more."""


def _nothing(*_: object) -> None:
    pass


@dataclass
class Job:
    """One piece of work and where its outcome goes; all but `work` run on the main thread."""

    work: Work
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    progress: Callable[[float], None] = _nothing
    cancelled: threading.Event = field(default_factory=threading.Event)


Start = Callable[[Callable[[Report], Any], Callable[[Any], None], Callable[[float], None]], None]
"""Runs the first on another thread and hands what it returns, and its progress, to the others here."""


def _on_thread() -> Start:
    from .threads import start_on_thread

    return start_on_thread


class Runner:
    """One job in flight and one waiting; a newer request takes the place of the one that waits.

    start: how a job gets onto a thread and its outcome back; tests hand in one that does it at once.
    behind: another runner that goes first: work here pauses while that one is busy.
    changed: called with whether there is work, whenever that changes.
    """

    def __init__(
        self,
        start: Start | None = None,
        *,
        behind: Runner | None = None,
        changed: Callable[[bool], None] = _nothing,
    ) -> None:
        self._start = start or _on_thread()
        self._behind = behind
        self._changed = changed
        self._running: Job | None = None
        self._waiting: Job | None = None
        self._closed = False
        self.idle = threading.Event()
        self.idle.set()

    @property
    def busy(self) -> bool:
        """Whether something runs or waits."""
        return self._running is not None

    def submit(
        self,
        work: Work,
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        progress: Callable[[float], None] = _nothing,
    ) -> None:
        """Run `work` as soon as the job in flight is over; whatever waited before is forgotten."""
        if self._closed:
            return
        self._waiting = Job(work, done, failed, progress)
        self._next()

    def cancel(self) -> None:
        """Forget what waits; what runs ends at its next report, and its outcome is dropped."""
        self._waiting = None
        if self._running is not None:
            self._running.cancelled.set()

    def close(self, *_: object) -> None:
        """Cancel for good: the widget is going away."""
        self._closed = True
        self.cancel()

    def _next(self) -> None:
        if self._running is not None or self._waiting is None:
            return
        job, self._waiting = self._waiting, None
        was_idle = self.idle.is_set()
        self._running = job
        self.idle.clear()
        if was_idle:
            self._changed(True)

        def finished(outcome: Any) -> None:
            self._running = None
            try:
                self._deliver(job, outcome)
            finally:
                self._next()
                if self._running is None:
                    self.idle.set()
                    if not self._closed:
                        self._changed(False)

        def progressed(fraction: float) -> None:
            if not (job.cancelled.is_set() or self._closed):
                job.progress(fraction)

        self._start(lambda tell: self._run(job, tell), finished, progressed)

    def _run(self, job: Job, tell: Report) -> Any:
        last = 0.0

        def report(fraction: float) -> None:
            nonlocal last
            while self._behind is not None and not self._behind.idle.wait(0.05):
                if job.cancelled.is_set():
                    break
            if job.cancelled.is_set():
                raise CancelledError
            now = time.perf_counter()
            if now - last > 0.05:
                last = now
                tell(fraction)

        try:
            report(0.0)
            return job.work(report)
        except Exception as error:  # handed over: an exception must not end in the thread
            return error

    def _deliver(self, job: Job, outcome: Any) -> None:
        if job.cancelled.is_set() or self._closed or isinstance(outcome, CancelledError):
            return
        if isinstance(outcome, Exception):
            job.failed(outcome)
        else:
            job.done(outcome)
