"""Chapter 5: how many tokens to train on, when all of them will be served.

The mathematics first. With N active parameters,

    C_pre = 6 N D_pre      C_rl = c N D_rl / eff      C_inf = 2 N D_inf / eff

and equal spending on the three is near the least sum for a given quality. With c = 3 and
1 / eff = 3 that is D_pre = 1.5 D_rl = D_inf: a model that serves 2.6e14 tokens in its life is
trained on as many, 130 times what Chinchilla would (20 tokens per parameter).

Run: python examples/05_training_budgets.py
"""

from planner.economics.budget import (
    Coefficients,
    balanced_from_inference,
    over_training,
    served_tokens,
    spending,
)
from planner.economics.question import BudgetQuestion, Served
from planner.economics_api import train_economics

two_months = 60 * 86_400.0
print(f"500 M tokens/s for 60 days: {served_tokens(500e6, two_months):.4g} tokens")
served = served_tokens(50e6, two_months)
tokens = balanced_from_inference(served, Coefficients())
print(f"50 M tokens/s: pre-training {tokens.pretrain:.4g}, RL {tokens.rl:.4g} tokens")
print(f"over-training of 100 B parameters: {over_training(tokens.pretrain, 100e9):.1f} x")
parts = spending(100e9, tokens, Coefficients())
print(f"shares: {parts.pretrain / parts.total:.1%}, {parts.rl / parts.total:.1%}, rest inference")

budget = train_economics(
    BudgetQuestion(
        base=Served(model="llama-3.1-70b", machine="h100-hgx", context=8192, price=2.0),
        inference=15e12,
        mfu=0.4,
    )
)
for phase in budget.phases:
    print(f"Llama-3.1-70B, {phase.name}: {phase.tokens:.3g} tokens, ${phase.napkin_usd:,.0f}")
