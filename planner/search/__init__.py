"""Chooses a layout and proves how good it is.

    request -> strategies (all degrees, as arrays) -> bounds (vectorised, optimistic)
            -> solve in order of bound (experts, stages, batches, chips) -> certificate

``validate`` is the specification: it knows no solver and no bound.

Decisions
---------
- Contiguous stages are cut by dynamic programming, which is exact and a thousand times
  faster than CP-SAT on this problem; brute force is the oracle of its tests.
- OR-Tools is used where it closes: CP-SAT on a counting model of expert placement when
  loads take few values (packing ends 3 to 5 % above the optimum there), maximum flow for
  uneven token splits of a fixed placement.
- The batch is not a grid. For one strategy the step grows no faster than the batch does
  (``step(b)/b`` never rises), so the largest batch within the limits is the best one for
  throughput and for cost; bisection finds it among all integers, in the bound and in the
  exact solution alike.
"""
