"""Work off the main thread where only the newest request counts. No widgets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Request = TypeVar("Request")
Update = TypeVar("Update")


class SupersededError(Exception):
    """Raised inside of work that a newer request makes worthless."""


class Latest(Generic[Request, Update]):
    """One request in flight; of those that come meanwhile only the last one is kept.

    work: a request to updates, one after the other, on a thread of its own. It is left between two of
    them as soon as a newer request waits, or inside of one where it calls `check`.
    show: takes every update, on that thread. failed: what the work raised. The thread lives only as long
    as there is something to do.
    """

    def __init__(
        self,
        work: Callable[[Request], Iterator[Update]],
        show: Callable[[Update], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._work, self._show, self._failed = work, show, failed
        self._waiting: list[Request] = []
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self.served = 0
        """Requests begun so far."""

    def submit(self, request: Request) -> None:
        """Ask for something: what waited before is forgotten, what is worked on is left soon."""
        with self._changed:
            self._waiting = [request]
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hyperthumb explorer", daemon=True)
                self._thread.start()

    def check(self, fraction: float = 0.0) -> None:
        """To call from within long work: raises SupersededError once something newer waits."""
        if self._waiting:
            raise SupersededError

    def pause(self, seconds: float) -> None:
        """Wait, unless something newer comes: then raises SupersededError."""
        with self._changed:
            if self._changed.wait_for(lambda: bool(self._waiting), seconds):
                raise SupersededError

    def wait(self, seconds: float | None = None) -> bool:
        """Until nothing is left to do; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                request = self._waiting.pop()
                self.served += 1
            try:
                for update in self._work(request):
                    self._show(update)
                    self.check()
            except SupersededError:
                continue
            except Exception as error:  # shown to the user: an exception must not end in the thread
                self._failed(error)
