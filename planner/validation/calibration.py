"""Which measurements constants may be fitted to: about a quarter, by a rule of the id."""

from __future__ import annotations

import hashlib

_EVERY = 4


def is_calibration_id(name: str) -> bool:
    """Whether a measurement may be used for calibration, and so is never scored.

    ``sha1(id) mod 4 = 0``: the same answer everywhere and for rows that nobody has seen
    yet, about a quarter of every source.
    """
    digest = hashlib.sha1(name.encode("utf-8"), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % _EVERY == 0
