"""Independent pieces of work in processes: each answer depends on its piece alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import TypeVar, cast

T = TypeVar("T")

# What forked processes inherit: closures cannot be sent to them.
_inherited: list[Callable[[int], object]] = []


def can_fork() -> bool:
    """Whether a process may be forked: one that is would lose the threads of its parent."""
    return "fork" in get_all_start_methods() and threading.active_count() == 1


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def map_forked(
    work: Callable[[int], T], count: int, jobs: int | None = None
) -> Generator[T, None, None]:
    """Yield ``work(0)`` to ``work(count - 1)`` in order, from as many processes as are of use.

    Parameters
    ----------
    work : callable
        Its answers can be pickled; what it changes is lost.
    jobs : int, optional
        Processes at most; those of the cores when absent.
    """
    jobs = min(num_cores() if jobs is None else jobs, count)
    if jobs < 2 or not can_fork():
        yield from map(work, range(count))
        return
    _inherited.append(work)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("fork"), initializer=ignore_interrupts)
    try:
        for answer in pool.map(_call, range(count)):
            yield cast(T, answer)
    finally:
        # After Ctrl-C: what is at work is finished, nothing else is begun.
        pool.shutdown(cancel_futures=True)
        _inherited.pop()


def _call(index: int) -> object:
    return _inherited[-1](index)
