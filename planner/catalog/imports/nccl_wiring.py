"""From NCCL's records to nodes and links."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from planner.catalog.imports.nccl_xml import HIDDEN_SWITCH, Gpu, NcclFile, Net, Target, slowest
from planner.catalog.imports.reference import PCIE, NvLink, Reference
from planner.catalog.imports.wiring import (
    DISTANCES,
    NVLINK,
    Distance,
    NicSite,
    Wiring,
    attach_nics,
    listing,
    natural,
    note_missing,
)

_UNKNOWN_NIC = "--chip must name a machine with nic_GB_per_s in [scale_out]"


class _Machine:
    """The chips of a file under their names, by host."""

    def __init__(self, wiring: Wiring, found: NcclFile) -> None:
        self.wiring = wiring
        self.found = found
        self.names: dict[tuple[int, str], str] = {}
        self.by_host: list[list[Gpu]] = [[] for _ in range(found.hosts)]
        for gpu in found.gpus:
            self.by_host[gpu.place.host].append(gpu)
        for host, gpus in enumerate(self.by_host):
            if any(gpu.dev is None for gpu in gpus):
                wiring.notes.append("dev is missing: GPUs are numbered as the file lists them")
                numbered = list(enumerate(gpus))
            else:
                numbered = sorted(((gpu.dev or 0, gpu) for gpu in gpus), key=lambda item: item[0])
            for number, gpu in numbered:
                name = wiring.add(f"{self.prefix(host)}gpu{number}", "chip", gpu.line)
                self.names[host, gpu.busid] = name

    def prefix(self, host: int) -> str:
        """``h0/`` where the file has several hosts."""
        return f"h{host}/" if self.found.hosts > 1 else ""

    def name(self, gpu: Gpu) -> str:
        """Name of the node of a GPU."""
        return self.names[gpu.place.host, gpu.busid]


def _switch_names(machine: _Machine) -> dict[tuple[int, str], str]:
    """A node for each NVSwitch; bus ids are those of a host, hidden ones are shared."""
    hosts: dict[int, set[str]] = {}
    for gpu in machine.found.gpus:
        host = gpu.place.host
        for target in gpu.targets:
            if target.kind != "gpu" and (host, target.busid) not in machine.names:
                where = -1 if target.busid == HIDDEN_SWITCH else host
                hosts.setdefault(where, set()).add(target.busid)
    named: dict[tuple[int, str], str] = {}
    for host, ids in sorted(hosts.items()):
        prefix = machine.prefix(host) if host >= 0 else ""
        for index, busid in enumerate(sorted(ids)):
            kind = "nvswitch-hidden" if host < 0 and len(hosts) > 1 else f"nvswitch{index}"
            named[host, busid] = machine.wiring.add(f"{prefix}{kind}", "switch")
    return named


def _check_counts(machine: _Machine, nvlink: NvLink, label: str) -> None:
    """Refuse NVLinks that the named chip cannot have; note those that are missing."""
    remedy = "--chip must name the machine of these very chips"
    totals = {}
    for gpu in machine.found.gpus:
        total = sum(target.links for target in gpu.targets)
        totals[machine.name(gpu)] = total
        if total > nvlink.per_chip:
            raise machine.wiring.source.error(
                f"{machine.name(gpu)} has {total} NVLinks, a chip of {label} has {nvlink.per_chip}",
                gpu.line,
                remedy,
            )
    targets = [target for gpu in machine.found.gpus for target in gpu.targets]
    most = max(totals.values())
    # Bridges between two chips may leave links unused, switches do not.
    if most < nvlink.per_chip and all(target.kind == "switch" for target in targets):
        raise machine.wiring.source.error(
            f"no GPU has more than {most} NVLinks to switches, a chip of {label} has "
            f"{nvlink.per_chip}",
            targets[0].line,
            f"{remedy}; a file of your own may say links_per_switch = [{most}]",
        )
    machine.wiring.notes += note_missing(totals, nvlink.per_chip)


def _direct(machine: _Machine) -> dict[tuple[str, str], tuple[int, int]]:
    """NVLinks between GPUs: count and line by ordered pair of names."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    unknown: Counter[str] = Counter()
    for gpu in machine.found.gpus:
        for target in gpu.targets:
            other = machine.names.get((gpu.place.host, target.busid))
            if other is not None:
                count, _ = found.get((machine.name(gpu), other), (0, 0))
                found[machine.name(gpu), other] = count + target.links, target.line
            elif target.kind == "gpu":
                unknown[target.busid] += target.links
    if unknown:
        machine.wiring.notes.append(
            f"left out NVLinks to GPUs that the file does not list: {listing(unknown)}"
        )
    return found


def _wire_nvlinks(machine: _Machine, reference: Reference) -> None:
    if not any(gpu.targets for gpu in machine.found.gpus):
        return
    wiring = machine.wiring
    nvlink = reference.nvlink()
    wiring.borrow("rate per NVLink")
    _check_counts(machine, nvlink, reference.label)
    switches = _switch_names(machine)
    for gpu in machine.found.gpus:
        totals: Counter[str] = Counter()
        for target in gpu.targets:
            totals[_switch_of(switches, gpu, target)] += target.links
        del totals[""]
        for switch, count in totals.items():
            wiring.join(machine.name(gpu), switch, count * nvlink.GB_per_s, NVLINK, count)
    direct = _direct(machine)
    for (a, b), (count, line) in direct.items():
        back = direct.get((b, a), (0, 0))[0]
        if a == b or back != count:
            raise wiring.source.error(
                f"contradicts itself: {a} has {count} NVLinks to {b}, {b} has {back} to {a}",
                line,
                "dump the file again; if it stays, a link is down on one side",
            )
        if natural(a) < natural(b):
            wiring.join(a, b, count * nvlink.GB_per_s, NVLINK, count)
    wiring.notes.append(
        f"NVLink: {nvlink.GB_per_s:g} GB/s per link and direction as in {reference.label}; "
        "the file has counts"
    )
    _note_switches(machine, switches)


def _switch_of(switches: dict[tuple[int, str], str], gpu: Gpu, target: Target) -> str:
    """Name of the switch at the end of NVLinks; empty where there is none."""
    host = -1 if target.busid == HIDDEN_SWITCH else gpu.place.host
    return switches.get((host, target.busid), "")


def _note_switches(machine: _Machine, switches: dict[tuple[int, str], str]) -> None:
    notes = machine.wiring.notes
    hidden = [name for (host, _), name in switches.items() if host < 0]
    if hidden:
        shared = ", shared by all hosts" if machine.found.hosts > 1 else ""
        notes.append(f"NVSwitches are hidden: one node {hidden[0]} stands for all{shared}")
    unclassed = {
        target.busid
        for gpu in machine.found.gpus
        for target in gpu.targets
        if not target.kind and (gpu.place.host, target.busid) not in machine.names
    }
    if unclassed:
        notes.append(f"taken as NVSwitches, having no tclass: {listing(unclassed)}")


def _wire_pcie(machine: _Machine, host: int, island_of: dict[str, int]) -> bool:
    """Join the GPUs of a host over its PCIe bridges where NVLinks do not; whether it did."""
    wiring, gpus = machine.wiring, machine.by_host[host]
    islands = {island_of[machine.name(gpu)] for gpu in gpus}
    if len(islands) <= 1:
        return False
    blind = [gpu for gpu in gpus if slowest(gpu.pcie_GB_per_s) is None]
    if blind:
        if len(islands) == len(gpus):
            raise wiring.source.error(
                f"{machine.name(blind[0])} has neither NVLink nor a PCIe speed",
                blind[0].line,
                "dump the file outside a virtual machine, or add link_speed and link_width "
                "to its pci element",
            )
        wiring.notes.append("left out PCIe: the file does not have all of its speeds")
        return False
    root = wiring.add(f"{machine.prefix(host)}host", "host")
    _PcieTree(machine, host, root, gpus).wire()
    wiring.notes.append(
        f"PCIe joins the chips of {machine.prefix(host)}host at NCCL's rates (width x speed of "
        "the file); CPU sockets are taken as one node that is fast enough"
    )
    return True


class _PcieTree:
    """Bridges at which paths of GPUs meet; a bridge with one way down is a mere cable."""

    def __init__(self, machine: _Machine, host: int, root: str, gpus: Sequence[Gpu]) -> None:
        self._machine = machine
        self._root = root
        self._gpus = gpus
        self._nodes: dict[str, str] = {}
        below: dict[str, set[str]] = {}
        for gpu in gpus:
            path = (*gpu.place.bridges, gpu.busid)
            for upper, lower in itertools.pairwise(path):
                below.setdefault(upper, set()).add(lower)
        meeting = [busid for busid, ways in below.items() if len(ways) > 1]
        for index, busid in enumerate(meeting):
            name = f"{machine.prefix(host)}pcie{index}"
            self._nodes[busid] = machine.wiring.add(name, "switch")

    def wire(self) -> None:
        """Add the links, each at the lowest rate of the cables that it stands for."""
        done: set[str] = set()
        for gpu in self._gpus:
            upper = self._root
            rates: list[float | None] = []
            path = (*gpu.place.bridges, gpu.busid)
            ends = {**self._nodes, gpu.busid: self._machine.name(gpu)}
            for busid, rate in zip(path, gpu.pcie_GB_per_s, strict=True):
                rates.append(rate)
                if busid not in ends:
                    continue
                if busid not in done:
                    done.add(busid)
                    slowest_rate = self._rate(gpu, ends[busid], rates)
                    self._machine.wiring.join(upper, ends[busid], slowest_rate, PCIE)
                upper, rates = ends[busid], []

    def _rate(self, gpu: Gpu, end: str, rates: Sequence[float | None]) -> float:
        known = slowest(rates)
        if known is None:
            known = slowest(gpu.pcie_GB_per_s)
            self._machine.wiring.notes.append(
                f"the PCIe link of {end} has no speed: taken as fast as the slowest around it"
            )
        assert known is not None, "GPUs without any PCIe speed were refused"
        return known


def _distance(gpu: Gpu, net: Net) -> Distance:
    """How far a NIC is: they share a bridge, a CPU, or only the host."""
    if gpu.place.cpu != net.place.cpu:
        return DISTANCES.index("SYS"), 0
    shared = 0
    for a, b in zip(gpu.place.bridges, net.place.bridges, strict=False):
        if a != b:
            break
        shared += 1
    if not shared:
        return DISTANCES.index("PHB"), 0
    hops = len(gpu.place.bridges) + len(net.place.bridges) - 2 * shared
    return DISTANCES.index("PXB" if hops else "PIX"), hops


def _nic_rate(machine: _Machine, net: Net, name: str, reference: Reference) -> float:
    """Rate of a NIC: its port, the named machine's where unknown, never above its PCIe link."""
    wiring = machine.wiring
    rate = net.GB_per_s
    if rate is None:
        rate = reference.nic_GB_per_s()
        if rate is None:
            raise wiring.source.error(
                f"{name} has no speed, and {reference.label} has no rate of NICs",
                net.line,
                _UNKNOWN_NIC,
            )
        wiring.borrow("rate of NICs without speed")
        wiring.notes.append(f"{name} has no speed: {rate:g} GB/s as in {reference.label}")
    if (
        net.line_GB_per_s is not None
        and net.pcie_GB_per_s is not None
        and (net.line_GB_per_s < rate)
    ):
        wiring.notes.append(
            f"{name}: {rate:g} GB/s, but its PCIe link carries {net.pcie_GB_per_s:g}"
        )
        rate = net.pcie_GB_per_s
    return rate


def _wire_nics(machine: _Machine, reference: Reference) -> None:
    wiring = machine.wiring
    if not machine.found.nets:
        wiring.notes.append("no <net> element: the machine has no fabric")
        return
    sites = []
    for net in machine.found.nets:
        host = net.place.host
        name = f"{machine.prefix(host)}{net.name}"
        near = tuple((machine.name(gpu), _distance(gpu, net)) for gpu in machine.by_host[host])
        rate = _nic_rate(machine, net, name, reference)
        sites.append(NicSite(name=name, GB_per_s=rate, near=near))
    wiring.notes += attach_nics(wiring, wiring.chips, sites)


def wire_nccl(wiring: Wiring, found: NcclFile, reference: Reference) -> None:
    """Add all hosts of a file.

    Raises
    ------
    CatalogError
        NVLink counts that contradict each other or the chip, or a rate that is nowhere.
    SpecError
        ``reference`` has no NVLinks.
    """
    machine = _Machine(wiring, found)
    _wire_nvlinks(machine, reference)
    islands = enumerate(wiring.scale_up_groups())
    island_of = {name: index for index, names in islands for name in names}
    joined = [_wire_pcie(machine, host, island_of) for host in range(found.hosts)]
    if any(joined):
        wiring.note_curves(reference.label)
    _wire_nics(machine, reference)
    if found.ignored:
        text = ", ".join(f"{tag} ({count})" for tag, count in sorted(found.ignored.items()))
        wiring.notes.append(f"left out elements: {text}")
    wiring.notes.append("left out CPU affinity, latencies, ranks")
