"""Chapter 2: an expert layer fills one rack and stops at its door.

The mathematics first. 256 experts over 72 chips: without copies ceil(256 / 72) = 4 per chip,
64 chips used, 8 idle. An all-to-all over R racks sends (R - 1) / R of its bytes out, over links
that are `ratio` times slower: it takes max(1/R, ratio (R - 1)/R) times as long as in one rack,
4, 6 and 7 times for ratio 8 and R = 2, 4, 8.

The full model derives the rule on two GB200 racks (ratio 18), and shows where it fails: on nodes
of eight chips, which the weights nearly fill.

Run: python examples/02_experts_on_racks.py
"""

from planner import Question
from planner.cost.roofline import leaving_fraction, rack_slowdown, whole_expert_chips
from planner.studies.compare import compare

used, each, idle = whole_expert_chips(256, 72)
print(f"256 experts on 72 chips: {used} used, {each} each, {idle} idle")
slower = ", ".join(f"{rack_slowdown(racks, 8):g}" for racks in (2, 4, 8))
print(f"all-to-all over 2, 4, 8 racks: {slower} times slower, {leaving_fraction(2):.0%} leaves two")

CASES = {
    "two racks of 72": Question(
        model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192, racks=2
    ),
    "eight nodes of 8": Question(
        model="deepseek-v3", machine="h200-hgx", context_tokens=8192, nodes=8
    ),
}
for name, question in CASES.items():
    found = compare(question, ("ep", "wide-ep"), break_evens=False)
    for one in found.ranked:
        figures = one.figures
        print(
            f"{name}, {one.name:7s}: EP{figures.degrees.ep:<3d} "
            f"{figures.tokens_per_s_per_chip:6,.0f} tokens/s/chip, KV cache "
            f"{figures.memory.kv_bytes / 1e9:5.1f} GB per chip"
        )
    print(f"  {found.why[0]}")
