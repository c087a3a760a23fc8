"""What people ask after the first plan: which family, at what price, what moves the bound.

Every study asks the planner's own questions (:mod:`planner.api`, :mod:`planner.train_api`) many
times and sets the answers side by side. Nothing is searched here and nothing is priced by a
formula of its own; the lecture's closed forms appear as ideal lines beside the model.

Decisions
---------
- A family of strategies is a set of limits on degrees, so its best layout carries a certificate
  of its own.
- What is varied on a machine is varied on its record (:mod:`planner.studies.knobs`), after the
  file was read: a what-if machine has no file.
- Break-evens are roots, found by bisection between layouts that were planned; at each root the
  families are planned anew, until the root no longer moves.
"""
