"""Training layouts to export: any degrees, priced but not searched."""

import functools

from planner.deployment.train_express import training_layout
from planner.domain.dtypes import DType
from planner.domain.hardware import Sizing
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainDegrees
from planner.domain.training import TrainQuestion
from planner.train_api import read_training

BATCH = 48


def question(model="llama-3.1-8b", nodes=4, **more):
    base = {
        "machine": "b300-hgx",
        "global_batch": BATCH,
        "seq_len": 4096,
        "gradients": DType.FP32,
    }
    return TrainQuestion(model=model, sizing=Sizing(nodes=nodes), **{**base, **more})


@functools.cache
def training_case_for(asked):
    return read_training(asked)


def train_degrees(**given):
    base = {
        "tp": 1,
        "cp": 1,
        "dp": 1,
        "pp": 1,
        "virtual_stages": 1,
        "ep": 1,
        "expert_tp": 1,
        "microbatch": 1,
        "schedule": ScheduleKind.ONE_F_ONE_B if given.get("pp", 1) > 1 else ScheduleKind.NONE,
        "recompute": Recompute.FULL,
        "zero_stage": 1,
        "sequence_parallel": False,
        "overlap": ("dp",),
    }
    own = {**base, **given}
    own.setdefault("microbatches", BATCH // (own["dp"] * own["microbatch"]))
    return TrainDegrees(**own)


def train_layout_for(degrees, asked=None):
    inputs, case = training_case_for(asked or question())
    return training_layout(inputs, case, case.parts[0], degrees)
