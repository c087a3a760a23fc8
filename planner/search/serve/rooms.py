"""How many pieces of two sizes the domains of a machine hold together.

Sets        domains ``j``
Data        ``c_j`` chips, pieces of ``p`` and ``d`` chips
Variables   ``a_j``, ``b_j`` pieces of each size in domain ``j``
Constraint  ``a_j p + b_j d <= c_j``
Result      ``B[A] = max sum b_j`` with ``sum a_j = A``, for every ``A``

A domain with ``a`` pieces of the one kind holds ``(c - a p) // d`` of the other, so ``B`` is the
max-plus convolution of these staircases over the domains. Alike domains are convolved by
doubling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def staircase(chips: int, piece: int, other: int) -> IntArray:
    """Most pieces of ``other`` chips beside ``0, 1, ..`` pieces of ``piece`` in one domain."""
    taken = np.arange(chips // piece + 1, dtype=np.int64) * piece
    return (chips - taken) // other


def joined(first: IntArray, second: IntArray) -> IntArray:
    """Max-plus convolution: ``max over x of first[x] + second[A - x]``."""
    short, long = sorted((first, second), key=len)
    found = np.full(len(first) + len(second) - 1, -1, dtype=np.int64)
    for offset, value in enumerate(short.tolist()):
        part = found[offset : offset + len(long)]
        np.maximum(part, long + value, out=part)
    return found


def _alike(own: IntArray, count: int) -> IntArray:
    """``count`` domains of one staircase."""
    found: IntArray | None = None
    while True:
        if count & 1:
            found = own if found is None else joined(found, own)
        count >>= 1
        if not count:
            break
        own = joined(own, own)
    assert found is not None
    return found


def most_beside(domains: Sequence[int], piece: int, other: int) -> IntArray:
    """``B``: most pieces of ``other`` chips beside every number of pieces of ``piece``.

    Parameters
    ----------
    domains : sequence of int
        Chips of every domain.
    """
    found = np.zeros(1, dtype=np.int64)
    for chips, count in sorted(Counter(domains).items()):
        if chips >= min(piece, other):
            found = joined(found, _alike(staircase(chips, piece, other), count))
    return found


def fill_domains(
    domains: Sequence[int], pieces: tuple[int, int], wanted: tuple[int, int]
) -> list[tuple[int, int]] | None:
    """Pieces of each kind in every domain, so that there are at least as many as ``wanted``.

    Early domains take the first kind. None when they do not fit.
    """
    piece, other = pieces
    stairs = [staircase(chips, piece, other) for chips in domains]
    behind = [np.zeros(1, dtype=np.int64)]
    for own in reversed(stairs):
        behind.append(joined(behind[-1], own))
    behind.reverse()
    need, rest = wanted
    if need >= len(behind[0]) or behind[0][need] < rest:
        return None
    found = []
    for own, left in zip(stairs, behind[1:], strict=True):
        for taken in reversed(range(min(need, len(own) - 1) + 1)):
            beyond = need - taken
            if beyond < len(left) and own[taken] + left[beyond] >= rest:
                break
        given = min(rest, int(own[taken]))
        found.append((taken, given))
        need, rest = need - taken, rest - given
    return found
