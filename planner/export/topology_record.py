"""What ``planner topology show --json`` and ``collective --json`` print.

The keys are the field names of the records in :mod:`planner.topology.summary`.
"""

from __future__ import annotations

import msgspec

from planner.domain.hardware import Wounds
from planner.machine_api import SourcedNumber
from planner.topology.losses import Losses
from planner.topology.summary import CurveRow, TopologySummary


class TopologyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A machine in numbers.

    Parameters
    ----------
    whole : TopologySummary, optional
        The same machine without its wounds; None where it has none.
    lost : Losses, optional
        What is missing from it.
    collectives : tuple of CurveRow
        Achieved curves of both tiers.
    sources : tuple of SourcedNumber
        With ``--sources``.
    """

    machine: TopologySummary
    wounds: Wounds
    whole: TopologySummary | None
    lost: Losses | None
    collectives: tuple[CurveRow, ...]
    sources: tuple[SourcedNumber, ...]
