"""Published decode deployments against the planner: never better than what it finds.

Every distinct deployment among the measured decode steps is pinned, with its batch, on its
machine, and priced; then all degrees are freed. The free plan must be at least as good, and
the pinned strategy one of those that it chose from.
"""

import csv
from dataclasses import fields, replace
from pathlib import Path

import pytest

from planner import DegreeLimits, Infeasible, Question, api
from planner.catalog.measured_rows import MachineUse
from planner.catalog.model_config import load_model
from planner.cost.routing import moe_shape
from planner.domain.dtypes import DType
from planner.domain.scale_up import Torus
from planner.domain.workload import Objective
from planner.search.space import strategy_space
from planner.validation.machines import sized_machine

ROWS = Path(__file__).parent / "measured" / "visible.csv"
DTYPES = {"fp16": "bf16", "fp4": "nvfp4"}
GAP = 0.005
NAMES = ("attn_tp", "attn_dp", "cp", "pp", "ep")
KEY = ("model", "topology", "num_chips", *NAMES, "weight_dtype", "kv_dtype")


def deployments():
    """One row of every deployment: the one of the largest batch."""
    found = {}
    with ROWS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["kind"] != "decode" or row["hbm_bytes_per_s_override"]:
                continue
            key = tuple(row[name] for name in KEY)
            if key not in found or int(row["global_batch"]) > int(found[key]["global_batch"]):
                found[key] = row
    return list(found.values())


def dtype(name):
    return DType(DTYPES.get(name, name))


def one(value):
    return frozenset({int(value)})


def question_of(row):
    """The deployment's workload with all degrees free."""
    use = MachineUse(topology=row["topology"], num_chips=int(row["num_chips"]))
    spec = sized_machine(use)
    size = {}
    if isinstance(spec.scale_up, Torus) and spec.scale_up.unit == "slice":
        size = {"shape": spec.shape}
    elif spec.scale_out is not None:
        size = {f"{spec.scale_up.unit}s": spec.num_domains}
    # Axes that deployments do not state stay as they are.
    known = {f.name for f in fields(DegreeLimits)}
    unstated = {"cp": one(row["cp"]), "overlap": one(0), "draft": one(0)}
    return Question(
        model=row["model"],
        machine=row["topology"],
        context_tokens=int(row["context_len"]),
        batch=int(row["global_batch"]),
        weights=dtype(row["weight_dtype"]),
        kv=dtype(row["kv_dtype"]),
        objective=Objective.LATENCY,
        gap=GAP,
        limits=DegreeLimits(**{k: v for k, v in unstated.items() if k in known}),
        **size,
    )


def pinned(row, question):
    """The same with the deployment's degrees, in one replica."""
    degrees = {
        "tp": one(row["attn_tp"]),
        "pp": one(row["pp"]),
        "ep": one(row["ep"]),
        "replicas": one(1),
    }
    if moe_shape(load_model(row["model"])) is not None:
        degrees["dp"] = one(row["attn_dp"])
    return replace(question, limits=replace(question.limits, **degrees))


def strategies_of(question):
    """Degrees of every strategy of the space; replicas of the same kind are not told apart."""
    inputs, case = api.read_question(question)
    found = strategy_space(api.request_of(question, inputs, case)).every()
    return {replace(found.degrees(index), replicas=1) for index in range(len(found))}


def compare(row):
    """Whether the deployment fits by the planner's account; asserts what must hold if so."""
    question = question_of(row)
    published = pinned(row, question)
    own = strategies_of(published)
    assert own, "the degrees are not in the space"
    assert own <= strategies_of(question), "the degrees are not in the free space"
    stated = api.plan(published)
    if isinstance(stated, Infeasible):
        assert stated.resource == "memory"
        return False
    free = api.plan(question)
    best = stated.certificate.objective
    assert free.certificate.objective <= best / (1 - GAP)
    assert free.certificate.bound <= best * (1 + 1e-9)
    return True


ALL = deployments()


@pytest.mark.parametrize("part", range(5))
def test_published_deployments_are_never_better(part):
    fits = []
    for row in ALL[part::5]:
        try:
            fits.append(compare(row))
        except AssertionError as error:
            raise AssertionError(f"{row['id']}: {error}") from error
    assert len(fits) >= 5
    assert sum(fits) >= len(fits) - 1
