"""The named machine that lends an import its chip, its curves and the rates of its links."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from planner.catalog.imports.source import printable
from planner.catalog.machines import machine_facts, machine_from_facts
from planner.domain.hardware import MachineSpec
from planner.domain.scale_up import GraphDomain, GraphLink, MeshDomain, SwitchDomain
from planner.errors import SpecError
from planner.units import GB

PCIE = "pcie"
NIC = "nic"

Tables = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class NvLink:
    """Nameplate of one NVLink, GB/s in one direction, and how many links a chip has."""

    GB_per_s: float
    per_chip: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A machine of the catalogue or of the user's; ``label`` names it in sources."""

    label: str
    spec: MachineSpec
    facts: Tables

    def nvlink(self) -> NvLink:
        """What one NVLink of its chip carries.

        Raises
        ------
        SpecError
            Its chips have no direct links of one rate.
        """
        scale_up = self.spec.scale_up
        rates: set[float] = set()
        per_chip = 0
        if isinstance(scale_up, SwitchDomain):
            rates = {level.link_bytes_per_s for level in scale_up.levels}
            per_chip = scale_up.links_per_chip
        elif isinstance(scale_up, MeshDomain):
            rates = {scale_up.link_bytes_per_s}
            per_chip = max(scale_up.links_of(chip) for chip in range(scale_up.chips))
        elif isinstance(scale_up, GraphDomain):
            links = [link for link in scale_up.links if link.scale_up and link.tier != PCIE]
            rates = _rates(links)
            per_chip = _most_links(scale_up, links)
        if len(rates) != 1:
            raise SpecError(
                f"--chip: {self.label} has no NVLinks of one rate",
                "--chip h100-hgx names the machine whose chip and link rates to use",
            )
        return NvLink(GB_per_s=rates.pop() / GB, per_chip=per_chip)

    @property
    def is_switched(self) -> bool:
        """Whether its chips talk through switches."""
        return isinstance(self.spec.scale_up, SwitchDomain)

    def nic_GB_per_s(self) -> float | None:
        """Rate of one NIC, one direction; None where it has none or several."""
        fabric = self.spec.scale_out
        if fabric is not None:
            return fabric.nic_bytes_per_s / GB
        return self._only_rate(NIC)

    def pcie_GB_per_s(self) -> float | None:
        """Rate of a chip's PCIe link, one direction; only explicit machines state it."""
        return self._only_rate(PCIE)

    def _only_rate(self, tier: str) -> float | None:
        scale_up = self.spec.scale_up
        links = scale_up.links if isinstance(scale_up, GraphDomain) else ()
        rates = _rates([link for link in links if link.tier == tier])
        return rates.pop() / GB if len(rates) == 1 else None

    def as_of(self) -> str:
        """Month of its newest source; this month where every number is the user's own."""
        months = {source.as_of for source in self.spec.sources} - {""}
        return max(months, default=date.today().strftime("%Y-%m"))

    def chip_tables(self) -> Tables:
        """The tables of ``[chip]`` with a source beside each number."""
        return self._sourced(self.facts["chip"], "chip")

    def curve_tables(self) -> tuple[Tables, Tables | None]:
        """Achieved curves of its scale-up domain and of its fabric, each with sources."""
        scale_up = self._sourced(self.facts["scale_up"]["achieved"], "scale_up.achieved")
        for prefix, tables in (
            ("scale_out.achieved", self.facts.get("scale_out", {})),
            ("scale_up.fabric_achieved", self.facts["scale_up"]),
        ):
            key = prefix.partition(".")[2]
            if key in tables:
                return scale_up, self._sourced(tables[key], prefix)
        return scale_up, None

    def _sourced(self, table: Tables, prefix: str) -> Tables:
        listed = self.facts["sources"]
        newest = self.as_of()
        numbers: Tables = {}
        sources: dict[str, str] = {}
        below: Tables = {}
        for key, value in table.items():
            field = f"{prefix}.{key}"
            if isinstance(value, dict):
                below[key] = self._sourced(value, field)
                continue
            numbers[key] = value
            if field in listed:
                text, month = listed[field]["text"], listed[field]["as_of"]
                sources[key] = text if month in ("", newest) else f"{text} (read {month})"
        if len(sources) > 1 and len(set(sources.values())) == 1:
            sources = {"all": next(iter(sources.values()))}
        return {**numbers, **({"source": sources} if sources else {}), **below}


def _rates(links: Collection[GraphLink]) -> set[float]:
    return {link.bytes_per_s / link.links for link in links}


def _most_links(domain: GraphDomain, links: Collection[GraphLink]) -> int:
    chips = {node.name: 0 for node in domain.nodes if node.kind == "chip"}
    for link in links:
        for end in (link.a, link.b):
            if end in chips:
                chips[end] += link.links
    return max(chips.values(), default=0)


def load_reference(chip: str) -> Reference:
    """Load the machine that an import borrows from.

    Raises
    ------
    SpecError, CatalogError
        As :func:`planner.catalog.machines.load_machine`.
    """
    facts: Tables = dict(machine_facts(chip))
    is_file = chip.endswith(".toml") or "/" in chip
    return Reference(
        label=printable(Path(chip).name if is_file else chip),
        spec=machine_from_facts(facts, chip),
        facts=facts,
    )
