"""What a saved folder is worth: adapters merged into experts too, and generation that ends where training ended."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
)

from tiny_model import save_tiny_model
from verl.dft.model.export import merge_lora, stopping_at, write_hf_model

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
EXPERTS = dict(num_experts_per_tok=2, vocab_size=64)
BASES = {
    "dense": Qwen2Config(**SIZES, vocab_size=64),
    "Mixtral": MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4),
    "Qwen3-MoE": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, moe_intermediate_size=16, head_dim=8),
}


def settings(config) -> SimpleNamespace:
    return SimpleNamespace(hf_config=config, trust_remote_code=False)


@pytest.mark.parametrize("name", BASES)
def test_a_merged_model_says_what_the_model_with_adapters_says(name):
    torch.manual_seed(0)
    config = BASES[name]
    adapted = get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"),
    ).eval()
    trained = [p for key, p in adapted.named_parameters() if "lora_" in key]
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(0, 64, (1, 12))
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
    merged = AutoModelForCausalLM.from_config(config).eval()
    merged.load_state_dict(merge_lora(adapted.state_dict(), adapted.peft_config["default"], settings(config)))
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        adapted.disable_adapter_layers()
        assert (adapted(input_ids=ids).logits - expected).abs().max() > 0.1  # the adapters matter


def test_the_trained_end_comes_before_the_ends_a_model_had():
    former = GenerationConfig(eos_token_id=[5, 7])
    assert stopping_at(former, Qwen2Config(), 7).eos_token_id == [7, 5] and former.eos_token_id == [5, 7]
    assert stopping_at(None, Qwen2Config(eos_token_id=3), 9).eos_token_id == [9, 3]
    assert stopping_at(None, Qwen2Config(eos_token_id=None), 9).eos_token_id == [9]


def test_transformers_alone_generates_up_to_the_trained_end(tmp_path):
    folder = save_tiny_model(tmp_path / "base", tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop != tokenizer.eos_token_id
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.lm_head.weight.zero_()
    model_config = SimpleNamespace(
        hf_config=model.config,
        generation_config=GenerationConfig.from_pretrained(folder),
        tokenizer=tokenizer,
        get_processor=lambda: tokenizer,
        trust_remote_code=False,
    )
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_hf_model(state, model, model_config, tmp_path / "saved", torch.float32, "<|im_end|>")
    assert tokenizer.eos_token == "<|endoftext|>"  # of the run, as before
    saved, words = (c.from_pretrained(tmp_path / "saved") for c in (AutoModelForCausalLM, AutoTokenizer))
    assert words.eos_token == "<|im_end|>" and saved.config.eos_token_id == stop
    with torch.no_grad():  # every logit is 0 but that of the trained end
        saved.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(stop), len(words)).float())
    prompt = words("a", return_tensors="pt")
    answer = saved.generate(**prompt, max_new_tokens=9, do_sample=False)[0]
    assert answer[prompt["input_ids"].shape[1] :].tolist() == [stop]
