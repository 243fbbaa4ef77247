import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from verl.utils.import_utils import load_extern_object
from verl.workers.reward_manager.naive import NaiveRewardManager

from verl import DataProto
from verl.math_eval.grading import grade_many
from verl.math_eval.reward import compute_score


class Characters:
    """A tokenizer of one id per character."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(int(i)) for i in ids if int(i))


def answers(count: int) -> list[tuple[str, str]]:
    """(text, gold), about one in two right."""
    kinds = (
        lambda i: (f"So \\boxed{{{i}}}", str(i + i % 2)),
        lambda i: (f"The answer is **{i}** apples.", str(i)),
        lambda i: (f"It costs ${i} + $1 = ${i + 1}.", str(i + 1 + i % 2)),
        lambda i: (f"The answer is {i} more than 5.", str(i)),
        lambda i: (f"Answer: \\frac{{{i}}}{{7}}", f"{i}/7"),
        lambda i: ("no idea", str(i)),
    )
    return [kinds[i % len(kinds)](i) for i in range(count)]


def batch(pairs: list[tuple[str, str]]) -> DataProto:
    """As verl's rollout hands it to a reward manager: a prompt of one token, padded responses."""
    width = max(len(text) for text, _ in pairs)
    responses = torch.tensor([[ord(c) for c in text] + [0] * (width - len(text)) for text, _ in pairs])
    prompts = torch.full((len(pairs), 1), ord("Q"))
    mask = torch.cat([torch.ones_like(prompts), (responses > 0).long()], dim=1)
    return DataProto.from_dict(
        {"prompts": prompts, "responses": responses, "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["math"] * len(pairs), dtype=object),
            "reward_model": np.array([{"ground_truth": gold} for _, gold in pairs], dtype=object),
            "extra_info": np.array([{} for _ in pairs], dtype=object),
        },
    )


def test_reward_manager_of_verl_gives_the_verdicts_of_the_harness():
    pairs = answers(1_000)
    score = load_extern_object("pkg://verl.math_eval.reward", "compute_score")
    rewards = NaiveRewardManager(Characters(), num_examine=0, compute_score=score)(batch(pairs), return_dict=True)
    harness = [grade.correct for grade in grade_many(pairs)]
    assert [bool(row.sum()) for row in rewards["reward_tensor"]] == harness
    assert rewards["reward_extra_info"]["acc"] == [float(right) for right in harness]
    assert 300 < sum(harness) < 700


def test_rows_have_the_same_keys_whatever_came_of_them():
    rows = [compute_score("x", text, "5") for text in ("\\boxed{5}", "", "\\boxed{\\sum_k k}", "\\boxed{4}")]
    assert {tuple(row) for row in rows} == {("score", "acc", "pred", "status")}
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert rows[2]["status"] == "undecided"


def scores_of(index: int) -> list[float]:
    """Of answers that go to a symbolic worker."""
    sums = [f"\\triangle ABC+{10 * index + k}" for k in (2, 3, 5)]
    golds = [f"{10 * index + k}+\\triangle ABC" for k in (2, 3, 5)]
    return [compute_score("x", f"\\boxed{{{a}}}", g)["score"] for a, g in zip(sums, golds, strict=True)]


def test_forked_workers_and_threads_score_as_the_parent_does():
    assert scores_of(9) == [1.0] * 3  # the parent's own symbolic worker runs before the fork
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scores_of, range(4))) == [[1.0] * 3] * 4
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(scores_of, range(4)) == [[1.0] * 3] * 4
    assert scores_of(8) == [1.0] * 3
