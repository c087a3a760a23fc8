"""From the matrix of one host to nodes and links."""

from __future__ import annotations

import itertools

from planner.catalog.imports.reference import PCIE, NvLink, Reference
from planner.catalog.imports.topo_matrix import Matrix
from planner.catalog.imports.wiring import (
    NVLINK,
    NicSite,
    Wiring,
    attach_nics,
    groups,
    listing,
    note_missing,
)
from planner.errors import SpecError

_OTHER_CHIP = "--chip must name the machine of these very chips"


def _name(gpu: str) -> str:
    return gpu.lower()


class _NvLinks:
    """The NVLinks of one connected group of GPUs."""

    def __init__(self, matrix: Matrix, group: list[str]) -> None:
        self._matrix = matrix
        self.pairs = {(a, b): matrix.nvlinks(a, b) for a, b in itertools.combinations(group, 2)}
        # Behind a switch the count of a pair is that of the GPU with fewer links.
        self.most = dict.fromkeys(group, 0)
        self.total = dict.fromkeys(group, 0)
        for pair, count in self.pairs.items():
            for gpu in pair:
                self.most[gpu] = max(self.most[gpu], count)
                self.total[gpu] += count

    def text_of(self, pair: tuple[str, str]) -> str:
        """The cell of a pair, as the table has it."""
        return self._matrix.cells[pair].text

    def odd_pair(self) -> tuple[str, str] | None:
        """A pair that a switch would show another count for."""
        for (a, b), count in self.pairs.items():
            if count != min(self.most[a], self.most[b]):
                return a, b
        return None


def _is_switched(wiring: Wiring, links: _NvLinks, nvlink: NvLink, reference: Reference) -> bool:
    """Whether NVSwitches join a group: its pairs show more links than its chips have.

    Raises
    ------
    CatalogError
        The counts fit neither direct links nor switches.
    """
    source, label = wiring.source, reference.label
    for gpu, most in links.most.items():
        if most > nvlink.per_chip:
            raise source.error(
                f"{gpu} shows NV{most}, a chip of {label} has {nvlink.per_chip} NVLinks",
                remedy=_OTHER_CHIP,
            )
    if max(links.total.values()) <= nvlink.per_chip:
        # Two chips behind switches look like two that are joined directly, and are as fast.
        return reference.is_switched and min(links.most.values()) == nvlink.per_chip
    odd = links.odd_pair()
    if odd is not None:
        raise source.error(
            f"{odd[0]} to {odd[1]} is {links.text_of(odd)}, which fits neither direct links "
            f"of chips with {nvlink.per_chip} NVLinks nor switches",
            remedy=_OTHER_CHIP,
        )
    most = max(links.most.values())
    if most < nvlink.per_chip:
        raise source.error(
            f"no pair shows more than NV{most}, a chip of {label} has {nvlink.per_chip} NVLinks",
            remedy=f"{_OTHER_CHIP}; a file of your own may say links_per_switch = [{most}]",
        )
    return True


def _wire_nvlinks(wiring: Wiring, matrix: Matrix, reference: Reference) -> list[list[str]]:
    """Add NVLinks and switches; the groups of GPUs that they connect."""
    pairs = itertools.combinations(matrix.gpus, 2)
    linked = groups(matrix.gpus, [pair for pair in pairs if matrix.nvlinks(*pair)])
    together = [group for group in linked if len(group) > 1]
    if not together:
        return linked
    nvlink = reference.nvlink()
    wiring.borrow("rate per NVLink")
    switches = 0
    counts = dict.fromkeys(matrix.gpus, 0)
    for group in together:
        links = _NvLinks(matrix, group)
        if _is_switched(wiring, links, nvlink, reference):
            switch = wiring.add(f"nvswitch{switches}", "switch")
            switches += 1
            for gpu, count in links.most.items():
                wiring.join(_name(gpu), switch, count * nvlink.GB_per_s, NVLINK, count)
            counts |= links.most
        else:
            for (a, b), count in links.pairs.items():
                if count:
                    rate = count * nvlink.GB_per_s
                    wiring.join(_name(a), _name(b), rate, NVLINK, count)
            counts |= links.total
    shown = {_name(gpu): count for gpu, count in counts.items()}
    wiring.notes += note_missing(shown, nvlink.per_chip)
    wiring.notes.append(
        f"NVLink: {nvlink.GB_per_s:g} GB/s per link and direction as in {reference.label}; "
        "the table shows counts"
    )
    if switches:
        wiring.notes.append(
            "NVSwitch: every pair shows all NVLinks of its chips; how many switches there are "
            "is not in the table, one node stands for all of a group"
        )
    return linked


def _wire_pcie(
    wiring: Wiring, matrix: Matrix, reference: Reference, islands: list[list[str]]
) -> None:
    """Join GPUs over the host where NVLinks do not."""
    if len(islands) == 1:
        return
    rate = reference.pcie_GB_per_s()
    if rate is None:
        if len(islands) == len(matrix.gpus):
            raise wiring.source.error(
                "shows no NVLink, and PCIe speeds are not in it",
                remedy="import the NCCL topology XML of the host (NCCL_TOPO_DUMP_FILE), which "
                f'has them, or let --chip name an explicit machine with links of tier "{PCIE}"',
            )
        wiring.notes.append("left out PCIe: its speed is neither in the table nor in --chip")
        return
    wiring.borrow("rate of PCIe")
    host = wiring.add("host", "host")
    for gpu in matrix.gpus:
        wiring.join(_name(gpu), host, rate, PCIE)
    wiring.notes.append(
        f"PCIe: {rate:g} GB/s per chip as in {reference.label}; bridges and sockets are taken "
        "not to slow it"
    )
    wiring.note_curves(reference.label)


def _wire_nics(wiring: Wiring, matrix: Matrix, reference: Reference) -> None:
    if not matrix.nics:
        wiring.notes.append("no NIC is listed: the machine has no fabric")
        return
    rate = reference.nic_GB_per_s()
    if rate is None:
        raise SpecError(
            f"{wiring.source.label} lists NICs, and {reference.label} has no rate for them",
            "--chip must name a machine with nic_GB_per_s in [scale_out]",
        )
    wiring.borrow("rate per NIC")
    wiring.notes.append(f"NICs: {rate:g} GB/s each as in {reference.label}")
    sites = [
        NicSite(
            name=name,
            GB_per_s=rate,
            near=tuple((_name(g), (matrix.cells[g, nic].distance, 0)) for g in matrix.gpus),
        )
        for nic, name in zip(matrix.nics, matrix.nic_names, strict=True)
    ]
    wiring.notes += attach_nics(wiring, [_name(gpu) for gpu in matrix.gpus], sites)


def wire_matrix(wiring: Wiring, matrix: Matrix, reference: Reference) -> None:
    """Add one host.

    A group of GPUs whose pairs show more NVLinks than a chip has is behind NVSwitches;
    other NVLinks are direct. NICs attach to their nearest GPUs and to a fabric.

    Raises
    ------
    CatalogError
        Counts that cannot be, or no NVLink and no PCIe speed.
    SpecError
        ``reference`` lacks a rate that the table needs.
    """
    for gpu in matrix.gpus:
        wiring.add(_name(gpu), "chip")
    islands = _wire_nvlinks(wiring, matrix, reference)
    _wire_pcie(wiring, matrix, reference, islands)
    _wire_nics(wiring, matrix, reference)
    wiring.notes += matrix.notes
    if matrix.dropped:
        wiring.notes.append(f"left out {listing(matrix.dropped)}")
    largest = reference.spec.domain_chips
    if reference.is_switched and largest > len(matrix.gpus):
        wiring.notes.append(
            f"one host only: a scale-up domain of {reference.label} has {largest} chips; hosts "
            "with the same fabric.clusterUuid and fabric.cliqueId (nvidia-smi --query-gpu) "
            "share one"
        )
