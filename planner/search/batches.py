"""Sequences to equal groups."""

from __future__ import annotations


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """Split ``total`` into ``parts`` counts that differ by at most one, larger ones first.

    For groups of equal speed this minimises the largest count, ``ceil(total / parts)``,
    and so the slowest group.

    Raises
    ------
    ValueError
        If ``total`` is negative or ``parts`` is less than 1.
    """
    if total < 0 or parts < 1:
        raise ValueError(f"cannot split {total} into {parts} parts")
    base, extra = divmod(total, parts)
    return (base + 1,) * extra + (base,) * (parts - extra)
