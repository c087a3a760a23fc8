"""Terms of a step: what each kind of work contributes, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.cost.price import PricedTerm, overlap_resource, term_seconds
from planner.domain.cost import Bound, Term
from planner.domain.workload import TimeModel

COLLECTIVE_TERMS = frozenset({"all_reduce", "dispatch", "combine"})


@dataclass(slots=True)
class _Sum:
    """Running total of one term over layers."""

    seconds: float = 0.0
    compute_s: float = 0.0
    memory_s: float = 0.0
    network_s: float = 0.0
    overhead_s: float = 0.0
    by_bound: dict[Bound, float] = field(default_factory=dict)

    def add(self, term: PricedTerm, seconds: float) -> None:
        """Add one layer's share of the term."""
        parts = {
            Bound.COMPUTE: float(term.compute_s),
            Bound.MEMORY: float(term.memory_s),
            Bound.NETWORK: float(term.network_s),
            Bound.OVERHEAD: float(term.overhead_s),
        }
        self.seconds += seconds
        self.compute_s += parts[Bound.COMPUTE]
        self.memory_s += parts[Bound.MEMORY]
        self.network_s += parts[Bound.NETWORK]
        self.overhead_s += parts[Bound.OVERHEAD]
        bound = max(parts, key=lambda name: parts[name])
        self.by_bound[bound] = self.by_bound.get(bound, 0.0) + seconds


def _layer_slices(terms: list[PricedTerm], count: int) -> list[list[PricedTerm]]:
    """Split terms that are arrays over layers into one list per layer."""

    def pick(value: object, index: int) -> float:
        array = np.asarray(value, dtype=float)
        return float(array if array.ndim == 0 else array[index])

    return [
        [
            PricedTerm(
                name=term.name,
                compute_s=pick(term.compute_s, index),
                memory_s=pick(term.memory_s, index),
                network_s=pick(term.network_s, index),
                overhead_s=pick(term.overhead_s, index),
            )
            for term in terms
        ]
        for index in range(count)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTerms:
    """Terms of one microbatch's pass through all stages, before pipeline effects."""

    terms: tuple[Term, ...]

    def with_pipeline(
        self, stage_s: Sequence[float], hop_s: float, step_s: float
    ) -> tuple[Term, ...]:
        """Add hops and the wait for the slowest stage, so that terms add up to the step."""
        found = list(self.terms)
        num_hops = len(stage_s) if len(stage_s) > 1 else 0
        hops = num_hops * hop_s
        if hops:
            found.append(
                Term(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK, network_s=hops)
            )
        wait = step_s - sum(stage_s) - hops
        if wait > 0:
            found.append(Term(name="pipeline_wait", seconds=wait, bound=Bound.IDLE))
        return tuple(found)

    def critical_batch(self, batch: int) -> float | None:
        """B*: the batch where matmuls take as long as the weight reads they need.

        Matmul seconds grow with the batch, weight reads of touched experts hardly do; the
        ratio of the two at the present batch scales it.
        """
        matmul = [
            term
            for term in self.terms
            if term.name not in ("attention_core", "embedding", *COLLECTIVE_TERMS)
        ]
        compute = sum(term.compute_s for term in matmul)
        memory = sum(term.memory_s for term in matmul)
        return batch * memory / compute if compute > 0 else None


def collect_terms(
    parts: Sequence[tuple[int, list[PricedTerm]]], time_model: TimeModel
) -> StepTerms:
    """Add priced layers up by term.

    Parameters
    ----------
    parts : sequence of (count, terms)
        ``count`` layers that share ``terms``; array entries have one value per layer.
    """
    sums: dict[str, _Sum] = {}
    for count, terms in parts:
        for layer in _layer_slices(terms, count):
            resource = overlap_resource(layer)
            for term in layer:
                seconds = term_seconds(term, time_model, resource)
                sums.setdefault(term.name, _Sum()).add(term, seconds)
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
