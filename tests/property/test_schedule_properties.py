"""Pipeline schedules of any size and times: forms, bounds and simulation agree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost.pipeline import decode_step_s
from planner.cost.schedules import (
    Flow,
    StageTimes,
    lower_bound_s,
    make_schedule,
    schedule_time,
    simulate,
    split_times,
)
from planner.cost.schedules.step import device_work_s
from planner.domain.run import ScheduleKind

KINDS = [kind for kind in ScheduleKind if kind is not ScheduleKind.NONE]
LINEAR = {
    ScheduleKind.GPIPE,
    ScheduleKind.ONE_F_ONE_B,
    ScheduleKind.ZB_H1,
    ScheduleKind.ZB_H2,
}
# Whole numbers add up exactly: equal means equal. Quarters too.
SECONDS = st.integers(0, 30).map(float)
HOPS = st.sampled_from([0.0, 0.0, 0.25, 1.0, 4.0])


@st.composite
def sizes(draw, kinds=tuple(KINDS)):
    """Kind, stages, microbatches, chunks per stage."""
    kind = draw(st.sampled_from(kinds))
    if kind is ScheduleKind.DUALPIPE:
        p = 2 * draw(st.integers(1, 4))
        return kind, p, 2 * p + 2 * draw(st.integers(0, 5)), 1
    p = draw(st.integers(1, 7))
    v = draw(st.integers(2, 4)) if kind is ScheduleKind.INTERLEAVED else 1
    return kind, p, draw(st.integers(1, 3 * p + 2)), v


def chunks_of(kind, v):
    return 2 if kind is ScheduleKind.ZB_V else v


@st.composite
def pipelines(draw, kinds=tuple(KINDS)):
    """A size with times per chunk: even, in proportion, or without any order."""
    kind, p, m, v = draw(sizes(kinds))
    chunks = chunks_of(kind, v)
    count = p * chunks
    shape = draw(st.sampled_from(["even", "proportional", "free"]))
    if shape == "free":
        parts = [draw(st.lists(SECONDS, min_size=count, max_size=count)) for _ in range(3)]
    else:
        once = [draw(SECONDS) for _ in range(3)]
        layers = [1] * count
        if shape == "proportional":
            layers = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
        parts = [[number * seconds for number in layers] for seconds in once]
    forward, backward_input, backward_weight = map(tuple, parts)
    overlap = draw(st.sampled_from([0.0, 0.5, 1.0])) if kind is ScheduleKind.DUALPIPE else 0.0
    times = StageTimes(
        forward=forward,
        backward_input=backward_input,
        backward_weight=backward_weight,
        chunks=chunks,
        overlap=overlap,
    )
    return (kind, m, v), times


def simulated(size, times, hop=0.0):
    kind, m, v = size
    schedule = make_schedule(kind, times.num_stages, m, v)
    return simulate(schedule, split_times(kind, times, v), hop)


@settings(max_examples=400, deadline=None)
@given(pipelines(), HOPS)
def test_simulation_lies_between_the_bounds_and_meets_what_is_exact(pipeline, hop):
    (kind, m, v), times = pipeline
    timeline = simulated((kind, m, v), times, hop)
    said = schedule_time(kind, times, m, v, hop)
    step = timeline.makespan_s
    assert lower_bound_s(kind, times, m, v, hop) <= step * (1 + 1e-12)
    if said.exact:
        assert abs(said.seconds - step) <= 1e-12 * step
    assert step <= said.seconds * (1 + 1e-12)
    assert said.peak_microbatches == timeline.peak_microbatches
    work = device_work_s(kind, split_times(kind, times, v), times.num_stages, m)
    assert work == timeline.busy_s


@settings(max_examples=300, deadline=None)
@given(sizes(), st.tuples(SECONDS, SECONDS, SECONDS), st.sampled_from([0.0, 0.5, 1.0]))
def test_even_stages_are_exact_for_every_ratio_and_count(size, ratio, overlap):
    kind, p, m, v = size
    count = p * chunks_of(kind, v)
    times = StageTimes(
        forward=(ratio[0],) * count,
        backward_input=(ratio[1],) * count,
        backward_weight=(ratio[2],) * count,
        chunks=chunks_of(kind, v),
        overlap=overlap,
    )
    said = schedule_time(kind, times, m, v)
    assert said.exact
    step = simulated((kind, m, v), times).makespan_s
    assert abs(said.seconds - step) <= 1e-12 * step


@settings(max_examples=200, deadline=None)
@given(sizes(), st.tuples(SECONDS, SECONDS, SECONDS))
def test_bubble_is_no_less_than_the_way_to_the_last_device(size, ratio):
    # A device cannot start before the first chunk reaches it: (p - 1) F on a line, (p - 1) F / v
    # with v chunks, (p / 2 - 1) F from two sides.
    kind, p, m, v = size
    times = StageTimes(
        forward=(ratio[0],) * p, backward_input=(ratio[1],) * p, backward_weight=(ratio[2],) * p
    )
    bubble = schedule_time(kind, times, m, v).bubble_s
    way = (p - 1) * ratio[0] / chunks_of(kind, v)
    if kind is ScheduleKind.DUALPIPE:
        way = (p / 2 - 1) * ratio[0]
    assert bubble >= way - 1e-9 * max(1.0, m * sum(ratio))


@settings(max_examples=100, deadline=None)
@given(sizes(tuple(LINEAR)), st.integers(1, 9))
def test_no_line_beats_zb_h1_at_equal_passes(size, seconds):
    # F = Bi = W: ZB-H1 meets the bound of every linear placement, whatever its memory.
    kind, p, m, v = size
    times = StageTimes(
        forward=(float(seconds),) * p,
        backward_input=(float(seconds),) * p,
        backward_weight=(float(seconds),) * p,
    )
    m = max(m, p)
    best = schedule_time(ScheduleKind.ZB_H1, times, m).seconds
    assert best == lower_bound_s(ScheduleKind.ZB_H1, times, m)
    assert best <= schedule_time(kind, times, m, v).seconds


@settings(max_examples=150, deadline=None)
@given(pipelines(), st.data())
def test_a_longer_pass_never_shortens_a_step(pipeline, data):
    size, times = pipeline
    part = data.draw(st.sampled_from(["forward", "backward_input", "backward_weight"]))
    index = data.draw(st.integers(0, len(times.forward) - 1))
    longer = list(getattr(times, part))
    longer[index] += 7.0
    parts = {
        name: getattr(times, name)
        for name in ("forward", "backward_input", "backward_weight", "chunks", "overlap")
    }
    slower = StageTimes(**{**parts, part: tuple(longer)})
    assert simulated(size, slower).makespan_s >= simulated(size, times).makespan_s


@settings(max_examples=150, deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=6), st.integers(1, 8), HOPS)
def test_flows_without_backward_pass_are_exact(forward, m, hop):
    times = StageTimes(forward=tuple(forward))
    said = schedule_time(Flow.FORWARD, times, m, hop_s=hop)
    assert said.exact
    assert said.seconds == simulated((Flow.FORWARD, m, 1), times, hop).makespan_s
    # Microbatches circulate: after many rounds the loop runs at the pace of the closed form.
    rounds = 60
    schedule = make_schedule(Flow.DECODE, len(forward), m, rounds=rounds)
    timeline = simulate(schedule, split_times(Flow.DECODE, times, 1), hop)
    ends = [span.end_s for span in timeline.spans[-1]]
    step = schedule_time(Flow.DECODE, times, m, hop_s=hop).seconds
    assert step == decode_step_s(forward, m, hop)
    # The first round may be faster or slower, by less than the way once around.
    once = sum(forward) + len(forward) * hop + m * max(forward)
    assert abs(ends[-1] - rounds * step) <= once
