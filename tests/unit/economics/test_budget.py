"""Budgets by hand."""

import pytest

from planner.economics import budget
from planner.economics.budget import Coefficients, Tokens


def test_spending_counts_what_decoding_wastes():
    # N = 10: 6 x 10 x 7 = 420; 4 x 10 x 5 x 2 = 400; 2 x 10 x 3 x 2 = 120.
    tokens = Tokens(pretrain=7.0, rl=5.0, inference=3.0)
    spent = budget.spending(10.0, tokens, Coefficients(rl=4.0, inefficiency=2.0))
    assert (spent.pretrain, spent.rl, spent.inference, spent.total) == (420, 400, 120, 940)


@pytest.mark.parametrize("coefficients", [Coefficients(), Coefficients(rl=6, inefficiency=1.5)])
def test_both_balances_spend_equally_and_agree(coefficients):
    one = budget.balanced_from_pretrain(1e12, coefficients)
    two = budget.balanced_from_inference(one.inference, coefficients)
    assert two.pretrain == pytest.approx(1e12)
    assert two.rl == pytest.approx(one.rl)
    spent = budget.spending(1e9, one, coefficients)
    assert spent.rl == pytest.approx(spent.pretrain)
    assert spent.inference == pytest.approx(spent.pretrain)


def test_chip_hours_energy_and_tokens_per_joule():
    # 7.2e21 FLOP at 40 % of 1e15: 1.8e7 s = 5,000 h; at 1.5 kW 7,500 kWh.
    assert budget.chip_hours(7.2e21, 1e15, 0.4) == pytest.approx(5000)
    assert budget.energy_kwh(5000, 1500.0) == pytest.approx(7500)
    assert budget.tokens_per_joule(3000.0, 1500.0) == 2.0


def test_chinchilla():
    assert budget.chinchilla_tokens(70e9) == 1.4e12
    assert budget.over_training(15e12, 70e9) == pytest.approx(10.714, abs=1e-3)
