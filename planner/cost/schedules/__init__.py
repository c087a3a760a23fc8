"""Pipeline schedules: orders of work, closed forms of their time, and a simulation.

``orders`` says what each device does next, ``simulate`` when; ``forms`` gives the time of even
stages in closed form, on arrays; ``step`` the time of one pipeline with its activations.
``kinds`` holds the records. Tests make simulation and closed forms agree.

Sources: Huang 2019 (GPipe), Narayanan 2021 and Korthikanti 2022 (1F1B, interleaved), Qi 2023
(Zero Bubble) and Qi 2024 (Controllable Memory), DeepSeek-V3 2024 (DualPipe).

Decisions
---------
* A bubble is what a synchronous step pays: first start to last end, less the work of the
  busiest device. The zero-bubble papers' own measure, inside each device's span, is
  :attr:`planner.cost.schedules.simulate.Timeline.own_span_idle_s`.
* Orders do not depend on times. A scheduler that searches for the times at hand can be
  slightly better; but step times of fixed orders have closed forms, grow monotonically with
  every time, and so give upper bounds for uneven stages.
* Hops delay the receiver and occupy nobody, and activations count until their last backward
  part ends.
"""

from planner.cost.schedules.forms import Work, bubble_seconds, peak_microbatches, step_seconds
from planner.cost.schedules.kinds import Flow, PipelineKind, StageTimes, split_times
from planner.cost.schedules.orders import Schedule, make_schedule
from planner.cost.schedules.simulate import Timeline, simulate
from planner.cost.schedules.step import (
    ScheduleTime,
    lower_bound_s,
    schedule_time,
    simulated_time,
)

__all__ = [
    "Flow",
    "PipelineKind",
    "Schedule",
    "ScheduleTime",
    "StageTimes",
    "Timeline",
    "Work",
    "bubble_seconds",
    "lower_bound_s",
    "make_schedule",
    "peak_microbatches",
    "schedule_time",
    "simulate",
    "simulated_time",
    "split_times",
    "step_seconds",
]
