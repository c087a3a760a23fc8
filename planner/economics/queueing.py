"""A train departs every ``T`` seconds and takes at most ``n`` requests: who waits how long.

Requests arrive at random (Poisson) at a load ``rho`` of what the trains carry. Those left on the
platform after a departure follow ``Q' = max(Q + A - n, 0)`` with ``A`` Poisson of mean
``m = rho n``. Their generating function is ``(n - m) (z - 1) / (z^n - exp(m (z - 1)))`` times
``(z - z_k) / (1 - z_k)`` for each of the ``n - 1`` roots of the denominator inside the unit disc
(N. Bailey, 1954), so that

    E[Q] = n / (2 (n - m)) - (n + m) / 2 + sum over k of 1 / (1 - z_k)

and by Little's law the mean wait is ``T/2 + T E[Q] / (rho n)``: half an interval for the next
train, and those who do not fit into it.

Assumptions
-----------
- Trains depart on time, whether full or empty.
- Nobody turns away, first come first served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.roofline import worst_wait_s
from planner.errors import SpecError

MAX_LOAD = 0.999
_SMALL = 1e-14
_MOST_STEPS = 60  # of Newton's method, which takes about ten


@dataclass(frozen=True, kw_only=True, slots=True)
class Trains:
    """Departures and the waits for them.

    Parameters
    ----------
    interval_s : float
        Between departures, and of the ride.
    places : int
        Requests of one train.
    load : float
        Arrivals over what the trains carry, in (0, 1).
    next_wait_s : float
        Mean wait for the next departure.
    mean_wait_s : float
        Mean wait for a place.
    worst_s : float
        Wait and ride of a request that has just missed a train which was not full: 2 T.
    """

    interval_s: float
    places: int
    load: float
    next_wait_s: float
    mean_wait_s: float
    worst_s: float

    @property
    def arrivals_per_s(self) -> float:
        """At the load."""
        return self.load * self.places / self.interval_s


def _roots(load: float, places: int) -> NDArray[np.complex128]:
    """The roots inside the unit disc: ``z = w exp(load (z - 1))``, ``w`` a root of unity."""
    unit = np.exp(2j * np.pi * np.arange(1, places) / places)
    z = np.zeros(places - 1, dtype=np.complex128)
    for _ in range(_MOST_STEPS):
        image = unit * np.exp(load * (z - 1.0))
        change = (z - image) / (1.0 - load * image)
        z = z - change
        if places == 1 or float(np.abs(change).max()) < _SMALL:
            break
    return z


def left_behind(load: float, places: int) -> float:
    """Mean number of requests for whom a train has no place.

    Parameters
    ----------
    load : float
        In (0, ``MAX_LOAD``].
    places : int
        Of a train, 1 or more.

    Raises
    ------
    SpecError
        The load is none.
    """
    if not 0 < load <= MAX_LOAD:
        raise SpecError(
            f"--load: {load:g} is not in (0, {MAX_LOAD:g}]",
            "at a load of 1 the queue grows without end; write for example --load 0.8",
        )
    mean = load * places
    inside = float(np.sum(1.0 / (1.0 - _roots(load, places))).real)
    return max(0.0, places / (2.0 * (places - mean)) - (places + mean) / 2.0 + inside)


def trains(interval_s: float, places: int, load: float) -> Trains:
    """Waits for trains that depart every ``interval_s``.

    Raises
    ------
    SpecError
        The load is none.
    """
    behind = left_behind(load, places)
    half = interval_s / 2.0
    return Trains(
        interval_s=interval_s,
        places=places,
        load=load,
        next_wait_s=half,
        mean_wait_s=half + interval_s * behind / (load * places),
        worst_s=worst_wait_s(interval_s),
    )


def slots_of_a_step(step_s: float, batch: float, output_tokens: float) -> tuple[float, int]:
    """Interval and places of the trains of a decode loop whose sequences end at random.

    A sequence leaves after ``output_tokens`` steps, so ``batch / output_tokens`` places become
    free per step; where that is less than one, one place every few steps.

    Returns
    -------
    (float, int)
        Seconds between departures, and places of each.
    """
    per_step = batch / output_tokens
    places = max(1, math.floor(per_step))
    return step_s * places / per_step, places
