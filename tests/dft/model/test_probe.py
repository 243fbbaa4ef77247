"""The probe on small models whose faults are known: what it chooses, and what it says about it."""

import pytest
import torch
from transformers import (
    AutoConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    PhimoeConfig,
    StableLmConfig,
)

from verl.dft.model import attention, probe
from verl.dft.model.probe import PACKED, PADDED, SINGLE, Wishes
from verl.dft.model.small_copy import SmallCopy

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
SMALL = {**SIZES, "vocab_size": 64, "max_position_embeddings": 512}


def gemma2(**changes) -> AutoConfig:
    return Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, **changes)


def gpt_oss() -> AutoConfig:
    return GptOssConfig(**SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2)


def long_rope() -> AutoConfig:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [4.0] * 4, "short_factor": [1.0] * 4,
        "factor": 16.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    return Phi3Config(**SMALL, pad_token_id=0, original_max_position_embeddings=64, rope_parameters=rope)


CHOICES = {
    "windows": (MistralConfig(**SMALL, sliding_window=100), PACKED, attention.NAME),
    "soft caps": (gemma2(), PACKED, attention.NAME),
    "sinks": (gpt_oss(), PACKED, attention.NAME),
    "GPT-2": (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64), PACKED, attention.NAME),
    "drops keywords": (StableLmConfig(**SMALL), PADDED, attention.NAME),
    "state": (
        FalconH1Config(**SMALL, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1),
        PADDED,
        attention.NAME,
    ),
    "alibi": (MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=64), PADDED, "eager"),
    "LongRoPE": (long_rope(), SINGLE, attention.NAME),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_first_exact_way_is_chosen_and_another_than_the_usual_one_is_said(name):
    config, layout, implementation = CHOICES[name]
    plan = probe.choose(config, Wishes(longest=256))
    assert (plan.layout, plan.attention) == (layout, implementation)
    assert any("is not exact for this model" in line for line in plan.lines) == (layout != PACKED)


@pytest.mark.parametrize("name", ["drops keywords", "state", "LongRoPE"])
def test_packing_that_was_asked_for_and_is_not_exact_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"use_remove_padding=true.*log p of a token moves by"):
        probe.choose(CHOICES[name][0], Wishes(packed=True))
    with pytest.raises(ValueError, match="ulysses_sequence_parallel_size=2"):
        probe.choose(CHOICES[name][0], Wishes(shards=2))


def test_an_attention_that_leaves_out_what_the_model_means_is_refused():
    wrong = gemma2(attn_logit_softcapping=2.0)
    with pytest.raises(ValueError, match="attn_implementation=sdpa.*moves by"):
        probe.choose(wrong, Wishes(attention="sdpa"))
    assert probe.choose(wrong, Wishes(attention="eager")).layout == PADDED


def test_rows_within_the_original_context_are_packed_under_longrope():
    assert probe.choose(long_rope(), Wishes(longest=64)).layout == PACKED


def test_the_configuration_is_left_as_it_was():
    config = gemma2()
    before = config.to_dict()
    probe.choose(config, Wishes())
    assert config.to_dict() == before


def test_noise_of_training_is_said_and_not_taken_for_a_leak():
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64)
    plan = probe.choose(config, Wishes())
    assert plan.layout == PACKED and any("resid_pdrop=0.1" in line for line in plan.lines)


def test_a_small_copy_has_every_kind_of_layer_and_few_of_them():
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"] * 5
    config = Gemma2Config(**{**SMALL, "num_hidden_layers": 20}, head_dim=8, layer_types=kinds)
    copy = SmallCopy(config, 5000, False, "cpu", torch.float32)
    assert copy.config.num_hidden_layers == 3 and copy.config.sliding_window < max(probe.LENGTHS)
    assert copy.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("config, learned", [(GPT2Config(n_embd=32, n_layer=1, n_head=4), True), (gemma2(), False)])
def test_learned_positions_are_told_from_rotated_ones(config, learned):
    assert probe.has_learned_positions(config) == learned


def test_lora_leaves_out_a_router_that_peft_cannot_adapt_and_says_so():
    config = PhimoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    lora = {"r": 4, "target_modules": "all-linear"}
    modules, line = probe.adaptable(config, lora)
    assert modules == ["k_proj", "o_proj", "q_proj", "v_proj"] and "leaves out" in line
    assert probe.adaptable(gemma2(), lora) == (None, "")
    with pytest.raises(ValueError, match="LoRA does not run on this model as asked.*nothing_such"):
        probe.adaptable(gemma2(), {"r": 4, "target_modules": ["nothing_such"]})


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_lora_on_an_embedding_or_head_of_its_own_is_refused_before_training(module):
    lora = {"r": 4, "target_modules": ["q_proj", module]}
    assert probe.adaptable(MistralConfig(**SMALL, tie_word_embeddings=True), lora) == (None, "")
    with pytest.raises(ValueError, match="FSDP cannot shard the adapted .* not tied. Set model.target_modules to"):
        probe.adaptable(MistralConfig(**SMALL, tie_word_embeddings=False), lora)
