"""What the parts of an inference run share: the setting of its passes, and sums of terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from planner.cost.block import Split, Tokens
from planner.cost.fabric import RunFabric
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_engine import Engine
from planner.cost.runs.record import RunTerm
from planner.cost.step import Setting
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.hardware import Chip
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Overlap
from planner.domain.workload import TimeModel
from planner.topology.graph import Topology

Terms = tuple[RunTerm, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Serving:
    """What stays the same over the passes of a run."""

    model: ModelSpec
    chip: Chip
    topology: Topology
    mesh: Mesh
    engine: Engine
    overlap: frozenset[Overlap]

    @cached_property
    def split(self) -> Split:
        """Degrees as the counting code takes them."""
        mesh = self.mesh
        return Split(
            attn_tp=float(mesh.attn_tp),
            attn_dp=float(mesh.attn_dp),
            cp=float(mesh.cp),
            ep=float(mesh.ep),
            expert_tp=float(mesh.expert_tp),
            hide_tp=float(Overlap.TP in self.overlap),
            hide_ep=float(Overlap.EP in self.overlap),
        )

    @cached_property
    def fabric(self) -> RunFabric:
        """Prices of the collectives of the run, by the kernels that the engine has."""
        mesh = self.mesh
        degrees = Degrees(
            attn_tp=mesh.attn_tp,
            cp=mesh.cp,
            attn_dp=mesh.attn_dp,
            pp=mesh.pp,
            ep=mesh.ep,
            expert_tp=mesh.expert_tp,
            num_slots=0,
            microbatches=1,
            replicas=1,
        )
        return RunFabric(self.topology, degrees, self.engine)

    def setting(self, contexts: Contexts) -> Setting:
        """The setting of passes over caches of these contexts."""
        return Setting(
            model=self.model,
            chip=self.chip,
            context_tokens=contexts.mean,
            context_spread=contexts.spread,
            time_model=TimeModel.SUM,
            reserve_fraction=self.engine.reserve_fraction,
            habits=self.engine,
            on_torus=self.topology.is_torus,
        )

    def tokens(self, rows: float, group: float | None = None) -> Tokens:
        """Tokens of a pass with ``rows`` on each rank, ``group`` on all of an attention group.

        Experts whose groups do not fill a stage are copied over the rest of it, and every copy
        serves its own share of the tokens.
        """
        mesh = self.mesh
        copies = mesh.stage_chips / (mesh.ep * mesh.expert_tp)
        held = rows * mesh.cp if group is None else group
        stage = held * mesh.attn_dp / copies
        return Tokens(group=rows, stage=stage, sequences=group)

    def collective_seconds(self, axis: str, op: Op, num_bytes: float) -> float:
        """Time of one collective of an axis; 0 in a group of one, or of no bytes."""
        size = {"attn_tp": self.mesh.attn_tp, "cp": self.mesh.cp}[axis]
        if size == 1 or num_bytes <= 0:
            return 0.0
        return float(self.fabric[axis, op].seconds(num_bytes))


def merge_terms(terms: Iterable[RunTerm]) -> Terms:
    """Add up terms of the same name; the largest contribution names the bound."""
    total: dict[str, float] = {}
    largest: dict[str, RunTerm] = {}
    for term in terms:
        name = term.name
        total[name] = total.get(name, 0.0) + term.seconds
        if name not in largest or term.seconds > largest[name].seconds:
            largest[name] = term
    return tuple(
        RunTerm(name=name, seconds=seconds, bound=largest[name].bound)
        for name, seconds in total.items()
    )


def scale_terms(terms: Iterable[RunTerm], factor: float) -> Terms:
    """The same terms ``factor`` times."""
    return tuple(
        RunTerm(name=term.name, seconds=term.seconds * factor, bound=term.bound) for term in terms
    )


def sum_terms(terms: Iterable[RunTerm]) -> float:
    """Seconds of all terms."""
    return sum(term.seconds for term in terms)
