"""From one layout to another: which bytes every chip lacks, and from whom it gets them.

A chip keeps what it holds already. What it lacks comes from a chip that holds it: one of the
same domain if there is one, of those the one that has sent least so far. What no living chip
holds is read from host or storage. A cached sequence stays with the group that holds most of
it, moves with all that its new group lacks, or is lost: where a chip of its group is gone,
where the new layout has no room, or where ``drop_caches`` says that caches do not travel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.cost.holdings import (
    GONE,
    TOKEN_PARTS,
    Block,
    Role,
    Span,
    blocks,
    common,
    expert_rows,
    experts_held,
    role_at,
    roles_of,
    span,
)
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.topology.graph import Topology

# Source of what no chip holds.
STORAGE = -2

Group = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Transition:
    """A layout, and the one that follows it on a machine.

    Parameters
    ----------
    topology : Topology
        The machine after the change.
    before, after : Setting
        What is cached before, and what is held after.
    old, new : Assignment
        Chips are those of ``topology``; ``GONE`` in ``old`` for those it does not have.
    drop_caches : bool
        Whether sequences that change chips lose their caches instead of taking them along.
    """

    topology: Topology
    before: Setting
    after: Setting
    old: Assignment
    new: Assignment
    drop_caches: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheFate:
    """What becomes of the cached sequences: so many stay, move, or are lost.

    ``lost`` lived on a chip that is gone or were dropped; ``unplaced`` find no room in the new
    layout. ``lost_bytes`` are the caches of both.
    """

    kept: int
    moved: int
    lost: int
    unplaced: int
    lost_bytes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Migration:
    """Bytes by kind, source (a chip or ``STORAGE``) and target.

    ``lost_copies`` are ``(layer, expert)`` that no living chip held.
    """

    flows: dict[tuple[str, int, int], float]
    caches: CacheFate
    lost_copies: tuple[tuple[int, int], ...]

    @property
    def moved_bytes(self) -> float:
        """Everything that is copied or read, caches that travel included."""
        return sum(self.flows.values())

    @property
    def storage_bytes(self) -> float:
        """Bytes read from host or storage."""
        return sum(size for (_, source, _), size in self.flows.items() if source == STORAGE)

    def between_chips(self) -> dict[tuple[int, int], float]:
        """Bytes from chip to chip."""
        found: dict[tuple[int, int], float] = defaultdict(float)
        for (_, source, target), size in self.flows.items():
            if source != STORAGE:
                found[source, target] += size
        return dict(found)


@dataclass(slots=True)
class _Ledger:
    """Sends bytes from the chip that is nearest and has sent least."""

    topology: Topology
    flows: dict[tuple[str, int, int], float] = field(default_factory=lambda: defaultdict(float))
    sent: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def send(self, kind: str, holders: Sequence[int], target: int, num_bytes: float) -> bool:
        """Book bytes to ``target``; False where nobody holds them: they come from storage."""
        if num_bytes <= 0:
            return True
        if not holders:
            self.flows[kind, STORAGE, target] += num_bytes
            return False
        home = self.topology.domain_of(target)
        source = min(
            holders,
            key=lambda chip: (self.topology.domain_of(chip) != home, self.sent[chip], chip),
        )
        self.flows[kind, source, target] += num_bytes
        self.sent[source] += num_bytes
        return True


def migrate(step: Transition) -> Migration:
    """Work out a transition.

    Returns
    -------
    Migration
        A chip that holds all it needs appears in no flow as a target.
    """
    ledger = _Ledger(topology=step.topology)
    found = blocks(step.before, step.old, step.new)
    before, after = roles_of(step.old), roles_of(step.new)
    _move_weights(step, found, (before, after), ledger)
    lost_copies = _move_experts(step, (before, after), ledger)
    caches = _move_caches(step, found, (before, after), ledger)
    return Migration(
        flows=dict(ledger.flows),
        caches=caches,
        lost_copies=lost_copies,
    )


def _without(spans: list[Span], taken: Span) -> list[Span]:
    """What is left of ``spans`` outside of ``taken``."""
    left = []
    for start, end in spans:
        left += [(start, min(end, taken[0])), (max(start, taken[1]), end)]
    return [(start, end) for start, end in left if start < end]


def _move_weights(
    step: Transition,
    found: Sequence[Block],
    roles: tuple[dict[int, Role], dict[int, Role]],
    ledger: _Ledger,
) -> None:
    """Book all weights but routed experts."""
    before, after = roles
    old_tp, new_tp = step.old.degrees.attn_tp, step.new.degrees.attn_tp
    holders: dict[tuple[int, int], list[int]] = defaultdict(list)
    for chip, role in sorted(before.items()):
        holders[role.stage, role.tp].append(chip)
    for chip, role in sorted(after.items()):
        mine = before.get(chip)
        for block in found:
            if role.stage not in block.new_stages:
                continue
            keeps = mine is not None and mine.stage in block.old_stages
            for ways, num_bytes in block.weights:
                left = [span(ways, new_tp, role.tp)]
                if keeps and mine is not None:
                    left = _without(left, span(ways, old_tp, mine.tp))
                each = block.count * num_bytes / ways
                for rank in range(old_tp if left else 0):
                    own = span(ways, old_tp, rank)
                    shared = sum(common(part, own) for part in left)
                    sources = [c for stage in block.old_stages for c in holders[stage, rank]]
                    if shared and sources:
                        ledger.send(block.kind, sources, chip, shared * each)
                        left = _without(left, own)
                missing = sum(end - start for start, end in left) * each
                ledger.send(block.kind, (), chip, missing)


def _move_experts(
    step: Transition, roles: tuple[dict[int, Role], dict[int, Role]], ledger: _Ledger
) -> tuple[tuple[int, int], ...]:
    """Book copies of experts; returns those that nobody holds."""
    model, (before, after) = step.after.model, roles
    rows = expert_rows(model, bool(step.old.degrees.draft or step.new.degrees.draft))
    if not rows.layers:
        return ()
    chips = step.topology.num_chips
    held = experts_held(model, rows, step.old, chips)
    need = experts_held(model, rows, step.new, chips)
    old_tp, new_tp = step.old.degrees.expert_tp, step.new.degrees.expert_tp
    lost: dict[tuple[int, int], None] = {}
    # Copies that are not split are there or not.
    lacking = need & ~held if old_tp == new_tp == 1 else need
    where: dict[tuple[int, int], list[int]] = defaultdict(list)
    for owner, row, expert in np.argwhere(held & lacking.any(axis=0)).tolist():
        where[row, expert].append(owner)
    for chip, row, expert in np.argwhere(lacking).tolist():
        owners, size = where[row, expert], float(rows.copy_bytes[row])
        if old_tp == new_tp == 1:
            is_whole = ledger.send("experts", owners, chip, size)
        else:
            width = rows.widths[row]
            left = [span(width, new_tp, after[chip].expert_tp)]
            if held[chip, row, expert]:
                left = _without(left, span(width, old_tp, before[chip].expert_tp))
            by_rank: dict[Span, list[int]] = defaultdict(list)
            for owner in owners:
                by_rank[span(width, old_tp, before[owner].expert_tp)].append(owner)
            is_whole = _send_parts(ledger, chip, left, by_rank, size / width)
        if not is_whole:
            lost[rows.layers[row], expert] = None
    return tuple(lost)


def _send_parts(
    ledger: _Ledger,
    chip: int,
    left: list[Span],
    holders: dict[Span, list[int]],
    each: float,
) -> bool:
    """Book what a chip lacks of one expert, part by part; False where nobody holds some of it."""
    for own in sorted(holders):
        shared = sum(common(part, own) for part in left)
        if shared:
            ledger.send("experts", holders[own], chip, shared * each)
            left = _without(left, own)
    return ledger.send("experts", (), chip, sum(end - start for start, end in left) * each)


def _groups(assignment: Assignment) -> tuple[dict[Group, int], dict[Group, list[tuple[int, Role]]]]:
    """Sequences and chips (with their roles) of every attention group."""
    d = assignment.degrees
    counts, members = {}, defaultdict(list)
    for replica, sequences in enumerate(assignment.sequences):
        for group in range(d.attn_dp):
            counts[replica, group] = sum(microbatch[group] for microbatch in sequences)
    for replica, cells in enumerate(assignment.cells):
        for stage, cell in enumerate(cells):
            for index, chip in enumerate(cell):
                role = role_at(d, replica, stage, index)
                members[replica, role.dp].append((chip, role))
    return counts, dict(members)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Caches:
    """How caches lie before and after."""

    found: Sequence[Block]
    old: Assignment
    new: Assignment

    def shared(self, block: Block, mine: Role, role: Role) -> float:
        """Bytes of one sequence and block that role ``mine`` holds and ``role`` needs."""
        if mine.stage not in block.old_stages or role.stage not in block.new_stages:
            return 0.0
        ways, whole = block.cached
        old, new = self.old.degrees, self.new.degrees
        heads = common(span(ways, old.attn_tp, mine.tp), span(ways, new.attn_tp, role.tp))
        tokens = common(span(TOKEN_PARTS, old.cp, mine.cp), span(TOKEN_PARTS, new.cp, role.cp))
        return block.count * whole * heads / ways * tokens / TOKEN_PARTS

    def needed(self, block: Block, role: Role) -> float:
        """Bytes of one sequence and block that a role needs."""
        if role.stage not in block.new_stages or not block.old_stages:
            return 0.0
        ways, whole = block.cached
        new = self.new.degrees
        start, end = span(ways, new.attn_tp, role.tp)
        first, last = span(TOKEN_PARTS, new.cp, role.cp)
        return block.count * whole * (end - start) / ways * (last - first) / TOKEN_PARTS

    def kept(self, mine: Role, role: Role) -> float:
        """Bytes of one sequence that a chip has already."""
        return sum(self.shared(block, mine, role) for block in self.found)


def _move_caches(
    step: Transition,
    found: Sequence[Block],
    roles: tuple[dict[int, Role], dict[int, Role]],
    ledger: _Ledger,
) -> CacheFate:
    """Give every cached sequence a place, those that stay first."""
    before, after = roles
    lies = _Caches(found=found, old=step.old, new=step.new)
    counts, old_members = _groups(step.old)
    room, new_members = _groups(step.new)
    alive = {g for g, own in old_members.items() if all(chip != GONE for chip, _ in own)}
    each = {g: _sequence_bytes(lies, own) for g, own in new_members.items()}
    typical = max(each.values(), default=0.0)
    lost = sum(count for group, count in counts.items() if group not in alive)
    left = {group: counts[group] for group in counts if group in alive}
    overlap: dict[tuple[Group, Group], float] = defaultdict(float)
    for chip, role in after.items():
        mine = before.get(chip)
        if mine is not None and (mine.replica, mine.dp) in alive:
            pair = (mine.replica, mine.dp), (role.replica, role.dp)
            overlap[pair] += lies.kept(mine, role)
    kept = moved = 0
    ordered = sorted(overlap, key=lambda pair: (-overlap[pair], pair))
    stays = [p for p in ordered if overlap[p] >= each[p[1]] * (1 - 1e-9)]
    # Whole caches first: a sequence that can stay must not lose its place to one that cannot.
    for pair in stays:
        number = min(left[pair[0]], room[pair[1]])
        left[pair[0]] -= number
        room[pair[1]] -= number
        kept += number
    # The new layout may have less room than there are sequences that must start anew.
    takers = [group for group in sorted(room) if room[group]]
    travels = [p for p in ordered if overlap[p] < each[p[1]] * (1 - 1e-9)]
    travels += [(a, b) for a in sorted(left) if left[a] for b in takers if (a, b) not in overlap]
    for source, target in travels:
        number = min(left[source], room[target])
        if number <= 0:
            continue
        left[source] -= number
        room[target] -= number
        if step.drop_caches:
            lost += number
            continue
        moved += number
        _send_caches(lies, (old_members[source], new_members[target]), number, ledger)
    unplaced = sum(left.values())
    return CacheFate(
        kept=kept,
        moved=moved,
        lost=lost,
        unplaced=unplaced,
        lost_bytes=(lost + unplaced) * typical,
    )


def _sequence_bytes(lies: _Caches, members: Sequence[tuple[int, Role]]) -> float:
    return sum(lies.needed(block, role) for _, role in members for block in lies.found)


def _send_caches(
    lies: _Caches,
    members: tuple[Sequence[tuple[int, Role]], Sequence[tuple[int, Role]]],
    number: int,
    ledger: _Ledger,
) -> None:
    """Book what the chips of a new group lack of ``number`` sequences of an old group."""
    sources, targets = members
    for chip, role in targets:
        for block in lies.found:
            needed = lies.needed(block, role)
            own = [lies.shared(block, mine, role) for c, mine in sources if c == chip]
            lacks = needed - sum(own)
            if lacks <= needed * 1e-12:
                continue
            shares = [(lies.shared(block, mine, role), c) for c, mine in sources if c != chip]
            total = sum(size for size, _ in shares)
            if max((size for size, _ in shares), default=0.0) >= needed * (1 - 1e-9):
                # Heads that all ranks hold: one of them sends.
                holders = [c for size, c in shares if size >= needed * (1 - 1e-9)]
                ledger.send("caches", holders, chip, number * lacks)
                continue
            for size, c in shares:
                if size > 0:
                    ledger.send("caches", [c], chip, number * lacks * size / total)
