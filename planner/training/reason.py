"""One paragraph of why: what binds the winner, and what the other schedules lose."""

from __future__ import annotations

from planner.domain.model import ModelSpec
from planner.domain.run import Recompute, Run
from planner.search.training.result import TrainResult
from planner.search.training.search import SolvedRun
from planner.units import format_bytes, format_seconds


def run_name(run: Run) -> str:
    """Short name of a run's degrees and policy."""
    mesh = run.mesh
    parts = [f"TP{mesh.attn_tp}", f"CP{mesh.cp}", f"DP{mesh.attn_dp}", f"PP{mesh.pp}"]
    parts = [part for part in parts if part != "CP1"]
    if mesh.ep > 1 or mesh.expert_tp > 1:
        parts.append(f"EP{mesh.ep}")
    if mesh.expert_tp > 1:
        parts.append(f"expert-TP{mesh.expert_tp}")
    if mesh.pp > 1:
        chunks = f" x {mesh.virtual_stages}" if mesh.virtual_stages > 1 else ""
        parts.append(f"{run.schedule.value}{chunks}")
    if run.zero_stage:
        parts.append(f"ZeRO-{run.zero_stage}")
    if run.recompute is not Recompute.NONE:
        parts.append(f"{run.recompute.value} recompute")
    return " ".join(parts)


def _largest(solved: SolvedRun) -> str:
    top = max(solved.prediction.terms, key=lambda term: term.seconds)
    share = top.seconds / solved.prediction.seconds
    name = top.name.replace("_", " ")
    return f"{share:.0%} of its {format_seconds(solved.prediction.seconds)} step in {name}"


def why(model: ModelSpec, found: TrainResult) -> str:
    """Explain the winner in a paragraph; every number in it is computed."""
    best = found.best
    memory = best.prediction.memory
    free = memory.capacity_bytes - memory.needed_bytes
    text = f"{run_name(best.run)} spends {_largest(best)}, with {format_bytes(free)} of HBM free. "
    terms = {term.name: term.seconds for term in best.prediction.terms}
    lost = terms.get("bubble", 0.0) / best.prediction.seconds
    if best.run.mesh.pp > 1:
        text += (
            f"Its pipeline of {best.run.mesh.pp} stages and {best.run.num_microbatches} "
            f"microbatches idles {lost:.1%} of the step. "
        )
    if found.runners_up:
        _, other = found.runners_up[0]
        slower = other.value / best.value - 1.0
        theirs = {term.name: term.seconds for term in other.prediction.terms}
        worst = max(theirs, key=lambda name: theirs[name] - terms.get(name, 0.0))
        text += f"The best with another schedule, {run_name(other.run)}, is {slower:.1%} worse, "
        text += f"most of it in {worst.replace('_', ' ')}."
    return text.rstrip()
