"""Which layout decodes DeepSeek-V3 best on one GB200 NVL72 rack, and how sure are we?

The mathematics first. Weights are read once per step whatever the batch, so

    tokens/s = batch / step,   step >= weights / bandwidth + batch x KV / bandwidth + ...

rises with the batch until memory or the latency limit stops it. 256 experts do not divide
by 72 chips: either 64 chips hold 4 experts each and 8 stand idle, or all 72 hold 3 or 4.
The fullest chip decides, so routed experts take as long either way, but attention and the
KV cache are spread over 72 chips instead of 64. The planner finds and proves it.

Run: python examples/08_which_layout.py
"""

from planner import Infeasible, Question, plan

answer = plan(
    Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192, tpot_s=20e-3)
)
assert not isinstance(answer, Infeasible)
best = answer.degrees
print(f"EP{best.ep}, batch {answer.prediction.batch}, gap {answer.certificate.gap:.3%}")
for other in answer.runners_up:
    share = other.tokens_per_s_per_chip / answer.prediction.tokens_per_s_per_chip
    print(f"EP{other.degrees.ep} PP{other.degrees.pp} x {other.degrees.replicas}: {share:.1%}")
