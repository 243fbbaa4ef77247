"""Which models' logits are hidden states times a weight and nothing else."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from verl.dft.model.output_layer import output_layer, reading, reason_against_fusing

SIZES = dict(
    vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, head_dim=8, pad_token_id=0,
)  # fmt: skip


def model(config_class, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**{**SIZES, **changes}), attn_implementation="eager")


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config, MistralConfig, GemmaConfig])
@pytest.mark.parametrize("tied", [True, False])
def test_common_models_can_be_fused(config, tied):
    made = model(config, tie_word_embeddings=tied)
    assert reason_against_fusing(made, "cpu") is None
    assert "forward" not in vars(output_layer(made)) and made.training


@pytest.mark.parametrize(
    "config, changes, reason",
    [
        (Gemma2Config, {"final_logit_softcapping": 30.0}, "changed after"),
        (GraniteConfig, {"logits_scaling": 8.0}, "changed after"),
        (CohereConfig, {"logit_scale": 0.0625}, "changed after"),
        (PhiConfig, {}, "has a bias"),
    ],
)
def test_models_that_do_more_are_recognised(config, changes, reason):
    assert reason in reason_against_fusing(model(config, **changes), "cpu")


def test_lora_elsewhere_can_be_fused_and_lora_on_the_output_layer_cannot():
    elsewhere = get_peft_model(model(Qwen2Config), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert reason_against_fusing(elsewhere, "cpu") is None
    on_it = get_peft_model(model(Qwen2Config), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    assert "output layer is a Linear" in reason_against_fusing(on_it, "cpu")


def test_the_layer_is_itself_again_after_an_error():
    made = model(Qwen2Config)
    ids = torch.tensor([[1, 2, 3]])
    before = made(ids).logits

    def fails(hidden, weight):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), reading(output_layer(made), fails):
        made(ids)
    assert torch.equal(made(ids).logits, before)
