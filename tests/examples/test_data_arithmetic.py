"""The synthetic set: true answers, bad demonstrations of the stated share and kind, splits that share no question."""

import json
import random
import re

import arithmetic
import pandas as pd
import pyarrow.parquet as pq
import pytest
from arithmetic import DEMONSTRATIONS, LARGEST, TEMPLATES, Problem, draw_problem, make_splits
from rows import last_boxed

SIZES = {"pretrain": 300, "train": 200, "test": 50}
EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")


def problems(count: int = 300) -> list[Problem]:
    rng = random.Random(0)
    return [draw_problem(rng) for _ in range(count)]


def is_right(equation: tuple[str, str, str, str]) -> bool:
    x, operator, y, result = equation
    return {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[operator] == int(result)


def write(folder, *options: str) -> dict[str, list[dict]]:
    sizes = [f"--{split}_size={size}" for split, size in SIZES.items()]
    arithmetic.main(["--local_dir", str(folder), *sizes, *options])
    return {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in SIZES}


def test_a_problem_worked_by_hand():
    problem = Problem("q", {"a": 3, "b": 4, "c": 7}, ("a*b", "1+c"))
    assert problem.solve() == (["3 * 4 = 12", "12 + 7 = 19"], [12, 19])
    assert problem.solve(slip_at=0, slip=1) == (["3 * 4 = 13", "13 + 7 = 20"], [13, 20])  # carries on


def test_every_number_of_a_question_is_used_in_its_steps():
    for text, steps in TEMPLATES:
        assert set(re.findall(r"{([a-d])}", text)) == set(re.findall("[a-d]", steps))
        assert len(steps.split()) <= 3


def test_problems_are_small_and_of_every_template():
    drawn = problems(1000)
    assert {problem.steps for problem in drawn} == {tuple(steps.split()) for _, steps in TEMPLATES}
    for problem in drawn:
        assert all(1 <= result <= LARGEST for result in problem.solve()[1])
        assert "{" not in problem.question and len(problem.question.split()) <= 40
        for step in problem.steps:
            assert all(2 <= problem.numbers[letter] <= 9 for letter in step if "*" in step and letter.isalpha())


@pytest.mark.parametrize("kind", DEMONSTRATIONS)
def test_what_a_demonstration_of_each_kind_is(kind):
    rng = random.Random(1)
    texts = set()
    for problem in problems():
        lines, results = problem.solve()
        text = DEMONSTRATIONS[kind](problem, rng)
        equations = EQUATION.findall(text)
        right, boxed = all(map(is_right, equations)), int(last_boxed(text))
        if kind == "clean":
            assert [" ".join(each[:3]) + f" = {each[3]}" for each in equations] == lines
            assert right and boxed == results[-1]
        elif kind == "wrong":
            assert sum(not is_right(each) for each in equations) == 1  # one slip; what follows is right given it
            assert len(equations) == len(lines)
            assert boxed == int(equations[-1][3]) != results[-1] and 1 <= boxed <= LARGEST
        else:
            assert not equations and boxed == results[-1]
        texts.add(re.sub(r"\d+", "N", text))
    assert len(texts) >= 3  # several ways to write one thing


@pytest.mark.parametrize("noise, bad", [(0.0, 0), (0.3, 60), (0.305, 61), (1.0, 200)])
def test_the_share_of_bad_demonstrations_is_exact_and_only_in_train(noise, bad):
    splits = make_splits(SIZES, noise, seed=0)
    kinds = [example["demonstration"] for example in splits["train"]]
    assert (kinds.count("wrong"), kinds.count("badly_written")) == (bad - bad // 2, bad // 2)
    assert {example["demonstration"] for split in ("test", "pretrain") for example in splits[split]} == {"clean"}


def test_no_question_occurs_twice_in_one_split_or_in_two(tmp_path):
    questions = [row["extra_info"]["question"] for rows in write(tmp_path).values() for row in rows]
    assert len(set(questions)) == len(questions) == sum(SIZES.values())


def test_files_hold_the_true_answer_whatever_the_demonstration_says(tmp_path):
    for split, rows in write(tmp_path, "--noise", "0.5").items():
        assert len(rows) == SIZES[split]
        for row in rows:
            right = last_boxed(row["extra_info"]["answer"]) == row["reward_model"]["ground_truth"]
            assert right == (row["extra_info"]["demonstration"] != "wrong")
            assert row["extra_info"]["question"] in row["prompt"][0]["content"]
            assert row["extra_info"]["split"] == split


def test_test_jsonl_has_the_test_questions_and_final_answers(tmp_path):
    rows = write(tmp_path)["test"]
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert lines == [
        {"question": row["extra_info"]["question"], "answer": row["reward_model"]["ground_truth"]} for row in rows
    ]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_rows(tmp_path):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        write(tmp_path / name, "--seed", seed)
    for file in ("pretrain.parquet", "train.parquet", "test.parquet", "test.jsonl"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_rows_of_a_seed_stay_what_they_are_in_every_version_of_python():
    (example,) = make_splits({"test": 1, "train": 1, "pretrain": 1}, 0.0, seed=0)["test"]
    assert example == {
        "question": "Anna has 9 dollars and buys 2 stamps for 3 dollars each. How many dollars are left?",
        "answer": "Step 1: 2 * 3 = 6. Step 2: 9 - 6 = 3. Result: \\boxed{3}.",
        "gold": "3",
        "demonstration": "clean",
    }


def test_test_questions_do_not_depend_on_what_is_trained_on():
    one, other = make_splits(SIZES, 0.3, seed=0), make_splits(SIZES | {"train": 20, "pretrain": 10}, 0.9, seed=0)
    assert one["test"] == other["test"]
    assert [each["question"] for each in one["train"]][:20] == [each["question"] for each in other["train"]]


def test_largest_bounds_every_true_result(tmp_path):
    for rows in write(tmp_path, "--largest", "20").values():
        for row in rows:
            if row["extra_info"]["demonstration"] == "clean":
                results = [int(each[3]) for each in EQUATION.findall(row["extra_info"]["answer"])]
                assert results and max(results) <= 20
    with pytest.raises(ValueError, match="expected --largest from 20 to 60, found 61"):
        arithmetic.main(["--local_dir", str(tmp_path), "--largest", "61"])


def test_more_rows_than_there_are_questions_is_refused(monkeypatch):
    monkeypatch.setattr(arithmetic, "TEMPLATES", (("{name} fills {a} boxes with {b} {things}?", "a*b"),))
    monkeypatch.setattr(arithmetic, "NAMES", ("Anna", "Ben"))
    monkeypatch.setattr(arithmetic, "THINGS", ("pens",))
    with pytest.raises(ValueError, match="different questions; ask for fewer"):
        make_splits({"test": 100, "train": 50, "pretrain": 1}, 0.0, seed=0)


@pytest.mark.parametrize("options", [["--noise", "1.5"], ["--noise", "-0.1"], ["--test_size", "0"]])
def test_impossible_sizes_and_shares_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="expected sizes of at least 1 and --noise from 0 to 1"):
        arithmetic.main(["--local_dir", str(tmp_path), *options])
    assert list(tmp_path.iterdir()) == []


def test_pandas_reads_the_columns_as_the_trainer_does(tmp_path):
    write(tmp_path)
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert list(frame.columns) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert set(frame.extra_info[0]) == {"split", "index", "question", "answer", "demonstration"}


@pytest.mark.parametrize("bad", ["wrong", "badly_written"])
def test_the_kind_of_the_bad_demonstrations_can_be_chosen(bad):
    kinds = [example["demonstration"] for example in make_splits(SIZES, 0.3, seed=0, bad=bad)["train"]]
    assert (kinds.count(bad), kinds.count("clean")) == (60, 140)


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_ways_of_writing_are_those_asked_for_and_all_of_them_in_pretrain(ways):
    beginnings = {
        split: {re.sub(r"\d.*", "N", example["answer"]) for example in examples}
        for split, examples in make_splits(SIZES, 0.0, seed=0, ways=ways).items()
    }
    assert beginnings["pretrain"] == {"N", "First N", "Step N"}
    assert beginnings["train"] == beginnings["test"] == set(("N", "First N", "Step N")[:ways])


def test_wrong_demonstrations_are_written_in_the_same_ways():
    wrong = [e["answer"] for e in make_splits(SIZES, 1.0, seed=0, bad="wrong", ways=1)["train"]]
    assert all(answer[0].isdigit() and "The answer is" in answer for answer in wrong)
