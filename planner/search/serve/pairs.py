"""Pairs of forms in order of what they could do, down to whole workers on whole domains.

Three bounds of a pair, each at most the one before, ``r = R_p, R_d`` requests per second of a
worker of ``w_p, w_d`` chips:

1. fractions of workers on chips that pieces of the two sizes can fill at all:
   ``N / (w_p / R_p + w_d / R_d)``, or ``rate w_p / R_p + rate w_d / R_d`` chips;
2. whole workers on as many chips: with ``x`` prefill workers in 1, either at most ``floor x`` of
   them, or at least one more, which leaves room for so many fewer of the others;
3. whole workers whose pieces fit into the domains (:mod:`planner.search.serve.rooms`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.search.serve.forms import Form, FormTable
from planner.search.serve.rooms import most_beside, staircase

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Workers of each pool, and the objective, smaller is better."""

    prefill: int
    decode: int
    value: float


@dataclass(slots=True)
class PairTable:
    """All pairs of forms on one machine.

    Parameters
    ----------
    domains : tuple of int
        Chips of every domain that workers may use.
    most_chips : int
        Chips that they may use together.
    num_chips : int
        Chips of the machine.
    rate : float, optional
        Requests per second that must be served; the fewest chips are then sought.
    workers : (int or None, int or None)
        Numbers of workers that are pinned.
    """

    domains: tuple[int, ...]
    most_chips: int
    num_chips: int
    rate: float | None
    workers: tuple[int | None, int | None]
    prefill: FormTable
    decode: FormTable
    _beside: dict[tuple[int, int], IntArray] = field(default_factory=dict)

    def bounds(self) -> tuple[list[Form], list[Form], FloatArray]:
        """Forms of both pools, and a bound of every pair, shape ``[prefill, decode]``."""
        mine, theirs = sorted(self.prefill.rate_bounds), sorted(self.decode.rate_bounds)
        rates_p = np.array([self.prefill.rate_bounds[form] for form in mine])[:, None]
        rates_d = np.array([self.decode.rate_bounds[form] for form in theirs])[None, :]
        chips_p = np.array([form.chips for form in mine], dtype=float)[:, None]
        chips_d = np.array([form.chips for form in theirs], dtype=float)[None, :]
        if self.rate is not None:
            whole_p = np.ceil(self.rate / rates_p * (1 - _ROUNDING))
            whole_d = np.ceil(self.rate / rates_d * (1 - _ROUNDING))
            used = whole_p * chips_p + whole_d * chips_d
            return mine, theirs, np.where(used <= self.most_chips, used, np.inf)
        room = self._filled(mine, theirs)
        most = room / (chips_p / rates_p + chips_d / rates_d)
        few = np.floor(most / rates_p * (1 + _ROUNDING))
        left = np.floor((room - (few + 1.0) * chips_p) / chips_d)
        whole = np.maximum(few * rates_p, np.maximum(left, 0.0) * rates_d)
        with np.errstate(divide="ignore"):
            return mine, theirs, np.where(whole > 0, self.num_chips / whole, np.inf)

    def _filled(self, mine: list[Form], theirs: list[Form]) -> FloatArray:
        """Most chips that pieces of both sizes fill, domain by domain."""
        sizes_p, place_p = np.unique([form.piece for form in mine], return_inverse=True)
        sizes_d, place_d = np.unique([form.piece for form in theirs], return_inverse=True)
        total = np.zeros((len(sizes_p), len(sizes_d)))
        for chips, count in sorted(Counter(self.domains).items()):
            for row, piece in enumerate(sizes_p.tolist()):
                for column, other in enumerate(sizes_d.tolist()):
                    beside = staircase(chips, piece, other)
                    filled = np.arange(len(beside)) * piece + beside * other
                    total[row, column] += count * int(filled.max())
        most = np.minimum(total, float(self.most_chips))
        return np.asarray(most[place_p][:, place_d])

    def needed(
        self, forms: tuple[Form, Form], other: tuple[float | None, float | None], target: float
    ) -> float:
        """Requests per second below which a worker cannot be part of an objective of ``target``.

        Parameters
        ----------
        other : (float or None, float or None)
            Requests per second of a decode worker where that of a prefill worker is sought, and
            the other way round.
        """
        if target == np.inf:
            return 0.0
        served = self.num_chips / target if self.rate is None else self.rate
        mine, theirs = self._numbers(forms)
        if self.rate is not None:
            left = target - mine * forms[0].chips
            theirs = np.minimum(theirs, left // forms[1].chips).astype(np.int64)
        of_decode, of_prefill = other
        if of_decode is not None:
            enough = theirs * of_decode >= served * (1 - _ROUNDING)
            most = int(mine[enough].max(initial=0))
        else:
            assert of_prefill is not None
            enough = mine * of_prefill >= served * (1 - _ROUNDING)
            most = int(theirs[enough].max(initial=0))
        return served / most * (1 - _ROUNDING) if most > 0 else np.inf

    def _numbers(self, forms: tuple[Form, Form]) -> tuple[IntArray, IntArray]:
        """Prefill workers, and the most decode workers that fit beside so many of them."""
        first, second = forms
        key = (first.piece, second.piece)
        if key not in self._beside:
            self._beside[key] = most_beside(self.domains, *key)
        beside = self._beside[key]
        mine = np.arange((len(beside) - 1) // first.num_pieces + 1)
        theirs = beside[mine * first.num_pieces] // second.num_pieces
        theirs = np.minimum(theirs, (self.most_chips - mine * first.chips) // second.chips)
        return mine, theirs

    def counts(self, forms: tuple[Form, Form], rates: tuple[float, float]) -> Counts | None:
        """Whole workers that fit and do best; None when no pair of them fits.

        Parameters
        ----------
        rates : (float, float)
            Requests per second of a worker of each form.
        """
        first, second = forms
        if min(rates) <= 0:
            return None
        mine, theirs = self._numbers(forms)
        allowed = (mine > 0) & (theirs > 0)
        pinned_p, pinned_d = self.workers
        if pinned_p is not None:
            allowed &= mine == pinned_p
        if pinned_d is not None:
            allowed &= theirs >= pinned_d
            theirs = np.minimum(theirs, pinned_d)
        served = np.where(allowed, np.minimum(mine * rates[0], theirs * rates[1]), 0.0)
        if self.rate is None:
            return self._throughput(mine, served, rates)
        enough = served >= self.rate * (1 - _ROUNDING)
        if not enough.any():
            return None
        few = int(mine[np.argmax(enough)])
        many = self._fewest(self.rate, rates[1], pinned_d)
        chips = few * first.chips + many * second.chips
        return Counts(prefill=few, decode=many, value=float(chips))

    def _throughput(
        self, mine: IntArray, served: FloatArray, rates: tuple[float, float]
    ) -> Counts | None:
        place = int(np.argmax(served))
        most = float(served[place])
        if most <= 0:
            return None
        many = self._fewest(most, rates[1], self.workers[1])
        return Counts(prefill=int(mine[place]), decode=many, value=self.num_chips / most)

    @staticmethod
    def _fewest(rate: float, of_worker: float, pinned: int | None) -> int:
        return int(np.ceil(rate / of_worker * (1 - _ROUNDING))) if pinned is None else pinned
