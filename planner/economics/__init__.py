"""What a batch costs: pure functions over the cost model, with nothing read and nothing searched.

Closed forms of chapters 1, 5 and 6 of the theory (R. Pope, lecture on inference and training
economics, April 2026) in unit-safe form. What the full cost model says beside them is composed
in :mod:`planner.economics_api`.

Decisions
---------
- A chip's price counts for every second that it is rented, busy or not.
- The napkin counts two resources, FLOP/s and HBM bytes/s at nameplate, shared perfectly by all
  chips; it knows no network, no latency and no attention FLOP. It is a floor, not a prediction.
"""
