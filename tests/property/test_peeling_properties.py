"""Bounds of uneven pipelines: between their simulation and a plainer bound, in random cases."""

import random

import numpy as np
import pytest

from planner.cost.schedules import StageTimes, schedule_time
from planner.cost.schedules.forms import Work, step_seconds
from planner.cost.schedules.kinds import chunks_per_device
from planner.cost.schedules.step import simulated_time
from planner.domain.run import ScheduleKind
from planner.search.training.joint import Pipelines, joint_bound_s

KINDS = (
    ScheduleKind.ONE_F_ONE_B,
    ScheduleKind.INTERLEAVED,
    ScheduleKind.ZB_H1,
    ScheduleKind.ZB_H2,
    ScheduleKind.ZB_V,
    ScheduleKind.DUALPIPE,
)
ROUNDING = 1 + 1e-9


def random_pipeline(rng, kind, *, mirrored=False):
    """Stages, microbatches, chunks, and times of three passes, shape [3, p]."""
    p = rng.choice([2, 4, 6, 8]) if kind is ScheduleKind.DUALPIPE else rng.randint(2, 8)
    m = 2 * p + 2 * rng.randint(0, 6) if kind is ScheduleKind.DUALPIPE else rng.randint(1, 20)
    v = rng.randint(2, 4) if kind is ScheduleKind.INTERLEAVED else 1
    if kind is ScheduleKind.INTERLEAVED:
        m = p * rng.randint(1, 4)
    spread = rng.choice([0.05, 0.3, 2.0])
    times = np.array([[rng.random() + spread * rng.random() for _ in range(p)] for _ in range(3)])
    if rng.random() < 0.4:
        times[rng.randrange(3), rng.randrange(p)] = 0.0
    if mirrored:
        times = (times + times[:, ::-1]) / 2
    return p, m, v, times


def stage_times(times, overlap=0.0):
    forward, back, weight = (tuple(row) for row in times.tolist())
    return StageTimes(forward=forward, backward_input=back, backward_weight=weight, overlap=overlap)


def plain_bound_s(kind, m, v, times, overlap):
    """Peeling by stages alone: each stage as the even one, every pass of every task apart."""
    p = times.shape[1]
    found = []
    for base in times.T:
        above = np.maximum(0.0, times - base[:, None]).sum()
        found.append(float(step_seconds(kind, p, m, v, Work(*base, overlap), 0.0)) + m * above)
    return min(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_lies_between_simulation_and_plain_peeling(kind):
    rng = random.Random(kind.value)
    for _ in range(250):
        overlap = rng.choice([0.0, 0.0, 0.5, 1.0])
        p, m, v, times = random_pipeline(rng, kind, mirrored=rng.random() < 0.3)
        stages = stage_times(times, overlap)
        bound = schedule_time(kind, stages, m, v).seconds
        assert bound >= simulated_time(kind, stages, m, v).seconds / ROUNDING, (p, m, v, times)
        if kind is not ScheduleKind.DUALPIPE:
            overlap = 0.0
        plain = plain_bound_s(kind, m, chunks_per_device(kind, v), times, overlap)
        assert bound <= plain * ROUNDING, (p, m, v, times)


def test_pairs_of_dualpipe_make_up_for_each_other():
    # Two equal stages of F + B + W = 6, eight microbatches, no bubble: 8 x 6 = 48.
    even = StageTimes(forward=(2.0, 2.0), backward_input=(2.0, 2.0), backward_weight=(2.0, 2.0))
    assert schedule_time(ScheduleKind.DUALPIPE, even, 8).seconds == 48.0
    # Four stages of the same sum, mirrored: the inner ones spend a second more forward and one
    # less on weights. Peeled by pass that second would count for every microbatch on both inner
    # devices; in pairs it hides but for the passes that run alone.
    uneven = StageTimes(
        forward=(2.0, 3.0, 3.0, 2.0),
        backward_input=(2.0, 2.0, 2.0, 2.0),
        backward_weight=(2.0, 1.0, 1.0, 2.0),
    )
    times = np.array([uneven.forward, uneven.backward_input, uneven.backward_weight])
    own = schedule_time(ScheduleKind.DUALPIPE, uneven, 40).seconds
    # At least 40 x 6; a base of (3, 2, 2) costs 40 more, (2, 2, 2) costs 80 more.
    assert 240.0 <= own < 262.0
    assert plain_bound_s(ScheduleKind.DUALPIPE, 40, 1, times, 0.0) > 285.0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ScheduleKind.ZB_H2])
def test_evening_out_is_never_dearer(kind):
    """Both bounds of the search, against the price, for the slowest device and anything less."""
    rng = random.Random(f"even {kind.value}")
    for _ in range(600):
        p, m, v, times = random_pipeline(rng, kind, mirrored=kind is ScheduleKind.DUALPIPE)
        price = schedule_time(kind, stage_times(times), m, v).seconds
        mean = times.sum(axis=1) / p
        even = float(step_seconds(kind, p, m, v, Work(*mean), 0.0))
        assert even <= price * ROUNDING, (p, m, v, times)
        one = np.ones(1)
        pipes = Pipelines(p=p * one, m=m * one, v=v * one, mean=mean[:, None])
        slowest = times.sum(axis=0).max()
        for x in (slowest, (slowest + mean.sum()) / 2):
            joint, slope = joint_bound_s(kind, pipes, x * one)
            assert joint[0] <= price * ROUNDING, (p, m, v, times)
            assert 0.0 <= slope[0] <= m


def test_the_joint_bound_of_1f1b_by_hand():
    # Four devices, eight microbatches, T = 4 + 4 + 4 + 6 = 18 in thirds, x = 6:
    # m x + (p - 1)(T - x) / (p - 1) = 48 + 12 = 60, and 1F1B costs T + (m - 1) max t = 60.
    times = np.array([[4.0, 4.0, 4.0, 6.0]] * 3) / 3
    one = np.ones(1)
    pipes = Pipelines(p=4 * one, m=8 * one, v=one, mean=times.sum(axis=1, keepdims=True) / 4)
    joint, slope = joint_bound_s(ScheduleKind.ONE_F_ONE_B, pipes, 6 * one)
    assert joint[0] == pytest.approx(60.0)
    # One more second of the slowest device: 8 more, 1 less of the bubble.
    assert slope[0] == pytest.approx(7.0)
    assert schedule_time(ScheduleKind.ONE_F_ONE_B, stage_times(times), 8).seconds == pytest.approx(
        60
    )
