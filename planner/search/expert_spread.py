"""Placement whose copies are spread over domains (nodes or racks).

As ``expert_moves``, with domains d of equally many chips each, and one more constraint:

    spread     the numbers of copies of an expert in two domains differ by at most one

so that a token finds a copy near by as often as possible, and a lost domain takes as few
copies as possible. The bounds of ``expert_bounds`` hold as they are: the constraint only
removes placements.

Copies are dealt in descending order of load, each to the coldest chip that the rule allows;
local search swaps copies between chips, and splits the copies of two chips of a domain anew.
"""

from __future__ import annotations

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray
from planner.search.expert_moves import BoolArray, Packing


class SpreadPacking(Packing):
    """A packing that keeps the copies of each expert spread over ``num_domains`` domains.

    Attributes
    ----------
    domain : int array, shape ``[num_chips]``
    """

    def __init__(
        self,
        loads_row: FloatArray,
        caps: IntArray,
        num_domains: int,
        copies: IntArray | None = None,
    ) -> None:
        self.num_domains = num_domains
        self.domain = np.repeat(np.arange(num_domains), len(caps) // num_domains)
        super().__init__(loads_row, caps, copies=copies)

    def _pack(self, wanted: IntArray) -> None:
        """Deal copies in descending order; an expert that finds no place gets one fewer."""
        wanted = wanted.copy()
        while (stuck := self._deal(wanted)) is not None:
            wanted[stuck] -= 1
        self.copies = self.holds[: self.empty].sum(axis=1)
        self._reload()

    def _deal(self, wanted: IntArray) -> int | None:
        """Place all copies; the expert that found no allowed chip, if any.

        Slots for the experts of one copy are kept free: such a copy may go anywhere, so that
        it is never stuck.
        """
        self.slots[:] = self.empty
        self.holds[:] = False
        load = np.zeros(len(self.caps))
        used = np.zeros(len(self.caps), dtype=np.int64)
        piece = self.loads / wanted
        singles = int((wanted == 1).sum())
        free = int(self.caps.sum())
        for expert in np.argsort(-piece, kind="stable").tolist():
            count = int(wanted[expert])
            singles -= count == 1
            if free - count < singles:
                return int(expert)
            inside = np.zeros(self.num_domains, dtype=np.int64)
            for _ in range(count):
                allowed = inside[self.domain] == inside.min()
                chips = np.flatnonzero((used < self.caps) & ~self.holds[expert] & allowed)
                if not len(chips):
                    return int(expert)
                chip = int(chips[load[chips].argmin()])
                self.slots[chip, used[chip]] = expert
                self.holds[expert, chip] = True
                load[chip] += piece[expert]
                used[chip] += 1
                inside[self.domain[chip]] += 1
            free -= count
        return None

    def _forbidden(self, hot: int) -> BoolArray:
        """Swaps that would unbalance the domains of an expert, shape of :meth:`swap`."""
        counts = np.zeros((self.empty + 1, self.num_domains), dtype=np.int64)
        for domain in range(self.num_domains):
            counts[:, domain] = self.holds[:, self.domain == domain].sum(axis=1)
        here = int(self.domain[hot])
        # A copy may leave a domain only for one that has one copy fewer.
        leaves = counts[:, here][:, None] == counts + 1
        leaves[self.empty] = True
        enters = counts == counts[:, here][:, None] + 1
        enters[self.empty] = True
        outside = self.domain != here
        mine = ~leaves[self.slots[hot]][:, self.domain] & outside
        theirs = ~enters[self.slots, self.domain[:, None]] & outside[:, None]
        forbidden: BoolArray = mine[:, :, None] | theirs[None]
        return forbidden

    def _partners(self, hot: int) -> BoolArray:
        """Chips whose copies may be split anew with those of ``hot``."""
        own: BoolArray = self.domain == self.domain[hot]
        return own

    def replicate(self, hot: int) -> bool:
        """Numbers of copies stay as they are: another copy would have to be spread too."""
        return False
