"""What ``planner import --json`` prints."""

from __future__ import annotations

import msgspec

from planner.deployment.compare import Comparison
from planner.deployment.pools_compare import PoolsComparison, PoolsDeployed
from planner.deployment.serving import Deployment
from planner.deployment.train_compare import TrainComparison
from planner.domain.layout import DegreesRecord, Layout
from planner.domain.serve_layout import ServeLayout, ServePrediction
from planner.domain.train_layout import TrainDegrees, TrainLayout


class PricedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layout in numbers."""

    degrees: DegreesRecord
    batch: int
    step_s: float
    tokens_per_s_per_chip: float


class ChangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A flag that makes a difference."""

    flag: str
    now: str
    better: str


class ComparisonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment beside the best layout; ratios are how many times better it is."""

    best: PricedRecord
    expressible: PricedRecord
    ratio: float
    expressible_ratio: float
    changes: list[ChangeRecord]
    changes_gain: float | None


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as read, and the comparison where one was asked for."""

    engine: str
    file: str
    chips: int
    unread: tuple[str, ...]
    refusals: tuple[str, ...]
    current: PricedRecord
    comparison: ComparisonRecord | None


def _priced(layout: Layout) -> PricedRecord:
    found = layout.prediction
    return PricedRecord(
        degrees=layout.degrees,
        batch=found.batch,
        step_s=found.step_s,
        tokens_per_s_per_chip=found.tokens_per_s_per_chip,
    )


def deployment_record(
    file: str, current: Deployment, unread: tuple[str, ...], found: Comparison | None
) -> DeploymentRecord:
    """Everything that is printed."""
    comparison = None
    if found is not None:
        why = found.explanation
        comparison = ComparisonRecord(
            best=_priced(found.best),
            expressible=_priced(found.told),
            ratio=found.ratio,
            expressible_ratio=found.told_ratio,
            changes=[]
            if why is None
            else [ChangeRecord(flag=name, now=old, better=new) for name, old, new in why.flags],
            changes_gain=None if why is None else why.gain,
        )
    return DeploymentRecord(
        engine=current.told.engine.value,
        file=file,
        chips=current.told.chips,
        unread=unread,
        refusals=current.refusals,
        current=_priced(current.layout),
        comparison=comparison,
    )


class PricedRunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One training layout in numbers."""

    degrees: TrainDegrees
    step_s: float
    mfu: float


class RunComparisonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run beside the best layout; ratios are how many times faster its step is."""

    best: PricedRunRecord
    expressible: PricedRunRecord
    ratio: float
    expressible_ratio: float
    changes: list[ChangeRecord]
    changes_gain: float | None


class TrainingRunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A training run as read, and the comparison where one was asked for."""

    engine: str
    file: str
    chips: int
    unread: tuple[str, ...]
    fits: bool
    current: PricedRunRecord
    comparison: RunComparisonRecord | None


def _run(layout: TrainLayout) -> PricedRunRecord:
    found = layout.prediction
    return PricedRunRecord(degrees=layout.degrees, step_s=found.step_s, mfu=found.mfu)


def training_run_record(
    file: str,
    engine: str,
    layout: TrainLayout,
    unread: tuple[str, ...],
    found: TrainComparison | None,
) -> TrainingRunRecord:
    """Everything that is printed of a training run."""
    comparison = None
    if found is not None:
        why = found.explanation
        comparison = RunComparisonRecord(
            best=_run(found.best),
            expressible=_run(found.told),
            ratio=found.ratio,
            expressible_ratio=found.told_ratio,
            changes=[]
            if why is None
            else [ChangeRecord(flag=name, now=old, better=new) for name, old, new in why.changes],
            changes_gain=None if why is None else why.gain,
        )
    memory = layout.prediction.memory
    return TrainingRunRecord(
        engine=engine,
        file=file,
        chips=len(layout.chips),
        unread=unread,
        fits=memory.used_bytes <= memory.capacity_bytes * (1 + 1e-9),
        current=_run(layout),
        comparison=comparison,
    )


class PricedPoolsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two pools in numbers."""

    prefill: DegreesRecord
    decode: DegreesRecord
    prediction: ServePrediction


class PoolChangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A flag of one pool that differs."""

    pool: str
    flag: str
    now: str
    better: str


class PoolsComparisonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two pools beside the best ones; ratios are of tokens per second and chip."""

    best: PricedPoolsRecord
    expressible: PricedPoolsRecord
    ratio: float
    expressible_ratio: float
    changes: list[PoolChangeRecord]


class PoolsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment of two pools as read."""

    engine: str
    file: str
    chips: int
    unread: tuple[str, ...]
    refusals: tuple[str, ...]
    current: PricedPoolsRecord
    comparison: PoolsComparisonRecord | None


def _pools(layout: ServeLayout) -> PricedPoolsRecord:
    return PricedPoolsRecord(
        prefill=layout.prefill.degrees,
        decode=layout.decode.degrees,
        prediction=layout.prediction,
    )


def pools_record(
    file: str, current: PoolsDeployed, unread: tuple[str, ...], found: PoolsComparison | None
) -> PoolsRecord:
    """Everything that is printed of two pools."""
    comparison = None
    if found is not None:
        comparison = PoolsComparisonRecord(
            best=_pools(found.best),
            expressible=_pools(found.told),
            ratio=found.ratio,
            expressible_ratio=found.told_ratio,
            changes=[
                PoolChangeRecord(pool=pool, flag=name, now=old, better=new)
                for pool, name, old, new in found.changes
            ],
        )
    return PoolsRecord(
        engine=current.pools[0].told.engine.value,
        file=file,
        chips=sum(own.told.chips for own in current.pools),
        unread=unread,
        refusals=tuple(one for own in current.pools for one in own.refusals),
        current=_pools(current.layout),
        comparison=comparison,
    )
