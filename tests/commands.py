"""Whether a command line, as printed by a script or written in a page, would be understood: every file and module that
it names exists, and every flag and option of ours parses. Nothing is trained, generated or downloaded.
"""

import argparse
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig
from torch.distributed.run import get_args_parser

from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.recipe import training_objective

PROJECT = Path(__file__).parents[1]
TRAINER = "verl.trainer.fsdp_dft_trainer"
RL_TRAINER = "verl.trainer.main_ppo"  # of verl
SWITCHES = ("--help", "--cfg", "--dry_run")  # of the trainer, beside its flags
ASSIGNMENT = re.compile(r"[A-Z_]+=")
# Commands that are not ours; what they do with their arguments is not looked at.
ELSEWHERE = ("scripts/bench_trl.py",)  # runs in an environment of its own, with packages that this one has not
FOREIGN = ("cd", "git", "mkdir", "rm", "touch", "vllm", "export")


class _Reached(Exception):
    """A command got as far as reading its command line."""


def check_command(words: list[str]) -> None:
    """Raise ValueError, FileNotFoundError or AssertionError for a command that would not be understood."""
    words = list(words)
    while words and ASSIGNMENT.match(words[0]):
        words.pop(0)
    program, *rest = words
    if rest[:2] == ["-m", f"{TRAINER}.torchrun"]:
        check_command(["torchrun", *rest[2:]])
    elif program in ("srun", "sbatch"):  # Slurm's own options, and then a command
        starts = [i for i, word in enumerate(rest) if word in ("bash", "python", "torchrun")]
        check_command(rest[starts[0] :] if starts else shlex.split(rest[rest.index("--wrap") + 1]))
    elif program == "torchrun":
        options = get_args_parser().parse_args(rest)
        assert options.module and options.training_script == TRAINER, f"torchrun starts {options.training_script}"
        check_trainer_flags(options.training_script_args)
    elif program == "python" and rest[0] == "-m":
        _check_module(rest[1], rest[2:])
    elif program == "python" and rest[0] in ELSEWHERE:
        _existing(rest[0])
    elif program == "python":
        check_options(main_of_file(_existing(rest[0])), rest[1:])
    elif program == "bash":
        _check_script(_existing(rest[0]), rest[1:])
    elif program == "source":
        assert re.fullmatch(r"\.venv(-vllm)?/bin/activate", rest[0]), rest
    elif program == "pip":
        for file in [after for before, after in zip(rest, rest[1:], strict=False) if before == "-r"]:
            _existing(file)
    else:
        assert program in FOREIGN, f"{program} is no command that this project's pages and scripts use"


def check_trainer_flags(flags: list[str]) -> None:
    config = compose_config([flag for flag in flags if flag not in SWITCHES])
    if not config.objective.path:  # else a file of the reader's own
        training_objective(config)


def compose_rl_config(flags: list[str]) -> DictConfig:
    """verl's configuration with ``flags``. Raises ValueError for one that verl does not have."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        try:
            return compose("ppo_trainer", flags)
        except HydraException as error:
            raise ValueError(str(error)) from error


def check_options(main: Callable[..., object], words: list[str]) -> None:
    """Raise ValueError unless the parser that ``main`` makes understands ``words``."""
    parser, given = parser_of(main, words)

    def refuse(message: str) -> None:
        raise ValueError(f"{parser.prog}: {message}; the command has {' '.join(words)}")

    with mock.patch.object(parser, "error", refuse):
        parser.parse_args(given)


def parser_of(main: Callable[..., object], words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser that ``main`` reads its command line with, and what it hands to it."""

    def caught(parser: argparse.ArgumentParser, arguments: list[str] | None = None, namespace: object = None) -> None:
        raise _Reached(parser, sys.argv[1:] if arguments is None else list(arguments))

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", caught),
        mock.patch.object(sys, "argv", ["program", *words]),
    ):
        try:
            main(*([words] if inspect.signature(main).parameters else []))
        except _Reached as reached:
            parser, given = reached.args
            return parser, given
    raise AssertionError(f"{main.__module__} never read its command line")


def main_of_module(name: str) -> Callable[..., object]:
    """``main`` of what ``python -m name`` runs."""
    has_main = importlib.util.find_spec(f"{name}.__main__") if _is_package(name) else None
    return importlib.import_module(f"{name}.__main__" if has_main else name).main


def main_of_file(path: Path) -> Callable[..., object]:
    """``main`` of a script."""
    return module_of_file(path).main


def lines_of_dry_run(script: Path, words: list[str], **environment: str) -> list[list[str]]:
    """The commands that ``script`` prints with DRY_RUN=1, each split into words; what begins with "[" is progress."""
    done = subprocess.run(
        ["bash", str(script), *words],
        env={**os.environ, "DRY_RUN": "1", "NPROC": "2", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise ValueError(f"{script.name} {' '.join(words)}: status {done.returncode}; {done.stderr.strip()}")
    return [shlex.split(line) for line in done.stdout.splitlines() if line and not line.startswith("[")]


def _check_module(name: str, words: list[str]) -> None:
    if name == TRAINER:
        check_trainer_flags(words)
    elif name == RL_TRAINER:
        compose_rl_config(words)
    else:
        check_options(main_of_module(name), words)


def _check_script(script: Path, words: list[str]) -> None:
    if script.parent.name == "sh":  # those of scripts/ do things at once, and take no options of ours
        for command in lines_of_dry_run(script, words, STUDY_SCALE="smoke"):  # in full, 250 commands of the same kinds
            check_command(command)


def _existing(name: str) -> Path:
    path = PROJECT / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {name}")
    return path


def module_of_file(path: Path) -> ModuleType:
    """A script as a module, loaded once."""
    name = f"{path.parent.name}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    # A script sees the files beside it, whoever imports it.
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


def _is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise FileNotFoundError(f"no module {name}")
    return spec.submodule_search_locations is not None
