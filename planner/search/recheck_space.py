"""The space of a decode certificate, restated as plain loops.

Sets, with ``S`` chips in a stage, ``D`` the largest scale-up domain, ``E`` experts:

    S            1 .. D, and n pieces of ceil(D / 2) .. D chips over n >= 2 domains
    attn_tp      divides S, at most the heads of any layer but on a torus
    cp           divides S / attn_tp, of the values that the certificate lists, 1 where it does
                 not list attn_tp; attn_dp = S / (attn_tp cp), which is 1 for a model without
                 experts
    ep           divides S; expert_tp = S / ep, at most 16
    num_slots    E, or every group filled with ceil(E / ep) + 0 .. 3 copies, at most E ep
    cells        stages that the machine holds when runs of lcm(attn_tp, expert_tp) ranks
                 stay within a domain
    pp           1 .. 64, at most the layers and the cells
    microbatches 1 .. pp + 1 and 2 pp; 1 where pp is 1. With more than 8 stages, a free batch
                 and an objective other than latency: with q = floor(layers / ceil(layers /
                 pp)), q and every pp / 8 from there below pp, powers of two up to q, and
                 pp, pp + 1, 2 pp
    replicas     cells / pp, at most a pinned batch / microbatches; every smaller number too
                 where cost with a pinned batch, or a limit on replicas or on attn_dp replicas
                 asks for it

    overlap      nothing hidden, and as much as is allowed and communicates at all; one mode
                 where the time model hides everything
    draft        0, and up to 3 where the acceptance of drafts is known

less what the user's limits exclude, and what leaves a microbatch without a sequence. A pinned
batch is dealt to replicas evenly; a free one is any number of each, dealt evenly within.

This module shares no code with the search, on purpose: when the two disagree about the
space, the number of strategies that the certificate counted differs. Which contexts are worth
sharing is taken from the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from planner.cost.routing import moe_shape
from planner.domain.degrees import OverlapMode
from planner.domain.model import LinearAttention, ModelSpec
from planner.domain.workload import Objective
from planner.topology.graph import Topology
from planner.topology.groups import max_cells

MOST_EXPERT_TP = 16
MOST_STAGES = 64
MOST_EXTRA_SLOTS = 3
MOST_DRAFT = 3

Row = tuple[int, int, int]
Limits = Mapping[str, frozenset[int]]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class SplitChoice:
    """How one stage is split, the ranks that share a domain, and the stages that fit."""

    attn_tp: int
    attn_dp: int
    ep: int
    expert_tp: int
    unit: int
    cells: int
    cp: int = 1
    overlap: OverlapMode = OverlapMode.NONE
    draft: int = 0

    @property
    def size(self) -> int:
        """Chips of the stage."""
        return self.attn_tp * self.cp * self.attn_dp


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The strategies of one question.

    Parameters
    ----------
    limits : mapping
        Values that the user allows, by the name of the option: tp, pp, ep, dp, expert_tp,
        slots, microbatches, replicas, cp, overlap, draft. Names that are absent are free.
    contexts, sharing : frozenset of int
        Values of ``cp`` that the certificate lists, and of ``attn_tp`` with more than one.
    hides_all : bool
        Whether the time model hides all communication.
    drafts : bool
        Whether the acceptance of drafted tokens is known.
    """

    topology: Topology
    model: ModelSpec
    objective: Objective
    limits: Limits
    batch: int | None
    contexts: frozenset[int] = frozenset({1})
    sharing: frozenset[int] = frozenset()
    hides_all: bool = False
    drafts: bool = False
    _rows: dict[int, tuple[Row, ...]] = field(default_factory=dict)

    def allows(self, name: str, value: int) -> bool:
        """Whether the user's limits admit ``value``."""
        allowed = self.limits.get(name)
        return allowed is None or value in allowed

    @property
    def num_experts(self) -> int:
        """Routed experts of an MoE layer, 0 without experts."""
        shape = moe_shape(self.model)
        return 0 if shape is None else shape[0]

    def sizes(self) -> list[int]:
        """Chips that a stage may have."""
        domains = [domain for domain in self.topology.open_domains if domain]
        largest = max(len(domain) for domain in domains)
        found = set(range(1, largest + 1))
        for count in range(2, len(domains) + 1):
            for piece in range(-(-largest // 2), largest + 1):
                found.add(count * piece)
        return sorted(size for size in found if size <= self.topology.max_used)

    def splits(self) -> Iterator[SplitChoice]:
        """Every split of every stage size that fits on the machine."""
        largest = max(len(domain) for domain in self.topology.open_domains)
        heads = self.topology.num_chips if self.topology.is_torus else _most_heads(self.model)
        cells: dict[tuple[int, int], int] = {}
        for size in self.sizes():
            degrees = [degree for degree in range(1, size + 1) if size % degree == 0]
            experts = list(self._expert_degrees(size, degrees))
            for attn_tp in degrees:
                if attn_tp > heads or not self.allows("tp", attn_tp):
                    continue
                for ep, expert_tp in experts:
                    unit = _unit(attn_tp, expert_tp, largest)
                    if unit is None or size % unit:
                        continue
                    if (size, unit) not in cells:
                        cells[size, unit] = max_cells(self.topology, size, unit)
                    place = (unit, cells[size, unit])
                    if place[1]:
                        yield from self._habits((attn_tp, size // attn_tp), (ep, expert_tp), place)

    def _habits(
        self, attention: tuple[int, int], experts: tuple[int, int], place: tuple[int, int]
    ) -> Iterator[SplitChoice]:
        """A split with every way to share contexts, to overlap and to draft."""
        attn_tp, groups = attention
        for cp in sorted(self.contexts):
            if groups % cp or not self.allows("cp", cp):
                continue
            if cp > 1 and attn_tp not in self.sharing:
                continue
            if not self.num_experts and groups // cp > 1:
                continue
            for overlap in self._overlaps(attn_tp, groups):
                for draft in range(MOST_DRAFT + 1) if self.drafts else (0,):
                    if self.allows("draft", draft):
                        yield SplitChoice(
                            attn_tp=attn_tp,
                            attn_dp=groups // cp,
                            cp=cp,
                            ep=experts[0],
                            expert_tp=experts[1],
                            unit=place[0],
                            cells=place[1],
                            overlap=overlap,
                            draft=draft,
                        )

    def _overlaps(self, attn_tp: int, groups: int) -> list[OverlapMode]:
        """Modes that are worth a strategy of their own, see the module."""
        allowed = [mode for mode in OverlapMode if self.allows("overlap", int(mode))]
        if self.hides_all:
            return allowed[:1]
        busy = (OverlapMode.TP if attn_tp > 1 else 0) | (
            OverlapMode.EP if self.num_experts and groups > 1 else 0
        )
        first: dict[int, OverlapMode] = {}
        for mode in allowed:
            first.setdefault(int(mode) & int(busy), mode)
        return [
            mode
            for hidden, mode in first.items()
            if not hidden or not any(more != hidden and more & hidden == hidden for more in first)
        ]

    def _expert_degrees(self, size: int, degrees: list[int]) -> Iterator[tuple[int, int]]:
        if not self.num_experts:
            if self.allows("ep", 1) and self.allows("expert_tp", 1):
                yield 1, 1
            return
        for ep in degrees:
            expert_tp = size // ep
            if expert_tp > MOST_EXPERT_TP:
                continue
            if self.allows("ep", ep) and self.allows("expert_tp", expert_tp):
                yield ep, expert_tp

    def slots(self, ep: int) -> list[int]:
        """Expert copies per MoE layer for ``ep`` groups."""
        experts = self.num_experts
        if not experts:
            return [0]
        least = -(-experts // ep)
        counts = {experts} | {ep * (least + more) for more in range(MOST_EXTRA_SLOTS + 1)}
        return sorted(
            count for count in counts if ep <= count <= experts * ep and self.allows("slots", count)
        )

    def rows(self, split: SplitChoice) -> tuple[Row, ...]:
        """``(pp, microbatches, replicas)`` of every pipeline of such stages."""
        if split.cells not in self._rows:
            self._rows[split.cells] = tuple(self._pipelines(split.cells))
        rows = self._rows[split.cells]
        if "dp" in self.limits:
            rows = tuple(row for row in rows if self.allows("dp", split.attn_dp * row[2]))
        return rows

    def _pipelines(self, cells: int) -> Iterator[Row]:
        fewer = self.objective is Objective.COST and self.batch is not None
        fewer = fewer or "replicas" in self.limits or "dp" in self.limits
        for pp in range(1, min(cells, len(self.model.layers), MOST_STAGES) + 1):
            if not self.allows("pp", pp):
                continue
            for microbatches in self._microbatches(pp):
                most = cells // pp
                if self.batch is not None:
                    most = min(most, self.batch // microbatches)
                for replicas in range(1 if fewer else most, most + 1):
                    if replicas and self.allows("replicas", replicas):
                        yield pp, microbatches, replicas

    def _microbatches(self, pp: int) -> list[int]:
        allowed = self.limits.get("microbatches")
        if allowed is not None:
            return sorted(allowed)
        if pp == 1:
            return [1]
        top = {pp, pp + 1, 2 * pp}
        if pp <= 8 or self.batch is not None or self.objective is Objective.LATENCY:
            return sorted({*range(1, pp), *top})
        num_layers = len(self.model.layers)
        even = num_layers // math.ceil(num_layers / pp)
        doubled = [1 << power for power in range(even.bit_length()) if 1 << power <= even]
        return sorted({*doubled, *range(even, pp, pp // 8), *top})

    def count(self) -> int:
        """Number of strategies."""
        return sum(len(self.rows(split)) * len(self.slots(split.ep)) for split in self.splits())


def _most_heads(model: ModelSpec) -> int:
    heads = 1
    for layer in model.layers:
        attention = layer.attention
        if isinstance(attention, LinearAttention):
            heads = max(heads, attention.num_value_heads)
        else:
            heads = max(heads, attention.num_heads)
    return heads


def _unit(attn_tp: int, expert_tp: int, largest: int) -> int | None:
    """Ranks that must share a domain; None when both groups exceed one domain."""
    together = math.lcm(attn_tp, expert_tp)
    if together <= largest:
        return together
    small = [degree for degree in (attn_tp, expert_tp) if degree <= largest]
    if len(small) == 2:
        return None
    return small[0] if small else 1
