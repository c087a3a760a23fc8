"""What a plan looks like: the whole text of the small layout, and what changes in it."""

import io

import pytest
from layout_factory import DEGREES, certificate, prediction, small_layout
from msgspec import structs

from planner.report.plan_text import (
    certificate_text,
    counts_text,
    degrees_line,
    show_layout,
)

# Shares: 15 and 5 of 20 ms. Stages: 9 and 11 ms around a mean of 10. Memory: 40 + 20 + 2
# + 8 of 80 GB leave 10. The runner-up has half of the 220 tokens/s/chip.
TEXT = """\
toy on box: decode, context 8,192, 4 chips used, 1 idle
TP1 x DP2, EP2 (6 slots), PP2, 2 microbatches, 1 replica, batch 22

Figures
  step (TPOT)                      20.0 ms
  tokens/s/user                       50.0
  tokens/s/chip                        220
  tokens/s                           1,100
  sequences per group, microbatch   5 to 6
  $/M tokens                         $2.50
  B* (matmul = weight reads)          64.0
  largest batch that fits               30
  busiest expert group / mean        1.250

Step, sum time model (> binds)
  term                 time  share  waits for
  > attention core  15.0 ms  75.0%  memory
    dispatch        5.00 ms  25.0%  network

Stages, 10.0% of the step idle
  stage  layers     time  of mean
  0        0..2  9.00 ms    0.900
  1        3..4  11.0 ms    1.100

Memory of the fullest chip, 80.0 GB usable
                    bytes  share
  weights         40.0 GB  50.0%
  KV cache        20.0 GB  25.0%
  activations     2.00 GB   2.5%
  engine reserve  8.00 GB  10.0%
  free            10.0 GB  12.5%

Runners-up of other kinds
  layout                                               step  tok/s/chip  of best
  TP1 x DP2, EP2 (6 slots), PP1, 1 replica, batch 12  16.0 ms         110    50.0%

Certificate: no layout in the searched space is more than 0.22% better (0.0045 chip-
seconds per token, proven bound 0.00449).
1,000 strategies: 100 over memory, 30 over TPOT, 865 pruned by bound, 5 solved.
Why: Attention reads the cache.
"""


def shown(**changes):
    stream = io.StringIO()
    show_layout(small_layout(**changes), stream)
    return stream.getvalue()


def words(text):
    """Lines with single spaces: what is said, without the alignment tested elsewhere."""
    return [" ".join(line.split()) for line in text.split("\n")]


def test_whole_text():
    assert words(shown()) == words(TEXT)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "TP1 x DP2, EP2 (6 slots), PP2, 2 microbatches, 1 replica, batch 9,216"),
        (
            {"pp": 1, "expert_tp": 2, "replicas": 3},
            "TP1 x DP2, EP2 x expert-TP2 (6 slots), PP1, 3 replicas, batch 9,216",
        ),
        (
            {"attn_tp": 8, "attn_dp": 1, "pp": 1, "ep": 1, "num_slots": 0, "replicas": 2},
            "TP8 x DP1, PP1, 2 replicas, batch 9,216",
        ),
    ],
)
def test_degrees_in_one_line(changes, line):
    assert degrees_line(structs.replace(DEGREES, **changes), 9216) == line


def test_layout_without_price_search_or_stages():
    figures = structs.replace(
        prediction(), usd_per_million_tokens=None, critical_batch=None, stage_s=(0.02,)
    )
    text = shown(
        prediction=figures,
        stages=small_layout().stages[:1],
        certificate=None,
        runners_up=(),
        why="",
    )
    assert "no price known, see --price" in text
    for absent in ("Stages", "Certificate", "Runners-up", "Why"):
        assert absent not in text


def test_overflowing_memory_is_not_shown_as_full():
    memory = structs.replace(prediction().memory, kv_bytes=50e9)
    lines = words(shown(prediction=structs.replace(prediction(), memory=memory)))
    # 40 + 50 + 2 + 8 = 100 of 80 GB.
    assert "missing 20.0 GB 25.0%" in lines
    assert not any(line.startswith("free") for line in lines)


def test_runner_up_that_was_only_bounded_says_so():
    other = structs.replace(small_layout().runners_up[0], bound_only=True)
    assert "batch 12, at best" in shown(runners_up=(other,))


def test_counts_tell_strategies_without_a_placement_and_dominated_ones():
    assert "5 solved, 2 of them without a placement." in counts_text(
        certificate(infeasible_placement=2)
    )
    assert counts_text(certificate(dominated=1234)).endswith("5 solved; 1,234 more dominated.")


def test_certificate_tells_what_ended_the_search_early():
    for stopped, text in (
        ("interrupted", " Ctrl-C ended the search."),
        ("time limit", " The time limit ended the search."),
        ("own bounds", " which chips are used is bounded no better."),
        ("gap", "0.00449)."),
        ("exhausted", "0.00449)."),
    ):
        assert certificate_text(certificate(stopped=stopped)).endswith(text)


def test_spares_are_counted_among_idle_chips():
    assert "4 chips used, 1 idle (1 as spares)" in shown(reserved_chips=("node0/chip4",))
