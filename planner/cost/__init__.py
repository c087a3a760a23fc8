"""The cost model: count first, price later. Pure and deterministic.

``weights`` and ``attention`` count one model; ``block``, ``small`` and ``core`` count the work
of one layer under a split, ``memory`` the bytes that stay in HBM; ``price`` and ``fabric`` turn
counts into seconds on a chip and its links; ``step`` adds a layer up, whether a plan or a given
run asks; ``pipeline`` adds stages up; ``evaluate`` prices a whole layout; ``roofline`` holds the
closed forms that people do by hand.

Decisions
---------
The counting code runs on floats and on arrays alike, so that a bound over a million
strategies, the price of one layout and that of a run given to ``estimate`` come from the same
lines; a property test asks all kinds of layouts both ways.
"""
