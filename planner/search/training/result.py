"""From a finished search to an answer: certificate, other schedules, or why nothing fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.domain.layout import Certificate
from planner.domain.outcome import Infeasible
from planner.domain.ranges import write_ranges
from planner.domain.run import Recompute
from planner.search.control import SearchControl
from planner.search.objective import UNITS
from planner.search.training.policies import KINDS, admits
from planner.search.training.request import TrainRequest
from planner.search.training.search import SolvedRun, TrainSearch
from planner.search.training.tables import Index
from planner.units import format_bytes

NUM_RUNNERS_UP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """The best layout, the best found with other schedules, and what was proved."""

    best: SolvedRun
    runners_up: tuple[SolvedRun, ...]
    certificate: Certificate


def search_training(
    request: TrainRequest, *, interruptible: bool = False
) -> TrainResult | Infeasible:
    """Find the best training layout of the request's space and prove how good it is.

    Returns
    -------
    TrainResult or Infeasible
        ``certificate.gap`` is at most ``request.gap`` unless the time limit or Ctrl-C struck, or
        the bound of the best layout itself leaves more open.
    """
    search = TrainSearch(request)
    if not len(search.meshes):
        return _no_mesh(request)
    control = SearchControl(request.gap, request.time_limit_s, request.progress)
    with control.listening(interruptible):
        left = search.search(control)
        if search.best is None:
            return out_of_memory(search)
        others = _other_schedules(search, control)
    return TrainResult(
        best=search.best, runners_up=others, certificate=_certificate(search, control, left)
    )


def count_strategies(search: TrainSearch) -> tuple[int, int]:
    """Meshes times the policies that each admits: all, and those of meshes that nothing fits."""
    bound, table = search.bound, search.table
    assert bound is not None and table is not None
    meshes = search.meshes
    shards = (bound.ranks(np.arange(len(meshes)))[0] > 1).astype(np.int64)
    index = Index.of(meshes.pp, bound.microbatches, shards)
    pp, microbatches = meshes.pp[index.first], bound.microbatches[index.first]
    ranks = 1 + shards[index.first]
    counts = np.zeros(len(index.first), dtype=np.int64)
    for place in range(len(search.menu)):
        one = search.menu.select(np.array([place]))
        counts += admits(one, pp, microbatches, ranks, bound.num_layers)
    own = counts[index.inverse]
    return int(own.sum()), int(own[~np.isfinite(table.step_s)].sum())


def _certificate(search: TrainSearch, control: SearchControl, left: float) -> Certificate:
    assert search.best is not None
    enumerated, hopeless = count_strategies(search)
    objective = search.best.value
    bound = min(objective, left, search.solved_bound)
    memory = hopeless + search.memory_infeasible
    return Certificate(
        objective=objective,
        bound=bound,
        gap=(objective - bound) / objective,
        unit=UNITS[search.request.objective],
        enumerated=enumerated,
        infeasible_memory=memory,
        infeasible_tpot=0,
        infeasible_placement=search.unplaceable,
        pruned=enumerated - memory - search.solved,
        solved=search.solved,
        dominated=0,
        stopped=control.why,
        space=space_description(search),
    )


def space_description(search: TrainSearch) -> dict[str, str]:
    """Values that each degree and choice takes in the space."""
    meshes, menu = search.meshes, search.menu
    found = {
        name: write_ranges(np.unique(getattr(meshes, name)).tolist())
        for name in ("tp", "cp", "dp", "pp", "ep", "expert_tp", "microbatch")
    }
    found["sequence_parallel"] = ",".join(
        "on" if value else "off" for value in np.unique(meshes.sequence_parallel)
    )
    found["schedule"] = ",".join(KINDS[kind].value for kind in np.unique(menu.kind))
    found["virtual_stages"] = write_ranges(np.unique(menu.virtual_stages).tolist())
    found["recompute"] = ",".join(list(Recompute)[r].value for r in np.unique(menu.recompute))
    found["zero"] = write_ranges(np.unique(menu.zero).tolist())
    found["chunks"] = "every cut whose devices hold at most one layer above the even share"
    return found


def _other_schedules(search: TrainSearch, control: SearchControl) -> tuple[SolvedRun, ...]:
    """The best layout found with each other schedule, best first."""
    assert search.best is not None
    found = []
    for kind, leaves in sorted(search.by_kind.items()):
        if KINDS[kind] is search.best.run.schedule or control.is_overdue():
            continue
        solved = [search.solve(leaf.row, leaf.place) for leaf in leaves]
        own = [one for one in solved if one is not None]
        if own:
            found.append(min(own, key=lambda one: one.value))
    ranked = sorted((search.best, *found), key=lambda one: one.value)
    # One of another schedule may turn out better than the incumbent, within the gap.
    search.best = ranked[0]
    return tuple(ranked[1 : NUM_RUNNERS_UP + 1])


def _no_mesh(request: TrainRequest) -> Infeasible:
    chips = request.topology.num_chips
    return Infeasible(
        resource="degrees",
        needed="one combination of degrees",
        available="none",
        message=(
            f"no combination of the allowed degrees uses {chips} chips for a batch of "
            f"{request.global_batch} sequences: data parallelism must divide the batch, tensor "
            "parallelism the heads and a node, expert parallelism the experts and a stage"
        ),
        remedies=("free a pinned degree, or choose a batch with more divisors",),
    )


def out_of_memory(search: TrainSearch) -> Infeasible:
    """What the most frugal layout needs."""
    assert search.bound is not None and search.table is not None
    least = float(search.table.memory_bytes.min())
    budget = search.bound.chip.hbm_usable_bytes
    if least <= budget:
        message = (
            "every layout whose bound fits into memory failed once its layers were cut into "
            "whole chunks: the fullest device holds more than its share"
        )
    else:
        message = (
            f"training {search.request.model.name} needs at least {format_bytes(least)} per chip, "
            f"{format_bytes(budget)} are usable"
        )
    return Infeasible(
        resource="memory",
        needed=format_bytes(least),
        available=format_bytes(budget),
        message=message,
        remedies=(),
    )
