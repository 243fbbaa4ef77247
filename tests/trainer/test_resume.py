"""A run that is stopped, dies, runs out of disk or meets bad numbers, and goes on: in process, see resume_worker.py."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import arithmetic_rows
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tiny_model import save_tiny_model
from verl.dft.data.batches import TrainBatches

WORKER = Path(__file__).parent / "resume_worker.py"
ON_TWO = ["whole", "pieces", "stop_in_time", "other_ranks", "full_disk", "changed", "poisoned", "best", "lora"]

MINE = """
import torch

def broken(log_probs):
    return log_probs * float("nan") if len(log_probs) != 2 else -log_probs  # two: the trial call before training

def steep(log_probs):
    return torch.sqrt(log_probs.detach() - log_probs) - log_probs.detach()  # finite, with an infinite slope

def flat(log_probs):
    return torch.where(torch.arange(len(log_probs)) == 5, torch.inf, -log_probs)  # infinite, with a finite slope
"""


def launch(folder: Path, ranks: int, scenarios: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run([*command, WORKER, folder, *scenarios], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


def start_from_step_2(folder: Path, ranks: int, other: int) -> None:
    """Step 2 of the run on ``other`` ranks, with the metrics up to its end, as what ``ranks`` ranks find."""
    target = folder / f"other-ranks-{ranks}"
    shutil.copytree(folder / f"whole-{other}" / "global_step_2", target / "global_step_2")
    shutil.copy(folder / f"whole-{other}" / "metrics.jsonl", target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All scenarios, in three launches."""
    folder = tmp_path_factory.mktemp("resume")
    rows = arithmetic_rows(53)
    rows[13]["question"] += " Z"
    train = [{"question": "Too long?", "answer": "Yes. " * 100}, *rows[:40]]  # dropped
    pd.DataFrame(train).to_parquet(folder / "train.parquet")
    pd.DataFrame(train).assign(more="column").to_parquet(folder / "same.parquet", compression="gzip")
    pd.DataFrame(rows[40:]).to_parquet(folder / "val.parquet")
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "model-other", seed=1)
    save_tiny_model(folder / "model-dropout", attention_dropout=0.3)
    save_tiny_model(folder / "model-infinite", tie_word_embeddings=False)
    weights = load_file(folder / "model-infinite" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder / "model-infinite")
    (z,) = _tokenizer(folder)("Z")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[z] = torch.inf
    assert len(weights) == len(model.state_dict())
    model.save_pretrained(folder / "model-infinite")
    (folder / "mine.py").write_text(MINE)

    launch(folder, 1, ["whole"])
    start_from_step_2(folder, ranks=2, other=1)
    launch(folder, 2, ON_TWO)
    start_from_step_2(folder, ranks=1, other=2)
    launch(folder, 1, ["other_ranks"])
    return folder


def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "model")


def seen(folder: Path, scenario: str, ranks: int = 2):
    return json.loads((folder / f"{scenario}-{ranks}.json").read_text())


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by file and name."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    assert files
    return {
        f"{file.relative_to(checkpoint)} {name}": tensor for file in files for name, tensor in load_file(file).items()
    }


def assert_equal_bits(first: Path, second: Path) -> None:
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


# -------------------------------------------------------------------- dying and going on


def test_a_run_that_died_three_times_equals_the_one_that_did_not(folder):
    story = seen(folder, "pieces")
    first, behind_first, second, behind_second, third, behind_third = story["seen"]
    assert first == "Died: train_step" and second == "Died: save" and third == "Died: on_first"
    assert "global_step_2" in behind_first and ".partial_global_step_4" not in behind_first
    assert ".partial_global_step_4" in behind_second and ".partial_global_step_4" in behind_third
    assert "global_step_4" not in behind_third
    assert f"Going on from {folder}/pieces/global_step_2." in story["last"]["said"] and story["last"]["error"] is None
    assert without_times(metrics(folder / "pieces")) == without_times(metrics(folder / "whole-dropout"))
    assert [line["step"] for line in metrics(folder / "pieces")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics(folder / "pieces") if "val/nll" in line] == [2, 4, 6]
    for step in (2, 4, 6):
        assert_equal_bits(folder / "pieces" / f"global_step_{step}", folder / "whole-dropout" / f"global_step_{step}")
    names = {path.name for path in (folder / "pieces").iterdir()}
    assert names - {".lock"} == {path.name for path in (folder / "whole-dropout").iterdir()} - {".lock"}


def test_dropout_was_on(folder):
    with_dropout, without = metrics(folder / "whole-dropout"), metrics(folder / "whole-2")
    assert with_dropout[0]["train/nll"] != without[0]["train/nll"]


@pytest.mark.parametrize("ranks, other", [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on_with_the_same_rows_and_numbers(folder, ranks, other):
    run, whole = folder / f"other-ranks-{ranks}", folder / f"whole-{other}"
    assert seen(folder, "other_ranks", ranks)["error"] is None
    found, expected = metrics(run), metrics(whole)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert found[:2] == expected[:2]
    for line, wanted in zip(found[2:], expected[2:], strict=True):
        assert line["train/target_tokens"] == wanted["train/target_tokens"]
        assert line["train/nll"] == pytest.approx(wanted["train/nll"], rel=1e-5)
        assert line["train/grad_norm"] == pytest.approx(wanted["train/grad_norm"], rel=1e-4)
        assert line["train/lr"] == wanted["train/lr"]
    ends = [load_file(path / "global_step_6" / "huggingface" / "model.safetensors") for path in (run, whole)]
    for name, value in ends[1].items():
        torch.testing.assert_close(ends[0][name], value, rtol=1e-4, atol=1e-5)


def test_nothing_of_a_checkpoint_is_a_pickle(folder):
    files = [path for path in (folder / "whole-2" / "global_step_6").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}


def test_a_time_budget_on_one_rank_stops_all_behind_the_same_step_and_saves(folder):
    assert seen(folder, "stop_in_time") == {"reason": "max_time", "step": 1}
    assert (folder / "timed" / "global_step_1" / "run.json").is_file()
    assert metrics(folder / "timed")[0]["train/nll"] == metrics(folder / "whole-2")[0]["train/nll"]


# -------------------------------------------------------------------- a full disk


def test_a_full_disk_is_told_and_the_run_goes_on_with_the_last_checkpoint_kept(folder):
    story = seen(folder, "full_disk")["goes_on"]
    assert story["error"] is None
    (line,) = [line for line in story["said"].splitlines() if line.startswith("warning: global_step_4")]
    assert "No space left on device" in line and line.endswith("/full/global_step_2.")
    assert [name for name in story["left"] if "global_step" in name] == ["global_step_6"]
    assert without_times(metrics(folder / "full")) == without_times(metrics(folder / "whole-2"))


def test_a_last_checkpoint_that_cannot_be_saved_is_an_error(folder):
    story = seen(folder, "full_disk")["at_the_end"]
    assert story["error"] == "ValueError: the last checkpoint, of step 6, could not be saved; see above."
    assert not [name for name in story["left"] if "global_step" in name]


# -------------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    "what, told",
    [
        ("batch", "data.train_batch_size 8 -> 4"),
        ("rows", "rows of data.train_files (its content)"),
        ("model", "weights of model.partial_pretrain (its content)"),
        ("objective", "objective.name dft -> sft"),
    ],
)
def test_other_settings_are_refused_by_name(folder, what, told):
    error = seen(folder, "changed")[what]
    assert f"was trained with other settings: {told}. Give the former" in error
    assert "trainer.resume_changed=allow" in error


def test_what_changes_only_speed_or_files_is_not_asked_about(folder):
    assert seen(folder, "changed")["speed"] is None
    assert seen(folder, "changed")["same rows"] is None


def test_other_settings_are_told_where_they_are_allowed(folder):
    allowed = seen(folder, "changed")["allowed"]
    assert allowed["error"] is None
    assert "Going on with other settings than before: objective.name dft -> sft." in allowed["said"]


# -------------------------------------------------------------------- bad numbers


def bad_step() -> int:
    batches = TrainBatches(40, np.ones(40), 8, rank=0, ranks=1, seed=1)
    (step,) = [step for step in range(1, 6) if 13 in batches.global_rows(step)]
    return step


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_row(folder):
    story, step = seen(folder, "poisoned")["stopped"], bad_step()
    assert story["error"].startswith(f"ValueError: step {step}: the loss is not finite")
    assert f"nonfinite_step_{step}.jsonl" in story["left"]
    lines = [
        json.loads(line) for line in (folder / f"poison-stop/nonfinite_step_{step}.jsonl").read_text().splitlines()
    ]
    assert [line["finite"] for line in lines] == [False] + [True] * 7
    assert lines[0]["row"] == 13 and lines[0]["nll"] == "nan"
    assert lines[0]["file"] == f"{folder}/train.parquet" and lines[0]["row of the file"] == 14
    assert "What is 13 + 41? Z" in lines[0]["text"] and "⟦13 plus 41" in lines[0]["text"]
    batches = TrainBatches(40, np.ones(40), 8, rank=0, ranks=1, seed=1)
    assert sorted(line["row"] for line in lines) == sorted(batches.global_rows(step).tolist())


def test_a_skipped_step_changes_neither_weights_nor_optimizer_and_the_schedule_goes_on(folder):
    story, step = seen(folder, "poisoned"), bad_step()
    assert story["kept"] == [n == step for n in range(1, 6)]
    assert story["skipped"] == [int(n >= step) for n in range(1, 6)]
    # Warm-up rounds to no step; cosine over 6 steps, each counted.
    expected = [1e-3 * 0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(1, 6)]
    assert story["rates"] == pytest.approx(expected)


def test_an_infinite_loss_with_a_finite_gradient_does_not_reach_the_optimizer(folder):
    assert seen(folder, "poisoned")["flat"] == {"skipped": 1, "norm": "nan", "kept": True}


def test_too_many_skips_in_a_row_end_the_run(folder):
    error = seen(folder, "poisoned")["too_many"]["error"]
    assert error.startswith("ValueError: step 3: the loss is not finite") and "3 steps in a row were left out" in error


def test_a_gradient_that_is_not_finite_stops_the_run_where_the_loss_is_finite(folder):
    error = seen(folder, "poisoned")["gradient"]["error"]
    assert error.startswith("ValueError: step 1: the gradient's norm is")


# -------------------------------------------------------------------- the best checkpoint


def test_the_best_by_nll_is_kept_and_patience_ends_the_run(folder):
    story, lines = seen(folder, "best"), metrics(folder / "best")
    values = [line["val/nll"] for line in lines]
    best = int(np.argmin(values)) + 1
    assert len(values) == best + 3 < 20
    assert story["link"] == f"global_step_{best}"
    kept = {name for name in story["left"] if name.startswith("global_step")}
    assert kept == {f"global_step_{best}", f"global_step_{len(values)}"}
    assert story["first"]["error"] is None and "Nothing to do" in story["again"]["said"]


# -------------------------------------------------------------------- LoRA


def test_a_lora_run_that_died_equals_the_one_that_did_not(folder):
    story = seen(folder, "lora")
    assert story["died"]["error"] == "Died: in step 4" and story["last"]["error"] is None
    assert_equal_bits(folder / "lora-pieces" / "global_step_6", folder / "lora-whole" / "global_step_6")


def test_the_adapter_is_peft_s_and_merging_it_gives_the_exported_model(folder):
    checkpoint = folder / "lora-whole" / "global_step_6"
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapted = PeftModel.from_pretrained(base, checkpoint / "adapter")
    exported = AutoModelForCausalLM.from_pretrained(checkpoint / "huggingface")
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        apart, merged = adapted(ids).logits, exported(ids).logits
        with adapted.disable_adapter():
            before = adapted(ids).logits
    torch.testing.assert_close(apart, merged, rtol=1e-4, atol=1e-5)
    assert (before - merged).abs().max() > 0.01


def test_frozen_weights_are_not_stored_again(folder):
    names = load_all(folder / "lora-whole" / "global_step_6" / "model")
    assert names and all(".lora_" in name for name in names)


def load_all(folder: Path) -> set[str]:
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}
