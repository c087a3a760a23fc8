"""Answers of a search that are not a layout."""

from __future__ import annotations

import msgspec


class Infeasible(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing in the searched space meets the limits.

    Parameters
    ----------
    resource : str
        What is short: ``memory``, ``tpot``, ``chips``, ``batch``.
    needed, available : str
        Demand of the least demanding strategy and what there is, formatted with units.
    message : str
        One sentence that names the resource, the demand and the capacity.
    remedies : tuple of str
        Smallest changes that would make it fit, each one verified by the model.
    """

    resource: str
    needed: str
    available: str
    message: str
    remedies: tuple[str, ...]
