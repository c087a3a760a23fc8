"""How the chips of one scale-up domain are connected, as a machine file says it."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.curves import Curves


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchLevel:
    """Switches that join every aligned run of ``span`` chips of a domain.

    ``links_per_switch[s]`` is the number of links of every chip to switch ``s`` of its run,
    each of ``link_bytes_per_s`` in one direction.
    """

    span: int
    links_per_switch: tuple[int, ...]
    link_bytes_per_s: float

    @property
    def bytes_per_s(self) -> float:
        """Nameplate bandwidth of one chip into this level, one direction."""
        return sum(self.links_per_switch) * self.link_bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchDomain:
    """A scale-up domain in which switches connect every chip to every other.

    Parameters
    ----------
    unit : str
        What the domain is called and counted in: ``node`` or ``rack``.
    chips : int
        Chips of one domain.
    levels : tuple of SwitchLevel
        Innermost first; the last one spans the domain. Two chips talk through the
        innermost level that joins them.
    chips_per_tray : int, optional
        Chips of one tray, where a rack has trays.
    parts : int
        Cabinets of one domain, each with its own switches; switch ``s`` of every part is
        joined to its twins by ``trunk_links`` links. 1 for most machines.
    tier : str
        What its links are called in reports.
    """

    unit: str
    chips: int
    levels: tuple[SwitchLevel, ...]
    curves: Curves
    chips_per_tray: int | None = None
    parts: int = 1
    trunk_links: int = 0
    tier: str = "nvlink"

    @property
    def links_per_chip(self) -> int:
        """Links of one chip."""
        return sum(sum(level.links_per_switch) for level in self.levels)

    @property
    def bytes_per_s(self) -> float:
        """Nameplate bandwidth of one chip into all levels, one direction."""
        return sum(level.bytes_per_s for level in self.levels)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshDomain:
    """A scale-up domain of direct links without switches.

    ``pairs`` lists ``(a, b, links)`` with ``a < b``, positions within the domain; ``tier`` is
    what the links are called in reports.
    """

    unit: str
    chips: int
    pairs: tuple[tuple[int, int, int], ...]
    link_bytes_per_s: float
    curves: Curves
    chips_per_tray: int | None = None
    tier: str = "xgmi"

    def links_of(self, position: int) -> int:
        """Links of the chip at one position."""
        return sum(links for a, b, links in self.pairs if position in (a, b))

    @property
    def is_full(self) -> bool:
        """Whether every pair is joined by the same number of links."""
        counts = {links for _, _, links in self.pairs}
        return len(counts) == 1 and 2 * len(self.pairs) == self.chips * (self.chips - 1)

    @property
    def bytes_per_s(self) -> float:
        """Nameplate bandwidth of the chip with the fewest links, one direction."""
        return min(self.links_of(chip) for chip in range(self.chips)) * self.link_bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Torus:
    """A scale-up domain of neighbour links along one to three axes.

    Parameters
    ----------
    unit : str
        What a domain is called and counted in: ``slice``, or ``node`` where a host's chips
        form a torus of their own.
    full_shape : tuple of int
        Longest slice, by axis.
    link_bytes_per_s : tuple of float
        Of one link, one direction, by axis.
    wrap_multiple : int
        0: an axis closes into a ring only at its full length. ``m > 0``: all axes close in
        every slice whose axes are all multiples of ``m`` (optical switches join the faces
        of cubes of ``m`` chips a side), and none otherwise.
    max_chips : int
        Chips of the largest slice.
    tier : str
        What its links are called in reports.
    """

    unit: str
    full_shape: tuple[int, ...]
    link_bytes_per_s: tuple[float, ...]
    curves: Curves
    wrap_multiple: int = 0
    max_chips: int = 0
    tier: str = "ici"

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice of ``shape`` close into a ring."""
        cubes = self.wrap_multiple > 0 and not any(n % self.wrap_multiple for n in shape)
        return tuple(
            length > 2 and (cubes if self.wrap_multiple else length == full)
            for length, full in zip(shape, self.full_shape, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphNode:
    """A node of an explicit machine; ``kind`` is chip, switch, nic, leaf, spine or host."""

    name: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphLink:
    """A link of an explicit machine, ``bytes_per_s`` in each direction, all cables together.

    ``scale_up`` says which curves price it; ``tier`` is its class in reports.
    """

    a: str
    b: str
    bytes_per_s: float
    tier: str
    scale_up: bool
    links: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDomain:
    """A machine given as an explicit list of nodes and links.

    Chips that scale-up links connect, through switches or directly, form a scale-up domain
    called ``unit``. ``fabric_curves`` price what leaves it.
    """

    unit: str
    nodes: tuple[GraphNode, ...]
    links: tuple[GraphLink, ...]
    curves: Curves
    fabric_curves: Curves

    @property
    def chips(self) -> int:
        """Chips of the whole machine."""
        return sum(node.kind == "chip" for node in self.nodes)


ScaleUp = SwitchDomain | MeshDomain | Torus | GraphDomain
