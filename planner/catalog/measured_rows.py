"""Measurements as typed records: runs, collectives and serving under load."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.run import Run
from planner.domain.serving import ServingMode

__all__ = [
    "CollectiveRow",
    "MachineUse",
    "MeasuredRow",
    "NumberFormats",
    "Origin",
    "Pool",
    "RunRow",
    "ServingLoad",
    "ServingMode",
    "ServingRow",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Which measurement, and where it comes from.

    ``quality`` is ``A`` (everything stated), ``B`` (one thing inferred) or ``C``; ``line``
    is that of the file, counted from 1.
    """

    id: str
    file: str
    line: int
    source_group: str = ""
    source: str = ""
    software: str = ""
    published: str = ""
    note: str = ""
    quality: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineUse:
    """The machine of a measurement.

    Parameters
    ----------
    topology : str
        Name of the catalogue, or path of a machine file.
    slices : int, optional
        Slices of a torus that the job spans, where the note says so (``4 slices``,
        ``2 pods``).
    hbm_bytes_per_s : float, optional
        Where the part differs from the standard one.
    efa : bool
        Whether the note names EFA, the Ethernet of one cloud, as the fabric.
    """

    topology: str
    num_chips: int
    slices: int | None = None
    hbm_bytes_per_s: float | None = None
    efa: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberFormats:
    """Number formats of a run; None keeps what the model's configuration says."""

    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A training step, a prefill pass, a decode step or a request.

    ``time_s`` is None for a layout that ran out of memory.
    """

    origin: Origin
    machine: MachineUse
    model: str
    formats: NumberFormats
    run: Run
    time_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveRow:
    """One collective over the first chips of a machine.

    ``num_bytes`` follows :class:`planner.domain.curves.Op`; ``tokens_per_chip`` and
    ``top_k`` belong to dispatch and combine, 0 elsewhere.
    """

    origin: Origin
    machine: MachineUse
    op: Op
    num_bytes: float
    tokens_per_chip: int
    top_k: int
    time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Workers of one kind and the layout of each, in chips; pipelines are not used.

    ``attn_dp`` is 1 where the source leaves it empty. ``batch`` counts sequences of one
    worker, None where unknown.
    """

    num_workers: int
    attn_tp: int
    attn_dp: int
    expert_tp: int
    ep: int
    batch: int | None = None

    @property
    def num_chips(self) -> int:
        """Chips of all workers."""
        return self.num_workers * self.attn_tp * self.attn_dp


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingLoad:
    """An engine under a closed loop of requests.

    Parameters
    ----------
    concurrency : int, optional
        Requests in flight in total.
    prefill, decode : Pool
        The same one where ``mode`` is ``AGGREGATED``.
    workers_stated : bool
        False where the source leaves the number of workers of its pools open; the pools
        then count one each.
    mtp : bool
        Whether multi-token prediction drafts tokens.
    """

    mode: ServingMode
    input_len: int
    output_len: int
    concurrency: int | None
    prefill: Pool
    decode: Pool
    mtp: bool = False
    workers_stated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingRow:
    """Median latencies of an engine under load; None where not given."""

    origin: Origin
    machine: MachineUse
    model: str
    formats: NumberFormats
    load: ServingLoad
    ttft_s: float | None
    tpot_s: float | None


MeasuredRow = RunRow | CollectiveRow | ServingRow
