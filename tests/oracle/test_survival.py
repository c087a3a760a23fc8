"""Layouts that survive: what they promise, chip by chip, and their bound against brute force."""

import math

import pytest
from oracle_brute import Problem, TooManyError
from oracle_tiny import tiny

from planner import Infeasible, api
from planner.cost.routing import moe_shape
from planner.search.strategies import slot_counts
from planner.search.survival import failure_violations
from planner.topology.failures import failure_units

MOST_EVALUATIONS = 150


class Surviving(Problem):
    """Brute force over layouts that go on without any one unit."""

    def __init__(self, case, question, inputs, units):
        super().__init__(case, question, inputs, MOST_EVALUATIONS)
        self.units = units

    def slot_counts(self, ep):
        shape = moe_shape(self.model)
        if shape is None:
            return super().slot_counts(ep)
        allowed = self.question.limits.slots
        found = {*super().slot_counts(ep), *slot_counts(shape[0], ep, 2)}
        return sorted(s for s in found if s >= ep and (allowed is None or s in allowed))

    def assignments(self, degrees, cells):
        for assignment, prediction in super().assignments(degrees, cells):
            broken = failure_violations(
                self.setting, self.topology, assignment, self.loads, self.units
            )
            if not broken:
                yield assignment, prediction


def asked(seed, folder):
    case = tiny(seed, folder, survive="chip")
    inputs, read = api.read_question(case.question)
    return case, inputs, read, failure_units(read.topology, "chip")


@pytest.mark.parametrize("block", range(5))
def test_no_layout_that_survives_is_better_than_the_bound(block, tmp_path):
    answers = 0
    for seed in range(block * 20, block * 20 + 20):
        try:
            case, inputs, read, units = asked(seed, tmp_path)
        except api.SpecError:
            continue
        problem = Surviving(read, case.question, inputs, units)
        try:
            best = problem.optimum()
        except TooManyError:
            continue
        found = api.plan(case.question)
        where = f"seed {seed}"
        if isinstance(found, Infeasible):
            assert best == math.inf, where
            continue
        answers += 1
        assert found.certificate.bound <= best * (1 + 1e-9), where
        assert found.certificate.objective >= best * (1 - 1e-9), where
    assert answers >= 1


def lives(layout, dead, num_experts):
    """Whether the file, read by itself, says that a replica goes on without ``dead`` chips."""
    groups, copies = {}, {}
    for rank in layout.ranks:
        key = (rank.replica, rank.attn_dp_rank)
        groups[key] = groups.get(key, True) and rank.chip not in dead
        where = (rank.replica, rank.stage, rank.ep_rank)
        copies[where] = copies.get(where, True) and rank.chip not in dead
    for replica in range(layout.degrees.replicas):
        some_group = any(alive for (r, _), alive in groups.items() if r == replica)
        complete = True
        for one in layout.experts:
            for layer in one.layers:
                stage = next(
                    s
                    for s, own in enumerate(layout.stages)
                    if own.first_layer <= layer < own.end_layer
                )
                held = set()
                for ep_rank, own in enumerate(one.slots):
                    if copies[replica, stage, ep_rank]:
                        held |= set(own)
                complete &= len(held) == num_experts
        if some_group and complete:
            return True
    return False


@pytest.mark.parametrize(
    ("model", "machine", "options", "survive", "size"),
    [
        ("mixtral-8x7b", "h100-hgx", {}, "chip", 1),
        ("mixtral-8x7b", "h100-hgx", {"nodes": 2}, "any", 8),
        ("qwen3-30b-a3b", "gb200-nvl72", {}, "tray", 4),
    ],
)
def test_every_expert_lives_on_whatever_dies(model, machine, options, survive, size):
    question = api.Question(
        model=model, machine=machine, context_tokens=4096, survive=survive, gap=0.05, **options
    )
    layout = api.plan(question)
    assert not isinstance(layout, Infeasible)
    assert api.verify(layout) == ()
    topology = api.case_of_layout(layout).topology
    units = failure_units(topology, survive)
    assert {len(unit) for unit in units} == {size}
    assert set().union(*units) == set(range(topology.num_chips))
    num_experts = moe_shape(api.load_model(model))[0]
    for unit in units:
        assert lives(layout, {topology.chip_names[chip] for chip in unit}, num_experts)
    # The caches of all sequences fit where one unit less holds them. Caches are whole sequences.
    memory, degrees = layout.prediction.memory, layout.degrees
    whole = degrees.num_slots >= 2 * num_experts
    lost = (size if degrees.attn_tp == 1 else 1) if whole else degrees.attn_dp
    groups = degrees.attn_dp * degrees.replicas
    before = max(sum(column) for s in layout.batches for column in zip(*s.sequences, strict=True))
    after = math.ceil(layout.prediction.batch / (groups - lost))
    needed = memory.used_bytes + memory.kv_bytes * (after / before - 1)
    assert needed <= memory.capacity_bytes * (1 + 1e-9)


def test_an_edited_layout_that_does_not_survive_is_named(tmp_path):
    from msgspec import structs

    question = api.Question(model="mixtral-8x7b", machine="h100-hgx", context_tokens=4096)
    layout = api.plan(question)
    claims = structs.replace(layout, inputs=structs.replace(layout.inputs, survive="chip"))
    assert any("without n0/c0 no replica" in text for text in api.verify(claims))
