"""A prefill pass: the new tokens of every sequence through all layers.

Assumptions
-----------
- Only the last token of a sequence has logits.
- A batch fills the pipeline once: ``sum of stages + (m - 1) x slowest`` for ``m``
  microbatches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_pass import Pass, hop_seconds, stage_terms
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, scale_terms, sum_terms
from planner.cost.runs.record import RunTerm
from planner.cost.step import prefill_core_of
from planner.domain.cost import Bound

NOTHING = Contexts(mean=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Sequences of one attention group: new tokens of each, and tokens already cached."""

    sequences: float
    new: float
    cached: Contexts = NOTHING


def _stages(serving: Serving, own: Prompt) -> tuple[tuple[Terms, ...], float]:
    """Terms of each stage for one microbatch, and seconds of all hops between them."""
    rows = own.sequences * own.new / serving.mesh.cp
    setting = replace(serving.setting(own.cached), new_tokens=own.new)
    tokens = replace(serving.tokens(rows), sequences=own.sequences)
    work = Pass(
        setting=setting,
        tokens=tokens,
        head_rows=own.sequences,
        core_of=prefill_core_of(setting, serving.split, tokens, serving.fabric),
        captured=False,
    )
    stages = stage_terms(serving, work)
    hops = (len(stages) - 1) * hop_seconds(serving, rows) if len(stages) > 1 else 0.0
    return stages, hops


def prefill_idle(serving: Serving, prompt: Prompt, microbatches: int = 1) -> float:
    """Mean share of a prefill in which a stage has nothing to do; see :func:`prefill_terms`."""
    own = replace(prompt, sequences=prompt.sequences / microbatches)
    stages, hops = _stages(serving, own)
    stage_s = [sum_terms(stage) for stage in stages]
    total = sum(stage_s) + (microbatches - 1) * max(stage_s) + hops
    return 1.0 - microbatches * sum(stage_s) / len(stage_s) / total


def prefill_terms(serving: Serving, prompt: Prompt, microbatches: int = 1) -> Terms:
    """Time of a prefill of every sequence of the run.

    Parameters
    ----------
    prompt : Prompt
        All sequences of one attention group.
    microbatches : int
        Parts in which they pass through the pipeline.
    """
    stages, hops = _stages(serving, replace(prompt, sequences=prompt.sequences / microbatches))
    found = [term for stage in stages for term in stage]
    if len(stages) > 1:
        found.append(RunTerm(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK))
    if microbatches > 1:
        slowest = max(stages, key=sum_terms)
        found += scale_terms(slowest, float(microbatches - 1))
    if serving.engine.step_s:
        host = microbatches * serving.engine.step_s
        found.append(RunTerm(name="host", seconds=host, bound=Bound.OVERHEAD))
    return merge_terms(found)
