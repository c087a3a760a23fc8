"""Predicting many rows: in order, in several processes, interruptible."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from planner.catalog.measured_rows import MeasuredRow
from planner.validation.bench import Bench
from planner.validation.outcome import Outcome
from planner.validation.predict_rows import predict_row

Progress = Callable[[int], None]
_CHUNK = 32  # rows: few enough to show progress, many enough to share a machine


Part = tuple[Outcome, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsRun:
    """Outcomes of each row, in order; None for rows that an interrupt left undone."""

    parts: tuple[Part | None, ...]

    @property
    def num_done(self) -> int:
        """Rows that were finished."""
        return sum(part is not None for part in self.parts)


def _ignore(done: int) -> None:
    """No progress is shown."""


def run_rows(rows: Sequence[MeasuredRow], jobs: int = 1, progress: Progress = _ignore) -> RowsRun:
    """Predict every row.

    Parameters
    ----------
    jobs : int
        Processes. The outcomes do not depend on it.
    progress : callable
        Called with the number of rows that have just been finished.

    Returns
    -------
    RowsRun
        After Ctrl-C, what was finished by then.

    Raises
    ------
    Exception
        As :func:`planner.validation.predict_rows.predict_row`.
    """
    several = jobs > 1 and len(rows) > 1
    parts = _in_processes(rows, jobs, progress) if several else _in_order(rows, progress)
    return RowsRun(parts=(*parts, *(None,) * (len(rows) - len(parts))))


def _in_order(rows: Sequence[MeasuredRow], progress: Progress) -> list[Part | None]:
    bench = Bench()
    parts: list[Part | None] = []
    try:
        for row in rows:
            parts.append(predict_row(row, bench))
            progress(1)
    except KeyboardInterrupt:
        pass
    return parts


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delays Ctrl-C to the end; processes that start meanwhile never see it.

    It reaches the whole group of processes, and a worker that is still importing would die
    of it. Only the parent decides what it means.

    Raises
    ------
    KeyboardInterrupt
        At the end, if Ctrl-C was pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is raised elsewhere
        return
    seen: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    # A new process inherits blocked signals but no handlers. Blocking alone would not do:
    # threads of numerical libraries take the signal for the main thread.
    blocks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if seen:
        raise KeyboardInterrupt


# One per worker process: machines and models stay between chunks.
_BENCH: list[Bench] = []


def _start_worker() -> None:
    # Where signals cannot be held, this is as early as they can be ignored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _BENCH.append(Bench())


def _predict_chunk(rows: Sequence[MeasuredRow]) -> list[Part]:
    return [predict_row(row, _BENCH[0]) for row in rows]


def _in_processes(rows: Sequence[MeasuredRow], jobs: int, progress: Progress) -> list[Part | None]:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    pool = ProcessPoolExecutor(
        max_workers=min(jobs, len(chunks)),
        # Libraries below run threads of their own, which a forked process would lose.
        mp_context=get_context("spawn"),
        initializer=_start_worker,
    )
    futures: list[Future[list[Part]]] = []
    try:
        with _interrupts_held():
            futures += [pool.submit(_predict_chunk, chunk) for chunk in chunks]
        for future, chunk in zip(futures, chunks, strict=True):
            future.result()
            progress(len(chunk))
    except KeyboardInterrupt:
        pass
    finally:
        # The library hangs when its shutdown is interrupted; this lasts one chunk at most.
        with _interrupts_held():
            pool.shutdown(cancel_futures=True)
    parts: list[Part | None] = []
    for future, chunk in zip(futures, chunks, strict=False):
        ready = future.done() and not future.cancelled() and future.exception() is None
        parts += future.result() if ready else [None] * len(chunk)
    return parts
