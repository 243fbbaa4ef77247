import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from verl.math_eval.benchmark_list import ANSWER_KINDS, BENCHMARKS, BY_NAME, Benchmark
from verl.math_eval.benchmarks import OwnData, Source, data_hash, load_problems, locate


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own(path, question="question", answer="answer", kind="expression"):
    return load_problems(locate(str(path), None, OwnData(question, answer, kind)))


def named(tmp_path, name, row, rows):
    """The first problem of a benchmark of which all rows are ``row``."""
    write(tmp_path / f"{name}.jsonl", [row] * rows)
    return load_problems(locate(name, tmp_path))[0]


def test_names_and_aliases_are_unique_and_complete():
    names = [name for entry in BENCHMARKS for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    assert set(names) >= {
        "math500", "math_oai", "minerva_math", "olympiadbench", "aime24", "aime25", "amc23", "gsm8k", "math",
        "college_math", "gaokao2023en", "svamp", "asdiv", "mawps", "tabmwp", "aqua", "sat_math", "mmlu_stem", "cmath",
        "gaokao_math_cloze", "gaokao_math_qa", "gaokao2024_I", "gaokao2024_II", "gaokao2024_mix", "cn_middle_school",
    }  # fmt: skip
    for entry in BENCHMARKS:
        assert entry.rows and entry.licence and entry.answers in ANSWER_KINDS
        assert bool(entry.hub) != bool(entry.origin)
        assert bool(entry.keep) == bool(entry.left_out)


def test_own_jsonl_needs_two_columns_only(tmp_path):
    problems = own(
        write(tmp_path / "mine.jsonl", [{"question": "1 + 1?", "answer": 2}, {"question": "?", "answer": "x"}])
    )
    assert [(p.id, p.question, p.gold) for p in problems] == [("mine/0", "1 + 1?", "2"), ("mine/1", "?", "x")]


def test_own_parquet_reaches_into_structures(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "3"}, "extra_info": {"q": "q"}}
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    (problem,) = own(tmp_path / "test.parquet", "extra_info.q", "reward_model.ground_truth")
    assert (problem.question, problem.gold) == ("q", "3")
    (chat,) = own(tmp_path / "test.parquet", "prompt", "reward_model.ground_truth")
    assert chat.question == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("place", ["gsm8k.jsonl", "gsm8k/test.jsonl"])
def test_gold_of_gsm8k_is_what_follows_the_hashes(tmp_path, place):
    write(tmp_path / place, [{"question": "q", "answer": "9 * 2 = 18\n#### 1,218"}] * 1319)
    assert load_problems(locate("gsm8k", tmp_path))[0].gold == "1,218"


def test_gold_of_minerva_is_the_last_box_and_of_olympiadbench_the_first_entry(tmp_path):
    write(
        tmp_path / "minerva_math.jsonl", [{"problem": "q", "solution": "$\\boxed{1}$ so $\\boxed{\\frac{1}{2}}$"}] * 272
    )
    write(tmp_path / "olympiadbench.jsonl", [{"question": "q", "final_answer": ["$2n$"]}] * 674)
    assert load_problems(locate("minerva_math", tmp_path))[0].gold == "\\frac{1}{2}"
    assert load_problems(locate("olympiadbench", tmp_path))[0].gold == "$2n$"


def test_a_word_problem_is_its_body_and_its_question(tmp_path):
    svamp = {"Body": "Ann has 3 pens", "Question": "How many?", "Answer": 3.0}
    assert named(tmp_path, "svamp", svamp, 1000).question == "Ann has 3 pens. How many?"
    asdiv = {"body": "Ann has 9 apples.", "question": "How many?", "answer": "9 (apples)"}
    problem = named(tmp_path, "asdiv", asdiv, 2215)
    assert (problem.question, problem.gold) == ("Ann has 9 apples. How many?", "9")


def test_choices_are_listed_with_their_letters_whatever_form_they_come_in(tmp_path):
    mmlu = {"question": "Which?", "choices": ["one", "two", 3, "four"], "answer": 2, "subject": "astronomy"}
    problem = named(tmp_path, "mmlu_stem", mmlu, 3018)
    assert (problem.question, problem.gold) == ("Which?\nAnswer Choices: (A) one (B) two (C) 3 (D) four", "C")
    aqua = {"question": "Which?", "options": ["A)21", "B)21.5", "C)22"], "correct": "B"}
    assert named(tmp_path, "aqua", aqua, 254).question == "Which?\nAnswer Choices: (A) 21 (B) 21.5 (C) 22"
    sat = {"question": "Which?", "options": "A) 1/2 B) f(x) C) (3) ", "Answer": "A"}
    assert named(tmp_path, "sat_math", sat, 32).question == "Which?\nAnswer Choices: (A) 1/2 (B) f(x) (C) (3)"
    gaokao = {"question": "1+1=", "options": {"A": "1", "B": "2"}, "label": "B"}
    assert named(tmp_path, "gaokao_math_qa", gaokao, 351).question == "1+1=\n选项: (A) 1 (B) 2"
    agieval = {"query": "问题：1+1= 选项：(A)1 (B)2", "choices": ["(A)1", "(B)2"], "gold": [1]}
    problem = named(tmp_path, "gaokao_math_qa", agieval, 351)
    assert (problem.question, problem.gold) == (agieval["query"], "B")


def test_a_table_stands_in_front_of_its_question(tmp_path):
    row = {"table_title": "Pets", "table": "cats | 2", "question": "How many cats?", "choices": None, "answer": "2"}
    assert named(tmp_path, "tabmwp", row, 1000).question == (
        'Read the following table regarding "Pets" and answer a question:\ncats | 2\nHow many cats?'
    )


def test_mixed_exams_give_letters_where_there_are_letters(tmp_path):
    row = {"question": "?", "answer": "7", "choice_answer": ""}
    assert named(tmp_path, "gaokao2024_mix", row, 91).gold == "7"
    assert named(tmp_path, "gaokao2024_mix", {**row, "choice_answer": "AC"}, 91).gold == "AC"


def test_rows_that_are_no_problems_are_left_out_and_the_others_keep_their_numbers(tmp_path):
    rows = [{"question": "q", "answer": "$1$"}] * 385
    rows[0] = rows[7] = {"question": "q", "answer": "$$"}
    write(tmp_path / "gaokao2023en.jsonl", rows)
    problems = load_problems(locate("gaokao2023en", tmp_path))
    assert len(problems) == 383 and problems[0].id == "gaokao2023en/1" and problems[0].gold == "1"
    write(tmp_path / "gaokao2023en.jsonl", rows[:-1])
    with pytest.raises(ValueError, match="expected 383 rows without the 2 rows that have no answer"):
        load_problems(locate("gaokao2023en", tmp_path))


def test_a_benchmark_without_a_place_on_the_hub_says_where_to_get_it():
    with pytest.raises(ValueError, match="Get evaluation/data/mawps/test.jsonl of .*--benchmark_dir DIR"):
        locate("mawps", None)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("integer", ["12", "-1,234", "025", "$7$", "336^\\circ"], "1.5"),
        ("number", ["1.5", "-.5", "3/4", "1e-3", "20%", 7], "x"),
        ("choice", ["A", "(B)", "AC", "A, C"], "12"),
        ("expression", ["x+1", "A", "12"], " "),
    ],
)
def test_golds_of_another_kind_than_announced_are_named(tmp_path, kind, right, wrong):
    path = write(tmp_path / "mine.jsonl", [{"question": "q", "answer": gold} for gold in right])
    assert len(own(path, kind=kind)) == len(right)
    write(path, [{"question": "q", "answer": gold} for gold in [*right, wrong]])
    with pytest.raises(ValueError, match=f"row {len(right) + 1}, column answer: expected a gold answer"):
        own(path, kind=kind)
    with pytest.raises(ValueError, match="expected answer_kind out of"):
        own(path, kind="letters")


def test_alias_finds_the_file_of_either_name(tmp_path):
    write(tmp_path / "math_oai.jsonl", [{"problem": "q", "answer": "1", "level": 2}] * 500)
    source = locate("math500", tmp_path)
    assert source.name == "math500"
    assert load_problems(source)[0].details == {"level": 2}


def test_whole_floats_lose_their_point(tmp_path):
    write(tmp_path / "amc23.jsonl", [{"question": "q", "answer": 27.0}] * 40)
    assert load_problems(locate("amc23", tmp_path))[0].gold == "27"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "q", "answer": 1}], "expected a column question in .*found problem, answer"),
        ([{"question": "q"}], "expected a column answer"),
        ([{"question": "", "answer": 1}], "row 1, column question: expected a question"),
        ([{"question": "q", "answer": 1}, {"question": None, "answer": 1}], "row 2"),
        ([{"question": "q", "answer": " "}], "found an empty one"),
        ([{"question": "q", "answer": 1}, {"question": "q", "answer": None}], "row 2, column answer"),
        ([], "found no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        own(write(tmp_path / "mine.jsonl", rows))


def test_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"question": "q", "answer": 1}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2"):
        own(tmp_path / "mine.jsonl")


def test_wrong_number_of_rows_is_not_the_benchmark(tmp_path):
    write(tmp_path / "aime24.jsonl", [{"problem": "q", "answer": "1"}] * 29)
    with pytest.raises(ValueError, match="expected 30 rows .* found 29"):
        load_problems(locate("aime24", tmp_path))


def test_unknown_names_and_places_say_what_is_known(tmp_path):
    with pytest.raises(ValueError, match="math500/math_oai"):
        locate("math501", None)
    with pytest.raises(ValueError, match="aime24/test.jsonl"):
        locate("aime24", tmp_path)
    with pytest.raises(ValueError, match="found none at"):
        locate("aime24", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="found no"):
        locate("nowhere.jsonl", None)


def test_data_hash_sees_golds_and_questions(tmp_path):
    base = own(write(tmp_path / "a.jsonl", [{"question": "q", "answer": 1}]))
    other = own(write(tmp_path / "a.jsonl", [{"question": "q", "answer": 2}]))
    assert data_hash(base) != data_hash(other)
    assert data_hash(base) == data_hash(list(base))


def test_benchmarks_at_hand_have_the_expected_shape(shared_data):
    for name, rows in (("math_oai", 500), ("minerva_math", 272), ("olympiadbench", 675), ("aime24", 30), ("amc23", 40)):
        problems = load_problems(locate(name, shared_data / "benchmarks"))
        assert len(problems) == rows
        assert all(p.gold and p.question for p in problems)
        assert data_hash(problems) in BY_NAME[name].sha256


def test_the_page_for_users_lists_every_benchmark_with_its_size():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for entry in BENCHMARKS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{entry.name}`"))
        assert (
            all(f"{rows:,}" in line for rows in entry.rows) and entry.licence in line and (entry.hub or "copy") in line
        )


def test_the_hub_code_joins_splits_and_says_how_to_go_on_without_a_hub(tmp_path, monkeypatch):
    """With a folder in the hub's place: the same call loads both."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        write(tmp_path / "data" / f"{split}.jsonl", [{"question": split, "answer": "1"}] * 2)
    entry = Benchmark("mine", ("question",), ("answer",), (4,), "ours", hub=str(tmp_path / "data"), split="train+test")
    problems = load_problems(Source("mine", entry, None))
    assert [p.question for p in problems] == ["train", "train", "test", "test"]
    gone = replace(entry, hub=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="mine: cannot download .*--benchmark_dir DIR"):
        load_problems(Source("mine", gone, None))


def test_the_hubs_commit_is_what_is_loaded_and_recorded(monkeypatch):
    loaded = []
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *a, **k: SimpleNamespace(sha="c0ffee"))
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda *a, **k: loaded.append((a, k)) or [{"problem": "q", "answer": "1"}] * 30,
    )
    source = locate("aime24", None)
    assert source.revision == "c0ffee" and len(load_problems(source)) == 30
    assert loaded == [(("HuggingFaceH4/aime_2024", None), {"split": "train", "revision": "c0ffee"})]


def test_without_an_answer_from_the_hub_the_cache_may_still_have_the_data(monkeypatch):
    def gone(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", gone)
    assert locate("aime24", None).revision is None


def test_new_benchmarks_read_rows_of_their_sources_form(tmp_path):
    aime = {"problem_idx": 1, "answer": 277, "problem": "Find it."}
    assert named(tmp_path, "aime26", aime, 30).gold == "277"
    hmmt = {"problem_idx": 1, "answer": "\\frac{1}{2}", "problem_type": ["Algebra"], "problem": "Find it."}
    assert named(tmp_path, "hmmt_feb26", hmmt, 33).gold == "\\frac{1}{2}"
    row = {"question": "Which?", "options": list("uvwxyz"), "answer": "F", "answer_index": 5, "category": "math"}
    problem = named(tmp_path, "mmlu_pro_math", row, 1351)
    assert problem.gold == "F" and problem.question.endswith("(E) y (F) z")


def test_gpqas_right_answer_stands_under_every_letter_and_always_under_the_same(tmp_path):
    rows = [
        {"Question": f"q{i}?", "Correct Answer": "yes ", "Incorrect Answer 1": "no", "Incorrect Answer 2": "maybe",
         "Incorrect Answer 3": "never"}
        for i in range(198)
    ]  # fmt: skip
    write(tmp_path / "gpqa_diamond.jsonl", rows)
    problems = load_problems(locate("gpqa_diamond", tmp_path))
    letters = [p.gold for p in problems]
    assert all(f"({p.gold}) yes" in p.question for p in problems)
    assert all(30 < letters.count(letter) < 75 for letter in "ABCD")
    write(tmp_path / "gpqa_diamond.jsonl", [dict(reversed(row.items())) for row in rows])
    assert [p.gold for p in load_problems(locate("gpqa_diamond", tmp_path))] == letters
