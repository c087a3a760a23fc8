"""When a search stops, and what it tells meanwhile.

Every search solves strategies in order of their bound and asks this object between them:

    control = SearchControl(gap, time_limit_s, progress)
    with control.listening(request.interruptible):
        control.begin(remaining, smallest_bound)
        for bound, strategy in in_order_of_bound:
            if control.enough(bound) or control.stopped():
                break
            try:
                value = control.attempt(lambda: solve(strategy))
            except UnfinishedError:
                break
            control.offer(value)
            control.report(next_bound)

When Ctrl-C and the time limit are honoured
-------------------------------------------
* Between strategies: at once.
* While a strategy is being solved, within :func:`SearchControl.listening`:
  :data:`GRACE_S` later that strategy is left unfinished. A call into a compiled solver ends
  first; :meth:`SearchControl.time_left_s` is what it should be given as its own limit.
* While there is no incumbent: Ctrl-C raises ``KeyboardInterrupt`` at once, and the time limit
  waits for the first incumbent, since an answer without a layout is none.
* The second Ctrl-C raises ``KeyboardInterrupt`` at once.
* Outside of ``listening``, or in it but not in the main thread: Ctrl-C is not handled here,
  the time limit is honoured between strategies.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal, TypeVar

T = TypeVar("T")
Why = Literal["gap", "time limit", "interrupted", "exhausted"]

# How long a strategy may still be solved after Ctrl-C or the time limit.
GRACE_S = 0.7
# How long a signal that was sent may take to arrive.
_DELIVERY_S = 0.2


class UnfinishedError(Exception):
    """A strategy was left while it was being solved; it counts as not solved."""


class _OverdueError(Exception):
    """Raised by the signal handler inside of :meth:`SearchControl.attempt`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState:
    """How far a search is.

    Parameters
    ----------
    incumbent : float
        Objective of the best layout so far, smaller is better; infinite while there is none.
    bound : float
        Nothing that is not solved yet is better than this.
    gap : float
        ``(incumbent - bound) / incumbent``, at least 0; infinite without an incumbent.
    solved, remaining : int
        Strategies.
    elapsed_s : float
        Since the search was set up.
    """

    incumbent: float
    bound: float
    gap: float
    solved: int
    remaining: int
    elapsed_s: float


Progress = Callable[[SearchState], None]


class SearchControl:
    """Incumbent, bound, counts, deadline and interrupt of one search.

    Parameters
    ----------
    gap : float
        The search is done when the next bound cannot improve the incumbent by more than this
        share of it, in [0, 1).
    time_limit_s : float, optional
        Seconds from now on.
    progress : callable, optional
        Told the :class:`SearchState` by :meth:`report`.
    """

    def __init__(
        self, gap: float, time_limit_s: float | None = None, progress: Progress | None = None
    ) -> None:
        self.gap = gap
        self.incumbent = math.inf
        self.solved = 0
        self.remaining = 0
        self._progress = progress
        self._started = time.monotonic()
        self._limit_s = time_limit_s
        self._why: Why | None = None
        self._interrupted_s = math.inf
        self._attempting = False
        self._alarmed = False
        self._timers: list[threading.Timer] | None = None
        self._lock = threading.RLock()

    @property
    def why(self) -> Why:
        """Why the search stopped, or would if nothing were left to solve.

        ``exhausted``: every strategy that may meet the limits was solved. What stopped the
        search first stays the reason.
        """
        return self._why or "exhausted"

    @property
    def _is_interrupted(self) -> bool:
        return not math.isinf(self._interrupted_s)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search was set up."""
        return time.monotonic() - self._started

    def time_left_s(self) -> float | None:
        """Limit for a call into a compiled solver, in seconds, None for no limit.

        At least :data:`GRACE_S` while there is an incumbent; without one there is no limit.
        """
        if math.isinf(self.incumbent):
            return None
        if self._is_interrupted:
            return GRACE_S
        return None if self._limit_s is None else max(GRACE_S, self._limit_s - self.elapsed_s)

    def begin(self, remaining: int, bound: float = 0.0) -> None:
        """Say how many strategies are left to bound, then how many to solve and their bound."""
        self.remaining = remaining
        self._tell(bound)

    def enough(self, bound: float) -> bool:
        """Whether nothing whose objective is at least ``bound`` is worth solving."""
        if bound == math.inf:
            self._why = self._why or "exhausted"
            return True
        if math.isinf(self.incumbent) or bound < self.incumbent * (1.0 - self.gap):
            return False
        self._why = self._why or "gap"
        return True

    def stopped(self) -> bool:
        """Whether to end now with the incumbent: after Ctrl-C, or the time limit.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, when there is no incumbent.
        """
        none = math.isinf(self.incumbent)
        if self._is_interrupted and none:
            raise KeyboardInterrupt
        if self._is_interrupted:
            self._why = self._why or "interrupted"
        elif self._is_late() and not none:
            self._why = self._why or "time limit"
        else:
            return False
        return True

    def is_overdue(self) -> bool:
        """Whether what follows the search must be cut short too: :data:`GRACE_S` have passed."""
        if math.isinf(self.incumbent):
            return False
        return self._interrupted_s + GRACE_S <= self.elapsed_s or self._is_late(GRACE_S)

    def _is_late(self, grace_s: float = 0.0) -> bool:
        return self._limit_s is not None and self.elapsed_s >= self._limit_s + grace_s

    def offer(self, value: float) -> None:
        """Keep the objective of a solved strategy if it is the best so far."""
        self.incumbent = min(self.incumbent, value)

    def report(self, bound: float) -> None:
        """Count one solved strategy and tell how far the search is.

        ``bound`` is the smallest of the strategies not solved yet, infinite if none is left.
        """
        self.solved += 1
        self.remaining = max(0, self.remaining - 1)
        if bound == math.inf:
            self._why = self._why or "exhausted"
        self._tell(bound)

    def _tell(self, bound: float) -> None:
        if self._progress is not None:
            self._progress(self.state(bound))

    def state(self, bound: float) -> SearchState:
        """How far the search is, given the next bound."""
        none = math.isinf(self.incumbent)
        bound = min(bound, self.incumbent)
        gap = math.inf if none else (self.incumbent - bound) / self.incumbent
        return SearchState(
            incumbent=self.incumbent,
            bound=bound,
            gap=gap,
            solved=self.solved,
            remaining=self.remaining,
            elapsed_s=self.elapsed_s,
        )

    def attempt(self, solve: Callable[[], T]) -> T:
        """Solve one strategy, unless that takes too long after Ctrl-C or the time limit.

        Raises
        ------
        UnfinishedError
            It was left unfinished; :meth:`stopped` is true from now on.
        """
        # The handler raises only between these two assignments, so it is caught for sure.
        try:
            self._attempting = True
            found = solve()
            self._attempting = False
            return found
        except _OverdueError:
            self.stopped()
            raise UnfinishedError from None
        finally:
            self._attempting = False

    @contextmanager
    def listening(self, on: bool = True) -> Iterator[None]:
        """Catch Ctrl-C, in the main thread; the handler from before comes back at the end.

        Parameters
        ----------
        on : bool
            False leaves Ctrl-C alone.
        """
        if not on or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN or before is None:
            # Ignored, as in the background of a shell, or handled outside of Python.
            yield
            return
        self._timers = []
        signal.signal(signal.SIGINT, self._on_signal)
        if self._limit_s is not None:
            self._alarm_in(max(0.0, self._limit_s - self.elapsed_s) + GRACE_S)
        try:
            yield
        finally:
            with self._lock:
                timers, self._timers = self._timers, None
            for timer in timers:
                timer.cancel()
            # An alarm on its way must find our handler, not the one from before.
            until = time.perf_counter() + _DELIVERY_S
            while self._alarmed and time.perf_counter() < until:
                time.sleep(0)
            signal.signal(signal.SIGINT, before)

    def _alarm_in(self, seconds: float) -> None:
        with self._lock:
            if self._timers is None or seconds > threading.TIMEOUT_MAX:
                return
            timer = threading.Timer(seconds, self._alarm)
            timer.daemon = True
            self._timers.append(timer)
        timer.start()

    def _alarm(self) -> None:
        """Send the main thread a signal, one at a time, so that none is taken for Ctrl-C."""
        with self._lock:
            if self._timers is None or self._alarmed:
                return
            self._alarmed = True
            main = threading.main_thread().ident
            if hasattr(signal, "pthread_kill") and main is not None:
                # Unlike a signal to this thread, it also ends a wait of the main thread.
                signal.pthread_kill(main, signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._alarmed:
            self._alarmed = False
            if self._attempting and not math.isinf(self.incumbent):
                self._attempting = False
                raise _OverdueError
            return
        if self._is_interrupted or math.isinf(self.incumbent):
            self._interrupted_s = self.elapsed_s
            raise KeyboardInterrupt
        self._interrupted_s = self.elapsed_s
        self._alarm_in(GRACE_S)
