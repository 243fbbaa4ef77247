"""Overlaps worked out by hand, and planted contamination of the real benchmarks where their files are at hand."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from decontamination import BenchmarkIndex, condensed, load_benchmarks, ngrams

SHARED_DATA = Path(os.environ.get("VERL_DFT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
QUESTION = (
    r"Let $f(x) = \frac{x+1}{x-2}$ be defined for all real $x \neq 2$. How many integers $n$ with "
    r"$\left| n \right| \le 10{,}000$ make $f(n)$ an integer?"
)


@pytest.mark.parametrize(
    "one, other",
    [
        ("What is  1 + 1?\n", "what is 1+1"),
        (r"$\frac{1}{2}$", r"\( \dfrac 1 2 \)"),
        (r"\left( x \right)", r"\bigl(x\bigr)"),
        (r"$10{,}000$ and $a\,b\!c\;d~e \quad f$", "$10,000$ and $abcde f$"),
        (r"\text{cm}\hspace{2mm}", r"\mathrm{~cm}"),
        (r"\displaystyle\sum\limits_{i}", r"\sum_i"),
        ("ﬁnd ２", "find 2"),  # ligatures and full-width digits
    ],
)
def test_layout_does_not_count(one, other):
    assert condensed(one) == condensed(other) != ""


def test_names_that_only_begin_like_layout_stay():
    assert condensed(r"\leftarrow \textsf{a} \rmx") == "leftarrowtextsfarmx"


def test_ngrams_of_a_short_text_are_the_text():
    assert ngrams("abcd", 3) == {"abc", "bcd"}
    assert ngrams("ab", 3) == {"ab"}


def test_overlap_is_the_share_of_the_benchmark_questions_ngrams():
    letters = "".join(chr(ord("a") + k // 26) + chr(ord("a") + k % 26) for k in range(60))  # 120 different places
    index = BenchmarkIndex([("own/0", letters)])
    match = index.find(letters[:110])
    assert match is not None and match.benchmark == "own/0"
    assert match.overlap == pytest.approx((110 - 7) / (120 - 7))
    assert index.find(letters[:80]) is None  # 73 / 113 = 0.65
    assert index.find("zzz " + letters + " and much more text behind and around it " * 5) is not None


def test_short_questions_are_compared_with_questions_of_their_length():
    index = BenchmarkIndex([("own/0", "Compute $\\sin 60^\\circ$."), ("own/1", "What is $\\sqrt{2}$ times 3?")])
    assert index.find("Compute sin 60 circ").benchmark == "own/0"
    assert index.find("Evaluate $\\sqrt{2}$ times 3?").benchmark == "own/1"
    assert index.find("What is the number of ways to compute the sine of an angle of 60 degrees, times 3?") is None
    assert index.find("Solve this, please: what is $\\sqrt{2}$ times 3? Show all of your work.") is None  # 15 letters
    long_enough = BenchmarkIndex([("own/0", "Write $\\frac{3}{20}$ as a decimal.")])
    assert long_enough.find("Solve this: write $\\frac{3}{20}$ as a decimal. Show all of your work.") is not None


def test_looking_up_the_rarest_ngrams_only_misses_nothing():
    """Against the definition, on texts of few letters, where everything shares something with everything."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcd", k=rng.choice((12, 30, 60, 100, 140)))) for _ in range(60)]
    index = BenchmarkIndex([(f"own/{place}", text) for place, text in enumerate(texts)])
    found = 0
    for _ in range(400):
        text = rng.choice(texts)
        place = rng.randrange(len(text))
        asked = (
            "ab" * rng.randrange(3)
            + text[:place]
            + "".join(rng.choices("abcd", k=rng.randrange(9)))
            + text[place + 3 :]
        )
        best = max((overlap_by_definition(asked, other) for other in texts), default=0.0)
        match = index.find(asked)
        assert (match.overlap if match else 0.0) == best
        found += match is not None
    assert 50 < found < 400  # both kinds were there


def overlap_by_definition(asked: str, text: str) -> float:
    if asked == text:
        return 1.0
    own, grams = ngrams(asked, 8), ngrams(text, 8)
    contained = len(own & grams) / len(grams)
    if len(text) >= 80:
        return contained if contained >= 0.7 else 0.0
    own_short, short = ngrams(asked, 4), ngrams(text, 4)
    alike = len(own_short & short) / max(len(own_short), len(short))
    found = [contained] * (contained == 1 and len(text) >= 20) + [alike] * (alike >= 0.5)
    return max(found, default=0.0)


def test_empty_questions_match_nothing():
    index = BenchmarkIndex([("own/0", "$$"), ("own/1", QUESTION)])
    assert index.find("?") is None
    assert index.find("") is None


def test_benchmarks_that_are_not_there_are_named(tmp_path, jsonl):
    own = jsonl("amc23.jsonl", [{"question": f"{i}?", "answer": i} for i in range(40)])
    questions, notes = load_benchmarks(["all"], own.parent)
    assert len(questions) == 40 and questions[3] == ("amc23/3", "3?")
    assert re.match("compared with 40 questions of amc23", notes[0])
    assert notes[1].startswith("NOT compared with math500, ")
    with pytest.raises(ValueError, match="expected aime24 in"):
        load_benchmarks(["amc23", "aime24"], own.parent)
    with pytest.raises(ValueError, match="found none of the benchmarks"):
        load_benchmarks(["all"], tmp_path.parent)


# --- planted contamination of real benchmarks


@pytest.fixture(scope="module")
def planted():
    folder = SHARED_DATA / "benchmarks"
    if not folder.is_dir():
        pytest.skip(f"no benchmark files at {folder}; set VERL_DFT_SHARED_DATA")
    questions, _ = load_benchmarks(["all"], folder)
    train = (SHARED_DATA / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return questions, BenchmarkIndex(questions), [json.loads(line)["question"] for line in train]


def latex_spacing(question: str) -> str:
    """The same formulas as another hand would type them."""
    for old, new in (
        (r"\frac", r"\dfrac"),
        ("$", "$ "),
        ("=", r"\;=\;"),
        ("+", r"\, + "),
        ("(", r"\left( "),
        (")", r" \right)"),
    ):
        question = question.replace(old, new)
    return question


REWORDINGS = {
    "exact": lambda question: question,
    "blanks": lambda question: "\n " + re.sub(r"(?<!\\) +", "   ", question).replace(". ", ".\n\n") + " ",
    "case": lambda question: re.sub(r"(?<![\\a-zA-Z])[a-z]+", lambda word: word[0].upper(), question),
    "latex spacing": latex_spacing,
}


@pytest.mark.parametrize("how", REWORDINGS)
def test_every_planted_question_is_found_whatever_its_layout(planted, how):
    questions, index, _ = planted
    missed = [text for _, text in questions if index.find(REWORDINGS[how](text)) is None]
    assert missed == []


def test_questions_with_one_word_changed_are_found(planted):
    questions, index, train = planted
    vocabulary = sorted({word for question in train for word in re.findall("[a-z]+", question.lower())})
    rng, found = random.Random(0), {}
    for name, text in questions:
        words = text.split(" ")
        place = rng.randrange(len(words))
        words[place] = rng.choice([word for word in rng.sample(vocabulary, 2) if word != words[place]])
        found.setdefault(name.split("/")[0], []).append(index.find(" ".join(words)) is not None)
    shares = {name: sum(values) / len(values) for name, values in found.items()}
    assert min(shares.values()) >= 0.95, shares


def test_gsm8k_is_not_taken_for_a_benchmark_without_it(planted):
    _, index, train = planted
    assert sum(index.find(question) is not None for question in train) <= 0.01 * len(train)
