"""Prefill and decode on chips of their own: how many workers of which layout, and where.

Sets        forms of a worker: stages of ``q`` chips in each of ``n`` domains, ``pp`` of them
Data        ``R(f)`` requests per second of the best layout of a form, from the searches of
            prefill and decode; chips of every domain
Variables   one form for each pool, whole workers ``n_p``, ``n_d``, their pieces on domains
Objective   throughput: maximise ``min(n_p R_p, n_d R_d)``; with a rate: fewest chips with
            ``n_p R_p >= rate`` and ``n_d R_d >= rate``
Constraint  pieces of both pools fit into the domains: ``a q_p + b q_d <= c`` in each

- :mod:`planner.search.serve.forms`: the forms, and what their layouts yield, bounded for all
  at once and solved when they are needed;
- :mod:`planner.search.serve.rooms`: how many pieces of two sizes the domains hold, exactly;
- :mod:`planner.search.serve.pairs`: pairs of forms in order of their bound.

Decisions
---------
- All workers of a pool have one layout, and lie on whole pieces of the same size.
- Layouts are searched on a block of sound domains, once for all workers of a form; what a
  wounded machine makes of it is priced where the workers lie, and is never faster.
- The limit on the time to the first token counts the transfer of the cache, where a layout is
  chosen; in bounds the transfer takes no time.
"""
