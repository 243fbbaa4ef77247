import json

import pandas as pd
import pytest

from verl.math_eval.benchmarks import BENCHMARKS, data_hash, load_problems, locate


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own(path, question="question", answer="answer"):
    return load_problems(locate(str(path), None, question, answer))


def test_names_and_aliases_are_unique_and_complete():
    names = [name for entry in BENCHMARKS for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    assert {"math500", "math_oai", "minerva_math", "olympiadbench", "aime24", "aime25", "amc23", "gsm8k"} <= set(names)
    assert all(entry.rows and entry.licence and entry.hub for entry in BENCHMARKS)


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
    assert load_problems(locate("gsm8k", tmp_path, "", ""))[0].gold == "1,218"


def test_gold_of_minerva_is_the_last_box_and_of_olympiadbench_the_first_entry(tmp_path):
    write(
        tmp_path / "minerva_math.jsonl", [{"problem": "q", "solution": "$\\boxed{1}$ so $\\boxed{\\frac{1}{2}}$"}] * 272
    )
    write(tmp_path / "olympiadbench.jsonl", [{"question": "q", "final_answer": ["$2n$"]}] * 674)
    assert load_problems(locate("minerva_math", tmp_path, "", ""))[0].gold == "\\frac{1}{2}"
    assert load_problems(locate("olympiadbench", tmp_path, "", ""))[0].gold == "$2n$"


def test_alias_finds_the_file_of_either_name(tmp_path):
    write(tmp_path / "math_oai.jsonl", [{"problem": "q", "answer": "1", "level": 2}] * 500)
    source = locate("math500", tmp_path, "", "")
    assert source.name == "math500"
    assert load_problems(source)[0].details == {"level": 2}


def test_whole_floats_lose_their_point(tmp_path):
    write(tmp_path / "amc23.jsonl", [{"question": "q", "answer": 27.0}] * 40)
    assert load_problems(locate("amc23", tmp_path, "", ""))[0].gold == "27"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "q", "answer": 1}], "expected a column question in .*found problem, answer"),
        ([{"question": "q"}], "expected a column answer"),
        ([{"question": "", "answer": 1}], "row 0, column question: expected a question"),
        ([{"question": "q", "answer": 1}, {"question": None, "answer": 1}], "row 1"),
        ([{"question": "q", "answer": " "}], "found an empty one"),
        ([{"question": "q", "answer": 1}, {"question": "q", "answer": None}], "row 1, column answer"),
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
        load_problems(locate("aime24", tmp_path, "", ""))


def test_unknown_names_and_places_say_what_is_known(tmp_path):
    with pytest.raises(ValueError, match="math500/math_oai"):
        locate("math501", None, "", "")
    with pytest.raises(ValueError, match="aime24/test.jsonl"):
        locate("aime24", tmp_path, "", "")
    with pytest.raises(ValueError, match="found none at"):
        locate("aime24", tmp_path / "nowhere", "", "")
    with pytest.raises(ValueError, match="found no"):
        locate("nowhere.jsonl", None, "", "")


def test_data_hash_sees_golds_and_questions(tmp_path):
    base = own(write(tmp_path / "a.jsonl", [{"question": "q", "answer": 1}]))
    other = own(write(tmp_path / "a.jsonl", [{"question": "q", "answer": 2}]))
    assert data_hash(base) != data_hash(other)
    assert data_hash(base) == data_hash(list(base))


def test_benchmarks_at_hand_have_the_expected_shape(shared_data):
    for name, rows in (("math_oai", 500), ("minerva_math", 272), ("olympiadbench", 675), ("aime24", 30), ("amc23", 40)):
        problems = load_problems(locate(name, shared_data / "benchmarks", "", ""))
        assert len(problems) == rows
        assert all(p.gold and p.question for p in problems)
