"""Training layouts: the best mesh, schedule and memory policy of a training step, proven.

Sets
----
meshes ``(tp, cp, dp, pp, ep, expert_tp, microbatch, sequence parallelism)`` that the machine and
the batch admit (:mod:`~planner.search.training.space`); for each mesh the policies ``(schedule,
virtual stages, recompute, ZeRO stage)`` (:mod:`~planner.search.training.policies`); for each of
those the layers of every pipeline chunk (:mod:`~planner.search.training.cuts`).

Objective
---------
seconds of an optimizer step (:func:`planner.cost.runs.training.predict_training`), or dollars per
token where cost is the objective, subject to the memory of the fullest chip.

Method
------
Branch and bound on three levels. Every mesh gets a bound over all of its policies, vectorised;
meshes are expanded in order of that bound into policies with bounds of their own, where only the
cut into chunks is relaxed; policies are solved in order of theirs. It ends when neither a mesh nor
a policy is left whose bound improves the incumbent by more than the gap.

Decisions
---------
* The prices of layers are not bounds: they come from the same functions that price the final
  layout, once for every distinct share of the work (:mod:`~planner.search.training.tables`). So
  cost grows with the number of distinct shapes, not with the number of chips.
* Ranks lie on the chips in the order tp, cp, dp, pp, tensor-parallel groups inside a node.
"""
