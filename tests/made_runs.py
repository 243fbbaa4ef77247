"""Evaluations on disk whose samples are written down in the test."""

from pathlib import Path

from verl.math_eval.evaluation import Evaluation, load_evaluation, write_metrics
from verl.math_eval.grades import grading_settings
from verl.math_eval.samples import SampleStore


def store_evaluation(
    folder: Path, label: str, answers: dict[str, list[list[str]]], data="d", temperature=1.0, warnings=()
) -> Evaluation:
    """Write the samples of a made-up run: answers[benchmark][problem] is a list of texts; 1 is right."""
    for place, (benchmark, problems) in enumerate(answers.items()):
        ids = [f"{benchmark}/{i}" for i in range(len(problems))]
        settings = {
            "generation": {
                "backend": "transformers", "model": "0123456789abcdef", "dtype": "float32", "seed": 0, "data": data,
                "prompt_format": {"template": "{input}"},
                "sampling": {"temperature": temperature, "top_p": 1.0, "max_new_tokens": 64},
            },
            "grading": grading_settings("lenient", "default"),
            "described": {
                "label": label, "model": f"models/{label}", "backend": {"device": "cpu"}, "prompt_format": "direct",
                "training": {}, "example_prompt": "Q ``` <b>?", "benchmark": benchmark, "place": place,
                "data": {"from": "here", "revision": None, "entry_version": 1, "problems": len(ids), "left_out": "",
                         "sha256": "ab" * 32, "known": None, "licence": "MIT"},
                "warnings": list(warnings),
            },
            "asked": {"problems": ids, "samples": len(problems[0])},
        }  # fmt: skip
        store = SampleStore(folder / benchmark, settings).open()
        store.append(
            {
                "problem": problem, "sample": i, "seed": hash((problem, i)), "prompt": f"What is {problem}?",
                "text": text, "finish_reason": "stop", "tokens": 3 * len(text), "gold": "1",
                "details": {"level": int(problem.rsplit("/", 1)[1]) % 2}, "extracted": text,
                "method": "box", "correct": text == "1", "status": "graded", "reason": "same text",
            }
            for problem, texts in zip(ids, problems, strict=True)
            for i, text in enumerate(texts)
        )  # fmt: skip
        write_metrics(store)
        store.close()
    return load_evaluation(folder)
