"""What the study trains: conditions of the data, arms (objectives and settings), bases; one Run per model.

A seed is a world of its own: other questions, other initial weights, another order of the rows. Runs of one seed and
one strength of base start from the same model and are scored on the same questions, so arms are compared seed by seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BATCH = 32
BASE_LR, LR = 6e-3, 1e-3
MAX_LENGTH, MAX_NEW_TOKENS = 256, 64
UNSEEN_END = "<|system|>"  # a special token that no training row has: what "<|im_end|>" is to many base models

# Options of examples/data_preprocess/arithmetic.py. "wrong" demonstrations have one slip that spoils the answer. The
# bases know all three ways of writing and none of the badly written ones.
CONDITIONS = {
    "clean": ("--noise=0", "--ways=1"),
    "wrong10": ("--noise=0.1", "--bad=wrong", "--ways=1"),
    "wrong30": ("--noise=0.3", "--bad=wrong", "--ways=1"),
    "wrong50": ("--noise=0.5", "--bad=wrong", "--ways=1"),
    "styles": ("--noise=0", "--ways=3"),
    "unfamiliar": ("--noise=0.5", "--bad=badly_written", "--ways=1"),
}
BF16 = "model.fsdp_config.model_dtype=bf16"
ARMS = {
    "sft": ("objective.name=sft",),
    "dft": ("objective.name=dft",),
    "mix": ("objective.name=dft", "objective.mix=0.5"),
    "threshold": ("objective.name=threshold",),
    "eaft": ("objective.name=eaft",),
    "asft": ("objective.name=asft",),
}
STOP_ARMS = {
    "sft": ARMS["sft"],
    "dft": ARMS["dft"],
    "dft_eos": ("objective.name=dft", "objective.full_weight_tokens=eos"),
    "dft_floor": ("objective.name=dft", "objective.floor=0.1"),
}
PRECISION_ARMS = {
    f"{dtype} {lr}": ("objective.name=dft", f"optim.lr={lr}", *flags)
    for lr in ("5e-5", "5e-6")
    for dtype, flags in (("fp32", ()), ("bf16", (BF16,)))
}


@dataclass(frozen=True)
class Scale:
    """How much of everything. base_steps: of BATCH rows, ascending; 0 is untrained, the last is the full base.

    steps: of a fine-tuning. other_arms_in: the conditions in which the arms beside sft and dft are trained.
    """

    seeds: int
    base_steps: tuple[int, ...]
    rows: int
    steps: int
    questions: int
    samples: int
    few_samples: int  # where avg is enough
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    other_arms_in: tuple[str, ...] = ("clean", "wrong30", "unfamiliar")

    @property
    def full_base(self) -> int:
        return self.base_steps[-1]


SCALES = {
    "full": Scale(
        seeds=3, base_steps=(0, 60, 200, 625), rows=4800, steps=100, questions=200, samples=16, few_samples=4
    ),
    "smoke": Scale(
        seeds=1,
        base_steps=(0, 2),
        rows=64,
        steps=2,
        questions=4,
        samples=2,
        few_samples=2,
        conditions=("clean",),
        other_arms_in=(),
    ),
}


@dataclass(frozen=True)
class Run:
    """One model: fine-tuned on ``condition`` as ``arm`` says, or, where the arm is "base", a base model itself.

    part: base, objectives, forecast, stop or precision. samples: at temperature 1, per question.
    """

    part: str
    condition: str
    arm: str
    base_steps: int
    seed: int
    samples: int
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Also its folder."""
        what = f"{self.base_steps}" if self.part == "base" else f"{self.condition}-{self.arm}-from-{self.base_steps}"
        return f"{self.part}/{what}-seed{self.seed}".replace(" ", "-")

    def start(self, out: Path) -> Path:
        """The Hugging Face folder that training starts from."""
        if self.part == "stop":
            return out / f"unseen_end/seed{self.seed}"
        return start_folder(out, 0 if self.part == "base" else self.base_steps, self.seed)

    def data(self, out: Path) -> Path:
        return out / f"data/{self.condition}-seed{self.seed}"


def base_run(scale: Scale, steps: int, seed: int) -> Run:
    samples = scale.samples if steps == scale.full_base else scale.few_samples
    return Run("base", "base", "base", steps, seed, samples, ("objective.name=sft",))


def start_folder(out: Path, base_steps: int, seed: int) -> Path:
    if base_steps == 0:
        return out / f"untrained/seed{seed}"
    return out / f"base/{base_steps}-seed{seed}/global_step_{base_steps}/huggingface"


def base_runs(scale: Scale) -> list[Run]:
    """The longest first."""
    return [base_run(scale, steps, seed) for steps in reversed(scale.base_steps) for seed in range(scale.seeds)]


def fine_tunings(scale: Scale) -> list[Run]:
    """Every run that starts from a base; what matters most comes first, all seeds of a cell together."""
    return [run for cell in _cells(scale) for run in cell]


def _cells(scale: Scale) -> Iterator[list[Run]]:
    def cell(part: str, condition: str, arm: str, steps: int, samples: int, flags: tuple[str, ...]) -> list[Run]:
        return [Run(part, condition, arm, steps, seed, samples, flags) for seed in range(scale.seeds)]

    full, few = scale.full_base, scale.few_samples
    first = [condition for condition in scale.conditions if condition in scale.other_arms_in]
    rest = [condition for condition in scale.conditions if condition not in first]
    for condition in first:
        for arm in ("sft", "dft"):
            yield cell("objectives", condition, arm, full, scale.samples, ARMS[arm])
    for arm, flags in STOP_ARMS.items():
        yield cell("stop", "clean", arm, full, few, flags)
    for arm, flags in PRECISION_ARMS.items():
        yield cell("precision", "clean", arm, full, few, flags)
    for steps in reversed(scale.base_steps[:-1]):
        for arm in ("sft", "dft"):
            yield cell("forecast", "clean", arm, steps, few, ARMS[arm])
    for condition in rest:
        for arm in ("sft", "dft"):
            yield cell("objectives", condition, arm, full, scale.samples, ARMS[arm])
    for condition in scale.other_arms_in:
        for arm in ARMS:
            if arm not in ("sft", "dft"):
                yield cell("objectives", condition, arm, full, scale.samples, ARMS[arm])


def trainer_flags(run: Run, out: Path, scale: Scale) -> list[str]:
    """What ``python -m verl.trainer.fsdp_dft_trainer`` is given for it."""
    base = run.part == "base"
    flags = [
        f"model.partial_pretrain={run.start(out)}",
        f"data.train_files={run.data(out)}/{'pretrain' if base else 'train'}.parquet",
        f"data.val_files={run.data(out)}/test.parquet",
        "data.prompt_key=extra_info",
        "data.prompt_dict_keys=[question]",
        "data.response_key=extra_info",
        "data.response_dict_keys=[answer]",
        f"data.max_length={MAX_LENGTH}",
        f"data.train_batch_size={BATCH}",
        "model.activation_checkpointing=off",
        "trainer.logger=[tensorboard]",
        f"trainer.default_local_dir={out / run.name}",
        f"trainer.seed={run.seed}",
        f"trainer.total_training_steps={steps_of(run, scale)}",
    ]
    if not any(flag.startswith("optim.lr=") for flag in run.flags):
        flags.append(f"optim.lr={BASE_LR if base else LR}")
    return [*flags, *run.flags]


def steps_of(run: Run, scale: Scale) -> int:
    return run.base_steps if run.part == "base" else scale.steps


def evaluation_command(run: Run, out: Path, scale: Scale) -> list[str]:
    """``python -m verl.math_eval`` with these options scores it."""
    return [
        f"--model_name_or_path={checkpoint(run, out, scale)}",
        f"--output_dir={out / run.name / 'eval'}",
        f"--data_names={run.data(out)}/test.jsonl",
        f"--n_sampling={run.samples}",
        "--temperature=1",
        f"--max_tokens_per_call={MAX_NEW_TOKENS}",
        f"--seed={run.seed}",
        "--with_greedy",
    ]


def checkpoint(run: Run, out: Path, scale: Scale) -> Path:
    if run.part == "base" and run.base_steps == 0:
        return start_folder(out, 0, run.seed)
    return out / run.name / f"global_step_{steps_of(run, scale)}"


def data_options(scale: Scale, condition: str, seed: int, out: Path) -> list[str]:
    """Options of arithmetic.py. "base" is the condition of the bases: only its pretrain.parquet and its test are used.

    The sizes of test and train are the same everywhere, so that all files of a seed hold disjoint questions.
    """
    base = condition == "base"
    return [
        f"--local_dir={out}/data/{condition}-seed{seed}",
        f"--seed={seed}",
        f"--pretrain_size={scale.full_base * BATCH if base else 1}",
        f"--train_size={scale.rows}",
        f"--test_size={scale.questions}",
        *(("--noise=0",) if base else CONDITIONS[condition]),
        "--overwrite",
    ]
