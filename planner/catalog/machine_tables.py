"""The schema of machine files: what each table may contain, units in the keys.

``source`` tables are split off before (:mod:`planner.catalog.machine_file`), values are
converted after (:mod:`planner.catalog.machine_build`).
"""

from __future__ import annotations

from typing import Any

import msgspec

RATES = ("bf16", "fp8", "fp4", "int8", "tf32", "fp32")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table whose unknown keys are refused."""


class Rates(Table, frozen=True):
    """One number per rate key; every chip has ``bf16``, which also stands for fp16."""

    bf16: float
    fp8: float | None = None
    fp4: float | None = None
    int8: float | None = None
    tf32: float | None = None
    fp32: float | None = None

    def items(self) -> tuple[tuple[str, float], ...]:
        """The rates that are given, widest family first."""
        pairs = ((key, getattr(self, key)) for key in RATES)
        return tuple((key, value) for key, value in pairs if value is not None)


class Derate(Table, frozen=True):
    """Achieved fractions of one chip."""

    hbm: float
    attention: float
    kernel_us: float
    matmul: Rates
    attention_forward: float | None = None
    attention_backward: float | None = None
    sustained: float | None = None
    elementwise: float | None = None
    expert_layer_us: float | None = None


class ChipTable(Table, frozen=True):
    """One chip."""

    name: str
    hbm_GB: float
    hbm_usable_GiB: float
    hbm_GB_per_s: float
    peak_TFLOP_per_s: Rates
    derate: Derate
    price_usd_per_hour: float | None = None


class CurveTable(Table, frozen=True):
    """Achieved curve of one operation: see :class:`planner.domain.curves.Curve`."""

    derate: float
    base_us: float
    step_us: float = 0.0
    fill_us: float = 0.0


class AchievedTable(Table, frozen=True):
    """Curves of one tier by operation; ``default`` speaks for those not listed."""

    default: CurveTable
    all_reduce: CurveTable | None = None
    all_gather: CurveTable | None = None
    reduce_scatter: CurveTable | None = None
    all_to_all: CurveTable | None = None
    broadcast: CurveTable | None = None
    send_recv: CurveTable | None = None
    dispatch: CurveTable | None = None
    combine: CurveTable | None = None
    fused_all_reduce: CurveTable | None = None
    in_network_all_reduce: CurveTable | None = None


class LevelTable(Table, frozen=True):
    """Switches that join every aligned run of ``span`` chips."""

    span: int
    links_per_switch: tuple[int, ...]
    link_GB_per_s: float


class SwitchTable(Table, frozen=True, tag_field="kind", tag="switch"):
    """A scale-up domain with switches: either one level or a list of ``levels``."""

    unit: str
    chips: int
    achieved: AchievedTable
    links_per_switch: tuple[int, ...] = ()
    link_GB_per_s: float | None = None
    levels: tuple[LevelTable, ...] = ()
    chips_per_tray: int | None = None
    parts: int = 1
    trunk_links: int = 0
    tier: str = "nvlink"


class MeshTable(Table, frozen=True, tag_field="kind", tag="mesh"):
    """Direct links: ``links_per_pair`` between all, or a list of ``pairs`` [a, b, links]."""

    unit: str
    chips: int
    link_GB_per_s: float
    achieved: AchievedTable
    links_per_pair: int | None = None
    pairs: tuple[tuple[int, int, int], ...] = ()
    chips_per_tray: int | None = None
    tier: str = "xgmi"


class TorusTable(Table, frozen=True, tag_field="kind", tag="torus"):
    """A scale-up domain of neighbour links; ``step_us`` of its curves is one hop."""

    full_shape: tuple[int, ...]
    link_GB_per_s: float | tuple[float, ...]
    achieved: AchievedTable
    unit: str = "slice"
    wrap_multiple: int = 0
    max_chips: int | None = None
    tier: str = "ici"


class NodeTable(Table, frozen=True):
    """A node of an explicit machine."""

    name: str
    kind: str = "chip"


class LinkTable(Table, frozen=True):
    """A link of an explicit machine, all parallel cables together."""

    ends: tuple[str, str]
    GB_per_s: float
    tier: str = "link"
    links: int = 1
    scale_up: bool | None = None


class GraphTable(Table, frozen=True, tag_field="kind", tag="graph"):
    """An explicit list of nodes and links."""

    nodes: tuple[NodeTable, ...]
    links: tuple[LinkTable, ...]
    achieved: AchievedTable
    fabric_achieved: AchievedTable | None = None
    unit: str = "node"


class FabricTable(Table, frozen=True):
    """The scale-out fabric."""

    nic_GB_per_s: float
    domains_per_unit: int
    leaves_per_unit: int
    leaf_ports: int
    oversubscription: float
    max_domains: int
    achieved: AchievedTable
    chips_per_nic: int = 1
    rails: int = 0


class SizeTable(Table, frozen=True):
    """Default size: domains, and the shape of a torus slice."""

    domains: int = 1
    shape: tuple[int, ...] = ()


class MixTable(Table, frozen=True):
    """Domains whose chips are of another kind."""

    domains: tuple[int, ...]
    chip: ChipTable


class WoundsTable(Table, frozen=True):
    """What is missing or slow: see :class:`planner.domain.hardware.Wounds`."""

    without: tuple[str, ...] = ()
    degrade: dict[str, float] = {}
    usable: dict[str, int] = {}


class MachineTable(Table, frozen=True):
    """A whole machine file, sources removed and ``extends`` resolved."""

    name: str
    summary: str
    chip: ChipTable
    scale_up: SwitchTable | MeshTable | TorusTable | GraphTable
    scale_out: FabricTable | None = None
    size: SizeTable = SizeTable()
    mix: tuple[MixTable, ...] = ()
    wounds: WoundsTable = WoundsTable()


def wounds_from(data: dict[str, Any]) -> WoundsTable:
    """Validate a table of wounds.

    Raises
    ------
    msgspec.ValidationError
        Unknown keys or values of the wrong type.
    """
    return msgspec.convert(data, WoundsTable)
