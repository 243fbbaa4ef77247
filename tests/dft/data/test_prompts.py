import json

import pytest

from tiny_model import CHAT_TEMPLATE, tiny_tokenizer
from verl.dft.data.prompts import NAMED_TEMPLATES, PromptFormat, resolve_prompt_format

TOKENIZER = tiny_tokenizer()
QUESTION = "What is {1} + \\frac{1}{2}?"

# Written out in full, as the original harness prints them.
EXACT = {
    "qwen-boxed": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n" + QUESTION + "\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen25-math-cot": (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n" + QUESTION + "<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama-base-boxed": (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|end_of_text|>\n"
        "<|start_header_id|>user<|end_header_id|>\n\n" + QUESTION + "\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|end_of_text|>\n"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "deepseek-math": (
        "User: " + QUESTION + "\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:"
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_named_formats_are_letter_exact(name):
    assert resolve_prompt_format(name, TOKENIZER).render(QUESTION, TOKENIZER) == EXACT[name]


def test_llama_base_and_instruct_differ_in_the_end_of_turn_only():
    base, instruct = NAMED_TEMPLATES["llama-base-boxed"], NAMED_TEMPLATES["llama-ins-boxed"]
    assert base.replace("<|end_of_text|>", "<|eot_id|>") == instruct


def test_a_stored_format_renders_and_encodes_as_before(tmp_path):
    for template in (None, "qwen-boxed", CHAT_TEMPLATE.replace("user", "human")):
        made = resolve_prompt_format(template, TOKENIZER)
        stored = made.save(tmp_path)
        loaded = PromptFormat.load(tmp_path)
        assert stored.name == "prompt_format.json" and loaded == made
        assert loaded.encode(QUESTION, TOKENIZER) == made.encode(QUESTION, TOKENIZER)
        assert loaded.same_prompts_as(made, TOKENIZER)


def test_other_prompts_or_stop_tokens_are_noticed():
    chat, named = resolve_prompt_format(None, TOKENIZER), resolve_prompt_format("qwen-boxed", TOKENIZER)
    assert not chat.same_prompts_as(named, TOKENIZER)
    assert not chat.same_prompts_as(resolve_prompt_format(None, TOKENIZER, stop=["<|im_end|>"]), TOKENIZER)


def test_a_template_can_be_a_file_or_text_and_a_typing_mistake_is_named(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text(CHAT_TEMPLATE)
    assert resolve_prompt_format(str(file), TOKENIZER) == resolve_prompt_format(CHAT_TEMPLATE, TOKENIZER)
    with pytest.raises(ValueError, match="found 'qwen-boxd': neither a file, nor Jinja text"):
        resolve_prompt_format("qwen-boxd", TOKENIZER)


def test_a_tokenizer_without_chat_template_or_eos_is_refused_with_the_way_out():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="found none. Give one with data.chat_template"):
        resolve_prompt_format(None, tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="expected a tokenizer with an eos token, found none"):
        resolve_prompt_format("qwen-boxed", tokenizer)


def test_text_formats_take_no_conversation():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ValueError, match="takes one plain question; found 2 messages"):
        resolve_prompt_format("qwen-boxed", TOKENIZER).render(messages, TOKENIZER)


def test_text_formats_get_the_tokenizers_own_bos_and_chat_templates_do_not():
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    text_format = resolve_prompt_format("deepseek-math", tokenizer)
    assert text_format.encode("x", tokenizer)[0] == bos
    chat_format = resolve_prompt_format(None, tokenizer)
    assert chat_format.encode("x", tokenizer).count(bos) == 2  # the template's own two turns, none in front


def test_a_foreign_file_is_no_prompt_format(tmp_path):
    (tmp_path / "prompt_format.json").write_text(json.dumps({"template": "x"}))
    with pytest.raises(ValueError, match="is not a prompt format written by verl-dft"):
        PromptFormat.load(tmp_path)


def test_prompts_end_without_the_blank_that_the_original_strips():
    assert NAMED_TEMPLATES["cot"] == "Question: {input}\nAnswer:"
    assert all("{input}" in text and text == text.strip(" ") for text in NAMED_TEMPLATES.values())
