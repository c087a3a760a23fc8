"""What a machine file may contain, and its translation into a :class:`MachineSpec`.

The structs below are the schema: units are in the keys, so a value is converted exactly
once, here. ``source`` tables are split off and checked first (:func:`split_sources`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from planner.domain.hardware import (
    Chip,
    Efficiency,
    Fabric,
    Latencies,
    MachineSpec,
    Source,
    SwitchDomain,
    Torus,
)
from planner.units import GB, GIB, MILLION, US

TERA = MILLION * MILLION
RATES = ("bf16", "fp8", "fp4", "int8", "tf32", "fp32")
# Capacity labels count in GB what memory vendors build in GiB: usable bytes may exceed the
# label by that much (1.074) and no more.
MAX_USABLE_RATIO = 1.08


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number per rate key; every chip has ``bf16``."""

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


class Derate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Achieved fractions of one chip."""

    hbm: float
    attention: float
    kernel_us: float
    matmul: Rates


class ChipTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chip."""

    name: str
    hbm_GB: float
    hbm_usable_GiB: float
    hbm_GB_per_s: float
    peak_TFLOP_per_s: Rates
    derate: Derate
    price_usd_per_hour: float | None = None


class LatencyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Microseconds of each collective at zero size."""

    all_reduce: float
    all_gather: float
    reduce_scatter: float
    all_to_all: float
    send_recv: float

    def record(self) -> Latencies:
        """The same in seconds."""
        return Latencies(
            all_reduce_s=self.all_reduce * US,
            all_gather_s=self.all_gather * US,
            reduce_scatter_s=self.reduce_scatter * US,
            all_to_all_s=self.all_to_all * US,
            send_recv_s=self.send_recv * US,
        )


class SwitchTable(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="switch"
):
    """A scale-up domain with switches."""

    unit: str
    chips: int
    links_per_switch: tuple[int, ...]
    link_GB_per_s: float
    derate: float
    latency_us: LatencyTable
    chips_per_tray: int | None = None


class TorusTable(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="torus"
):
    """A scale-up domain of neighbour links."""

    full_shape: tuple[int, ...]
    link_GB_per_s: float
    derate: float
    hop_us: float


class FabricTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scale-out fabric."""

    nic_GB_per_s: float
    derate: float
    domains_per_unit: int
    leaves_per_unit: int
    leaf_ports: int
    oversubscription: float
    max_domains: int
    latency_us: LatencyTable


class SizeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default size: domains of a switch machine, or the shape of a torus slice."""

    domains: int = 1
    shape: tuple[int, ...] = ()


class MachineTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole machine file, sources removed and ``extends`` resolved."""

    name: str
    summary: str
    chip: ChipTable
    scale_up: SwitchTable | TorusTable
    scale_out: FabricTable | None = None
    size: SizeTable = SizeTable()


class FieldProblem(Exception):
    """A field that cannot be accepted; the reader adds the file and the line."""

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        """Name the dotted field, what is wrong with it and how to repair it."""
        super().__init__(message)
        self.field = field
        self.message = message
        self.remedy = remedy


def _is_number(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def split_sources(
    table: dict[str, Any], as_of: str, prefix: str = ""
) -> tuple[dict[str, Any], list[Source]]:
    """Separate numbers from where they come from.

    Parameters
    ----------
    table : dict
        One table of a parsed file; its sub-tables are visited too.
    as_of : str
        Month in which the file's sources were read.

    Returns
    -------
    (dict, list of Source)
        The table without ``source`` entries, and one source per number.

    Raises
    ------
    FieldProblem
        A number without a source, or a source without a number.
    """
    given: Any = table.get("source", {})
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise FieldProblem(_dotted(prefix, "source"), "must be a table of texts")
    plain: dict[str, Any] = {}
    sources: list[Source] = []
    for key, value in table.items():
        if key == "source":
            continue
        name = _dotted(prefix, key)
        if isinstance(value, dict):
            plain[key], below = split_sources(value, as_of, name)
            sources += below
            continue
        plain[key] = value
        # The default size is a choice, not a fact that could have a source.
        if not _is_number(value) or prefix == "size":
            continue
        text = str(given.get(key, given.get("all", ""))).strip()
        if not text:
            where = f"[{prefix}.source]" if prefix else "[source]"
            raise FieldProblem(name, "has no source", f'add {key} = "..." to {where}')
        sources.append(Source(field=name, text=text, as_of=as_of))
    for key in given:
        if key not in plain and key != "all":
            raise FieldProblem(_dotted(prefix, f"source.{key}"), f"'{key}' is not in this table")
    return plain, sources


def _limits(path: tuple[str, ...]) -> tuple[float, float, bool]:
    """``(low, high, low itself allowed)`` of a number, from its key and table."""
    key = path[-1]
    if key.endswith("_us") or "latency_us" in path:
        return 0.0, 1e6, True
    if "derate" in path:
        return 0.0, 1.0, False
    if key.endswith("_GB_per_s") or "peak_TFLOP_per_s" in path:
        return 0.0, 1e6, False
    if key.endswith(("_GB", "_GiB")):
        return 0.0, 1e5, False
    if key.endswith("_usd_per_hour"):
        return 0.0, 1e4, False
    return 1.0, 1e6, True


def check_ranges(table: dict[str, Any], path: tuple[str, ...] = ()) -> None:
    """Refuse numbers that cannot be true.

    Raises
    ------
    FieldProblem
        NaN, infinite, negative, zero where that is impossible, or absurdly large.
    """
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict):
            check_ranges(value, here)
        elif _is_number(value):
            low, high, closed = _limits(here)
            for number in value if isinstance(value, list) else [value]:
                if not (low <= number <= high) or (number == low and not closed):
                    bracket = "[" if closed else "("
                    raise FieldProblem(
                        ".".join(here), f"{number} is outside {bracket}{low:g}, {high:g}]"
                    )


def _chip(table: ChipTable, scale_up: float, scale_out: float) -> Chip:
    peaks = table.peak_TFLOP_per_s.items()
    matmul = table.derate.matmul.items()
    if [key for key, _ in peaks] != [key for key, _ in matmul]:
        rates = ", ".join(key for key, _ in peaks)
        raise FieldProblem(
            "chip.derate.matmul", "must have the rates of chip.peak_TFLOP_per_s", f"give {rates}"
        )
    usable = table.hbm_usable_GiB * GIB
    if usable > MAX_USABLE_RATIO * table.hbm_GB * GB:
        raise FieldProblem("chip.hbm_usable_GiB", "exceeds hbm_GB", "GiB = 2**30, GB = 1e9 bytes")
    return Chip(
        name=table.name,
        peak_flop_per_s=tuple((key, value * TERA) for key, value in peaks),
        hbm_bytes=table.hbm_GB * GB,
        hbm_usable_bytes=usable,
        hbm_bytes_per_s=table.hbm_GB_per_s * GB,
        efficiency=Efficiency(
            matmul=matmul,
            hbm=table.derate.hbm,
            attention=table.derate.attention,
            kernel_s=table.derate.kernel_us * US,
            scale_up=scale_up,
            scale_out=scale_out,
        ),
        price_usd_per_hour=table.price_usd_per_hour,
    )


def _scale_up(table: SwitchTable | TorusTable) -> SwitchDomain | Torus:
    if isinstance(table, TorusTable):
        if not 1 <= len(table.full_shape) <= 3:
            raise FieldProblem("scale_up.full_shape", "must have one to three axes")
        return Torus(
            full_shape=table.full_shape,
            link_bytes_per_s=table.link_GB_per_s * GB,
            hop_s=table.hop_us * US,
        )
    if table.unit not in ("node", "rack"):
        raise FieldProblem("scale_up.unit", f"'{table.unit}' is not known", "write node or rack")
    if not table.links_per_switch:
        raise FieldProblem("scale_up.links_per_switch", "has no switch")
    if table.chips_per_tray is not None and table.chips % table.chips_per_tray:
        raise FieldProblem("scale_up.chips_per_tray", f"does not divide {table.chips} chips")
    return SwitchDomain(
        unit=table.unit,
        chips=table.chips,
        links_per_switch=table.links_per_switch,
        link_bytes_per_s=table.link_GB_per_s * GB,
        latency=table.latency_us.record(),
        chips_per_tray=table.chips_per_tray,
    )


def _fabric(table: FabricTable) -> Fabric:
    return Fabric(
        nic_bytes_per_s=table.nic_GB_per_s * GB,
        domains_per_unit=table.domains_per_unit,
        leaves_per_unit=table.leaves_per_unit,
        leaf_ports=table.leaf_ports,
        oversubscription=table.oversubscription,
        max_domains=table.max_domains,
        latency=table.latency_us.record(),
    )


def to_spec(table: MachineTable, sources: tuple[Source, ...]) -> MachineSpec:
    """Translate a validated file into SI units.

    Raises
    ------
    FieldProblem
        Fields that contradict each other.
    """
    fabric = table.scale_out
    if isinstance(table.scale_up, TorusTable) and fabric is not None:
        raise FieldProblem("scale_out", "does not apply to a torus, which is one domain")
    if isinstance(table.scale_up, SwitchTable) and fabric is None and table.size.domains > 1:
        raise FieldProblem("size.domains", "needs a [scale_out] table beyond one domain")
    return MachineSpec(
        name=table.name,
        summary=table.summary,
        chip=_chip(table.chip, table.scale_up.derate, fabric.derate if fabric else 1.0),
        scale_up=_scale_up(table.scale_up),
        scale_out=None if fabric is None else _fabric(fabric),
        num_domains=table.size.domains,
        shape=table.size.shape,
        sources=sources,
    )
