"""Habits and fixed costs of serving engines.

Two kinds of numbers live here. Habits follow the engines' documentation and the recipes of
the public benchmark (SemiAnalysis InferenceX):

- vLLM and TensorRT-LLM mix prompt chunks into decode passes (in-flight batching), SGLang
  runs prompts in passes of their own, before any decoding.
- 8,192 prompt tokens per pass and attention rank: vLLM's ``max_num_batched_tokens`` of its
  server on chips of 70 GB and more, SGLang's ``chunked_prefill_size``, TensorRT-LLM's
  ``max_num_tokens``.
- TensorRT-LLM starts a request only when its whole answer fits into the cache
  (``GUARANTEED_NO_EVICT``); the others count on half of it.
- SGLang sends the cache of a prompt to its decode worker chunk by chunk, while later chunks
  are computed (``send_kv_chunk`` of its prefill scheduler); vLLM's NIXL connector pulls it
  when the prefill has ended, TensorRT-LLM's transceiver sends it then (NVIDIA/TensorRT-LLM
  pull request 15727 describes both, its pipelined transfer is not merged). All go on to the
  next prompts meanwhile.
- SGLang looks for new requests every 30 passes (``--scheduler-recv-interval 30`` of the
  recipes).

Fixed costs are work that the counted kernels do not explain. They were fit once (coordinate
search on capped absolute log errors of TPOT and, with weight 0.3, TTFT) to those rows of the
public serving measurements whose id has a SHA-1 divisible by four and that can be represented,
about 370 of them; accuracy is quoted on the other rows. There is one number per engine family
or one for all; none per model, machine, source or row.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.model import (
    CompressedAttention,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoeFfn,
)
from planner.domain.serving import EngineFamily

# Fit as the module says. Kernels of an MoE layer beside its matrix multiplies: they count tokens
# per expert, sort, gather, quantise, activate and add up. Share of a long stream's HBM rate that
# a paged decode attention kernel reaches. Time of a layer's all-reduce over that of the same
# kernel in a loop of its own: the ranks do not arrive together.
EXPERT_KERNELS = 7.0
PAGED_READ = 0.7
RANK_SKEW = 1.6


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHabits:
    """How one family of engines schedules, and what it spends.

    Parameters
    ----------
    mixes : bool
        Whether prompt chunks ride on decode passes; else they run in passes of their own
        that decoding waits for.
    chunk_tokens : int
        Prompt tokens per pass and attention rank.
    reserved_output : float
        Share of a request's output for which the cache must have room before it starts.
    streams_chunks : bool
        Whether the cache of a chunk is sent while the next ones are computed, where prefill
        has chips of its own; else it follows the whole prompt.
    poll_passes : int
        Passes between two looks at newly arrived requests.
    step_s : float
        Host work per pass that nothing hides: scheduling, sampling, handing out tokens.
    sequence_s : float
        The same per decoding sequence of one attention rank.
    launch_s : float
        Host time per operation of a pass with prompts, which replays no captured graph; the
        pass takes at least so long (an operation of the count is several launches).
    first_token_s, prompt_token_s : float
        Latency of the front end per request, and per prompt token (transport, tokenizing).
    """

    mixes: bool
    chunk_tokens: int
    reserved_output: float
    poll_passes: int
    step_s: float
    sequence_s: float
    launch_s: float
    first_token_s: float
    prompt_token_s: float
    streams_chunks: bool = False


HABITS = {
    EngineFamily.VLLM: EngineHabits(
        mixes=True,
        chunk_tokens=8192,
        reserved_output=0.5,
        poll_passes=1,
        step_s=0.8e-3,
        sequence_s=3e-6,
        launch_s=56e-6,
        first_token_s=12e-3,
        prompt_token_s=25e-6,
    ),
    EngineFamily.SGLANG: EngineHabits(
        mixes=False,
        chunk_tokens=8192,
        reserved_output=0.5,
        poll_passes=30,
        step_s=0.28e-3,
        sequence_s=28e-6,
        launch_s=120e-6,
        first_token_s=44e-3,
        prompt_token_s=20e-6,
        streams_chunks=True,
    ),
    EngineFamily.TRTLLM: EngineHabits(
        mixes=True,
        chunk_tokens=8192,
        reserved_output=1.0,
        poll_passes=1,
        step_s=0.62e-3,
        sequence_s=1.2e-6,
        launch_s=100e-6,
        first_token_s=27e-3,
        prompt_token_s=9e-6,
    ),
}


def small_kernels(layer: Layer) -> float:
    """Kernels of a layer beside matrix multiplies, attention core and collectives.

    Two norms with the residual, rotary embedding with the cache write, activation; more for
    latent attention (norms of the latents, splits, concatenation), compressed and linear
    attention (pooling; convolution, gates, output norm), an indexer (its own projections'
    norm, rotation, quantisation, scores, selection) and experts.
    """
    count = 4.0
    match layer.attention:
        case GroupedQueryAttention():
            count += 1.0 if layer.attention.qk_norm_params else 0.0
        case LatentAttention() | LinearAttention():
            count += 4.0
        case CompressedAttention():
            count += 8.0
    indexer = getattr(layer.attention, "indexer", None)
    if indexer is not None and indexer.computes_index:
        count += 8.0
    if isinstance(layer.ffn, MoeFfn):
        count += EXPERT_KERNELS + (2.0 if layer.ffn.shared_width else 0.0)
    return count
