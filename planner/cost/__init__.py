"""The cost model: count first, price later. Pure and deterministic.

``weights`` and ``attention`` count one model; ``block`` counts the work of one layer under
a split, ``memory`` the bytes that stay in HBM; ``price`` turns counts into seconds on a
chip and its links; ``pipeline`` adds stages up; ``evaluate`` prices a whole layout;
``roofline`` holds the closed forms that people do by hand.

Decisions
---------
The counting code runs on floats and on arrays alike, so that a bound over a million
strategies and the price of one layout come from the same lines.
"""
