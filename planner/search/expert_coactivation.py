"""Moves copies so that experts which tokens choose together share a domain.

Sets        experts e, domains d (a chip each where the machine has none), chips g
Data        a_ef   tokens that chose e and f;  r_e copies;  w_e loads;  T load limit
Variables   n_ed   copies of e in domain d
Objective   most  sum_{e < f} a_ef / (r_e r_f) sum_d n_ed n_fd

Copies of an expert share its tokens evenly and independently of other experts, so that the
objective is the expected number of chosen pairs that one domain serves: what a dispatch that
sends a token once per domain saves.

Constraints
    distinct   no two copies of an expert on one chip
    hottest    no chip carries more than T
    spread     where asked for, the numbers of copies of an expert in two domains differ by
               at most one

Local search: the best exchange of two copies of different domains, with exact gains, until
none helps. **There is no certificate**: known bounds are too far away to be worth printing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.search.expert_bounds import SLACK, FloatArray, IntArray

_MAX_SWAPS = 400
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Together:
    """Slots after the exchanges, and the share of pairs in one domain before and after."""

    slots: IntArray
    before: float
    after: float
    num_swaps: int


def gather_pairs(
    slots: IntArray,
    loads_row: FloatArray,
    pairs: FloatArray,
    num_domains: int,
    limit: float,
    *,
    spread: bool = False,
) -> Together:
    """Exchange copies between domains while more pairs come together.

    Parameters
    ----------
    slots : int array, shape ``[num_chips, c_max]``
        Expert of each slot, -1 for none.
    loads_row : array, shape ``[num_experts]``
    pairs : array, shape ``[num_experts, num_experts]``
        Symmetric; the diagonal is not read.
    num_domains : int
        Divides the chips; domain d owns the d-th part of them.
    limit : float
        Load that no chip may exceed.
    spread : bool
        Whether copies must stay spread over the domains.
    """
    state = _Exchange(slots, loads_row, pairs, num_domains)
    state.limit, state.spread = limit, spread
    before = state.share()
    swaps = 0
    while swaps < _MAX_SWAPS and state.swap():
        swaps += 1
    return Together(slots=state.slots, before=before, after=state.share(), num_swaps=swaps)


class _Exchange:
    """A placement and the tables from which gains are read; one row per filled slot."""

    def __init__(
        self,
        slots: IntArray,
        loads_row: FloatArray,
        pairs: FloatArray,
        num_domains: int,
    ) -> None:
        num_experts = len(loads_row)
        self.slots = slots.copy()
        copies = np.bincount(slots[slots >= 0], minlength=num_experts)
        self.piece = loads_row / np.maximum(copies, 1)
        together = (pairs + pairs.T) / 2
        np.fill_diagonal(together, 0.0)
        self.total = float(together.sum())
        self.weight = together / np.outer(np.maximum(copies, 1), np.maximum(copies, 1))
        self.chip, self.place = np.nonzero(slots >= 0)
        per_domain = len(slots) // num_domains
        self.domain = self.chip // per_domain
        self.expert = slots[self.chip, self.place]
        self.limit = np.inf
        self.spread = False
        self.load = np.bincount(self.chip, weights=self.piece[self.expert], minlength=len(slots))
        self.holds = np.zeros((num_experts, len(slots)), dtype=bool)
        self.holds[self.expert, self.chip] = True
        self.inside = np.zeros((num_experts, num_domains))
        np.add.at(self.inside, (self.expert, self.domain), 1.0)
        # near[e, d]: weight of e with all copies in domain d; between: of two slots.
        self.near = self.weight @ self.inside
        self.between = self.weight[self.expert][:, self.expert]

    def share(self) -> float:
        """Part of the pairs that one domain serves, in [0, 1]."""
        if self.total <= 0:
            return 0.0
        return float((self.inside * (self.weight @ self.inside)).sum()) / self.total

    def swap(self) -> bool:
        """Make the best exchange, if one helps."""
        expert, domain, chip = self.expert, self.domain, self.chip
        slots = np.arange(len(expert))
        own = self.near[expert]
        moved = own[:, domain] - own[slots, domain][:, None]
        gain = moved + moved.T - 2 * self.between
        size = self.piece[expert]
        # Row: the copy that leaves; its chip takes the copy of the column instead.
        after = (self.load[chip] - size)[:, None] + size[None, :]
        blocked = self.holds[expert][:, chip] | (after > self.limit * (1 + SLACK))
        blocked |= domain[:, None] == domain[None]
        if self.spread:
            inside = self.inside[expert]
            blocked |= inside[:, domain] + 1 != inside[slots, domain][:, None]
        gain[blocked | blocked.T] = -np.inf
        best = int(gain.argmax())
        if not gain.flat[best] > _LEAST_GAIN * max(self.total, 1e-300):
            return False
        first, second = np.unravel_index(best, gain.shape)
        self._exchange(int(first), int(second))
        return True

    def _exchange(self, first: int, second: int) -> None:
        pair = [first, second]
        for one, other in ((first, second), (second, first)):
            expert, here, there = self.expert[one], self.chip[one], self.chip[other]
            self.holds[expert, here] = False
            self.inside[expert, self.domain[one]] -= 1
            self.near[:, self.domain[one]] -= self.weight[expert]
            self.load[here] -= self.piece[expert]
            self.holds[expert, there] = True
            self.inside[expert, self.domain[other]] += 1
            self.near[:, self.domain[other]] += self.weight[expert]
            self.load[there] += self.piece[expert]
        self.expert[pair] = self.expert[pair[::-1]]
        self.between[pair] = self.between[pair[::-1]]
        self.between[:, pair] = self.between[:, pair[::-1]]
        self.slots[self.chip[pair], self.place[pair]] = self.expert[pair]
