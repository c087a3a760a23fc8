"""What a drawing says in words: the machine in a few lines, its links, its losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.domain.scale_up import MeshDomain
from planner.report.draw.canvas import clean, fit
from planner.report.draw.marks import mesh_width
from planner.report.draw.parts import CUT, SLOW, Parts, percent, rate
from planner.report.draw.style import SMALL, link_look
from planner.topology.bisection import scale_up_bisections
from planner.topology.network import AXES, CHIP, CORE, HOST, LEAF, NIC_NODE, SPINE, SWITCH
from planner.units import format_integer

MAX_CLASSES = 10
MAX_WOUNDS = 10
WOUND_WIDTH = 380.0
LINE_WIDTH = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkClass:
    """Links that are alike: style and width of their line, and what to say of them."""

    look: str
    words: str
    width: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """Everything that is said of a machine around its picture."""

    parts: Parts

    @property
    def title(self) -> str:
        """Name and size."""
        return f"{clean(self.parts.spec.name)}, {self.parts.spec.size_text}"

    @property
    def description(self) -> str:
        """What a reader is told who does not see the picture."""
        said = [clean(self.parts.spec.summary), *self.facts, *self.losses]
        return ". ".join(words for words in said if words)

    @cached_property
    def facts(self) -> list[str]:
        """The machine in a few statements."""
        parts = self.parts
        spec, topology = parts.spec, parts.topology
        alive, total = topology.num_chips, spec.num_chips
        names = " + ".join(clean(chip.name) for chip in parts.chip_kinds)
        count = format_integer(alive)
        count += f" of {format_integer(total)}" if alive != total else ""
        found = [f"{count} chips ({names})"]
        unit = (
            f"a {spec.scale_up.unit}" if len(topology.domains) > 1 else f"the {spec.scale_up.unit}"
        )
        each = self._chip_rate
        if each:
            found.append(f"{rate(each)} per chip inside {unit}")
        cut = min(scale_up_bisections(topology), key=lambda cut: cut.bytes_per_s)
        if cut.bytes_per_s:
            bound = "at most " if cut.is_bound else ""
            found.append(f"bisection of {unit} {bound}{rate(cut.bytes_per_s)}")
        fabric = spec.scale_out
        if fabric is not None and parts.has_fabric:
            shared = "" if fabric.chips_per_nic == 1 else f", {fabric.chips_per_nic} chips per NIC"
            found.append(f"NIC {rate(fabric.nic_bytes_per_s)}{shared}")
            if fabric.oversubscription > 1:
                found.append(f"leaf switches {fabric.oversubscription:g}:1 oversubscribed")
        return found

    @cached_property
    def _chip_rate(self) -> float:
        """Bandwidth of the best connected chip inside its domain."""
        network = self.parts.network
        inside = network.scale_up
        rates = np.zeros(network.num_nodes)
        for column in (0, 1):
            np.add.at(rates, network.ends[inside, column], network.bytes_per_s[inside])
        return float(rates[: network.num_chips].max())

    @cached_property
    def losses(self) -> list[str]:
        """What is lost, cut or slow, in numbers."""
        parts, network = self.parts, self.parts.network
        found = []
        for kind, word in (
            (CHIP, "chip"),
            (SWITCH, "switch"),
            (NIC_NODE, "NIC"),
            (LEAF, "leaf"),
            (SPINE, "spine"),
            (CORE, "core"),
            (HOST, "host"),
        ):
            of_kind = network.kinds == kind
            lost = int((of_kind & parts.dead).sum())
            slow = int((of_kind & (parts.slow < 1)).sum())
            if lost:
                found.append(f"lost: {lost:,} of {int(of_kind.sum()):,} {_plural(word)}")
            if slow:
                found.append(f"slow: {slow:,} of {int(of_kind.sum()):,} {_plural(word)}")
        for state, word in ((CUT, "cut"), (SLOW, "slow")):
            count = int((parts.states == state).sum())
            if count:
                found.append(f"{word}: {count:,} of {network.num_links:,} links")
        return found

    @cached_property
    def wounds(self) -> list[str]:
        """Names of what is gone, slow or spared, as the user gave them."""
        wounds = self.parts.spec.wounds
        listed = [f"without {name}" for name in wounds.without]
        listed += [f"{name} at {percent(left)}" for name, left in wounds.degrade]
        listed += [f"{name}: {count} chips usable" for name, count in wounds.usable]
        if len(listed) > MAX_WOUNDS:
            listed = [*listed[:MAX_WOUNDS], f"… {len(listed) - MAX_WOUNDS:,} more"]
        return [fit(clean(words), WOUND_WIDTH, SMALL) for words in listed]

    @cached_property
    def link_classes(self) -> list[LinkClass]:
        """Links by tier, axis, number of cables and bandwidth."""
        network = self.parts.network
        found = []
        for link, count in self._alike():
            tier, axis = network.tier_names[int(network.tiers[link])], int(network.axes[link])
            cables, total = int(network.cables[link]), float(network.bytes_per_s[link])
            look = link_look(tier, axis, network.tier_names)
            name = fit(clean(tier), 140, SMALL) + (f" {AXES[axis]}" if axis >= 0 else "")
            number = f"{cables} × {rate(total / cables)} = " if cables > 1 else ""
            words = f"{name}: {number}{rate(total)}, {count:,} link{'' if count == 1 else 's'}"
            direct = isinstance(self.parts.spec.scale_up, MeshDomain) and look == "up"
            width = mesh_width(cables) if direct else LINE_WIDTH
            found.append(LinkClass(look=look, words=words, width=width))
        if len(found) > MAX_CLASSES:
            more = f"… {len(found) - MAX_CLASSES:,} more classes of links"
            found = [*found[:MAX_CLASSES], LinkClass(look="", words=more, width=0.0)]
        return found

    def _alike(self) -> list[tuple[int, int]]:
        """One link of each class, and how many there are."""
        network = self.parts.network
        # One number per link: sorting a million of them is quick, sorting rows is not.
        key = network.tiers * (len(AXES) + 1) + network.axes + 1
        for column in (network.cables, np.round(network.bytes_per_s)):
            values, index = np.unique(column, return_inverse=True)
            key = key * len(values) + index
        _, first, counts = np.unique(key, return_index=True, return_counts=True)
        return list(zip(first.tolist(), counts.tolist(), strict=True))


def _plural(word: str) -> str:
    if word == "leaf":
        return "leaves"
    return f"{word}es" if word == "switch" else f"{word}s"
