"""Ctrl-C and SIGTERM during training: the step at hand is finished, then the run stops."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStoppedError(KeyboardInterrupt):
    """A run was stopped by a signal; the message says where it goes on."""


class StopSignals:
    """Turns the first SIGINT or SIGTERM into ``KeyboardInterrupt`` where a run can stop.

    A second signal has its usual effect at once.

    Args:
        waits: Whether a signal outside :meth:`held` waits too. Processes that share a batch stop
            together, by what each has in ``requested``.

    Attributes:
        requested: Whether a signal has come.
    """

    def __init__(self, waits: bool = False) -> None:
        self.requested = False
        self._waits = waits
        self._before: dict[int, Any] = {}

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handles the signals inside; other threads than the main one cannot."""
        self.requested = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            self._restore()

    @contextmanager
    def held(self, waits: bool = True) -> Iterator[None]:
        """Sets inside whether signals wait for the end; then those that came take effect.

        Raises:
            KeyboardInterrupt: If one came that need not wait longer.
        """
        outside, self._waits = self._waits, waits
        try:
            self._check()
            yield
        finally:
            self._waits = outside
        self._check()

    def _check(self) -> None:
        if self.requested and not self._waits:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.requested = True
        self._check()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def init_worker(worker: int) -> None:
    """Leaves it to the training to end a process that loads data, quietly (``worker_init_fn``)."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    show = sys.excepthook

    def show_others(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        # A training that stops hangs up on what a worker is about to hand over.
        if not isinstance(error, EOFError | ConnectionError):
            show(kind, error, trace)

    sys.excepthook = show_others
