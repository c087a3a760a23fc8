"""Which chip takes which place of a new layout, so that much stays where it is.

Sets        places p of the new layout and idle chips, by domain; chips c of that domain
Data        v_cp   bytes that chip c holds already of what place p needs: weights, expert
            copies, caches
Variables   the place of every chip
Objective   maximise sum of v_cp
Constraints every place gets one chip; a chip takes a place of its own domain

Chips of one domain trade places at no price where they hang on switches; elsewhere, and for the
cells that trade stages first, the layout is priced again and the answer is one of several that
are tried. Cells are assigned to stages alike, by the bytes that their chips hold of a stage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.cost.holdings import (
    GONE,
    TOKEN_PARTS,
    Role,
    blocks,
    common,
    expert_rows,
    experts_held,
    roles_of,
    span,
)
from planner.cost.migration import Transition
from planner.domain.assignment import Assignment
from planner.search.assignment import best_assignment
from planner.search.expert_bounds import FloatArray
from planner.search.mesh import Cells

# Larger assignment problems take seconds.
MOST_CHIPS = 1024
# Chips change places for more than a preference among equals.
LEAST_GAIN = 1e-5


class Overlap:
    """How much of what places of ``step.new`` need is in place on which chips.

    Experts count where the maps are the old ones; others are placed to suit the chips later.
    """

    def __init__(self, step: Transition) -> None:
        self.step = step
        self.before, self.after = roles_of(step.old), roles_of(step.new)
        self._found = blocks(step.before, step.old, step.new)
        groups = step.old.degrees.attn_dp * step.old.degrees.replicas
        self._typical = step.old.batch / groups

    @cached_property
    def _experts(self) -> tuple[FloatArray, FloatArray]:
        """Experts that chips hold, in bytes, and that places need, ``[chips, rows x experts]``."""
        model = self.step.after.model
        rows = expert_rows(model, with_draft=False)
        chips = self.step.topology.num_chips
        held = experts_held(model, rows, self.step.old, chips)
        need = experts_held(model, rows, self.step.new, chips)
        sizes = np.broadcast_to(rows.copy_bytes[None, :, None], held.shape)
        return (held * sizes).reshape(chips, -1), need.reshape(chips, -1).astype(np.float64)

    def _same(self, mine: Role | None, role: Role | None) -> float:
        """Bytes of weights and caches that a chip keeps when it changes its role."""
        if mine is None or role is None:
            return 0.0
        return sum(
            block.count * self._layer(block.weights, block.cached, mine, role)
            for block in self._found
            if mine.stage in block.old_stages and role.stage in block.new_stages
        )

    def _layer(
        self,
        weights: tuple[tuple[int, float], ...],
        cached: tuple[int, float],
        mine: Role,
        role: Role,
    ) -> float:
        old, new = self.step.old.degrees, self.step.new.degrees

        def heads(ways: int) -> float:
            return common(span(ways, old.attn_tp, mine.tp), span(ways, new.attn_tp, role.tp)) / ways

        parts = common(span(TOKEN_PARTS, old.cp, mine.cp), span(TOKEN_PARTS, new.cp, role.cp))
        kept = sum(size * heads(ways) for ways, size in weights)
        return kept + self._typical * cached[1] * heads(cached[0]) * parts / TOKEN_PARTS

    def values(self, chips: list[int], places: list[int]) -> FloatArray:
        """Bytes in place, shape ``[chips, places]``; a place is named by its chip in ``new``."""
        old = [self.before.get(chip) for chip in chips]
        new = [self.after.get(place) for place in places]
        found = np.array([[self._same(a, b) for b in _kinds(new)] for a in _kinds(old)])
        found = found.reshape(len(_kinds(old)), len(_kinds(new)))
        table: FloatArray = found[np.ix_(_numbers(old), _numbers(new))]
        # Of equal places the one of the old group: its chips stay together.
        same = _group_codes(old)[:, None] == _group_codes(new)[None, :]
        table = table * np.where(same, 1 + 1e-6, 1.0)
        if self.step.new.slot_maps and self.step.new.slot_maps == self.step.old.slot_maps:
            held, need = self._experts
            table = table + held[chips] @ need[places].T
        return table


def _kind(role: Role | None) -> tuple[int, ...] | None:
    """What decides which weights and caches a role holds."""
    return None if role is None else (role.stage, role.tp, role.cp)


def _kinds(roles: Sequence[Role | None]) -> list[Role | None]:
    """One role of every kind."""
    return list({_kind(role): role for role in reversed(roles)}.values())


def _numbers(roles: Sequence[Role | None]) -> list[int]:
    """Place of the kind of every role in :func:`_kinds`."""
    number = {_kind(role): place for place, role in enumerate(_kinds(roles))}
    return [number[_kind(role)] for role in roles]


def _group_codes(roles: Sequence[Role | None]) -> NDArray[np.int64]:
    """Number of the attention group of every role, -1 for none."""
    codes = [-1 if role is None else role.replica * (1 << 20) + role.dp for role in roles]
    return np.array(codes, dtype=np.int64)


def arrangements(step: Transition) -> Iterator[Cells]:
    """Cells of the new layout in orders that leave much in place; the first as they are.

    ``step.new`` gives places and the experts that they are expected to hold.
    """
    yield step.new.cells
    moved = _cells_to_stages(step)
    yield moved
    yield _chips_to_places(replace(step, new=replace(step.new, cells=moved)))


def _cells_to_stages(step: Transition) -> Cells:
    """Whole cells change stages and replicas."""
    cells = [cell for stages in step.new.cells for cell in stages]
    pp = step.new.degrees.pp
    if len(cells) == 1 or len(cells) > MOST_CHIPS:
        return step.new.cells
    before = roles_of(step.old)
    found = blocks(step.before, step.old, step.new)
    held = np.zeros((len(cells), len(cells)))
    stage_bytes: dict[tuple[int, int], float] = defaultdict(float)
    for block in found:
        for a in block.old_stages:
            for b in block.new_stages:
                stage_bytes[a, b] += block.count * sum(size for _, size in block.weights)
    for row, cell in enumerate(cells):
        for chip in cell:
            mine = before.get(chip)
            if mine is None:
                continue
            for place in range(len(cells)):
                replica, stage = divmod(place, pp)
                same = 1.0 + 1e-3 * (replica == mine.replica)
                held[row, place] += stage_bytes[mine.stage, stage] * same
    sizes = np.array([len(cell) for cell in cells])
    target = best_assignment(held, sizes[:, None] == sizes[None, :])
    order = np.argsort(target)
    return tuple(
        tuple(cells[order[replica * pp + stage]] for stage in range(pp))
        for replica in range(step.new.degrees.replicas)
    )


def _chips_to_places(step: Transition) -> Cells:
    """Chips of a domain change places, idle ones too."""
    topology = step.topology
    overlap = Overlap(step)
    taker = {chip: chip for chip in overlap.after}
    for domain in topology.domains:
        chips = sorted(chip for chip in domain if chip not in topology.spared.excluded)
        if not 1 < len(chips) <= MOST_CHIPS or not any(chip in taker for chip in chips):
            continue
        values = overlap.values(chips, chips)
        target = best_assignment(values, np.ones(values.shape, dtype=np.bool_))
        gained = values[np.arange(len(chips)), target].sum() - np.trace(values)
        if gained <= LEAST_GAIN * np.trace(values):
            continue
        for chip, place in zip(chips, target.tolist(), strict=True):
            if chips[place] in taker:
                taker[chips[place]] = chip
    return tuple(
        tuple(tuple(taker[chip] for chip in cell) for cell in stages) for stages in step.new.cells
    )


def substituted(step: Transition, old: Assignment) -> Cells | None:
    """The old cells, idle chips in the places of those that are gone; None where too few are.

    A substitute is of the domain where most of its cell is, if that has an idle chip.
    """
    topology = step.topology
    used = {chip for stages in old.cells for cell in stages for chip in cell}
    idle = [
        chip
        for domain in topology.open_domains
        for chip in domain
        if chip not in used and chip not in topology.spared.excluded
    ]
    found = []
    for stages in old.cells:
        row = []
        for cell in stages:
            homes = [topology.domain_of(chip) for chip in cell if chip != GONE]
            home = max(homes, key=homes.count, default=-1)
            own = list(cell)
            for place, chip in enumerate(own):
                if chip == GONE:
                    if not idle:
                        return None
                    best = min(idle, key=lambda c: (topology.domain_of(c) != home, idle.index(c)))
                    idle.remove(best)
                    own[place] = best
            row.append(tuple(own))
        found.append(tuple(row))
    return tuple(found)
