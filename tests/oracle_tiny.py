"""Tiny random questions: machines of 1 to 6 chips, models of 1 to 4 layers and 4 experts.

Widths are those of real models, so that no term drowns in the fixed cost of a kernel; memory
is set so that weights or caches bind, and TPOT limits lie near the steps that are possible.
"""

import json
import random
from dataclasses import dataclass, field, fields

from planner import DegreeLimits, Question
from planner.domain.dtypes import DType
from planner.domain.workload import Objective, TimeModel

# Chips of a domain, domains: few of five and six chips, which have many layouts.
MACHINES = [(1, 1), (2, 1), (2, 1), (2, 1), (3, 1), (3, 1), (4, 1), (4, 1), (5, 1), (6, 1)]
MACHINES += [(1, 2), (1, 2), (2, 2), (1, 3), (1, 3), (2, 3), (3, 2)]
BYTES = {"bf16": 2.0, "fp8": 1.0}


@dataclass
class Tiny:
    """One question with what its files say."""

    seed: int
    config: dict
    machine: str
    question: Question
    loads: list | None = None
    notes: dict = field(default_factory=dict)


def config_of(rng):
    """A model's config.json: grouped-query or latent attention, dense or with experts."""
    moe = rng.random() < 0.65
    layers = rng.randint(1, 4)
    common = {
        "hidden_size": rng.choice([1024, 2048]),
        "num_hidden_layers": layers,
        "vocab_size": rng.choice([8000, 32000, 64000]),
        "tie_word_embeddings": rng.random() < 0.5,
        "max_position_embeddings": 1 << 24,
        "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
    }
    heads = rng.choice([2, 4, 6, 8])
    if moe and rng.random() < 0.5:
        return common | {
            "model_type": "deepseek_v3",
            "architectures": ["DeepseekV3ForCausalLM"],
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "q_lora_rank": 512,
            "kv_lora_rank": 256,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "v_head_dim": 64,
            "intermediate_size": rng.choice([2048, 8192]),
            "moe_intermediate_size": rng.choice([1024, 4096]),
            "first_k_dense_replace": rng.randint(0, layers - 1),
            "moe_layer_freq": 1,
            "n_routed_experts": rng.randint(2, 4),
            "num_experts_per_tok": rng.randint(1, 2),
            "n_shared_experts": rng.randint(0, 1),
            "n_group": 1,
            "topk_group": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "attention_bias": False,
            "num_nextn_predict_layers": 0,
        }
    gqa = {"num_attention_heads": heads, "num_key_value_heads": rng.choice([1, 2, heads])}
    gqa["head_dim"] = 128
    if moe:
        return (
            common
            | gqa
            | {
                "model_type": "mixtral",
                "architectures": ["MixtralForCausalLM"],
                "intermediate_size": rng.choice([1024, 4096]),
                "num_local_experts": rng.randint(2, 4),
                "num_experts_per_tok": rng.randint(1, 2),
                "sliding_window": None,
            }
        )
    return (
        common
        | gqa
        | {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "intermediate_size": rng.choice([2048, 8192]),
            "attention_bias": False,
            "mlp_bias": False,
        }
    )


def sizes_of(config):
    """Rough bytes of all weights, and of one token's cache, at one byte per element."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    experts = config.get("n_routed_experts", config.get("num_local_experts", 0))
    dense = config.get("first_k_dense_replace", 0) if experts else layers
    width = config.get("moe_intermediate_size", config["intermediate_size"])
    ffn = dense * 3 * hidden * config["intermediate_size"]
    ffn += (layers - dense) * 3 * hidden * width * (experts + config.get("n_shared_experts", 0))
    attention = layers * 4 * hidden * heads * config.get("head_dim", 64)
    tables = config["vocab_size"] * hidden * (1 if config["tie_word_embeddings"] else 2)
    if "kv_lora_rank" in config:
        cache = layers * (config["kv_lora_rank"] + config["qk_rope_head_dim"])
    else:
        cache = layers * 2 * config["num_key_value_heads"] * config["head_dim"]
    return ffn + attention + tables, cache


def machine_text(rng, chips, domains, hbm_gb):
    """A user's machine file: a shipped node with fewer chips and less memory."""
    latency = rng.choice([1.0, 3.0, 8.0])
    return (
        'extends = "h100-hgx"\n\n[chip]\n'
        f"hbm_GB = {hbm_gb:.6f}\nhbm_usable_GiB = {hbm_gb * 1e9 / 2**30:.6f}\n"
        f"price_usd_per_hour = 2.0\n\n"
        f"[scale_up]\nchips = {chips}\nlinks_per_switch = [18]\n\n"
        f"[scale_up.achieved.all_reduce]\nbase_us = {latency}\n\n"
        f"[size]\ndomains = {domains}\n"
    )


def limits_of(rng, chips, experts):
    """Now and then a pinned or bounded axis, at most two of them."""
    values = {}
    for name in rng.sample(["tp", "pp", "ep", "dp", "microbatches", "replicas"], rng.randint(0, 2)):
        if rng.random() < 0.3:
            if name == "ep" and not experts:
                continue
            values[name] = frozenset(rng.sample(range(1, chips + 1), rng.randint(1, chips)))
    return values


def loads_of(rng, config):
    """Skewed routing loads, one row for all MoE layers or one each; None for uniform ones."""
    experts = config.get("n_routed_experts", config.get("num_local_experts", 0))
    if rng.random() < 0.5 or experts <= config.get("num_experts_per_tok", experts):
        return None
    layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    most = 1.0 / config["num_experts_per_tok"]

    def row():
        while True:
            weights = [rng.uniform(0.2, 3.0) for _ in range(experts)]
            shares = [weight / sum(weights) for weight in weights]
            if max(shares) <= most:
                return shares

    first = row()
    return [first if rng.random() < 0.7 else row() for _ in range(layers)]


def tiny(seed, folder, **fixed):
    """The question of ``seed``; its files are written to ``folder``.

    ``fixed`` replaces fields of the question.
    """
    rng = random.Random(seed)
    config = config_of(rng)
    experts = config.get("n_routed_experts", config.get("num_local_experts", 0))
    chips, domains = rng.choice(MACHINES)
    total = chips * domains
    weight_bytes, token_bytes = sizes_of(config)
    dtype = rng.choice(["bf16", "fp8"])
    kv = rng.choice(["bf16", "fp8"])
    # A sequence weighs a good part of the model: batches stay small.
    part = rng.choice([0.1, 0.3, 0.8])
    context = int(part * weight_bytes * BYTES[dtype] / (token_bytes * BYTES[kv])) + 1
    sequence = token_bytes * context * BYTES[kv]
    need = weight_bytes * BYTES[dtype] / rng.choice([1, 1, total, total * 0.8])
    hbm = (need * rng.uniform(0.95, 1.6) + sequence * rng.uniform(0.3, 3.0)) / 0.9 + 2e6
    machine = folder / f"machine{seed}.toml"
    machine.write_text(machine_text(rng, chips, domains, hbm / 1e9))
    model = folder / f"model{seed}.json"
    model.write_text(json.dumps(config))
    loads = loads_of(rng, config)
    path = None
    if loads is not None:
        path = folder / f"loads{seed}.json"
        path.write_text(json.dumps(loads))
    options = {
        "model": str(model),
        "machine": str(machine),
        "context_tokens": context,
        "weights": DType(dtype),
        "kv": DType(kv),
        "objective": rng.choice(list(Objective)),
        "time_model": rng.choice([TimeModel.SUM, TimeModel.SUM, TimeModel.OVERLAP]),
        "batch": rng.choice([None, None, 1, 2, 3, 5, 8]),
        "loads": None if path is None else str(path),
        "limits": DegreeLimits(**pinned(limits_of(rng, total, experts))),
        "gap": 0.0,
    }
    step_scale = weight_bytes * BYTES[dtype] / 3.35e12
    if rng.random() < 0.5:
        options["tpot_s"] = step_scale * rng.uniform(0.4, 3.0) + 1e-4 * rng.uniform(0.5, 4.0)
    question = Question(**(options | fixed))
    return Tiny(seed=seed, config=config, machine=str(machine), question=question, loads=loads)


# Axes that brute force does not enumerate are pinned where a question knows them.
UNLISTED = {"cp": frozenset({1})}


def pinned(values):
    """Limits with every axis pinned that brute force leaves alone."""
    known = {f.name for f in fields(DegreeLimits)}
    return {name: value for name, value in UNLISTED.items() if name in known} | values
