"""What is trained of a conversation, under templates with the habits of public ones."""

import dataclasses
import datetime
import json

import pytest

from tiny_model import tiny_tokenizer
from verl.dft.data.messages import read_messages
from verl.dft.data.prompts import resolve_prompt_format
from verl.dft.data.turns import Turns, without_opened_thought

TOKENIZER = tiny_tokenizer()
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK
# Writes an empty thought into the last reply, and takes thoughts out of the earlier ones.
THINKER = (
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip() %}"
    "{% set thought = m.reasoning_content or (m.content.split('</think>')[0].split('<think>')[-1].strip() "
    "if '</think>' in m.content else '') %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n"
    "{% endfor %}" + ASK
)
# Opens a thought in its prompt, and leaves every thought out.
OPENER = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% else %}User: {{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|><think>\n{% endif %}"
)
# Writes an end of text after the last turn only.
CLOSER = PLAIN.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")
# Writes nothing after a turn: the next one's first token ends it.
OPEN_ENDED = (
    "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>{% endif %}"
)
TWO_ENDS = PLAIN.replace("<|im_end|>\n{% endfor", "<|im_end|><|endoftext|>\n{% endfor")
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}" + ASK
)
CALLING = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}"
    "{% endfor %}<|im_end|>\n{% endfor %}" + ASK
)


def chat(*texts: str, first: str = "user", **more):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return read_messages([{"role": roles[i % 2], "content": text, **more} for i, text in enumerate(texts)], "messages")


def rows(template: str, conversation, mode: str = "auto", **changes):
    prompts = resolve_prompt_format(template, TOKENIZER, **changes)
    return Turns(prompts, TOKENIZER).rows(conversation, mode)


def shown(made) -> list[str]:
    return ["".join(f"⟦{text}⟧" if weight else text for text, weight in row.pieces if text) for row in made]


def test_a_template_that_only_appends_makes_one_row():
    assert shown(rows(PLAIN, chat("a", "b", "c", "d"))) == [
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧\n"
    ]


def test_a_template_that_rewrites_makes_one_row_per_reply_as_it_is_asked():
    first, second = shown(rows(THINKER, chat("a", "<think>\nhm\n</think>\n\nb", "c", "d")))
    assert first.endswith("assistant\n⟦<think>\nhm\n</think>\n\nb<|im_end|>⟧\n")
    assert "assistant\nb<|im_end|>" in second and second.endswith("assistant\n⟦<think>\n\n</think>\n\nd<|im_end|>⟧\n")
    assert shown(rows(THINKER, chat("a", "b", "c", "d"), "last"))[0].count("⟦") == 1
    assert len(rows(PLAIN, chat("a", "b", "c", "d"), "each")) == 2
    with pytest.raises(ValueError, match="rewrites earlier turns .* Set data.multiturn.train=auto or each"):
        rows(THINKER, chat("a", "b", "c", "d"), "all")


def test_no_reply_is_trained_twice():
    for template in (PLAIN, THINKER, CLOSER, OPEN_ENDED, MARKED):
        for mode in ("auto", "each"):
            made = "".join(shown(rows(template, chat("a", "B1", "c", "B2", "e", "B3"), mode)))
            trained = [piece.partition("⟧")[0] for piece in made.split("⟦")[1:]]
            assert [sum(f"B{i}" in piece for piece in trained) for i in (1, 2, 3)] == [1, 1, 1]


def test_a_thought_that_the_prompt_opens_is_not_opened_again():
    (made,) = shown(rows(OPENER, chat("a", "<think>\nhm\n</think>\n\nb")))
    assert made == "User: a<|im_start|><think>\n⟦hm\n</think>\n\nb<|im_end|>⟧"
    assert without_opened_thought("x<think>\n", "<think>hm") == "hm"
    assert without_opened_thought("x", "<think>hm") == "<think>hm"
    (plain,) = rows(OPENER, chat("a", "b"))
    assert shown([plain]) == ["User: a<|im_start|>⟦b<|im_end|>⟧"] and "without the thought" in plain.notes[0]


def test_a_thought_in_a_key_of_its_own_is_kept_or_refused():
    kept = read_messages(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "hm"}], "m"
    )
    assert shown(rows(THINKER, kept))[0].endswith("⟦<think>\nhm\n</think>\n\nb<|im_end|>⟧\n")
    assert shown(rows(OPENER, kept))[0].endswith("<think>\n⟦hm\n</think>\n\nb<|im_end|>⟧")
    with pytest.raises(ValueError, match="leaves out the thought of assistant message 1"):
        rows(PLAIN, kept)


def test_ends_of_turns():
    assert shown(rows(CLOSER, chat("a", "b")))[0].endswith("⟦b<|im_end|>⟧\n<|endoftext|>")
    assert len(rows(CLOSER, chat("a", "b", "c", "d"))) == 1
    assert shown(rows(TWO_ENDS, chat("a", "b")))[0].endswith("⟦b<|im_end|><|endoftext|>⟧\n")
    assert shown(rows(OPEN_ENDED, chat("a", "b", "c", "d"))) == [
        "<|im_start|>a<|im_end|>⟦b<|im_start|>⟧c<|im_end|>⟦d<|im_start|>⟧"
    ]
    ends = [Turns(resolve_prompt_format(t, TOKENIZER), TOKENIZER).end for t in (CLOSER, TWO_ENDS, OPEN_ENDED)]
    assert ends == ["<|im_end|>", "<|im_end|><|endoftext|>", "<|im_start|>"]


def test_an_assistant_who_speaks_first_has_no_header_trained():
    loop_last = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>"
    loop_last += "{% if loop.last and add_generation_prompt %}[assistant]{% endif %}{% endfor %}"
    for template, header in ((PLAIN, "<|im_start|>assistant\n"), (loop_last, "[assistant]")):
        (made,) = shown(rows(template, chat("b", "c", "d", first="assistant")))
        assert made.startswith(f"{header}⟦b<|im_end|>⟧")


def test_the_templates_own_marks_are_honoured():
    (made,) = shown(rows(MARKED, chat("a", "b", "c", "d")))
    assert made.count("⟦") == 2 and "⟦b<|im_end|>⟧\n" in made and "⟦d<|im_end|>⟧\n" in made
    words_only = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    assert "⟦b⟧<|im_end|>" in shown(rows(words_only, chat("a", "b")))[0]


def test_messages_that_are_not_trained_are_context():
    conversation = chat("a", "b", "c", "d")
    for key, value in (("weight", 0), ("train", False), ("trainable", False)):
        messages = [dict(message) for message in conversation.messages]
        messages[1][key] = value
        (made,) = shown(rows(PLAIN, read_messages(messages, "m")))
        assert "⟦b" not in made and "⟦d<|im_end|>⟧" in made
        messages[3][key] = value
        assert rows(PLAIN, read_messages(messages, "m")) == []
    with pytest.raises(ValueError, match="a number of at least 0 as the weight"):
        read_messages([{"role": "user", "content": "a", "weight": -1}], "m")


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}


def calling(**changes):
    called = {"role": "assistant", "content": "", "tool_calls": [CALL], **changes}
    answers = [{"role": "tool", "content": "21"}, {"role": "assistant", "content": "warm"}]
    return read_messages([{"role": "user", "content": "a"}, called, *answers], "m")


def test_tool_calls_are_trained_by_templates_that_write_them_and_refused_by_others():
    conversation = calling()
    conversation.tools = TOOLS
    (made,) = shown(rows(CALLING, conversation))
    assert '⟦look{"city": "Rome"}<|im_end|>⟧' in made and "⟦warm<|im_end|>⟧" in made
    for template in (PLAIN, CALLING.replace("[{{ tool.function.name }}]", "")):
        with pytest.raises(ValueError, match="the chat template leaves out tools"):
            rows(template, conversation)


def test_templates_that_join_arguments_to_text_get_text():
    joins = CALLING.replace("call.function.arguments | tojson", "'(' + call.function.arguments + ')'")
    assert '⟦look({"city": "Rome"})<|im_end|>⟧' in shown(rows(joins, calling()))[0]


def test_a_message_that_the_template_leaves_out_is_refused():
    silent = PLAIN.replace(TURN, "{% if m.role != 'system' %}" + TURN + "{% endif %}")
    messages = [{"role": "system", "content": "s"}, *chat("a", "b").messages]
    with pytest.raises(ValueError, match="leaves out a message"):
        rows(silent, read_messages(messages, "m"))


def test_json_text_and_parts_of_text_are_read():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    parts = json.dumps([{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}])
    assert "user\nab<|im_end|>" in shown(rows(PLAIN, read_messages(parts, "m")))[0]
    with pytest.raises(ValueError, match="a part of type 'image_url'"):
        read_messages([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "m")
    with pytest.raises(ValueError, match="looks like JSON, but is none"):
        read_messages("[{", "m")


def test_system_prompts_are_added_or_folded_in_training_and_evaluation():
    prompts = dataclasses.replace(resolve_prompt_format(PLAIN, TOKENIZER), system_prompt="Be kind.")
    (made,) = Turns(prompts, TOKENIZER).rows(chat("a", "b"))
    text = "".join(piece for piece, _ in made.pieces)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na")
    assert text.startswith(prompts.render("a", TOKENIZER))
    folded = dataclasses.replace(prompts, fold_system_prompt=True)
    (made,) = Turns(folded, TOKENIZER).rows(chat("a", "b"))
    assert "".join(piece for piece, _ in made.pieces).startswith("<|im_start|>user\nBe kind.\n\na<|im_end|>")
    assert folded.render("a", TOKENIZER).startswith("<|im_start|>user\nBe kind.\n\na<|im_end|>")


def test_a_template_that_writes_the_date_keeps_that_of_the_first_start(tmp_path):
    dated = "{{ strftime_now('%d %B %Y') }} " + PLAIN
    prompts = resolve_prompt_format(dated, TOKENIZER)
    assert prompts.render("a", TOKENIZER).startswith(datetime.date.today().strftime("%d %B %Y"))
    fixed = prompts.fixed_at("2024-02-29", TOKENIZER)
    assert fixed.render("a", TOKENIZER).startswith("29 February 2024 <|im_start|>user")
    fixed.save(tmp_path)
    assert type(fixed).load(tmp_path).render("a", TOKENIZER) == fixed.render("a", TOKENIZER)
    assert resolve_prompt_format(PLAIN, TOKENIZER).fixed_at("2024-02-29", TOKENIZER).date == ""
