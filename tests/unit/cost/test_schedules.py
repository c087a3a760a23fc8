"""Pipeline schedules: closed forms against the simulation, published figures, hand-made cases."""

import numpy as np
import pytest

from planner.cost.schedules import (
    Flow,
    StageTimes,
    Work,
    bubble_seconds,
    lower_bound_s,
    make_schedule,
    peak_microbatches,
    schedule_time,
    simulate,
    simulated_time,
    split_times,
    step_seconds,
)
from planner.cost.schedules.orders import Phase, group_sizes
from planner.domain.run import ScheduleKind
from planner.errors import ModelBugError, SpecError

TRAINING = (GPIPE, ONE_F_ONE_B, INTERLEAVED, ZB_H1, ZB_H2, ZB_V, DUALPIPE) = tuple(
    kind for kind in ScheduleKind if kind is not ScheduleKind.NONE
)
RATIOS = ((1.0, 1.0, 1.0), (1.0, 1.2, 0.8), (1.0, 1.4, 0.6))


def even(p, f=1.0, b=1.0, w=1.0, overlap=0.0):
    return StageTimes(
        forward=(f,) * p, backward_input=(b,) * p, backward_weight=(w,) * p, overlap=overlap
    )


def run(kind, times, m, v=1, hop=0.0):
    schedule = make_schedule(kind, times.num_stages, m, v)
    return simulate(schedule, split_times(kind, times, v), hop)


def spans(timeline):
    """``F0 0-1`` by device, to compare whole records."""
    return [
        [
            "+".join(f"{'FBbW'[piece.phase]}{piece.microbatch}" for piece in span.task)
            + f" {span.start_s:g}-{span.end_s:g}"
            for span in row
        ]
        for row in timeline.spans
    ]


# --- closed forms and simulation ---------------------------------------------------------


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("kind", TRAINING)
def test_closed_form_equals_simulation(kind, p, ratio):
    times = even(p, *ratio)
    v = 2 if kind is INTERLEAVED else 1
    counts = (2 * p, 4 * p) if kind is DUALPIPE else (1, p - 1, p, p + 1, 2 * p, 3 * p + 1)
    for m in counts:
        said, seen = schedule_time(kind, times, m, v), run(kind, times, m, v)
        assert said.exact
        assert said.seconds == pytest.approx(seen.makespan_s, rel=1e-12)
        assert said.peak_microbatches == seen.peak_microbatches
        # The bubble is the step less the work of the busiest device.
        assert said.bubble_s == pytest.approx(seen.makespan_s - max(seen.busy_s), abs=1e-9)


@pytest.mark.parametrize("kind", (*TRAINING, *Flow))
def test_every_piece_runs_once_on_the_device_of_its_chunk(kind):
    v = 3 if kind is INTERLEAVED else 1
    schedule = make_schedule(kind, 4, 10, v)
    pieces = []
    for device, order in enumerate(schedule.orders):
        for piece in (piece for task in order for piece in task):
            assert schedule.device(piece.chunk, piece.microbatch) == device
            pieces.append(piece)
    assert len(pieces) == len(set(pieces))
    cells = {(i, chunk) for i in range(10) for chunk in range(len(schedule.devices))}

    def done(*phases):
        return [(piece.microbatch, piece.chunk) for piece in pieces if piece.phase in phases]

    assert set(done(Phase.FORWARD)) == cells
    if kind not in tuple(Flow):
        assert sorted(done(Phase.BACKWARD, Phase.INPUT)) == sorted(cells)
        assert sorted(done(Phase.BACKWARD, Phase.WEIGHT)) == sorted(cells)


def test_orders_that_wait_for_each_other_are_reported():
    schedule = make_schedule(ONE_F_ONE_B, 2, 2)
    backwards = tuple(tuple(reversed(order)) for order in schedule.orders)
    broken = type(schedule)(
        kind=ONE_F_ONE_B, microbatches=2, orders=backwards, devices=(0, 1), reverse_from=2
    )
    with pytest.raises(ModelBugError, match="wait for each other"):
        simulate(broken, split_times(ONE_F_ONE_B, even(2), 1))


# --- by hand -----------------------------------------------------------------------------


def test_one_f_one_b_by_hand():
    # F 1, both gradients 2. Device 1 alternates from t = 1; device 0 gets gradients at 4, 7.
    assert spans(run(ONE_F_ONE_B, even(2), 2)) == [
        ["F0 0-1", "F1 1-2", "B0 4-6", "B1 7-9"],
        ["F0 1-2", "B0 2-4", "F1 4-5", "B1 5-7"],
    ]


def test_zb_h1_by_hand():
    # Device 1 may keep one weight gradient waiting (lag 1), so gradients leave at 3 and 5.
    timeline = run(ZB_H1, even(2), 2)
    assert spans(timeline) == [
        ["F0 0-1", "F1 1-2", "b0 3-4", "W0 4-5", "b1 5-6", "W1 6-7"],
        ["F0 1-2", "b0 2-3", "F1 3-4", "b1 4-5", "W0 5-6", "W1 6-7"],
    ]
    # Step bubble 7 - 6 = 1, device 0; device 1 has no idle time inside its own span.
    assert timeline.own_span_idle_s == 1.0
    assert timeline.peak_microbatches == (2.0, 2.0)


def test_zb_v_by_hand():
    # Halves of 1. Chunks 0 and 3 on device 0, 1 and 2 on device 1; memory of four halves.
    times = even(2, 2.0, 2.0, 2.0)
    assert spans(run(ZB_V, times, 1)) == [
        ["F0 0-1", "F0 3-4", "b0 4-5", "b0 7-8", "W0 8-9", "W0 9-10"],
        ["F0 1-2", "F0 2-3", "b0 5-6", "b0 6-7", "W0 7-8", "W0 8-9"],
    ]


def test_dualpipe_of_two_devices_has_no_bubble():
    # Both directions start at once: forward passes until t = 2, then gradients of the other
    # direction. Every device works from 0 to 12 = 4 x 3.
    timeline = run(DUALPIPE, even(2), 4)
    assert spans(timeline)[0] == [
        "F0 0-1",
        "F2 1-2",
        "F1 2-3",
        "B2 3-5",
        "F3+B0 5-8",
        "B3 8-10",
        "b1 10-11",
        "W1 11-12",
    ]
    assert timeline.makespan_s == 12.0


@pytest.mark.parametrize(
    ("m", "fraction"),
    [(4, 6 / 14), (8, 6 / 22), (16, 6 / 38)],  # 42.857 %, 27.27 %, 15.79 %
)
@pytest.mark.parametrize("kind", [GPIPE, ONE_F_ONE_B])
def test_lecture_training_bubble(kind, m, fraction):
    # Forward and backward slots of one length: 2 (m + 3) slots, of which 2 m busy.
    times = even(4, 1.0, 0.5, 0.5)
    assert schedule_time(kind, times, m).bubble_fraction == pytest.approx(fraction)


@pytest.mark.parametrize(("m", "idle"), [(1, 0.75), (2, 0.5), (4, 0.0), (8, 0.0)])
def test_lecture_decode_pipeline(m, idle):
    assert schedule_time(Flow.DECODE, even(4), m).bubble_fraction == idle


def test_uneven_flow_shops():
    times = StageTimes(
        forward=(1.0, 2.0, 1.0), backward_input=(1.0, 1.0, 3.0), backward_weight=(1.0, 0.0, 1.0)
    )
    # Forward: 4 + 2 x 2, and two hops. GPipe: sum 11, two more of each slowest pass 2 + 4.
    assert schedule_time(Flow.FORWARD, times, 3).seconds == 8.0
    assert schedule_time(Flow.FORWARD, times, 3, hop_s=0.5).seconds == 9.0
    assert schedule_time(GPIPE, times, 3).seconds == 11.0 + 2 * (2.0 + 4.0)
    assert schedule_time(GPIPE, times, 3, hop_s=0.5).seconds == 23.0 + 4 * 0.5
    # Decode: loop 4 and three hops against 3 x 2.
    assert schedule_time(Flow.DECODE, times, 3).seconds == 6.0
    assert schedule_time(Flow.DECODE, times, 3, hop_s=1.0).seconds == 7.0


def test_last_stage_sets_the_pace_of_1f1b():
    # Head on the last stage, t = 4 against 3: 3 + 3 + 4 + (m - 1) 4, met by the lower bound.
    times = StageTimes(
        forward=(1.0, 1.0, 2.0), backward_input=(1.0,) * 3, backward_weight=(1.0,) * 3
    )
    said = schedule_time(ONE_F_ONE_B, times, 5)
    assert (said.seconds, said.bubble_s, said.exact) == (26.0, 6.0, True)
    assert run(ONE_F_ONE_B, times, 5).makespan_s == 26.0


def test_1f1b_exceeds_the_sum_and_maximum_when_passes_are_out_of_proportion():
    # Stage 0 only forward, stage 1 only backward, 10 each. The third forward pass of device 0
    # ends at 30, before the second backward pass of device 1: 30 + 10 (m - 1), more than
    # sum t + (m - 1) max t = 20 + 10 (m - 1).
    times = StageTimes(
        forward=(10.0, 0.0, 0.0), backward_input=(0.0, 10.0, 0.0), backward_weight=(0.0,) * 3
    )
    assert run(ONE_F_ONE_B, times, 6).makespan_s == 80.0
    assert schedule_time(ONE_F_ONE_B, times, 6).seconds == 80.0


def test_peeling_charges_one_long_stage_once():
    # Seven layers of 1 and one of 2 more: even pipeline of 1s, 7 F bubble, plus m x 3 x 2.
    parts = (1.0,) * 3 + (3.0,) + (1.0,) * 4
    times = StageTimes(forward=parts, backward_input=parts, backward_weight=parts)
    said = schedule_time(ZB_H1, times, 20)
    assert said.seconds == pytest.approx(20 * 3 + 7 + 20 * 6)
    assert not said.exact
    exact = simulated_time(ZB_H1, times, 20)
    assert exact.exact
    assert lower_bound_s(ZB_H1, times, 20) <= exact.seconds <= said.seconds


def test_hops_slow_the_steady_state_of_1f1b():
    # p = 2, m = 3: F0 crosses, B0 returns (2 h), F2 leaves after it and B2 returns (2 h).
    times = even(2)
    assert schedule_time(ONE_F_ONE_B, times, 3, hop_s=0.25).seconds == 12.0 + 4 * 0.25
    assert run(ONE_F_ONE_B, times, 3, hop=0.25).makespan_s == 13.0


def test_slack_hides_hops_of_interleaved_and_zero_bubble():
    # Interleaved: 2 (p v - 1) hops, ZB-H1 4 (p - 1), ZB-V 6 p - 8, whatever m is.
    hop, times = 0.01, even(4, 1.0, 1.2, 0.8)
    for kind, v, hops in ((INTERLEAVED, 2, 14), (ZB_H1, 1, 12), (ZB_V, 1, 16)):
        for m in (8, 24):
            without = schedule_time(kind, times, m, v).seconds
            said = schedule_time(kind, times, m, v, hop)
            assert said.seconds == pytest.approx(without + hops * hop)
            assert run(kind, times, m, v, hop).makespan_s <= said.seconds * (1 + 1e-12)
            assert not said.exact


# --- published figures -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "v", "peak"),
    [(4, 2, 5.5), (4, 4, 4.75), (8, 2, 11.5), (8, 4, 9.75), (16, 2, 23.5), (16, 4, 19.75)],
)
def test_interleaved_activations(p, v, peak):
    # p (1 + (p - 1) / (p v)), Korthikanti 2022.
    assert max(run(INTERLEAVED, even(p), 2 * p, v).peak_microbatches) == peak
    assert peak_microbatches(INTERLEAVED, p, 2 * p, v) == peak


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("p", [4, 8, 16])
def test_published_bubbles(p, ratio):
    f, b, w = ratio
    m = 2 * p
    said = {kind: float(bubble_seconds(kind, p, m, 2, Work(*ratio))) for kind in TRAINING}
    assert said[GPIPE] == said[ONE_F_ONE_B] == pytest.approx((p - 1) * (f + b + w))
    assert said[INTERLEAVED] == pytest.approx((p - 1) * (f + b + w) / 2)
    assert said[ZB_H1] == pytest.approx((p - 1) * (f + b - w))
    assert said[ZB_V] == pytest.approx((p - 1) * max(f / 2, b / 2, b - w))
    # The published form bounds DualPipe from above and is met at F = Bi = W.
    published = (p / 2 - 1) * ((f + b + w) + (b + w) - 3 * w)
    assert said[DUALPIPE] <= published + 1e-12
    if f == b == w:
        assert said[DUALPIPE] == published


@pytest.mark.parametrize(("ratio", "bubble"), [*zip(RATIOS, (7.0, 7.0, 7.8), strict=True)])
def test_measured_step_times_of_zb_h2(ratio, bubble):
    # p = 8, m = 16; (p - 1)(F + B) - (2 p - 1) W = 16.8 - 15 x 0.6 = 7.8 in the last case.
    timeline = run(ZB_H2, even(8, *ratio), 16)
    assert timeline.makespan_s - 16 * 3.0 == pytest.approx(bubble)
    assert timeline.peak_microbatches == (16.0,) * 8
    assert schedule_time(ZB_H2, even(8, *ratio), 16).bubble_s == pytest.approx(bubble)


def test_zero_bubble_is_zero_inside_a_device_only():
    # ZB-H2 at F = B = W: no idle time between first and last task of any device, and yet
    # (p - 1) F of the step, the stagger of the devices.
    timeline = run(ZB_H2, even(8), 16)
    assert timeline.own_span_idle_s == 0.0
    assert timeline.makespan_s - 16 * 3.0 == 7.0


def test_dualpipe_pairs_that_overlap():
    # p = 16, F = B = W = 1, F&B = 2.5: 7.5 beyond the busiest device, published form 10.5.
    times = even(16, overlap=0.5)
    said, seen = schedule_time(DUALPIPE, times, 32), run(DUALPIPE, times, 32)
    assert said.seconds == pytest.approx(seen.makespan_s)
    assert said.bubble_s == pytest.approx(7.5)
    assert 7 * (2.5 + 2.0 - 3.0) == 10.5


@pytest.mark.parametrize(
    ("kind", "peaks"),
    [
        (GPIPE, (16.0, 16.0, 16.0, 16.0)),
        (ONE_F_ONE_B, (4.0, 3.0, 2.0, 1.0)),
        (ZB_H1, (4.0, 4.0, 4.0, 4.0)),
        (ZB_H2, (8.0, 8.0, 8.0, 8.0)),
        (ZB_V, (4.0, 4.0, 4.0, 4.0)),
        (DUALPIPE, (5.0, 5.0, 5.0, 5.0)),
        (Flow.DECODE, (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_peak_activations(kind, peaks):
    assert schedule_time(kind, even(4), 16).peak_microbatches == peaks
    assert run(kind, even(4), 16).peak_microbatches == peaks


# --- interleaved, m not a multiple of p --------------------------------------------------


def test_groups_hold_at_least_as_many_microbatches_as_stages():
    assert group_sizes(8, 4) == [4, 4]
    assert group_sizes(10, 4) == [5, 5]
    assert group_sizes(11, 4) == [6, 5]
    assert group_sizes(3, 4) == [3]


def test_uneven_groups_cost_memory_and_no_time():
    # p = 4, v = 2, m = 10: two groups of 5; (2 x 3 + 5 + 1) / 2 = 6 in flight, not 5.5.
    said = schedule_time(INTERLEAVED, even(4), 10, 2)
    assert said.bubble_s == 3 * 3.0 / 2
    assert said.peak_microbatches == (6.0, 5.0, 4.0, 3.0)


def test_fewer_microbatches_than_stages_leave_room_between_chunks():
    # p = 4, m = 2, v = 2: 3 chunk times and (v - 1)(p - m) = 2 more, of 1.5 each.
    said = schedule_time(INTERLEAVED, even(4), 2, 2)
    assert said.bubble_s == 5 * 1.5
    assert run(INTERLEAVED, even(4), 2, 2).makespan_s == 2 * 3.0 + 7.5


# --- arrays, times, errors ---------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINING)
def test_arrays_agree_with_numbers(kind):
    p = np.array([2, 4, 8])[:, None]
    m = np.array([16, 32, 40])
    v = 2 if kind is INTERLEAVED else 1
    f = np.array([1.0, 2.0, 3.0])
    got = step_seconds(kind, p, m, v, Work(f, 1.2 * f, 0.8), 0.01)
    assert got.shape == (3, 3)
    for row, stages in enumerate((2, 4, 8)):
        for column, count in enumerate((16, 32, 40)):
            times = even(stages, f[column], 1.2 * f[column], 0.8)
            said = schedule_time(kind, times, count, v, 0.01).seconds
            assert got[row, column] == pytest.approx(said)


def test_what_does_not_exist_takes_forever():
    assert bubble_seconds(DUALPIPE, [3, 4, 4, 4], [8, 7, 6, 8], 1, Work(1, 1, 1)).tolist() == [
        np.inf,
        np.inf,
        np.inf,
        2.0,
    ]
    assert bubble_seconds(ScheduleKind.NONE, [1, 2], 4, 1, Work(1, 1, 1)).tolist() == [0, np.inf]
    assert bubble_seconds(ZB_V, 2, 4, [1, 2, 3], Work(2, 2, 2)).tolist() == [1, 1, np.inf]


def test_times_per_stage_are_shared_by_its_chunks():
    times = StageTimes(forward=(2.0, 4.0))
    assert split_times(INTERLEAVED, times, 2).forward == (1.0, 2.0, 1.0, 2.0)
    assert split_times(ZB_V, times, 1).forward == (1.0, 2.0, 2.0, 1.0)
    given = StageTimes(forward=(1.0, 2.0, 3.0, 4.0), chunks=2)
    assert given.num_stages == 2
    assert split_times(INTERLEAVED, given, 2).forward == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedule_time(DUALPIPE, even(3), 8), "3 stages are odd"),
        (lambda: schedule_time(DUALPIPE, even(4), 6), "at least 8, not 6"),
        (lambda: schedule_time(DUALPIPE, even(4), 9), "even number of microbatches"),
        (lambda: schedule_time(INTERLEAVED, even(4), 8), "at least two chunks"),
        (lambda: schedule_time(ONE_F_ONE_B, even(4), 8, 2), "one chunk per stage, not 2"),
        (lambda: schedule_time(ZB_V, even(4), 8, 3), "two chunks per stage, not 3"),
        (lambda: schedule_time(ScheduleKind.NONE, even(2), 8), "2 stages without a schedule"),
        (lambda: schedule_time(GPIPE, even(2), 0), "0 microbatches"),
        (lambda: schedule_time(INTERLEAVED, StageTimes(forward=(1.0,) * 6, chunks=3), 4, 2), "3"),
        (lambda: StageTimes(forward=(1.0, 2.0), backward_input=(1.0,)), "has 1 times, forward"),
        (lambda: StageTimes(forward=(1.0, 2.0, 3.0), chunks=2), "do not fill"),
        (lambda: StageTimes(forward=(-1.0,)), "not negative"),
        (lambda: StageTimes(forward=(float("nan"),)), "finite"),
        (lambda: StageTimes(forward=(1.0,), overlap=1.5), "overlap 1.5"),
    ],
)
def test_impossible_pipelines_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_one_stage_has_no_bubble_whatever_the_schedule():
    for kind in (ScheduleKind.NONE, GPIPE, ONE_F_ONE_B, ZB_H1, ZB_H2, ZB_V, *Flow):
        said = schedule_time(kind, even(1), 5, hop_s=1.0)
        assert (said.bubble_s, said.exact) == (0.0, True)
