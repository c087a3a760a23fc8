"""From a finished search to an answer: certificate, other schedules, or why nothing fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.domain.layout import Certificate
from planner.domain.outcome import Infeasible
from planner.domain.ranges import write_ranges
from planner.domain.run import Recompute
from planner.domain.training import FREE_LIMITS, TrainLimits
from planner.search.control import SearchControl
from planner.search.objective import UNITS
from planner.search.training.policies import KINDS, admits
from planner.search.training.request import TrainRequest
from planner.search.training.search import SHOWN, SolvedRun, TrainSearch, search_all
from planner.search.training.space import domain_size, enumerate_meshes
from planner.search.training.tables import Index
from planner.units import format_bytes

NUM_RUNNERS_UP = 5
DEGREES = ("tp", "cp", "dp", "pp", "ep", "expert_tp", "microbatch", "sequence_parallel")
RULES = (
    "data parallelism divides the batch, tensor parallelism the heads and a node, expert "
    "parallelism the experts and a stage, and no group lies in nodes in another way than others"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """The best layout, the best found with other schedules, and what was proved.

    Parameters
    ----------
    place : int
        Which of the requests the best layout answers.
    runners_up : tuple of (int, SolvedRun)
        With the requests that they answer.
    """

    best: SolvedRun
    place: int
    runners_up: tuple[tuple[int, SolvedRun], ...]
    certificate: Certificate


def search_training(
    *requests: TrainRequest, interruptible: bool = False
) -> TrainResult | Infeasible:
    """Find the best training layout of the requests' spaces and prove how good it is.

    Parameters
    ----------
    requests : TrainRequest
        The same question on different parts of a machine, each a space of its own.

    Returns
    -------
    TrainResult or Infeasible
        ``certificate.gap`` is at most ``request.gap`` unless the time limit or Ctrl-C struck, or
        the bound of the best layout itself leaves more open.
    """
    first = requests[0]
    every = [TrainSearch(request) for request in requests]
    searches = [search for search in every if len(search.meshes)]
    if not searches:
        return _no_mesh(requests)
    control = SearchControl(first.gap, first.time_limit_s, first.progress)
    with control.listening(interruptible):
        left = search_all(searches, control)
        if all(search.best is None for search in searches):
            none = not any(count_strategies(search)[0] for search in searches)
            return _no_schedule(first) if none else out_of_memory(searches)
        (own, best), *others = _other_schedules(searches, control)
    return TrainResult(
        best=best,
        place=every.index(own),
        runners_up=tuple((every.index(search), other) for search, other in others[:NUM_RUNNERS_UP]),
        certificate=_certificate(searches, control, best.value, left),
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


def _certificate(
    searches: list[TrainSearch], control: SearchControl, objective: float, left: float
) -> Certificate:
    counted = [count_strategies(search) for search in searches]
    enumerated = sum(every for every, _ in counted)
    memory = sum(hopeless for _, hopeless in counted)
    memory += sum(search.memory_infeasible for search in searches)
    solved = sum(search.solved for search in searches)
    bound = min(objective, left, *(search.solved_bound for search in searches))
    return Certificate(
        objective=objective,
        bound=bound,
        gap=(objective - bound) / objective,
        unit=UNITS[searches[0].request.objective],
        enumerated=enumerated,
        infeasible_memory=memory,
        infeasible_tpot=0,
        infeasible_placement=sum(search.unplaceable for search in searches),
        pruned=enumerated - memory - solved,
        solved=solved,
        dominated=0,
        stopped=control.why,
        space=space_description(searches),
    )


def space_description(searches: list[TrainSearch]) -> dict[str, str]:
    """Values that each degree and choice takes in the space."""
    menu = searches[0].menu

    def values(name: str) -> list[int]:
        every = np.concatenate([getattr(search.meshes, name) for search in searches])
        return [int(value) for value in np.unique(every)]

    found = {
        name: write_ranges(values(name))
        for name in ("tp", "cp", "dp", "pp", "ep", "expert_tp", "microbatch")
    }
    found["sequence_parallel"] = ",".join(
        "on" if value else "off" for value in values("sequence_parallel")
    )
    found["schedule"] = ",".join(KINDS[kind].value for kind in np.unique(menu.kind))
    found["virtual_stages"] = write_ranges(np.unique(menu.virtual_stages).tolist())
    found["recompute"] = ",".join(list(Recompute)[r].value for r in np.unique(menu.recompute))
    found["zero"] = write_ranges(np.unique(menu.zero).tolist())
    found["chunks"] = "every cut whose devices hold at most one layer above the even share"
    sizes = {domain_size(search.request.topology) for search in searches}
    found["chips_per_domain"] = write_ranges(sorted(sizes))
    return found


def _other_schedules(
    searches: list[TrainSearch], control: SearchControl
) -> list[tuple[TrainSearch, SolvedRun]]:
    """The best layout found, and that with each other schedule, best first."""
    found = [(search, search.best) for search in searches if search.best is not None]
    best = min(found, key=lambda one: one[1].value)
    others = []
    for kind in range(len(KINDS)):
        if KINDS[kind] is best[1].run.schedule or control.is_overdue():
            continue
        leaves = [(leaf, search) for search in searches for leaf in search.by_kind.get(kind, [])]
        nearest = sorted(leaves, key=lambda one: one[0])[:SHOWN]
        solved = [(search, search.solve(leaf.row, leaf.place)) for leaf, search in nearest]
        able = [(search, one) for search, one in solved if one is not None]
        if able:
            others.append(min(able, key=lambda one: one[1].value))
    # One of another schedule may turn out better than the incumbent, within the gap.
    return sorted((best, *others), key=lambda one: one[1].value)


def _values(requests: tuple[TrainRequest, ...], limits: TrainLimits, name: str) -> list[int]:
    """Values of a degree in the space under some limits."""
    found: set[int] = set()
    for request in requests:
        meshes = enumerate_meshes(replace(request, limits=limits))
        found |= {int(value) for value in np.unique(getattr(meshes, name))}
    return sorted(found)


def _no_mesh(requests: tuple[TrainRequest, ...]) -> Infeasible:
    """Which limit on degrees leaves nothing, by itself or with the others."""
    first = requests[0]
    given = [name for name in DEGREES if getattr(first.limits, name) is not None]
    for name in given:
        own = getattr(first.limits, name)
        if not _values(requests, TrainLimits(**{name: own}), name):
            option = f"--{name.replace('_', '-')}"
            able = write_ranges(_values(requests, FREE_LIMITS, name)) or "nothing"
            return Infeasible(
                resource="degrees",
                needed=f"{option} {write_ranges(own)}",
                available=f"{option} {able}",
                message=f"no layout of this question has {option} {write_ranges(own)}: {RULES}",
                remedies=(f"{option} {able}",),
            )
    freed = {name: replace(first.limits, **{name: None}) for name in given}
    helping = [name for name in given if _values(requests, freed[name], name)]
    return Infeasible(
        resource="degrees",
        needed="one combination of degrees",
        available="none",
        message=(
            "no combination of the allowed degrees uses "
            f"{first.topology.num_chips} chips for a batch of {first.global_batch} sequences: "
            f"{RULES}"
        ),
        remedies=tuple(f"free --{name.replace('_', '-')}" for name in helping)
        or ("free pinned degrees, or choose a batch with more divisors",),
    )


def _no_schedule(request: TrainRequest) -> Infeasible:
    return Infeasible(
        resource="schedule",
        needed="one schedule that can run",
        available="none",
        message=(
            "none of the allowed schedules can run the allowed pipelines with a batch of "
            f"{request.global_batch} sequences: an interleaved one takes microbatches in groups "
            "of one per stage, DualPipe an even number of stages and two microbatches for each"
        ),
        remedies=("free --pp, --schedule or --virtual-stages, or choose another batch",),
    )


def out_of_memory(searches: list[TrainSearch]) -> Infeasible:
    """What the most frugal layout needs."""
    tables = [search.table for search in searches if search.table is not None]
    least = min(float(table.memory_bytes.min()) for table in tables)
    budget = searches[0].request.topology.chip.hbm_usable_bytes
    if least <= budget:
        message = (
            "every layout whose bound fits into memory failed once its layers were cut into "
            "whole chunks: the fullest device holds more than its share"
        )
    else:
        message = (
            f"training {searches[0].request.model.name} needs at least {format_bytes(least)} per "
            f"chip, {format_bytes(budget)} are usable"
        )
    return Infeasible(
        resource="memory",
        needed=format_bytes(least),
        available=format_bytes(budget),
        message=message,
        remedies=(),
    )
