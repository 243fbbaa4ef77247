"""Which prompt a checkpoint is scored with."""

import pytest

from tiny_model import tiny_tokenizer
from verl.dft.data.prompts import resolve_prompt_format
from verl.math_eval.few_shot import EXAMPLES, check_num_shots
from verl.math_eval.grading import grade_many
from verl.math_eval.prompting import check_prompt_type, choose_format

TOKENIZER = tiny_tokenizer()


def prompt(prompt_type, num_shots=0):
    return choose_format(prompt_type, "/no/folder", TOKENIZER, num_shots).format


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("verl.math_eval.prompting.stored_format", lambda folder: None)


def test_few_shot_cot_is_written_as_the_original_writes_it():
    shown = prompt("cot", 2)
    (first, second), question = EXAMPLES[:2], "What is 2 + 2?"
    assert shown.render(question, TOKENIZER) == (
        f"Question: {first[0]}\nAnswer: {first[1]}\n\n\n"
        f"Question: {second[0]}\nAnswer: {second[1]}\n\n\n"
        "Question: What is 2 + 2?\nAnswer:"
    )
    assert shown.name == "cot, 2 shots" and "\n\nQuestion:" in shown.stop


def test_examples_of_qwen25_math_cot_stand_in_one_turn():
    text = prompt("qwen25-math-cot", 1).render("Q?", TOKENIZER)
    assert text.count("<|im_start|>user") == 1
    assert f"<|im_start|>user\n{EXAMPLES[0][0]}\n{EXAMPLES[0][1]}\n\nQ?<|im_end|>" in text


def test_every_example_is_solved_correctly_by_its_own_box():
    golds = ["89", "\\{2, 3\\}", "30", "1/9", "47", "80", "3\\sqrt2", "12"]
    grades = grade_many([(answer, gold) for (_, answer), gold in zip(EXAMPLES, golds, strict=True)])
    assert all(grade.correct for grade in grades)


def test_a_template_stops_at_its_own_markers_also_where_they_are_no_token():
    assert "<|eot_id|>" in prompt("llama-ins-boxed").stop
    assert "<|eot_id|>" not in prompt("qwen-boxed").stop
    assert "<|endoftext|>" in prompt("deepseek-math").stop


@pytest.mark.parametrize("name", ["pal", "tool-integrated", "tora", "jiuzhang_tora"])
def test_prompts_for_programs_are_refused(name):
    with pytest.raises(ValueError, match="nothing here runs what a model wrote"):
        check_prompt_type(name)


def test_examples_need_a_named_prompt_type_and_there_are_only_so_many():
    with pytest.raises(ValueError, match="found 'auto'"):
        check_prompt_type("auto", 4)
    with pytest.raises(ValueError, match=f"0 to {len(EXAMPLES)}, found 99"):
        check_num_shots(99, "cot")


def test_other_prompts_than_the_trained_ones_are_warned_about(monkeypatch):
    stored = resolve_prompt_format("cot", TOKENIZER)
    monkeypatch.setattr("verl.math_eval.prompting.stored_format", lambda folder: stored)
    assert choose_format("auto", "", TOKENIZER).format == stored
    assert choose_format("cot", "", TOKENIZER).warning == ""
    assert "'cot, 2 shots' is not the one" in choose_format("cot", "", TOKENIZER, 2).warning
