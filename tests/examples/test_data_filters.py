"""Each filter on rows whose fate is known, duplicates against sets counted by hand, all of them through a script."""

import argparse
import json

import from_files
import gsm8k
import pyarrow.parquet as pq
import pytest
from duplicates import ExactDuplicates, NearDuplicates
from filters import add_filter_options, apply_filters, build_filters, language_filter, no_text
from rows import training_row

from tiny_model import tiny_tokenizer


def rows_of(*pairs: tuple[str, str]) -> list[dict]:
    return [
        training_row("set", question, answer, None, "train", index) for index, (question, answer) in enumerate(pairs)
    ]


def filters_of(*options: str):
    parser = argparse.ArgumentParser()
    add_filter_options(parser)
    return build_filters(parser.parse_args(options))


@pytest.mark.parametrize(
    "question, answer, reason",
    [
        ("What is 1 + 1?", "2", None),
        ("求所有正整数 n", "5", None),
        ("???", "2", "question has no letter"),
        ("What?", "-", "answer has no letter"),
        ("What is \x00\x01\x02?", "2", "question is no text"),
        (
            "What\ufffd" + " is one lost letter among many" * 4,
            "2",
            None,
        ),
        ("What?", "\ufffd\ufffd is a\ufffd", "answer is no text"),
        ("What?", "a" * 1001, "answer is no text (a word"),
        ("What?", "$" + r"\frac{1}{2}+" * 200 + "$", None),  # LaTeX is written without blanks
        ("What?", "line\n\tand\r\nline", None),
    ],
)
def test_what_is_no_text(question, answer, reason):
    found = no_text(question, answer)
    assert found is None if reason is None else found.startswith(reason)


def test_a_row_without_box_is_dropped():
    rows = rows_of(("a", r"so \boxed{1}"), ("b", "so 1"), ("c", r"so \boxed{"), ("d", r"so \boxed{}"))
    assert apply_filters(filters_of("--filter", "box"), rows) == [None] + ["no boxed answer"] * 3


ENGLISH = [
    "Find all positive integers $n$ such that $n^2+1$ is divisible by 5.",
    r"Simplify $\frac{1}{2}+\frac{1}{3}$.",
    r"$x^2 = 4$",
    "Let $T=9$. Compute $\\sqrt{T}$.",
]
FOREIGN = [
    "Trouver tous les entiers positifs $n$ tels que $n^2+1$ soit divisible par 5.",
    "Найдите все натуральные числа n, для которых n^2+1 делится на 5.",
    "求所有正整数 n 使得 n^2+1 能被 5 整除。",
    "Sea $x$ un número real tal que $x^2=4$. ¿Cuál es la suma de todos los valores posibles de $x$?",
]


def test_the_language_is_judged_by_words_and_not_by_formulas():
    rows = rows_of(*((question, r"\boxed{1}") for question in ENGLISH + FOREIGN))
    expected = [None] * len(ENGLISH) + ["not in language en"] * len(FOREIGN)
    assert language_filter("en").reasons(rows) == expected
    with pytest.raises(ValueError, match="expected one of .*; found 'english'"):
        language_filter("english")


def test_a_question_of_formulas_is_judged_by_its_answer():
    french = "La somme des chiffres de ce nombre est égale à cinq, donc il est divisible."
    assert language_filter("en").reasons(rows_of(("$x=1$", french), ("$x=1$", "So it is"))) == [
        "not in language en",
        None,
    ]


def test_length_counts_tokens_of_question_and_answer(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)  # a token per byte
    rows = rows_of(("12345", "6789"), ("12345", "67890"))  # and one for the line end between
    filters = filters_of("--tokenizer", str(tmp_path), "--max_length", "10")
    assert apply_filters(filters, rows) == [None, "longer than 10 tokens"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--max_length", "10"], "expected a positive number of tokens and a --tokenizer"),
        (["--max_length", "0", "--tokenizer", "x"], "expected a positive number"),
        (["--benchmark_dir", "/tmp"], "found no --decontaminate"),
        (["--decontaminate", "--benchmark_dir", "/no/such"], "expected a folder"),
        (["--decontaminate", "maths"], "expected a benchmark out of"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        filters_of(*options)


# --- duplicates


def test_exact_duplicates_are_equal_but_for_blanks_and_case():
    rows = ExactDuplicates()
    assert rows.seen(0, "What is  1?", "It is 1.") is None
    assert rows.seen(1, "what is\n1? ", "it is 1.") == 0
    assert rows.seen(2, "What is 1?", "One.") is None  # another answer is another row
    assert rows.seen(3, "What is 1?It", "is 1.") is None  # the border between question and answer counts
    assert rows.seen(0, "What is 1?", "One.") == 2  # row numbers may repeat: several sources


LONG = (
    "A farmer has a field in the shape of a rectangle whose length is twice its width, and he wants to put a fence "
    "around it with a gate of 3 meters on the shorter side, so that 57 meters of fence are needed in all"
)


@pytest.mark.parametrize(
    "question, repeats",
    [
        (LONG, True),
        (LONG.upper(), True),
        (LONG + " exactly", True),
        (LONG.replace("57", "63"), False),  # other numbers, another problem
        (LONG.replace("field in the shape of a rectangle whose length is twice its width", "square"), False),
        ("How many meters of fence are needed?", False),
    ],
)
def test_near_duplicates_have_most_words_and_all_numbers_in_common(question, repeats):
    (found,) = seen_after([LONG], [question])
    assert (found is not None) == repeats
    if found:
        assert found[0] == 0 and found[1] >= 0.8


def seen_after(first: list[str], then: list[str]):
    questions = NearDuplicates()
    questions.seen(range(len(first)), first)
    return questions.seen(range(len(first), len(first) + len(then)), then)


def word(*numbers: int) -> str:
    """Letters only: other digits would make another problem."""
    return "".join(chr(ord("a") + int(digit)) for number in numbers for digit in f"{number:04}")


def test_minhash_finds_the_pairs_above_its_border_and_not_those_far_below():
    """40 words, of which the last k are replaced, share 38 - k of 38 trigrams: J = (38 - k) / (38 + k)."""
    found, total = {2: 0, 20: 0}, 200
    for changed in found:
        for case in range(total):
            words = [word(case, place) for place in range(40)]
            other = words[: 40 - changed] + [word(case, 100 + place) for place in range(changed)]
            (match,) = seen_after([" ".join(words)], [" ".join(other)])
            found[changed] += match is not None
    assert found[2] >= 0.98 * total  # J = 36 / 40 = 0.9, 2.5 standard errors or more above 0.8
    assert found[20] == 0  # J = 18 / 58 = 0.31


def test_of_many_repeats_the_first_stays_also_inside_a_batch_and_after_growth():
    texts = [" ".join(word(case, place) for place in range(20)) for case in range(1500)]
    questions = NearDuplicates()
    found = questions.seen(range(3000), [text for text in texts for _ in range(2)])
    assert [match and match[0] for match in found] == [x for case in range(1500) for x in (None, 2 * case)]


def test_a_row_that_another_filter_drops_does_not_hide_a_later_one():
    rows = rows_of((LONG, "no box"), (LONG, r"\boxed{1}"), (LONG, r"\boxed{1}"), (LONG, r"\boxed{2}"))
    filters = filters_of("--filter", "near", "exact", "box")
    assert apply_filters(filters, rows) == ["no boxed answer", None, "exact duplicate", "near duplicate"]
    assert filters[-1].findings[0]["row"] == 3 and filters[-1].findings[0]["like"] == 1


def test_a_script_reports_what_each_filter_did(tmp_path, jsonl, capsys):
    def example(question: str) -> dict:
        return {"question": question, "answer": "Steps.\n#### 5"}

    source = jsonl("train.jsonl", [example(q) for q in (LONG, "???", FOREIGN[0], LONG, LONG + " exactly", ENGLISH[0])])
    bench = jsonl("bench/own.jsonl", [{"question": ENGLISH[0].upper(), "answer": "1"}])
    options = ["--source", str(source), "--local_dir", str(tmp_path / "out"), "--language", "en"]
    gsm8k.main([*options, "--filter", "text", "exact", "near", "--decontaminate", str(bench)])
    assert len(pq.read_table(tmp_path / "out" / "train.parquet")) == 1
    report = json.loads((tmp_path / "out" / "train.report.json").read_text())
    assert {(each["reason"], *each["first_rows"]) for each in report["dropped"]} == {
        ("question has no letter and no digit", 1),
        ("not in language en", 2),
        ("exact duplicate", 3),
        ("near duplicate", 4),
        ("question of benchmark own", 5),
    }
    (found,) = [each["findings"] for each in report["filters"] if each["name"] == "contamination"]
    assert found == [
        {
            "data_source": "openai/gsm8k",
            "row": 5,
            "benchmark": "own/0",
            "overlap": 1.0,
            "question": ENGLISH[0],
            "benchmark_question": ENGLISH[0].upper(),
        }
    ]
    printed = capsys.readouterr().out
    for word in ("rows in 6, rows out 1, dropped 5", "filter contamination: ", "compared with 1 questions of own"):
        assert word in printed


def test_filters_without_training_rows_are_refused_and_a_test_set_stays_whole(tmp_path, jsonl):
    rows = [{"question": LONG, "answer": "Steps.\n#### 5"}] * 2
    source = jsonl("test.jsonl", rows)
    options = ["--local_dir", str(tmp_path / "out"), "--filter", "exact"]
    with pytest.raises(ValueError, match="filters apply to training rows"):
        gsm8k.main(["--source", str(source), *options])
    jsonl("train.jsonl", rows)
    gsm8k.main(["--source", str(tmp_path), *options])
    assert [len(pq.read_table(tmp_path / "out" / f"{split}.parquet")) for split in ("train", "test")] == [1, 2]
    from_files.main(
        ["--source", str(source), "--split", "test", "--local_dir", str(tmp_path / "b"), "--filter", "exact"]
    )
    assert len(pq.read_table(tmp_path / "b" / "test.parquet")) == 1  # the one split that was asked for
