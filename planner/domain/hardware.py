"""A machine as facts: chips, links, nodes, racks, fabric. The graph is built from these.

Bandwidths are bytes/s per direction, FLOP/s are dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from planner.domain.dtypes import DType


class Op(StrEnum):
    """Collective operations, with what ``num_bytes`` means for each (nccl-tests convention)."""

    ALL_REDUCE = "all_reduce"  # buffer of one chip
    ALL_GATHER = "all_gather"  # gathered result
    REDUCE_SCATTER = "reduce_scatter"  # input of one chip
    ALL_TO_ALL = "all_to_all"  # total send buffer of one chip, its own share included
    SEND_RECV = "send_recv"  # message of one sender


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where one number of a machine file comes from.

    ``field`` is the dotted name in the file, ``as_of`` the month the source was read.
    """

    field: str
    text: str
    as_of: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Achieved fractions of nameplate rates, in (0, 1], and fixed costs.

    ``matmul`` maps a rate key of the chip (``bf16``, ``fp8``, ``fp4``, ``int8``) to the
    fraction that a large matrix multiply reaches; ``attention`` is the fraction of the
    bf16 peak that a decode attention core reaches when compute-bound; ``kernel_s`` is
    added for every operation of a layer (launch and ramp inside a captured graph).
    """

    matmul: tuple[tuple[str, float], ...]
    hbm: float
    attention: float
    kernel_s: float
    scale_up: float
    scale_out: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """One accelerator chip. ``peak_flop_per_s`` maps a rate key to dense FLOP/s."""

    name: str
    peak_flop_per_s: tuple[tuple[str, float], ...]
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_s: float
    efficiency: Efficiency
    price_usd_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Latencies:
    """Seconds of each collective as its size goes to zero (alpha), inside a captured graph."""

    all_reduce_s: float
    all_gather_s: float
    reduce_scatter_s: float
    all_to_all_s: float
    send_recv_s: float

    def of(self, op: Op) -> float:
        """Alpha of one operation, seconds."""
        by_op = {
            Op.ALL_REDUCE: self.all_reduce_s,
            Op.ALL_GATHER: self.all_gather_s,
            Op.REDUCE_SCATTER: self.reduce_scatter_s,
            Op.ALL_TO_ALL: self.all_to_all_s,
            Op.SEND_RECV: self.send_recv_s,
        }
        return by_op[op]


NO_LATENCY = Latencies(
    all_reduce_s=0.0, all_gather_s=0.0, reduce_scatter_s=0.0, all_to_all_s=0.0, send_recv_s=0.0
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchDomain:
    """A scale-up domain in which switches connect every chip to every other in one hop.

    Parameters
    ----------
    unit : str
        What the domain is called and counted in: ``node`` or ``rack``.
    chips : int
        Chips of one domain.
    links_per_switch : tuple of int
        Links of every chip to each switch, shape ``[switches]``.
    chips_per_tray : int, optional
        Chips of one tray, where a rack has trays.
    """

    unit: str
    chips: int
    links_per_switch: tuple[int, ...]
    link_bytes_per_s: float
    latency: Latencies
    chips_per_tray: int | None = None

    @property
    def links_per_chip(self) -> int:
        """Links of one chip."""
        return sum(self.links_per_switch)

    @property
    def bytes_per_s(self) -> float:
        """Nameplate bandwidth of one chip, one direction."""
        return self.links_per_chip * self.link_bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Torus:
    """A scale-up domain of neighbour links: axis ``i`` wraps only at its full length.

    ``full_shape[i]`` is that length; ``hop_s`` the latency of one hop.
    """

    full_shape: tuple[int, ...]
    link_bytes_per_s: float
    hop_s: float

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice of ``shape`` close into a ring."""
        return tuple(
            length == full and length > 2
            for length, full in zip(shape, self.full_shape, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fabric:
    """The scale-out fabric: one NIC per chip, leaf and spine switches.

    Chip ``c`` of a domain is cabled to leaf ``c % leaves_per_unit`` of its scalable unit;
    with as many leaves as chips per domain that is rail-optimised wiring.

    Parameters
    ----------
    domains_per_unit : int
        Scale-up domains of one scalable unit.
    leaf_ports : int
        Ports of a leaf or spine switch.
    oversubscription : float
        Downlink over uplink bandwidth of a leaf, ``>= 1``.
    """

    nic_bytes_per_s: float
    domains_per_unit: int
    leaves_per_unit: int
    leaf_ports: int
    oversubscription: float
    max_domains: int
    latency: Latencies


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """Everything a machine file says.

    Parameters
    ----------
    name : str
        Name in the catalogue, or the file's stem.
    scale_up : SwitchDomain or Torus
        How the chips of one domain are connected.
    scale_out : Fabric, optional
        How domains are connected; None where the machine is one domain.
    num_domains : int
        Nodes or racks; 1 for a torus.
    shape : tuple of int
        Axis lengths of a torus slice; empty for switch domains.
    sources : tuple of Source
        One for every number of the file.
    """

    name: str
    summary: str
    chip: Chip
    scale_up: SwitchDomain | Torus
    scale_out: Fabric | None
    num_domains: int = 1
    shape: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def num_chips(self) -> int:
        """Chips of the whole machine."""
        if isinstance(self.scale_up, Torus):
            return math.prod(self.shape)
        return self.num_domains * self.scale_up.chips

    @property
    def size_text(self) -> str:
        """The size in the machine's own words: ``2 racks``, ``1 node``, ``4x4 slice``."""
        if isinstance(self.scale_up, Torus):
            return "x".join(map(str, self.shape)) + " slice"
        plural = "" if self.num_domains == 1 else "s"
        return f"{self.num_domains} {self.scale_up.unit}{plural}"


def ideal(spec: MachineSpec) -> MachineSpec:
    """The same machine as a pure roofline.

    Every achieved fraction is 1, every latency and fixed cost is 0: what the lecture's
    equations assume.
    """
    chip = spec.chip
    perfect = Efficiency(
        matmul=tuple((key, 1.0) for key, _ in chip.efficiency.matmul),
        hbm=1.0,
        attention=1.0,
        kernel_s=0.0,
        scale_up=1.0,
        scale_out=1.0,
    )
    fabric = spec.scale_out
    scale_up: SwitchDomain | Torus
    if isinstance(spec.scale_up, Torus):
        scale_up = replace(spec.scale_up, hop_s=0.0)
    else:
        scale_up = replace(spec.scale_up, latency=NO_LATENCY)
    return replace(
        spec,
        chip=replace(chip, efficiency=perfect),
        scale_up=scale_up,
        scale_out=None if fabric is None else replace(fabric, latency=NO_LATENCY),
    )


# Which rates a format may run at, fastest first. Wider rates are always allowed.
RATE_KEYS: dict[DType, tuple[str, ...]] = {
    DType.FP32: ("tf32", "fp32"),
    DType.BF16: ("bf16",),
    DType.FP16: ("bf16",),
    DType.FP8: ("fp8", "bf16"),
    DType.MXFP8: ("fp8", "bf16"),
    DType.INT8: ("int8", "bf16"),
    DType.INT4: ("int8", "bf16"),
    DType.MXFP4: ("fp4", "fp8", "bf16"),
    DType.NVFP4: ("fp4", "fp8", "bf16"),
}
