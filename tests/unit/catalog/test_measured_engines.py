"""Software names to engine generations."""

import pytest

from planner.catalog.measured_engines import engine_generation, training_generation


@pytest.mark.parametrize(
    ("software", "generation"),
    [
        ("FasterTransformer v4 (2022)", "2022"),
        ("TensorRT-LLM 0.5", "2023"),
        ("TensorRT-LLM 0.6.1", "2023"),
        ("TensorRT-LLM 0.12", "current"),
        ("vLLM", "2024"),
        ("vLLM 0.8.4", "current"),
        ("SGLang 0.5", "current"),
        ("", "current"),
    ],
)
def test_inference_engines(software, generation):
    assert engine_generation(software) == generation


@pytest.mark.parametrize(
    ("software", "generation"),
    [
        ("torchtitan eager", "eager"),
        ("torchtitan compile fp8", "2023"),
        ("llm-foundry (PyTorch FSDP)", "2023"),
        ("Aleph Alpha scaling, FlashAttention-2", "eager"),
        ("Aleph Alpha scaling, FlashAttention-2 + fused RMSNorm", "current"),
        ("Megatron-LM 2021", "current"),
    ],
)
def test_training_frameworks(software, generation):
    assert training_generation(software) == generation
