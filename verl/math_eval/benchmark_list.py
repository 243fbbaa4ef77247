"""What a benchmark is, and those that can be asked for by name.

Nothing of these data sets is in this repository. No revision is pinned where none could be checked when this was
written; the row count and the data hash in ``metrics.json`` then tell two versions apart. A sha256 is that of the
original harness's copy, after conversion. Licences are what was found at the named place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from verl.math_eval.rows import (
    Reader,
    about_table,
    after_body,
    after_hashes,
    as_it_stands,
    boxed,
    first,
    letter,
    letter_or_value,
    shuffled_letter,
    with_chinese_choices,
    with_choices,
    with_shuffled_choices,
    without_dollars,
    without_unit,
)

ANSWER_KINDS = ("expression", "integer", "number", "choice")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    question, gold: columns to look for, the first one present counts; read by ``ask`` and ``rule``.
    answers: what a gold looks like, out of ``ANSWER_KINDS``; another one is an error.
    rows: how many problems there are, per published version; empty: any number.
    hub, config, split, revision: where ``datasets.load_dataset`` finds it. hub None: no place on the hub is known;
        origin says where the file is. revision None: the newest commit, because no other could be checked.
    keep: which rows are problems; left_out says what the others are.
    sha256: ``data_hash`` of the copies that this entry was checked with.
    id_key: column of a problem's id, for the user's own data; None: the row's number.
    version: raised with each change of the entry that changes its problems.
    """

    name: str
    question: tuple[str, ...]
    gold: tuple[str, ...]
    rows: tuple[int, ...]
    licence: str
    answers: str = "expression"
    ask: Reader = as_it_stands
    rule: Reader = as_it_stands
    hub: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    origin: str = ""
    aliases: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    keep: Callable[[Mapping[str, Any]], bool] | None = None
    left_out: str = ""
    sha256: tuple[str, ...] = ()
    version: int = 1
    id_key: str | None = None


_MAA = "problems: copyright MAA"
_AGIEVAL = "exam texts; no licence text found in AGIEval's repository"

# What MMLU's authors call STEM, without medicine: 3,018 questions.
MMLU_STEM = (
    "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics "
    "high_school_physics high_school_statistics machine_learning"
)


def _from_qwen(name: str) -> str:
    return f"evaluation/data/{name}/test.jsonl of github.com/QwenLM/Qwen2.5-Math"


def _has_answer(row: Mapping[str, Any]) -> bool:
    return bool(str(row.get("answer") or "").replace("$", "").strip())


def _has_one_answer(row: Mapping[str, Any]) -> bool:
    return ";" not in str(row.get("answer"))


def _is_stem(row: Mapping[str, Any]) -> bool:
    return row.get("subject") in MMLU_STEM.split() or "subject" not in row  # the original's file has STEM rows only


def _is_math(row: Mapping[str, Any]) -> bool:
    return row.get("category") == "math"


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "math500",
        ("problem",),
        ("answer",),
        (500,),
        "none stated on the hub; MATH itself: MIT, under a takedown notice by AoPS since 2025-01",
        hub="HuggingFaceH4/MATH-500",
        aliases=("math_oai", "math-500"),
        details=("level", "subject"),
        sha256=("cc976e62f0457b6e026bf188f8a6f3d8c00675baaf63cf54c8a2c311b096118b",),
    ),
    Benchmark(
        "minerva_math",
        ("problem", "question"),
        ("solution", "answer"),
        (272,),
        "none stated on the hub; text of MIT OpenCourseWare: CC BY-NC-SA 4.0",
        rule=boxed,
        hub="math-ai/minervamath",
        aliases=("minerva",),
        details=("type",),
        sha256=("a1e9ef81802872c113ecd534d3f334474f4aa3433bd40fb73fedee0f5ec9b25e",),
    ),
    Benchmark(
        "olympiadbench",
        ("question",),
        ("final_answer",),
        (674, 675),
        "Apache-2.0",
        rule=first,
        hub="Hothan/OlympiadBench",
        config="OE_TO_maths_en_COMP",
        split="train",
        details=("subfield", "answer_type", "is_multiple_answer"),
        sha256=("736c4ef04a65f6a447b35fe751804ad83c4437df96f78ee97498dc92d152b004",),
    ),
    Benchmark(
        "aime24",
        ("problem", "question"),
        ("answer",),
        (30,),
        _MAA,
        "integer",
        hub="HuggingFaceH4/aime_2024",
        split="train",
        sha256=("37a3c8de4d8ae359c111e20c28d2f12efff5ad99340d93e5f8ae3a22ce079afe",),
    ),
    Benchmark(
        "aime25",
        ("problem", "question"),
        ("answer",),
        (30,),
        _MAA,
        "integer",
        hub="math-ai/aime25",
        sha256=("5a1fcd7d7006595166c7887e27e705207fe6561657b833e613b3955cf578932b",),
    ),
    Benchmark(
        "aime26",
        ("problem",),
        ("answer",),
        (30,),
        "CC BY-NC-SA 4.0 (MathArena); problems: copyright MAA",
        "integer",
        hub="MathArena/aime_2026",
        split="train",
        aliases=("aime2026",),
    ),
    Benchmark(
        "hmmt_feb26",
        ("problem",),
        ("answer",),
        (33,),
        "CC BY-NC-SA 4.0 (MathArena)",
        hub="MathArena/hmmt_feb_2026",
        split="train",
        aliases=("hmmt_feb_2026",),
    ),
    Benchmark(
        "gpqa_diamond",
        ("Question",),
        ("Correct Answer",),
        (198,),
        "CC BY 4.0; gated: accept its terms on the hub and log in",
        "choice",
        ask=with_shuffled_choices,
        rule=shuffled_letter,
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        details=("High-level domain",),
    ),
    Benchmark(
        "mmlu_pro_math",
        ("question",),
        ("answer",),
        (1351,),
        "MIT",
        "choice",
        ask=with_choices,
        rule=letter,
        hub="TIGER-Lab/MMLU-Pro",
        keep=_is_math,
        left_out="categories that are not math",
        details=("src",),
    ),
    Benchmark(
        "amc23",
        ("question", "problem"),
        ("answer",),
        (40,),
        _MAA,
        "number",
        hub="math-ai/amc23",
        sha256=("112be57859252dfaf4dda719ef70410dfef150871d1e6b3b27faa3dbe4cefde5",),
    ),
    Benchmark(
        "gsm8k",
        ("question",),
        ("answer",),
        (1319,),
        "MIT",
        "integer",
        rule=after_hashes,
        hub="openai/gsm8k",
        config="main",
        sha256=("1a7a534418433c8ab51acaa5f85aac0c306e1b4d69c897a700dcdc589372677f",),
    ),
    Benchmark(
        "math",
        ("problem",),
        ("solution", "answer"),
        (5000,),
        "MIT, under a takedown notice by AoPS since 2025-01",
        rule=boxed,
        hub="DigitalLearningGmbH/MATH-lighteval",
        details=("level", "type", "subject"),
    ),
    Benchmark(
        "college_math",
        ("question", "problem"),
        ("answer",),
        (2818,),
        "mixed, per row: CC BY, GFDL, 809 rows NC-SA; research only",
        rule=without_dollars,
        origin=_from_qwen("college_math"),
        details=("data_topic",),
    ),
    Benchmark(
        "gaokao2023en",
        ("question", "problem"),
        ("answer",),
        (383,),
        "none found",
        rule=without_dollars,
        origin=_from_qwen("gaokao2023en"),
        keep=_has_answer,
        left_out="the 2 rows that have no answer",
    ),
    Benchmark(
        "svamp",
        ("Question",),
        ("Answer",),
        (1000,),
        "not checked",
        "number",
        ask=after_body,
        hub="ChilleD/SVAMP",
        split="train+test",
        details=("Type",),
    ),
    Benchmark(
        "asdiv",
        ("question",),
        ("answer",),
        (2215,),
        "CC BY-NC 4.0 (not checked)",
        ask=after_body,
        rule=without_unit,
        hub="EleutherAI/asdiv",
        split="validation",
        keep=_has_one_answer,
        left_out="rows with several answers",
        details=("solution_type",),
    ),
    Benchmark(
        "mawps",
        ("input", "question"),
        ("target",),
        (2065,),
        "not checked",
        "number",
        origin=_from_qwen("mawps"),
    ),
    Benchmark(
        "tabmwp",
        ("question",),
        ("answer",),
        (1000, 7686),
        "not checked",
        ask=about_table,
        origin="test.jsonl of TabMWP in the original harness's form (columns table, table_title, choices, answer)",
        details=("grade",),
    ),
    Benchmark(
        "aqua",
        ("question",),
        ("correct",),
        (254,),
        "Apache-2.0",
        "choice",
        ask=with_choices,
        rule=letter,
        hub="deepmind/aqua_rat",
        config="raw",
    ),
    Benchmark(
        "sat_math",
        ("question",),
        ("Answer", "answer"),
        (32,),
        "not checked",
        "choice",
        ask=with_choices,
        rule=letter,
        origin=_from_qwen("sat_math"),
    ),
    Benchmark(
        "mmlu_stem",
        ("question",),
        ("answer",),
        (3018,),
        "MIT (not checked)",
        "choice",
        ask=with_choices,
        rule=letter,
        hub="cais/mmlu",
        config="all",
        keep=_is_stem,
        left_out="subjects that are not STEM",
        details=("subject",),
    ),
    Benchmark(
        "cmath",
        ("question",),
        ("golden", "answer"),
        (600,),
        "CC BY 4.0 (not checked)",
        hub="weitianwen/cmath",
        split="validation",
        details=("grade",),
    ),
    Benchmark(
        "gaokao_math_cloze",
        ("question", "query"),
        ("answer",),
        (118,),
        _AGIEVAL,
        rule=without_dollars,
        hub="hails/agieval-gaokao-mathcloze",
    ),
    Benchmark(
        "gaokao_math_qa",
        ("question", "query"),
        ("label", "gold"),
        (351,),
        _AGIEVAL,
        "choice",
        ask=with_chinese_choices,
        rule=letter,
        hub="hails/agieval-gaokao-mathqa",
    ),
    Benchmark(
        "gaokao2024_I", ("question",), ("answer",), (14,), "not checked; exam texts", origin=_from_qwen("gaokao2024_I")
    ),
    Benchmark(
        "gaokao2024_II",
        ("question",),
        ("answer",),
        (14,),
        "not checked; exam texts",
        origin=_from_qwen("gaokao2024_II"),
    ),
    Benchmark(
        "gaokao2024_mix",
        ("question",),
        ("answer", "choice_answer"),
        (91,),
        "not checked; exam texts",
        rule=letter_or_value,
        origin=_from_qwen("gaokao2024_mix"),
    ),
    Benchmark(
        "cn_middle_school",
        ("question",),
        ("answer", "choice_answer"),
        (101,),
        "not checked; exam texts",
        rule=letter_or_value,
        origin=_from_qwen("cn_middle_school"),
    ),
    Benchmark("carp_en", ("content",), ("answer",), (976,), "not checked", origin=_from_qwen("carp_en")),
)

BY_NAME = {name: entry for entry in BENCHMARKS for name in (entry.name, *entry.aliases)}
