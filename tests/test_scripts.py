"""The scripts that users launch: shellcheck likes them, and every command that they would run is understood."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import PROJECT, check_command, lines_of_dry_run

SCRIPTS = sorted(path for path in (PROJECT / "sh").glob("*.sh") if path.name != "common.sh")
# What a script cannot be started without; all others are started with nothing.
ARGUMENTS = {
    "eval.sh": ["auto", "a model", "outputs/scores", "16", "1", "--with_greedy"],
    "study.sh": ["--scale", "smoke"],  # the full one prints some 250 commands of the same few kinds
    "grpo.sh": ["CHECKPOINT", "train.parquet", "trainer.total_training_steps=10"],
    "offline_rl.sh": ["MODEL", "questions.parquet", "outputs/offline", "--train_end", "100", "--", "optim.lr=1e-5"],
}

STANDS_IN = """#!/bin/sh
cd "$(dirname "$0")" && echo $$ > pid.part && mv pid.part pid && exec sleep 60
"""  # for python and torchrun


def commands_of(script: str, *words: str, **environment: str) -> list[list[str]]:
    return lines_of_dry_run(PROJECT / "sh" / script, list(words), **environment)


def flags(command: list[str]) -> dict[str, str]:
    """The trainer's flags of a command, the last of each."""
    return dict(word.split("=", 1) for word in command if "." in word.split("=")[0] and "=" in word)


def test_shellcheck_finds_nothing():
    found = shutil.which("shellcheck")
    assert found, "shellcheck is missing: it comes with requirements-dev.txt"
    files = [*PROJECT.glob("sh/*.sh"), *PROJECT.glob("scripts/*.sh"), PROJECT / ".ci" / "run"]
    done = subprocess.run([found, *map(str, files)], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_command_of_a_dry_run_is_understood(script: Path, tmp_path):
    commands = lines_of_dry_run(script, ARGUMENTS.get(script.name, []), OUT=str(tmp_path / "a folder"))
    assert commands
    for command in commands:
        check_command(command)
    assert not list(tmp_path.iterdir())


def test_a_flag_that_does_not_exist_is_found():
    (command,) = commands_of("train_dft.sh", "optim.learning_rate=1e-5")
    with pytest.raises(ValueError, match="optim.learning_rate"):
        check_command(command)
    command = commands_of("grpo.sh", "CHECKPOINT", "train.parquet", "actor_rollout_ref.actor.learning_rate=1")[-1]
    with pytest.raises(ValueError, match="learning_rate"):
        check_command(command)
    (command,) = commands_of("eval.sh", "auto", "M", "O", "16", "1", "--n_samples", "4")
    with pytest.raises(ValueError, match="--n_samples"):
        check_command(command)


@pytest.mark.parametrize("script", ["eval.sh", "train_dft.sh", "train_sft.sh", "train_lora.sh", "multinode.sh"])
def test_a_signal_to_a_script_reaches_the_command_that_it_starts(script, tmp_path):
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(STANDS_IN)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": "some", "NPROC": "1"}
    command = ["bash", str(PROJECT / "sh" / script), *ARGUMENTS.get(script, [])]
    process = subprocess.Popen(command, env=environment)
    ends = time.monotonic() + 20
    while not (tmp_path / "pid").exists() and time.monotonic() < ends:
        time.sleep(0.02)
    started = int((tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert started == process.pid, "the command runs below the script's shell, which would leave it behind"


def test_sft_differs_from_dft_in_the_objective_and_in_where_it_writes():
    (dft,), (sft,) = commands_of("train_dft.sh"), commands_of("train_sft.sh")
    names = ("trainer.default_local_dir", "trainer.experiment_name")
    changed = {name for name in flags(sft) if flags(sft)[name] != flags(dft).get(name)}
    assert changed == {"objective.name", *names}
    assert flags(sft)["objective.name"] == "sft"


def test_lora_has_the_rank_and_alpha_of_the_paper():
    (command,) = commands_of("train_lora.sh")
    assert flags(command)["model.lora_rank"] == "8" and flags(command)["model.lora_alpha"] == "16"


def test_the_users_flags_come_last_and_win():
    (command,) = commands_of("train_sft.sh", "optim.lr=1e-6", "objective.name=asft")
    assert command[-2:] == ["optim.lr=1e-6", "objective.name=asft"]


def test_reproducing_the_paper_trains_each_model_twice_at_its_learning_rate_under_its_prompt(tmp_path):
    commands = commands_of("reproduce_paper.sh", TRAIN=str(PROJECT / "README.md"))  # some file: the data is there
    assert [command[1].rsplit("/", 1)[-1] for command in commands if command[0] == "python"].count("summary.py") == 5
    trainings = [flags(command) for command in commands if command[0] == "torchrun"]
    seen = {
        (f["model.partial_pretrain"].split("/")[1], f.get("objective.name", "dft")): (
            f["optim.lr"],
            f.get("data.chat_template"),
        )
        for f in trainings
    }
    llama, deepseek = "llama-base-boxed", "deepseek-math"
    assert len(trainings) == 10 and seen == {
        (model, objective): how
        for model, how in {
            "Llama-3.2-3B": ("5e-5", llama),
            "Llama-3.1-8B": ("2e-5", llama),
            "deepseek-math-7b-base": ("5e-5", deepseek),
            "Qwen2.5-Math-1.5B": ("5e-5", None),
            "Qwen2.5-Math-7B": ("5e-5", None),
        }.items()
        for objective in ("sft", "dft")
    }
    scored = [command for command in commands if "verl.math_eval" in command]
    assert len(scored) == 15 and all("--grader" in command for command in scored)


def test_reproducing_some_models_names_the_ones_it_knows():
    some = commands_of("reproduce_paper.sh", MODELS="llama-3.2-3b", MODEL_DIR="/models")
    assert {flags(c)["model.partial_pretrain"] for c in some if c[0] == "torchrun"} == {"/models/Llama-3.2-3B"}
    with pytest.raises(ValueError, match="no model llama-4.*qwen2.5-math-7b"):
        commands_of("reproduce_paper.sh", MODELS="llama-4")


def test_a_finished_training_is_not_repeated(tmp_path):
    for objective in ("sft", "dft"):
        done = tmp_path / "checkpoints" / "paper" / f"llama-3.2-3b-{objective}"
        done.mkdir(parents=True)
        (done / "finished").touch()
    script = f"cd '{tmp_path}' && bash '{PROJECT}/sh/reproduce_paper.sh'"
    out = subprocess.run(
        ["bash", "-c", script], env={"DRY_RUN": "1", "MODELS": "llama-3.2-3b", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0 and "verl.math_eval" in out.stdout and "torchrun" not in out.stdout
