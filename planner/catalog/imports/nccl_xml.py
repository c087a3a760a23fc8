"""NCCL topology XML: GPUs, their NVLinks, the PCIe tree, NICs with a network.

Written by NCCL for ``NCCL_TOPO_DUMP_FILE``; with multi-node NVLink it is the union over the
hosts of the domain, told apart by ``host_hash``. Rules (NVIDIA/nccl@5067397
``src/graph/topo.cc``, ``xml.cc``):

- ``tclass`` 0x068000 is an NVSwitch, 0x03.... a GPU; a bus id of ``f`` is hidden from a
  virtual machine and taken as an NVSwitch, and so is a target of unknown class.
- PCIe GB/s = width * s / 80 with s = 7.5 * GT/s: 48 for 16 lanes at 32 GT/s.
- ``speed`` of a network is in Mbit/s; -1 means that the driver does not tell.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.catalog.imports.markup import Element
from planner.catalog.imports.source import SourceFile

# "32.0 GT/s PCIe", "16 GT/s": speeds as the kernel writes them, with NCCL's value per lane.
_LANE = {"2.5": 15, "5": 30, "8": 60, "16": 120, "32": 240, "64": 480}
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*GT/s(?:\s*PCIe)?")
_HIDDEN = re.compile(r"f+:f+:f+(?:\.[0-9a-f])?")
_GPU_CLASS = "0x03"
_SWITCH_CLASS = "0x068000"
_MBIT_PER_GB = 8000.0
_BITS = 8
_MAX_PER_HOST = 1024
_READ = {"system", "cpu", "pci", "gpu", "nvlink", "nic", "net"}
HIDDEN_SWITCH = "hidden"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where bonded NVLinks of a GPU go: the bus id of a GPU or a switch of its host.

    ``kind`` is ``gpu``, ``switch`` or empty where the file does not say.
    """

    busid: str
    kind: str
    links: int
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Position in a host: its CPU, and the PCIe bridges above, the outermost first."""

    host: int
    cpu: int
    bridges: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU; ``pcie_GB_per_s`` has one rate per bridge above and its own, None if unknown."""

    dev: int | None
    busid: str
    place: Place
    pcie_GB_per_s: tuple[float | None, ...]
    targets: tuple[Target, ...]
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Net:
    """One port of a NIC.

    ``line_GB_per_s`` is the raw rate of its own PCIe link, ``pcie_GB_per_s`` what NCCL
    expects of it; both None if unknown.
    """

    name: str
    GB_per_s: float | None
    place: Place
    pcie_GB_per_s: float | None
    line_GB_per_s: float | None
    line: int


@dataclass(kw_only=True, slots=True)
class NcclFile:
    """Everything of use in a file; ``hosts`` counts distinct host hashes."""

    gpus: list[Gpu] = field(default_factory=list)
    nets: list[Net] = field(default_factory=list)
    hosts: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    listed_gpus: int = 0
    listed_nics: int = 0


def _pcie(element: Element) -> tuple[float | None, float | None]:
    """Rate that NCCL expects of a device's PCIe link, and its raw rate, in GB/s."""
    speed = _SPEED.fullmatch(element.get("link_speed") or "")
    width = element.get("link_width") or ""
    lane = _LANE.get(f"{float(speed.group(1)):g}") if speed is not None else None
    # A driver that does not tell the width writes 0.
    if speed is None or lane is None or not re.fullmatch(r"[1-9]\d?", width):
        return None, None
    return int(width) * lane / 80, int(width) * float(speed.group(1)) / _BITS


class _Reader:
    """Walks over the elements and remembers where it is."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._hashes: dict[str, int] = {}
        self._nets: set[tuple[int, str]] = set()
        self._seen: set[tuple[int, str]] = set()
        self._cpus = 0
        self.found = NcclFile()

    def _number(self, element: Element, name: str) -> int | None:
        text = element.get(name)
        if text is None:
            return None
        if re.fullmatch(r"-?\d{1,9}", text) is None:
            raise self._source.error(
                f"<{element.tag}> has {name}={text[:20]!r}, not a whole number", element.line
            )
        return int(text)

    def read(self, root: Element) -> NcclFile:
        cpus = list(root.all("cpu"))
        hashed = [cpu for cpu in cpus if cpu.get("host_hash")]
        bare = [cpu for cpu in cpus if not cpu.get("host_hash")]
        if hashed and bare:
            raise self._source.error(
                "has <cpu> elements with and without host_hash",
                bare[0].line,
                "give every cpu the host_hash of its host",
            )
        for child in root.children:
            if child.tag == "cpu":
                self._cpu(child)
            else:
                self._skip(child)
        self.found.hosts = len(self._hashes)
        return self.found

    def _skip(self, element: Element) -> None:
        if element.tag in _READ:
            raise self._source.error(
                f"has a <{element.tag}> where it cannot be",
                element.line,
                "system holds cpu, cpu holds pci, pci holds pci, gpu or nic, nic holds net",
            )
        self.found.ignored[element.tag[:40]] += 1

    def _cpu(self, cpu: Element) -> None:
        host_hash = cpu.get("host_hash") or ""
        host = self._hashes.setdefault(host_hash, len(self._hashes))
        place = Place(host=host, cpu=self._cpus, bridges=())
        self._cpus += 1
        for child in cpu.children:
            if child.tag == "pci":
                self._pci(child, place, ())
            elif child.tag == "nic":
                self._nic(child, place, (None, None))
            else:
                self._skip(child)

    def _pci(self, pci: Element, place: Place, above: tuple[float | None, ...]) -> None:
        busid = pci.get("busid")
        if busid is None:
            raise self._source.error("has a <pci> without busid", pci.line)
        busid = busid.lower()
        if (place.host, busid) in self._seen:
            raise self._source.error(f"lists PCI device {busid} twice", pci.line)
        self._seen.add((place.host, busid))
        kind = (pci.get("class") or "").lower()
        self.found.listed_gpus += kind.startswith(_GPU_CLASS)
        self.found.listed_nics += kind.startswith("0x02")
        rates = _pcie(pci)
        inner = Place(host=place.host, cpu=place.cpu, bridges=(*place.bridges, busid))
        gpus = list(pci.all("gpu"))
        if len(gpus) > 1:
            raise self._source.error(
                f"has {len(gpus)} gpu elements in PCI device {busid}: slices of a chip",
                gpus[1].line,
                "dump it where chips are not sliced",
            )
        for child in pci.children:
            if child.tag == "pci":
                self._pci(child, inner, (*above, rates[0]))
            elif child.tag == "gpu":
                self._gpu(child, busid, place, (*above, rates[0]))
            elif child.tag == "nic":
                self._nic(child, place, rates)
            else:
                self._skip(child)

    def _gpu(self, gpu: Element, busid: str, place: Place, pcie: tuple[float | None, ...]) -> None:
        targets = []
        for child in gpu.children:
            if child.tag == "nvlink":
                targets += self._nvlink(child)
            else:
                self._skip(child)
        self.found.gpus.append(
            Gpu(
                dev=self._number(gpu, "dev"),
                busid=busid,
                place=place,
                pcie_GB_per_s=pcie,
                targets=tuple(targets),
                line=gpu.line,
            )
        )

    def _nvlink(self, nvlink: Element) -> list[Target]:
        links = self._number(nvlink, "count")
        busid = (nvlink.get("target") or "").lower()
        if links is None or links < 1 or not busid:
            raise self._source.error(
                "has an <nvlink> without target or without a positive count", nvlink.line
            )
        code = (nvlink.get("tclass") or "").lower()
        kind = "gpu" if code.startswith(_GPU_CLASS) else ""
        if code == _SWITCH_CLASS or _HIDDEN.fullmatch(busid):
            busid, kind = HIDDEN_SWITCH if _HIDDEN.fullmatch(busid) else busid, "switch"
        if code and not kind:
            # The bridge of a POWER CPU: host memory, which is not part of the machine.
            self.found.ignored[f"nvlink to class {code[:12]}"] += 1
            return []
        return [Target(busid=busid, kind=kind, links=links, line=nvlink.line)]

    def _nic(self, nic: Element, place: Place, rates: tuple[float | None, float | None]) -> None:
        for child in nic.children:
            if child.tag != "net":
                self._skip(child)
            elif child.get("net") == "0":
                self.found.ignored["net that carries no collectives"] += 1
            else:
                self._net(child, place, rates)

    def _net(self, net: Element, place: Place, rates: tuple[float | None, float | None]) -> None:
        speed = self._number(net, "speed")
        port = self._number(net, "port")
        name = net.get("name") or f"net{len(self.found.nets)}"
        if (place.host, name) in self._nets and port is not None:
            name = f"{name}:{port}"
        self._nets.add((place.host, name))
        self.found.nets.append(
            Net(
                name=name,
                GB_per_s=speed / _MBIT_PER_GB if speed is not None and speed > 0 else None,
                place=place,
                pcie_GB_per_s=rates[0],
                line_GB_per_s=rates[1],
                line=net.line,
            )
        )


def parse_nccl(source: SourceFile, root: Element) -> NcclFile:
    """Read a topology file of NCCL.

    Raises
    ------
    CatalogError
        Not such a file, elements where they cannot be, a device twice, numbers that are
        none, or no GPU element at all. Names the line.
    """
    if root.tag != "system":
        raise source.error(
            f"starts with <{root.tag[:40]}>, not with <system>",
            root.line,
            "NCCL writes its topology to the file named by NCCL_TOPO_DUMP_FILE",
        )
    found = _Reader(source).read(root)
    if not found.gpus:
        what = (
            f"lists {found.listed_gpus} GPUs and {found.listed_nics} NICs as PCI devices, but "
            "no <gpu>, <nvlink> or <net> element: NVLinks and NIC speeds are missing"
            if found.listed_gpus
            else "has no <gpu> element"
        )
        raise source.error(
            what,
            remedy="clouds ship such files for NCCL to complete: run any NCCL program with "
            "NCCL_TOPO_DUMP_FILE=topo.xml and import the file that it writes",
        )
    for what, places in (
        ("GPUs", [gpu.place for gpu in found.gpus]),
        ("networks", [net.place for net in found.nets]),
    ):
        most = max(Counter(place.host for place in places).values(), default=0)
        if most > _MAX_PER_HOST:
            raise source.error(
                f"has {most} {what} on one host", remedy="give every cpu the host_hash of its host"
            )
    return found


def slowest(rates: Sequence[float | None]) -> float | None:
    """The lowest of the known rates of a path; None if none is known."""
    lowest = min((rate for rate in rates if rate is not None), default=math.inf)
    return None if math.isinf(lowest) else lowest
