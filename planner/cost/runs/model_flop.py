"""Model FLOP of a run: what the mathematics needs, however it is computed.

    training  6 N tokens + 3 attention      (forward, input gradient, weight gradient)
    forward   2 N tokens +   attention

``N`` are the weights that multiply a token: ``top_k`` of the routed experts, the output head,
no look-up of embeddings (PaLM, arXiv 2204.02311, appendix B, defines the utilisation of model
FLOP, MFU, so). Attention is counted causally (token ``i`` sees ``i`` others), recomputation not
at all. In training, multi-token-prediction layers count, each with a pass through the head;
of a prefill, only the last token of a sequence has logits.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.core import expected_core
from planner.cost.prefill_core import expected_sequence_core
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.prefill import NOTHING
from planner.cost.sequence_attention import sequence_core
from planner.cost.step import layer_groups
from planner.cost.weights import layer_weights, table_weights
from planner.domain.model import Attention, Layer, ModelSpec, MoeFfn, WeightRole


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFlop:
    """FLOP of a whole run.

    Parameters
    ----------
    weights_flop, attention_flop : float
        Multiplies by weights, and attention cores.
    tokens : float
        Tokens that go through the layers.
    multiplying_params : float
        ``N``: weights that multiply a token, head included.
    passes : int
        2 FLOP per weight and token forward, 6 with both gradients.
    """

    weights_flop: float
    attention_flop: float
    tokens: float
    multiplying_params: float
    passes: int

    @property
    def total(self) -> float:
        """Both parts."""
        return self.weights_flop + self.attention_flop


def layer_matmul_params(model: ModelSpec, layer: Layer) -> float:
    """Weights of one layer that multiply a token."""
    experts = layer.ffn.top_k if isinstance(layer.ffn, MoeFfn) else 0
    return float(
        sum(
            weight.matmul_params * (experts if weight.role is WeightRole.ROUTED_EXPERT else 1)
            for weight in layer_weights(model, layer)
        )
    )


def _body(model: ModelSpec) -> float:
    return sum(
        len(group.indices) * layer_matmul_params(model, group.layer)
        for group in layer_groups(model)
    )


def _head(model: ModelSpec) -> float:
    return float(sum(weight.matmul_params for weight in table_weights(model)))


def _attentions(model: ModelSpec) -> list[tuple[Attention, int]]:
    """Every kind of attention and how many layers have it."""
    counts: dict[Attention, int] = {}
    for group in layer_groups(model):
        attention = group.layer.attention
        counts[attention] = counts.get(attention, 0) + len(group.indices)
    return list(counts.items())


def train_flop(model: ModelSpec, batch: float, seq: float) -> ModelFlop:
    """One step on ``batch`` sequences of ``seq`` tokens."""
    extra = model.mtp_layers
    params = _body(model) + sum(layer_matmul_params(model, layer) for layer in extra)
    params += _head(model) * (1 + len(extra))
    core = sum(count * sequence_core(kind, seq).flop for kind, count in _attentions(model))
    core += sum(sequence_core(layer.attention, seq).flop for layer in extra)
    tokens = batch * seq
    return ModelFlop(
        weights_flop=6.0 * params * tokens,
        attention_flop=3.0 * batch * core,
        tokens=tokens,
        multiplying_params=params,
        passes=6,
    )


def prefill_flop(
    model: ModelSpec, batch: float, new: float, cached: Contexts = NOTHING
) -> ModelFlop:
    """One pass over ``new`` tokens of each of ``batch`` sequences."""
    body, head = _body(model), _head(model)
    core = sum(
        count * expected_sequence_core(kind, new, cached).flop for kind, count in _attentions(model)
    )
    return ModelFlop(
        weights_flop=2.0 * batch * (body * new + head),
        attention_flop=batch * core,
        tokens=batch * new,
        multiplying_params=body + head,
        passes=2,
    )


def decode_flop(model: ModelSpec, batch: float, contexts: Contexts) -> ModelFlop:
    """One token of each of ``batch`` sequences."""
    params = _body(model) + _head(model)
    core = sum(count * expected_core(kind, contexts).flop for kind, count in _attentions(model))
    return ModelFlop(
        weights_flop=2.0 * batch * params,
        attention_flop=batch * core,
        tokens=batch,
        multiplying_params=params,
        passes=2,
    )


def request_flop(
    model: ModelSpec, batch: float, prompt: tuple[float, float], out: float
) -> ModelFlop:
    """Prefill and ``out - 1`` further tokens; windows count at the mean context.

    Parameters
    ----------
    prompt : (float, float)
        Tokens computed, and tokens found in a cache before them.
    """
    new, cached = prompt
    before = Contexts(mean=cached)
    first = prefill_flop(model, batch, new, before)
    steps = out - 1.0
    step = decode_flop(model, batch, Contexts(mean=new + cached + out / 2.0))
    return ModelFlop(
        weights_flop=first.weights_flop + steps * step.weights_flop,
        attention_flop=first.attention_flop + steps * step.attention_flop,
        tokens=first.tokens + steps * batch,
        multiplying_params=step.multiplying_params,
        passes=2,
    )
