"""What inference engines of different years spend around the mathematics.

- ``2022``: neither fused nor captured; a C++ host submits every kernel of every step and
  collectives are those of the library (FasterTransformer).
- ``2023``: compiled runtimes with fused kernels and captured decode steps (TensorRT-LLM
  before 0.7): decode kernels of multi-head attention, which read a shared KV head once for
  every query head.
- ``eager``: PyTorch without captured graphs, operation by operation, at any date.
- ``2024``: captured decode steps under a scheduler in Python that the chips wait for (vLLM
  before 0.6); sequences beyond the cache wait in a queue.
- ``current``: scheduling behind the chips' work, all-reduces on registered buffers; prefill
  is launched from Python.
- ``ideal``: no host, no reserve, no small operations; what the equations of a roofline assume.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.runs.gemm import is_ideal
from planner.domain.hardware import Chip
from planner.domain.run import Run
from planner.errors import SpecError

# The complement of vLLM's default ``gpu_memory_utilization`` = 0.90 (engine arguments, 2025).
RESERVE_FRACTION = 0.10
BLOCK_TOKENS = 16  # vLLM's default block_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Habits of one generation of engines.

    Parameters
    ----------
    name : str
        Value of the run's ``engine``.
    launch_s : float
        Host time of one operation that is not part of a captured graph. A pass takes at
        least so long per operation, however fast the chip is.
    captures : bool
        Whether a decode step is one captured graph.
    gap_s : float
        Idle time of the chip before each kernel, beyond the fixed cost of a kernel.
    collective_gap_s : float
        The same before a collective, which waits for the last of its ranks.
    moe_launches : int
        Operations of an MoE layer that only cost the host: allocations, fills, sorting.
    step_s : float
        Host work of one step or prefill pass that nothing hides: scheduling, sampling,
        handing out tokens.
    own_collectives : bool
        Whether it has kernels of its own beside the collective library's.
    registered_buffers : bool
        Whether sums in the switches work on the tensors themselves.
    groups_queries : bool
        Whether the decode kernel reads a KV head once for all queries that share it.
    fuses_quantisation : bool
        Whether norms and activation functions write narrow formats themselves.
    small_passes : float
        How often small operations pass through HBM, in units of the fused ones.
    pass_tokens : int
        Most tokens of one prefill pass of one attention group.
    pipeline_tokens : int, optional
        Most tokens of a prefill microbatch of a pipeline that halves its batch; None where a
        pipeline runs one microbatch per stage.
    queues : bool
        Whether sequences that do not fit wait until others have ended.
    reserve_fraction : float
        Share of the usable HBM that it leaves alone.
    block_tokens : int
        Tokens of a block of the cache; the last block of a sequence is half empty on average.
    """

    name: str
    launch_s: float
    captures: bool = True
    gap_s: float = 0.0
    collective_gap_s: float = 0.0
    moe_launches: int = 0
    step_s: float = 0.0
    own_collectives: bool = True
    registered_buffers: bool = False
    groups_queries: bool = True
    fuses_quantisation: bool = False
    small_passes: float = 1.0
    pass_tokens: int = 8192
    pipeline_tokens: int | None = None
    queues: bool = True
    reserve_fraction: float = RESERVE_FRACTION
    block_tokens: int = BLOCK_TOKENS


# PyTorch: one eager operation, 20-24 us (a one-shot all-reduce launched so on H100, H200 and
# B200, aiconfigurator@095f58a custom_allreduce tables). C++: 4-6 us to submit a kernel
# (susun-blog pegainfer-3).
PYTHON_LAUNCH_S = 22e-6
NATIVE_LAUNCH_S = 5e-6

ENGINES = {
    "current": Engine(
        name="current",
        launch_s=PYTHON_LAUNCH_S,
        # Calibration quarter: the host needs 0.6 ms for a layer of Mixtral-8x22B (vLLM 0.8.5).
        moe_launches=12,
        registered_buffers=True,
    ),
    "2024": Engine(
        name="2024",
        launch_s=PYTHON_LAUNCH_S,
        moe_launches=12,
        # Calibration quarter: decode steps of a 70B model on four H100 less the chips' work.
        # Profile before vLLM 0.6 (blog.vllm.ai/2024/09/05/perf-update, Llama 3 8B on one H100):
        # 33 % of the time in the HTTP server, 29 % in scheduling.
        step_s=3e-3,
    ),
    "eager": Engine(
        name="eager",
        launch_s=PYTHON_LAUNCH_S,
        captures=False,
        moe_launches=12,
        own_collectives=False,
    ),
    "2023": Engine(
        name="2023",
        launch_s=NATIVE_LAUNCH_S,
        groups_queries=False,
        fuses_quantisation=True,
        queues=False,
    ),
    "ideal": Engine(
        name="ideal",
        launch_s=0.0,
        fuses_quantisation=True,
        small_passes=0.0,
        reserve_fraction=0.0,
        block_tokens=0,
    ),
    "2022": Engine(
        name="2022",
        launch_s=NATIVE_LAUNCH_S,
        captures=False,
        # Least squares over the calibration quarter: decode steps of GPT on 1 to 24 A100.
        gap_s=9e-6,
        collective_gap_s=12e-6,
        own_collectives=False,
        groups_queries=False,
        # Bias, activation, residual, norm and transposes are kernels of their own.
        small_passes=2.0,
        pass_tokens=1 << 20,
        # getLocalBatchSize of FasterTransformer (1024 to 8192 by version).
        pipeline_tokens=2048,
        queues=False,
    ),
}


def engine_of(run: Run) -> Engine:
    """Engine of a run.

    Raises
    ------
    SpecError
        Unknown engine.
    """
    name = run.engine
    if name not in ENGINES:
        raise SpecError(f"unknown engine '{name}'", f"known: {', '.join(ENGINES)}")
    return ENGINES[name]


def planned_engine(chip: Chip) -> Engine:
    """Engine that a plan assumes: today's, or none on the ideal chip of a pure roofline."""
    return ENGINES["ideal" if is_ideal(chip) else "current"]
