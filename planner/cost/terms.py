"""Terms of a step: what each kind of work contributes, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import structs

from planner.cost.step import Hidden, LayerPrice, term_seconds
from planner.domain.cost import Bound, Term
from planner.domain.work import Real
from planner.domain.workload import TimeModel

ROUNDING = 1e-12

# What is no matrix multiply, so that no batch can make it wait for compute.
OTHER_TERMS = frozenset(
    {
        "all_reduce",
        "attention_core",
        "combine",
        "context_parallel",
        "dispatch",
        "draft",
        "embedding",
        "host_launch",
        "kernel_gaps",
        "small_operations",
    }
)


@dataclass(slots=True)
class _Sum:
    """Running total of one term over layers."""

    seconds: float = 0.0
    compute_s: float = 0.0
    memory_s: float = 0.0
    network_s: float = 0.0
    overhead_s: float = 0.0
    by_bound: dict[Bound, float] = field(default_factory=dict)

    def add(self, parts: dict[Bound, float], seconds: float) -> None:
        """Add one layer's share of the term."""
        self.seconds += seconds
        self.compute_s += parts[Bound.COMPUTE]
        self.memory_s += parts[Bound.MEMORY]
        self.network_s += parts[Bound.NETWORK]
        self.overhead_s += parts[Bound.OVERHEAD]
        bound = max(parts, key=lambda name: parts[name])
        self.by_bound[bound] = self.by_bound.get(bound, 0.0) + seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedPart:
    """``count`` layers with one price, whose entries may be arrays over these layers.

    ``host_wait_s`` is what a layer waits for the host beside its terms.
    """

    count: int
    price: LayerPrice
    hidden: Hidden
    host_wait_s: Real = 0.0


def _per_layer(value: Real, count: int) -> list[float]:
    return [float(item) for item in np.broadcast_to(np.asarray(value, dtype=float), (count,))]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTerms:
    """Terms of one microbatch's pass through all stages, before pipeline effects."""

    terms: tuple[Term, ...]

    def with_pipeline(
        self, stage_s: Sequence[float], hops_s: float, step_s: float, host_s: float
    ) -> tuple[Term, ...]:
        """Add hops, the wait for the slowest stage and the host: terms add up to the step."""
        found = list(self.terms)
        hops = hops_s
        if hops:
            found.append(
                Term(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK, network_s=hops)
            )
        if host_s:
            found.append(Term(name="host", seconds=host_s, bound=Bound.OVERHEAD, overhead_s=host_s))
        wait = step_s - host_s - sum(stage_s) - hops
        # Less is what the order of additions leaves over.
        if wait > ROUNDING * step_s:
            found.append(Term(name="pipeline_wait", seconds=wait, bound=Bound.IDLE))
        return tuple(found)

    def with_draft(self, once: StepTerms, drafts: int) -> StepTerms:
        """Add ``drafts`` times what one drafted token of every sequence takes, as one term."""
        largest = max(once.terms, key=lambda term: term.seconds)
        draft = Term(
            name="draft",
            seconds=drafts * sum(term.seconds for term in once.terms),
            bound=largest.bound,
            compute_s=drafts * sum(term.compute_s for term in once.terms),
            memory_s=drafts * sum(term.memory_s for term in once.terms),
            network_s=drafts * sum(term.network_s for term in once.terms),
            overhead_s=drafts * sum(term.overhead_s for term in once.terms),
        )
        return StepTerms(terms=(*self.terms, draft))

    def critical_batch(self, batch: int) -> float | None:
        """B*: the batch where matmuls take as long as the weight reads they need.

        Matmul seconds grow with the batch, weight reads of touched experts hardly do; the
        ratio of the two at the present batch scales it.
        """
        matmul = [term for term in self.terms if term.name not in OTHER_TERMS]
        compute = sum(term.compute_s for term in matmul)
        memory = sum(term.memory_s for term in matmul)
        return batch * memory / compute if compute > 0 else None


def collect_terms(parts: Sequence[PricedPart], time_model: TimeModel) -> StepTerms:
    """Add priced layers up by term; resources count every part of an overlapped layer."""
    sums: dict[str, _Sum] = {}
    for part in parts:
        for term, seconds in term_seconds(part.price, part.hidden, time_model):
            resources = {
                bound: _per_layer(value * part.hidden.parts, part.count)
                for bound, value in (
                    (Bound.COMPUTE, term.compute_s),
                    (Bound.MEMORY, term.memory_s),
                    (Bound.NETWORK, term.network_s),
                    (Bound.OVERHEAD, term.overhead_s),
                )
            }
            total = sums.setdefault(term.name, _Sum())
            for index, own in enumerate(_per_layer(seconds, part.count)):
                total.add({bound: resources[bound][index] for bound in resources}, own)
        for wait in _per_layer(part.host_wait_s, part.count):
            if wait > 0:
                nothing = dict.fromkeys((Bound.COMPUTE, Bound.MEMORY, Bound.NETWORK), 0.0)
                total = sums.setdefault("host_launch", _Sum())
                total.add({**nothing, Bound.OVERHEAD: wait}, wait)
    found = [
        Term(
            name=name,
            seconds=total.seconds,
            bound=max(total.by_bound, key=lambda bound: total.by_bound[bound]),
            compute_s=total.compute_s,
            memory_s=total.memory_s,
            network_s=total.network_s,
            overhead_s=total.overhead_s,
        )
        for name, total in sums.items()
    ]
    kept = [t for t in found if t.seconds > 0 or t.compute_s + t.memory_s + t.network_s > 0]
    return StepTerms(terms=tuple(sorted(kept, key=lambda t: (-t.seconds, t.name))))


def per_token(terms: Sequence[Term], tokens: float) -> tuple[Term, ...]:
    """Terms of a pass as those of each of the ``tokens`` that it yields of a sequence."""
    if tokens == 1.0:
        return tuple(terms)
    return tuple(
        structs.replace(
            term,
            seconds=term.seconds / tokens,
            compute_s=term.compute_s / tokens,
            memory_s=term.memory_s / tokens,
            network_s=term.network_s / tokens,
            overhead_s=term.overhead_s / tokens,
        )
        for term in terms
    )
