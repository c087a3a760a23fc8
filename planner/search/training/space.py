"""Every mesh that a training run may have, as arrays.

``tp``         divisors of the attention heads that divide a scale-up domain, or fill whole ones
``cp``         divisors of the sequence that leave each rank ``LEAST_TOKENS`` tokens, in halves
``pp``         1 to the number of layers and two (embedding and head may be chunks of their own)
``dp``         divisors of the global batch whose double is none of the space: it would need more
               chips than the other degrees leave, or does not divide the batch; all of them where
               fewer chips may be cheaper
``microbatch`` divisors of the sequences of a data-parallel rank, up to ``MOST_SEQUENCES`` or one
             of ``LARGER_SEQUENCES``
``ep, expert_tp``  divisors of the experts, and of a domain; together they divide a stage
sequence parallelism on or off where ``tp > 1``

Only meshes all of whose groups lie like the ones that are priced
(:mod:`~planner.search.training.placement`): a stage, and what ``tp cp`` or ``ep expert_tp`` ranks
reach. Half of a ``dp`` leaves chips idle and doubles the work of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.cost.attention import decode_core
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.question import permits
from planner.domain.run import Mesh
from planner.domain.workload import Objective
from planner.search.strategies import divisors
from planner.search.training.placement import Part, lies_alike, parts_of
from planner.search.training.request import TrainRequest
from planner.topology.graph import Topology

IntArray = NDArray[np.int64]

LEAST_TOKENS = 512
MOST_CP = 64
MOST_SEQUENCES = 16
LARGER_SEQUENCES = (32, 64)
MOST_TP_DOMAINS = 2
MOST_EXPERT_TP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Meshes:
    """Degrees of ``n`` meshes, one int array of shape ``[n]`` per degree."""

    tp: IntArray
    cp: IntArray
    dp: IntArray
    pp: IntArray
    ep: IntArray
    expert_tp: IntArray
    microbatch: IntArray
    sequence_parallel: IntArray

    def __len__(self) -> int:
        return len(self.tp)

    def select(self, picked: IntArray | slice) -> Meshes:
        """Keep the meshes at ``picked``."""
        return Meshes(**{f.name: getattr(self, f.name)[picked] for f in fields(self)})

    @property
    def stage_chips(self) -> IntArray:
        """Chips of one pipeline stage."""
        return self.tp * self.cp * self.dp

    def mesh(self, index: int, virtual_stages: int = 1) -> Mesh:
        """One mesh as the cost model takes it."""
        own = {f.name: int(getattr(self, f.name)[index]) for f in fields(self)}
        return Mesh(
            attn_tp=own["tp"],
            cp=own["cp"],
            attn_dp=own["dp"],
            pp=own["pp"],
            virtual_stages=virtual_stages,
            ep=own["ep"],
            expert_tp=own["expert_tp"],
        )


def domain_size(topology: Topology) -> int:
    """Chips of the largest scale-up domain."""
    return max(len(domain) for domain in topology.domains)


def aligned_chips(topology: Topology, tp: int) -> int:
    """Chips that groups of ``tp`` inside domains, or of whole domains, can use."""
    largest = domain_size(topology)
    if tp <= largest:
        return sum(len(domain) // tp * tp for domain in topology.domains)
    whole = sum(len(domain) == largest for domain in topology.domains)
    return whole // (tp // largest) * tp


def num_heads(model: ModelSpec) -> int:
    """What tensor parallelism must divide: the heads that all layers have in common."""
    return math.gcd(*(int(decode_core(layer.attention, 1.0).num_heads) for layer in model.layers))


def _fits_domain(degree: int, largest: int) -> bool:
    inside = degree <= largest and largest % degree == 0
    return inside or (degree % largest == 0 and degree <= MOST_TP_DOMAINS * largest)


def tensor_degrees(request: TrainRequest) -> list[int]:
    """Tensor-parallel degrees of the space."""
    largest = domain_size(request.topology)
    heads = num_heads(request.model)
    return [
        tp for tp in divisors(heads) if permits(request.limits.tp, tp) and _fits_domain(tp, largest)
    ]


def context_degrees(request: TrainRequest) -> list[int]:
    """Context-parallel degrees of the space."""
    seq = request.seq_len
    return [
        cp
        for cp in divisors(seq)
        if permits(request.limits.cp, cp)
        and (cp == 1 or (seq % (2 * cp) == 0 and seq // cp >= LEAST_TOKENS and cp <= MOST_CP))
    ]


def experts_of(model: ModelSpec) -> tuple[int, int] | None:
    """Experts of a layer and their width, or None for a dense model."""
    found = {
        (layer.ffn.num_experts, layer.ffn.expert_width)
        for layer in model.layers
        if isinstance(layer.ffn, MoeFfn)
    }
    if not found:
        return None
    return math.gcd(*(n for n, _ in found)), math.gcd(*(int(width) for _, width in found))


def expert_degrees(request: TrainRequest) -> list[tuple[int, int]]:
    """``(ep, expert_tp)`` of the space."""
    shape, limits = experts_of(request.model), request.limits
    if shape is None:
        free = permits(limits.ep, 1) and permits(limits.expert_tp, 1)
        return [(1, 1)] if free else []
    largest = domain_size(request.topology)
    splits = [
        split
        for split in divisors(shape[1])
        if split <= MOST_EXPERT_TP and largest % split == 0 and permits(limits.expert_tp, split)
    ]
    return [(ep, split) for ep in divisors(shape[0]) if permits(limits.ep, ep) for split in splits]


def _blocks(request: TrainRequest) -> Iterator[tuple[int, ...]]:
    """``(tp, cp, dp, pp)`` of the space."""
    batch_divisors = divisors(request.global_batch)
    most_pp = len(request.model.layers) + 2
    parts = parts_of(request.topology)
    fewer = request.objective is Objective.COST or request.limits.dp is not None
    for tp in tensor_degrees(request):
        chips = aligned_chips(request.topology, tp)
        for cp in context_degrees(request):
            for pp in range(1, min(most_pp, chips // (tp * cp)) + 1):
                if not permits(request.limits.pp, pp):
                    continue
                left = chips // (tp * cp * pp)
                able = [
                    dp
                    for dp in batch_divisors
                    if dp <= left
                    and permits(request.limits.dp, dp)
                    and _blocks_lie_alike(tp * cp, dp, pp, parts)
                ]
                for dp in able:
                    if fewer or 2 * dp not in able:
                        yield tp, cp, dp, pp


def _blocks_lie_alike(inner: int, dp: int, pp: int, parts: tuple[Part, ...]) -> bool:
    spans = np.array((inner, inner * dp))
    return bool(lies_alike(spans, inner * dp * pp, parts).all())


def enumerate_meshes(request: TrainRequest) -> Meshes:
    """All meshes of the request's space; possibly none.

    Returns
    -------
    Meshes
    """
    limits = request.limits
    experts = np.array(expert_degrees(request), dtype=np.int64).reshape(-1, 2)
    inner: dict[int, IntArray] = {}
    blocks: list[IntArray] = []
    torus = request.topology.is_torus
    parts = parts_of(request.topology)
    spans = experts.prod(axis=1)
    for tp, cp, dp, pp in _blocks(request):
        stage = tp * cp * dp
        fitting = experts[(stage % spans == 0) & lies_alike(spans, stage * pp, parts)]
        own = request.global_batch // dp
        if own not in inner:
            sizes = [
                size
                for size in divisors(own)
                if size <= MOST_SEQUENCES
                or size in LARGER_SEQUENCES
                or limits.microbatch is not None
                if permits(limits.microbatch, size)
            ]
            inner[own] = np.array(sizes, dtype=np.int64)
        free = (0, 1) if tp > 1 and not torus else (0,)
        splits = [s for s in free if permits(_as_ints(limits.sequence_parallel), s)]
        if tp == 1 or torus:
            splits = [0]
        grid = np.meshgrid(np.arange(len(fitting)), inner[own], splits, indexing="ij")
        rows = np.empty((grid[0].size, 8), dtype=np.int64)
        rows[:, :4] = (tp, cp, dp, pp)
        rows[:, 4:6] = fitting[grid[0].ravel()]
        rows[:, 6] = grid[1].ravel()
        rows[:, 7] = grid[2].ravel()
        blocks.append(rows)
    table = np.concatenate(blocks) if blocks else np.empty((0, 8), dtype=np.int64)
    names = [f.name for f in fields(Meshes)]
    return Meshes(**{name: table[:, column].copy() for column, name in enumerate(names)})


def _as_ints(choice: frozenset[bool] | None) -> frozenset[int] | None:
    return None if choice is None else frozenset(int(value) for value in choice)
