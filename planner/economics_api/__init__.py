"""Library of ``planner economics``: three questions, answered over the cost model as it is.

>>> from planner.economics.question import ServeQuestion, Served
>>> from planner.economics_api import serve_economics
>>> base = Served(model="llama-3.1-70b", machine="h100-hgx", context=8192)
>>> serve_economics(ServeQuestion(base=base)).ratio  # output over input price
"""

from __future__ import annotations

from planner.economics_api.budget import Budget, train_economics
from planner.economics_api.cache import CacheEconomics, cache_economics
from planner.economics_api.serve import ServeEconomics, serve_economics

__all__ = [
    "Budget",
    "CacheEconomics",
    "ServeEconomics",
    "cache_economics",
    "serve_economics",
    "train_economics",
]
