"""What the parts of an inference run share: the setting of its passes, and sums of terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planner.cost.block import Split
from planner.cost.runs.inference_engine import Engine
from planner.cost.runs.inference_links import engine_collective_seconds
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.record import RunTerm
from planner.domain.curves import Op
from planner.domain.hardware import Chip
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Overlap

Terms = tuple[RunTerm, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Serving:
    """What stays the same over the passes of a run."""

    model: ModelSpec
    chip: Chip
    links: MeshLinks
    engine: Engine
    overlap: frozenset[Overlap]

    @property
    def mesh(self) -> Mesh:
        """Degrees of the run."""
        return self.links.mesh

    @property
    def split(self) -> Split:
        """Degrees as the counting code takes them.

        Ranks of context parallelism hold different tokens, as those of data parallelism do.
        """
        mesh = self.mesh
        return Split(
            attn_tp=float(mesh.attn_tp),
            attn_dp=float(mesh.attn_dp * mesh.cp),
            ep=float(mesh.ep),
            expert_tp=float(mesh.expert_tp),
        )

    @property
    def tokens_ratio(self) -> float:
        """Tokens that the groups of one copy of the experts hold, over those of one rank."""
        mesh = self.mesh
        copies = mesh.stage_chips / (mesh.ep * mesh.expert_tp)
        return mesh.cp * mesh.attn_dp / copies

    def collective_seconds(self, axis: str, op: Op, num_bytes: float) -> float:
        """Time of one collective by the kernels that the engine has."""
        return engine_collective_seconds(
            self.engine, self.links.topology, self.links.group(axis), op, num_bytes
        )


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
