"""A machine as facts: chips, links, nodes, racks, fabric. The graph is built from these.

Bandwidths are bytes/s per direction, FLOP/s are dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planner.domain.curves import PERFECT_CURVES, Curves
from planner.domain.dtypes import DType
from planner.domain.scale_up import GraphDomain, ScaleUp, Torus


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
    bf16 peak that a decode attention core reaches when compute-bound, and
    ``attention_forward`` and ``attention_backward`` are those of whole sequences (prefill,
    training); ``sustained`` is the share of the matmul fractions that multiplies keep up over
    a whole training step (power-limited clocks, ragged tiles, waits between kernels);
    ``elementwise`` is the share of its HBM rate that the chain of norms, activations and
    residuals of a training engine of the chip's time turns to use (a pass per operand, fused);
    ``expert_layer_s`` is what an MoE layer waits for its host in the forward and backward
    pass of one microbatch (counts of routed tokens, kernels launched one by one);
    ``kernel_s`` is added for every operation of a layer (launch and ramp inside
    a captured graph).
    """

    matmul: tuple[tuple[str, float], ...]
    hbm: float
    attention: float
    kernel_s: float
    attention_forward: float = 1.0
    attention_backward: float = 1.0
    sustained: float = 1.0
    elementwise: float = 1.0
    expert_layer_s: float = 0.0


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
class Fabric:
    """The scale-out fabric: NICs, leaf switches, spine switches, and core switches above.

    NIC ``i`` of a domain is cabled to leaf ``i % leaves_per_unit`` of its scalable unit;
    with as many leaves as NICs per domain that is rail-optimised wiring.

    Parameters
    ----------
    nic_bytes_per_s : float
        Of one NIC, one direction.
    chips_per_nic : int
        Neighbouring chips that share a NIC.
    domains_per_unit : int
        Scale-up domains of one scalable unit.
    leaf_ports : int
        Ports of a leaf, spine or core switch, each as fast as a NIC.
    oversubscription : float
        Downlink over uplink bandwidth of a leaf, ``>= 1``.
    curves : Curves
        ``steps`` count messages between domains.
    rails : int
        With ``r > 0`` rails, NICs ``i``, ``i + r``, ... of all domains of a unit are cabled one
        after another to neighbouring leaves, before those of the next rail.
    """

    nic_bytes_per_s: float
    domains_per_unit: int
    leaves_per_unit: int
    leaf_ports: int
    oversubscription: float
    max_domains: int
    curves: Curves
    chips_per_nic: int = 1
    rails: int = 0

    @property
    def chip_bytes_per_s(self) -> float:
        """A chip's share of its NIC when all chips send, one direction."""
        return self.nic_bytes_per_s / self.chips_per_nic


@dataclass(frozen=True, kw_only=True, slots=True)
class Wounds:
    """What is broken, spared for others, or slow.

    Parameters
    ----------
    without : tuple of str
        ``kind:name`` of each thing that is gone: ``chip:r0/t3/c2``, ``tray:r0/t3``,
        ``node:n1``, ``rack:r1``, ``switch:r0/sw5``, ``nic:r0/t3/c2``, ``leaf:su0/leaf3``,
        ``spine:spine4``, ``link:A--B``.
    degrade : tuple of (str, float)
        The same names with the fraction of the bandwidth that is left, in (0, 1).
    usable : tuple of (str, int)
        Domain name, or ``*`` for each, and how many of its chips may be used.
    """

    without: tuple[str, ...] = ()
    degrade: tuple[tuple[str, float], ...] = ()
    usable: tuple[tuple[str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.without or self.degrade or self.usable)

    def joined(self, other: Wounds) -> Wounds:
        """Both together; of two fractions or counts of one thing, ``other`` has its way."""
        return Wounds(
            without=tuple(dict.fromkeys((*self.without, *other.without))),
            degrade=tuple(sorted({**dict(self.degrade), **dict(other.degrade)}.items())),
            usable=tuple(sorted({**dict(self.usable), **dict(other.usable)}.items())),
        )


NO_WOUNDS = Wounds()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """How much of a machine, and in what state: the choices beside its name.

    Parameters
    ----------
    nodes, racks, slices : int, optional
        Scale-up domains, for machines that are counted so.
    shape : tuple of int, optional
        Axis lengths of a torus slice.
    wounds : Wounds
        Beyond those of the machine's own file.
    """

    nodes: int | None = None
    racks: int | None = None
    slices: int | None = None
    shape: tuple[int, ...] | None = None
    wounds: Wounds = NO_WOUNDS


DEFAULT_SIZE = Sizing()


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """Everything a machine file says.

    Parameters
    ----------
    name : str
        Name in the catalogue, or the file's stem.
    chip : Chip
        The kind of chip, of every domain that ``mix`` does not name.
    scale_up : SwitchDomain, MeshDomain, Torus or GraphDomain
        How the chips of one domain are connected.
    scale_out : Fabric, optional
        How domains are connected; None where the machine is one domain, or a graph.
    num_domains : int
        Nodes, racks or slices; 1 for a graph.
    shape : tuple of int
        Axis lengths of a torus slice; empty for other machines.
    mix : tuple of (int, Chip)
        Domains whose chips are of another kind, by domain index; empty where all are alike.
    wounds : Wounds
        What is missing or slow.
    sources : tuple of Source
        One for every number of the file.
    """

    name: str
    summary: str
    chip: Chip
    scale_up: ScaleUp
    scale_out: Fabric | None
    num_domains: int = 1
    shape: tuple[int, ...] = ()
    mix: tuple[tuple[int, Chip], ...] = ()
    wounds: Wounds = NO_WOUNDS
    sources: tuple[Source, ...] = ()

    @property
    def domain_chips(self) -> int:
        """Chips of one healthy scale-up domain; of the whole machine for a graph."""
        return math.prod(self.shape) if isinstance(self.scale_up, Torus) else self.scale_up.chips

    @property
    def num_chips(self) -> int:
        """Chips of the whole machine, broken ones included."""
        return self.num_domains * self.domain_chips

    @property
    def size_text(self) -> str:
        """The size in the machine's own words: ``2 racks``, ``1 node``, ``4x4 slice``."""
        plural = "" if self.num_domains == 1 else "s"
        if isinstance(self.scale_up, GraphDomain):
            return f"{self.num_chips} chips"
        if isinstance(self.scale_up, Torus):
            text = "x".join(map(str, self.shape))
            if self.num_domains == 1:
                return f"{text} {self.scale_up.unit}"
            return f"{self.num_domains} {self.scale_up.unit}{plural} of {text}"
        return f"{self.num_domains} {self.scale_up.unit}{plural}"


def _ideal_chip(chip: Chip) -> Chip:
    perfect = Efficiency(
        matmul=tuple((key, 1.0) for key, _ in chip.efficiency.matmul),
        hbm=1.0,
        attention=1.0,
        kernel_s=0.0,
    )
    return replace(chip, efficiency=perfect)


def ideal(spec: MachineSpec) -> MachineSpec:
    """The same machine as a pure roofline.

    Every achieved fraction is 1, every latency and fixed cost is 0: what the lecture's
    equations assume.
    """
    fabric = spec.scale_out
    scale_up = replace(spec.scale_up, curves=PERFECT_CURVES)
    if isinstance(scale_up, GraphDomain):
        scale_up = replace(scale_up, fabric_curves=PERFECT_CURVES)
    return replace(
        spec,
        chip=_ideal_chip(spec.chip),
        mix=tuple((domain, _ideal_chip(chip)) for domain, chip in spec.mix),
        scale_up=scale_up,
        scale_out=None if fabric is None else replace(fabric, curves=PERFECT_CURVES),
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
