"""Which meshes lie on a machine so that one group of an axis stands for all of them.

Ranks fill the chips in order, and a collective is priced on its first group. The others must
look the same: a block of ``span`` consecutive ranks, the reach of a group, must lie alike
wherever it starts. Inside equal parts of ``size`` chips (domains; levels of switches; units
of a fabric with fewer uplinks than downlinks) it does

    if span divides size                  blocks lie inside parts
    if span is a multiple of size / 2     whole parts, and half of one at one end or the other

On a torus blocks must be boxes of one form: the span divides, or is a multiple of, the chips of
every slab that the innermost axes make. No condition where all ranks lie in one part, or where
the block is the only one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from planner.domain.scale_up import SwitchDomain
from planner.topology.graph import Topology

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
# Chips of a part, and whether half of one may be left over at an end.
Part = tuple[int, bool]


def parts_of(topology: Topology) -> tuple[Part, ...]:
    """Parts of a machine whose borders a collective can feel, smallest first."""
    largest = max(len(domain) for domain in topology.domains)
    found: list[Part] = []
    if topology.is_torus:
        slab = 1
        # The last coordinate runs fastest.
        for length in reversed(topology.spec.shape):
            slab *= length
            found.append((slab, False))
    else:
        scale_up = topology.spec.scale_up
        levels = scale_up.levels[:-1] if isinstance(scale_up, SwitchDomain) else ()
        found += [(level.span, True) for level in levels]
        found.append((largest, True))
    fabric = topology.spec.scale_out
    if fabric is not None and topology.contention > 1:
        found.append((largest * fabric.domains_per_unit, True))
    return tuple(found)


def lies_alike(span: IntArray | int, used: int, parts: Iterable[Part]) -> BoolArray:
    """Whether blocks of ``span`` ranks lie alike among ``used`` chips; see the module.

    Parameters
    ----------
    span : int or array
        Divisors of ``used``.
    """
    own = np.asarray(span)
    found = np.ones(own.shape, dtype=np.bool_)
    for size, halves in parts:
        multiple = (own * (2 if halves else 1)) % size == 0
        found &= (used <= size) | (size % own == 0) | multiple
    return np.asarray(found | (own == used))
