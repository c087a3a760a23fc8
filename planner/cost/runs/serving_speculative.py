"""Speculative decoding and multi-token prediction: what a verified draft is worth."""

from __future__ import annotations

import math

from planner.errors import SpecError


def tokens_per_pass(draft_tokens: int, acceptance: float) -> float:
    """Mean tokens that one verification pass yields.

    Of ``k`` drafted tokens each is accepted with probability ``a`` if those before it were;
    the pass itself always yields one token more:

        1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)

    (theory: chapter 1).

    Parameters
    ----------
    draft_tokens : int
        ``k``, 0 or more.
    acceptance : float
        ``a``, in [0, 1].

    Returns
    -------
    float
        Between 1 and ``k + 1``.

    Raises
    ------
    SpecError
        ``k`` is negative, or ``a`` outside [0, 1].
    """
    if draft_tokens < 0:
        raise SpecError(f"draft of {draft_tokens} tokens", "draft 0 or more")
    if not 0.0 <= acceptance <= 1.0 or math.isnan(acceptance):
        raise SpecError(f"acceptance of {acceptance}", "give a probability")
    if acceptance == 1.0:
        return float(draft_tokens + 1)
    return float((1.0 - acceptance ** (draft_tokens + 1)) / (1.0 - acceptance))
