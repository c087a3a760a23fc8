"""What a dead switch, a slow link and a second rack do to an all-to-all.

Every chip of one rack sends 64 MB, 1 / 72 of it to each chip, over 18 NVSwitch planes of
50 GB/s: 71/72 x 64 MB / 900 GB/s = 70 us at nameplate. A dead plane leaves 17 / 18 of that
bandwidth. Senders spread over all planes alike and do not see that the last hop of one of
them is slow: a single link at half speed doubles the wire time. Across two racks half of the
bytes pass NICs of 50 GB/s.

Run: python examples/09_a_wounded_rack.py
"""

from planner import Sizing, Wounds, load_topology
from planner.domain.curves import Op
from planner.topology.collectives import collective_cost

CASES = {
    "one rack": Sizing(),
    "a dead switch": Sizing(wounds=Wounds(without=("switch:r0/sw5",))),
    "a link at half speed": Sizing(wounds=Wounds(degrade=(("link:r0/t3/c2--r0/sw5", 0.5),))),
    "two racks": Sizing(racks=2),
}

for name, sizing in CASES.items():
    rack = load_topology("gb200-nvl72", sizing)
    cost = collective_cost(rack, Op.ALL_TO_ALL, range(rack.num_chips), 64e6)
    print(f"{name:20s} {cost.seconds * 1e6:7.1f} us, busiest link: {cost.link}")
