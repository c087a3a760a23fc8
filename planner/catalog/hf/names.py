"""JSON keys of model configurations: aliases, keys that change the count, inert keys."""

from __future__ import annotations

NUM_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
HIDDEN = ("hidden_size", "d_model", "n_embd", "dim")
NUM_HEADS = ("num_attention_heads", "n_heads", "n_head")
NUM_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
HEAD_DIM = ("head_dim", "kv_channels")
DENSE_WIDTH = (
    "intermediate_size_mlp",
    "dense_intermediate_size",
    "intermediate_size",
    "ffn_hidden_size",
    "n_inner",
)
NUM_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts")
EXPERT_WIDTH = ("moe_intermediate_size", "intermediate_size")
NUM_SHARED = ("n_shared_experts", "num_shared_experts")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
NUM_MTP = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
MAX_CONTEXT = ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length")
DTYPE = ("torch_dtype", "dtype")

# Keys that change weights, caches or formats in some family. A value of
# ``INERT_VALUES`` (by default null, false, 0 or empty) means the feature is absent.
EFFECT = frozenset(
    {
        *NUM_LAYERS, *HIDDEN, *NUM_HEADS, *NUM_KV_HEADS, *HEAD_DIM, *DENSE_WIDTH,
        *NUM_EXPERTS, *TOP_K, *EXPERT_WIDTH, *NUM_SHARED, *SHARED_WIDTH, *NUM_MTP,
        *DTYPE,
        "alibi", "attention_bias", "attention_chunk_size", "attention_output_gate",
        "attn_config", "attn_output_gate", "attn_type_list", "bias", "compress_ratios",
        "decoder_sparse_step", "expert_dtype", "ffn_config", "first_k_dense_replace",
        "full_attention_interval", "hc_mult", "index_head_dim", "index_n_heads",
        "index_topk", "indexer_types", "interleave_moe_layer_step", "kv_lora_rank",
        "latent_moe_use_norm", "layer_types", "learned_pos_emb", "linear_attn_config",
        "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
        "linear_num_value_heads", "linear_value_head_dim", "mla_use_output_gate",
        "mlp_bias", "mlp_gated", "mlp_layer_types", "mlp_only_layers", "moe_layer_freq",
        "moe_layers", "mtp_transformer_layers", "multi_query", "new_decoder_architecture",
        "no_bias", "no_rope_layers", "num_hash_layers", "num_hidden_groups",
        "o_groups", "o_lora_rank", "parallel_attn", "parallel_attn_ffn", "q_lora_rank",
        "qk_nope_head_dim", "qk_norm_type", "qk_rope_head_dim", "qkv_bias",
        "quantization_config", "routed_expert_hidden_size", "sliding_window",
        "sliding_window_pattern", "sparse_attention_config", "tie_word_embeddings",
        "use_bias", "use_mtp", "use_qk_norm", "use_routing_bias", "use_sliding_window",
        "v_head_dim", "vocab_size",
    }
)  # fmt: skip

INERT_VALUES: dict[str, tuple[object, ...]] = {
    "mlp_gated": (None, True),
    "no_bias": (None, True),
    "interleave_moe_layer_step": (None, 1),
    "decoder_sparse_step": (None, 1),
    "moe_layer_freq": (None, 1),
    "hc_mult": (None, 1),
}
DEFAULT_INERT: tuple[object, ...] = (None, False, 0, [], {})

# Keys that change neither weights, caches nor formats: not worth reporting as unknown.
INERT = frozenset(
    {
        "_meta", "_name_or_path", "activation_function", "activation_situ_beta",
        "activation_situ_linear_beta", "architectures", "attention_dropout",
        "attn_output_multiplier", "attn_pdrop", "auto_map", "aux_loss_alpha",
        "bos_token_id", "chunk_size_feed_forward", "compress_rope_theta", "embd_pdrop",
        "embedding_multiplier_scale", "eos_token_id", "ep_size", "expansion_ratio",
        "final_logit_softcapping", "generation_config", "hc_eps", "hc_sinkhorn_iters", "hidden_act",
        "hidden_activation", "image_token_id", "index_share_for_mtp_iteration",
        "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern",
        "indexer_rope_interleave", "initial_context_length", "initializer_range",
        "is_encoder_decoder", "layer_norm_epsilon", "layer_norm_eps", "mamba_ssm_dtype",
        "max_attn_value", "max_window_layers", "mla_use_nope", "mm_tokens_per_image",
        "model_type", "moe_renormalize", "moe_router_activation_func", "moe_router_dtype",
        "mtp_use_dedicated_embeddings", "n_group", "norm_eps", "norm_topk_prob",
        "num_expert_group", "output_multiplier_scale", "output_router_logits",
        "pad_token_id", "partial_rotary_factor", "postnorm", "pretraining_tp", "qk_head_dim",
        "query_pre_attn_scalar", "resid_pdrop", "rms_norm_eps", "rope_interleave",
        "rope_local_base_freq", "rope_parameters", "rope_scaling", "rope_theta",
        "rotary_dim", "routed_scaling_factor", "router_aux_loss_coef", "router_jitter_noise",
        "scoring_func", "seq_aux", "swiglu_alpha", "swiglu_limit", "text_config",
        "tokenizer_class", "topk_group", "topk_method", "transformers_version", "use_cache",
        "use_gemma_norm", "use_grouped_topk", "video_token_id", "vision_config",
        "vision_end_token_id", "vision_start_token_id",
        *MAX_CONTEXT,
    }
)  # fmt: skip
