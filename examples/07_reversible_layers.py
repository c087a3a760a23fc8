"""Chapter 7: what activations cost, and how to keep none.

The mathematics first. (x, y) -> (y + f(x), x) can be undone, so that the backward pass recovers
every input from the last output: activations of O(1) layers instead of all, for one more forward
pass, a third more FLOP. The same trade comes in steps:

    keep all              no more FLOP, all activations
    selective recompute   attention cores again
    full recompute        a forward pass again, the input of each layer kept
    reversible            a forward pass again, nothing kept

The full model prices one training step of Llama-3.1-8B under each of them. Fused attention keeps
no scores in the first place, so selective recomputation has nothing left to save.

Run: python examples/07_reversible_layers.py
"""

from planner import EstimateKind, RunQuestion, Sizing, estimate
from planner.domain.run import Recompute

for recompute in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL, Recompute.REVERSIBLE):
    found = estimate(
        RunQuestion(
            model="llama-3.1-8b",
            machine="h100-hgx",
            kind=EstimateKind.TRAIN,
            sizing=Sizing(nodes=1),
            tp=4,
            batch=16,
            microbatch=1,
            seq=8192,
            zero=1,
            recompute=recompute,
        )
    )
    print(
        f"{recompute.value:10s}: activations {found.memory.activations_bytes / 1e9:6.2f} GB, "
        f"step {found.seconds:.2f} s"
    )
