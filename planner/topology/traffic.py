"""What chips send to each other, as the graph computations want it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.topology.network import Floats, Ints, Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """Groups of chips in which every chip sends the same amount to every other.

    Parameters
    ----------
    groups : tuple of array of int
        Disjoint sets of chips; all groups communicate at the same time.
    bytes_per_pair : float
        Of every ordered pair of two chips of one group.
    """

    groups: tuple[Ints, ...]
    bytes_per_pair: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Any traffic between some chips.

    Parameters
    ----------
    chips : array of int
        Shape ``[n]``, distinct.
    num_bytes : array of float
        Shape ``[n, n]``: from row to column; the diagonal is zero.
    """

    chips: Ints
    num_bytes: Floats


Traffic = Exchange | Matrix


def group_labels(network: Network, groups: tuple[Ints, ...]) -> Ints:
    """Index of the group of each chip, shape ``[num_chips]``; -1 for chips in none.

    Raises
    ------
    ValueError
        A chip is named twice.
    """
    labels = np.full(network.num_chips, -1, dtype=np.int64)
    if not groups:
        return labels
    chips = np.concatenate(groups).astype(np.int64)
    labels[chips] = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    if len(chips) != np.count_nonzero(labels >= 0):
        raise ValueError("the groups of an exchange must not share chips")
    return labels


def chip_places(network: Network) -> Ints:
    """Scale-up domain of each chip; a chip in none is alone, with a negative number."""
    domains = network.domains[: network.num_chips]
    return np.where(domains < 0, -1 - np.arange(network.num_chips), domains)
