"""A decode step: one token of every sequence over its cache.

Assumptions
-----------
- Microbatches circulate through the pipeline, see :mod:`planner.cost.pipeline`.
"""

from __future__ import annotations

from planner.cost.pipeline import decode_idle_fraction, decode_step_s
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_pass import Pass, hop_seconds, stage_terms
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, sum_terms
from planner.cost.runs.record import RunTerm
from planner.cost.step import decode_core_of
from planner.domain.cost import Bound


def rank_rows(serving: Serving, sequences: float) -> float:
    """Tokens of one rank: ranks of context parallelism share those of their group."""
    cp = serving.mesh.cp
    return max(1.0, sequences / cp) if cp > 1 else sequences


def _stages(
    serving: Serving, sequences: float, contexts: Contexts
) -> tuple[tuple[Terms, ...], list[float], float]:
    """Terms and seconds of each stage for a microbatch of an attention group, and of a hop."""
    setting, rows = serving.setting(contexts), rank_rows(serving, sequences)
    tokens = serving.tokens(rows, sequences)
    work = Pass(
        setting=setting,
        tokens=tokens,
        head_rows=rows,
        core_of=decode_core_of(setting, serving.split, tokens, serving.fabric),
        captured=serving.engine.captures,
    )
    stages = stage_terms(serving, work)
    return stages, [sum_terms(stage) for stage in stages], hop_seconds(serving, rows)


def decode_idle(
    serving: Serving, sequences: float, contexts: Contexts, microbatches: int = 1
) -> float:
    """Mean share of a step in which a stage has nothing to do; see :func:`decode_terms`."""
    _, stage_s, hop = _stages(serving, sequences / microbatches, contexts)
    return decode_idle_fraction(stage_s, microbatches, hop)


def decode_terms(
    serving: Serving, sequences: float, contexts: Contexts, microbatches: int = 1
) -> Terms:
    """Time of one decode step of the run.

    Parameters
    ----------
    sequences : float
        All sequences of one attention group.
    contexts : Contexts
        Their cached tokens.
    microbatches : int
        Parts that circulate through the pipeline.
    """
    stages, stage_s, hop = _stages(serving, sequences / microbatches, contexts)
    found = [term for stage in stages for term in stage]
    step = decode_step_s(stage_s, microbatches, hop)
    hops = len(stages) * hop if len(stages) > 1 else 0.0
    if hops:
        found.append(RunTerm(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK))
    wait = step - sum(stage_s) - hops
    if wait > 0:
        found.append(RunTerm(name="pipeline_wait", seconds=wait, bound=Bound.IDLE))
    if serving.engine.step_s:
        found.append(RunTerm(name="host", seconds=serving.engine.step_s, bound=Bound.OVERHEAD))
    return merge_terms(found)
