"""The command line: the paper's, the original's flags, verl's names, and mistakes."""

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from verl.trainer.fsdp_dft_trainer.command_line import REFUSED, alias_pairs, compose_config, help_text
from verl.trainer.fsdp_dft_trainer.recipe import training_objective
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config

# The README of the original repository, section "Launch Training", as the shell hands it over.
PAPER = r"""
data.train_files=data/numina_cot/train.parquet
data.val_files=data/math500/test.parquet
data.prompt_key=extra_info
data.response_key=extra_info
data.train_batch_size=256
data.max_length=2048
optim.lr=5e-5
data.prompt_dict_keys=[question]
data.response_dict_keys=[answer]
data.micro_batch_size_per_gpu=4
model.partial_pretrain=Qwen/Qwen2.5-Math-1.5B
model.use_liger=True
model.fsdp_config.model_dtype=bf16
trainer.default_local_dir=checkpoints/numina-cot-dft-qwen-2.5-math-1.5b
trainer.project_name=numina-cot
trainer.experiment_name=numina-cot-dft-qwen-2.5-math-1.5b-20250823-120000
trainer.logger=[console,tensorboard]
trainer.default_hdfs_dir=null
trainer.test_freq=10
trainer.save_freq=50
trainer.total_epochs=1
ulysses_sequence_parallel_size=1
use_remove_padding=true
"""
PAPER_FLAGS = PAPER.split()

# Where each flag of the paper's command must arrive in the configuration that verl's engine reads.
PAPER_RECIPE = {
    "data.train_files": ["data/numina_cot/train.parquet"],
    "data.val_files": ["data/math500/test.parquet"],
    "data.prompt_key": "extra_info",
    "data.response_key": "extra_info",
    "data.prompt_dict_keys": ["question"],
    "data.response_dict_keys": ["answer"],
    "data.train_batch_size": 256,
    "data.micro_batch_size_per_gpu": 4,
    "data.use_dynamic_bsz": False,
    "data.max_length": 2048,
    "data.truncation": "right",
    "objective.name": "dft",
    "optim.lr": 5e-5,
    "optim.betas": [0.9, 0.95],
    "optim.weight_decay": 0.01,
    "optim.lr_warmup_steps_ratio": 0.1,
    "optim.lr_scheduler_type": "cosine",
    "optim.clip_grad": 1.0,
    "optim.optimizer": "AdamW",
    "model.path": "Qwen/Qwen2.5-Math-1.5B",
    "model.use_remove_padding": True,
    "model.enable_gradient_checkpointing": True,
    "engine.strategy": "fsdp2",
    "engine.model_dtype": "bf16",
    "engine.ulysses_sequence_parallel_size": 1,
    "trainer.default_local_dir": "checkpoints/numina-cot-dft-qwen-2.5-math-1.5b",
    "trainer.default_hdfs_dir": None,
    "trainer.project_name": "numina-cot",
    "trainer.logger": ["console", "tensorboard"],
    "trainer.test_freq": 10,
    "trainer.save_freq": 50,
    "trainer.total_epochs": 1,
    "trainer.total_training_steps": None,
}

# Every flag of the original's sft_trainer.yaml with a value other than our default.
ORIGINAL_FLAGS = {
    "data.train_batch_size": 64,
    "data.micro_batch_size_per_gpu": 2,
    "data.train_files": "a.parquet",
    "data.val_files": "b.parquet",
    "data.prompt_key": "p",
    "data.response_key": "r",
    "data.prompt_dict_keys": ["x"],
    "data.response_dict_keys": ["y"],
    "data.multiturn.enable": True,
    "data.multiturn.messages_key": "m",
    "data.multiturn.tools_key": "t",
    "data.multiturn.enable_thinking_key": "e",
    "data.max_length": 1024,
    "data.truncation": "left",
    "data.balance_dp_token": True,
    "data.chat_template": "llama-base-boxed",
    "data.custom_cls.path": "mine.py",
    "data.custom_cls.name": "Mine",
    "data.use_shm": True,
    "model.partial_pretrain": "org/name",
    "model.use_shm": True,
    "model.fsdp_config.model_dtype": "bf16",
    "model.fsdp_config.wrap_policy.min_num_params": 100,
    "model.fsdp_config.cpu_offload": True,
    "model.fsdp_config.offload_params": True,
    "model.external_lib": "some.module",
    "model.enable_gradient_checkpointing": False,
    "model.trust_remote_code": True,
    "model.lora_rank": 8,
    "model.lora_alpha": 32,
    "model.target_modules": ["q_proj"],
    "model.use_liger": True,
    "model.strategy": "fsdp",
    "optim.lr": 1e-5,
    "optim.betas": [0.9, 0.99],
    "optim.weight_decay": 0.1,
    "optim.warmup_steps_ratio": 0.05,
    "optim.clip_grad": 0.5,
    "optim.lr_scheduler": "wsd",
    "ulysses_sequence_parallel_size": 2,
    "use_remove_padding": False,
    "trainer.default_local_dir": "out",
    "trainer.default_hdfs_dir": "hdfs://x",
    "trainer.resume_path": "out/global_step_3",
    "trainer.project_name": "project",
    "trainer.experiment_name": "experiment",
    "trainer.total_epochs": 4,
    "trainer.total_training_steps": 7,
    "trainer.logger": ["console"],
    "trainer.seed": 3,
    "trainer.save_freq": 5,
    "trainer.test_freq": 6,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "trainer.max_ckpt_to_keep": 2,
}

MINIMAL = ["data.train_files=a.parquet", "model.partial_pretrain=org/name"]


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    """The data files that the flags here name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame([{"question": "q", "answer": "a", "extra_info": {"question": "q", "answer": "a"}}])
    for name in ("a", "b", "data/numina_cot/train", "data/math500/test"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(tmp_path / f"{name}.parquet")


def plain(config, key):
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_the_papers_command_line_is_the_papers_recipe():
    config = complete_config(compose_config(PAPER_FLAGS), Launch(), say=lambda text: None)
    assert {key: plain(config, key) for key in PAPER_RECIPE} == PAPER_RECIPE
    seen = {*PAPER_RECIPE, *alias_pairs().values(), "trainer.experiment_name", "model.use_liger"}
    assert {flag.split("=")[0] for flag in PAPER_FLAGS} <= seen


def test_the_defaults_are_the_papers_recipe():
    config = complete_config(compose_config(MINIMAL), Launch(), say=lambda text: None)
    asked = ("optim.", "objective.", "data.train_batch", "data.max_length", "data.truncation", "trainer.total_epochs")
    for key, value in PAPER_RECIPE.items():
        if key.startswith(asked):
            assert plain(config, key) == value, key


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_what_the_machine_cannot_honour_is_said_once():
    said = []
    flags = ["model.use_liger=True", "model.strategy=fsdp", "model.fsdp_config.wrap_policy.min_num_params=9"]
    config = complete_config(compose_config([*MINIMAL, *flags]), Launch(), say=said.append)
    assert config.model.use_liger is False and config.engine.strategy == "fsdp2"
    assert said == [
        "model.use_liger=True needs a GPU; training goes on without it.",
        "model.strategy=fsdp needs a GPU; training goes on with fsdp2, which computes the same and shards "
        "by layer, without min_num_params.",
    ]


@pytest.mark.parametrize("flag", ORIGINAL_FLAGS)
def test_every_flag_of_the_original_reaches_the_configuration(flag):
    value = ORIGINAL_FLAGS[flag]
    text = str(value).replace("'", "").replace(" ", "") if isinstance(value, list) else value
    config = compose_config([f"{flag}={text}"])
    assert plain(config, flag) == value
    for name, other in alias_pairs().items():
        if other == flag:
            assert plain(config, name) == value, f"{name} does not follow {flag}"


@pytest.mark.parametrize("name, other", alias_pairs().items())
def test_two_names_of_one_setting_must_agree(name, other):
    first, second = ("fsdp", "fsdp2") if name == "engine.strategy" else ("1", "2")
    compose_config([f"{name}={first}", f"{other}={first}"])
    with pytest.raises(ValueError) as error:
        compose_config([f"{name}={first}", f"{other}={second}"])
    assert f"{other}={second}" in str(error.value) and f"{name}={first}" in str(error.value)


def test_verls_own_names_work():
    config = compose_config(
        [
            "model.path=org/name",
            "data.train_files=[a.parquet,b.parquet]",
            "engine.fsdp_size=2",
            "optim.lr_warmup_steps_ratio=0.3",
            "engine.forward_prefetch=true",
            "checkpoint.save_contents=[model,optimizer,extra]",
            "+model.override_config.attn_implementation=eager",
        ]
    )
    config = complete_config(config, Launch(), say=lambda text: None)
    assert config.model.path == "org/name" and config.optim.lr_warmup_steps_ratio == 0.3
    assert config.engine.forward_prefetch is True and config.model.override_config.attn_implementation == "eager"
    assert list(config.data.train_files) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["optim.learning_rate=1"], "unknown flag optim.learning_rate"),
        (["prompt_key=question"], "unknown flag prompt_key. Did you mean data.prompt_key"),
        ([" "], "expected flags of the form name=value"),
        (["data.train_batch_size"], "expected flags of the form name=value"),
        (["~optim.lr"], "settings cannot be removed"),
        ([], "expected data.train_files=..., found nothing"),
        (MINIMAL[:1], "expected model.partial_pretrain=..., found nothing"),
        ([*MINIMAL, "data.val_files=none.parquet"], "data.val_files: expected a data file, found nothing"),
        ([*MINIMAL, "data.prompt_key=prompt"], "expected the column prompt in a.parquet; found question, answer"),
        (
            [*MINIMAL, "objective.name=dtf"],
            "threshold, trim, or a function of the file objective.path=...; found 'dtf'",
        ),
        ([*MINIMAL, "objective.flor=0.1"], "has the options floor, mix, power; found flor"),
        ([*MINIMAL, "objective.floor=2"], "objective.floor to be in [0, 1]; found 2"),
        ([*MINIMAL, "objective.full_weight_tokens=all"], "full_weight_tokens to be eos or null; found 'all'"),
        ([*MINIMAL, "objective.label_smoothing=0.1"], "label_smoothing is not supported"),
        ([*MINIMAL, "objective.path=none.py"], "objective.path=none.py is not a file"),
        ([*MINIMAL, "model.activation_checkpointing=some"], "full, selective, off; found 'some'"),
        (
            [*MINIMAL, "model.activation_checkpointing=full", "model.enable_gradient_checkpointing=False"],
            "contradicts model.enable_gradient_checkpointing=False",
        ),
        ([*MINIMAL, "data.train_batch_size=6", "data.micro_batch_size_per_gpu=4"], "to divide the 6 rows"),
        (
            [*MINIMAL, "data.micro_batch_size_per_gpu=4", "data.use_dynamic_bsz=true"],
            "contradicts data.use_dynamic_bsz",
        ),
        ([*MINIMAL, "data.max_token_len_per_gpu=1024"], "to hold a row of data.max_length=2048"),
        ([*MINIMAL, "data.balance_dp_token=False"], "a mean per rank"),
        ([*MINIMAL, "model.strategy=ddp"], "fsdp or fsdp2; found 'ddp'"),
        ([*MINIMAL, "optim.learning_rate=1e-5"], "unknown flag optim.learning_rate. Did you mean optim.lr?"),
        ([*MINIMAL, "optim.clip_grad=-1"], "0 (no clipping) or more; found -1"),
        ([*MINIMAL, "trainer.logger=[console,tensorbord]"], "found 'tensorbord'"),
        ([*MINIMAL, "trainer.logger=[swanlab]"], "pip install swanlab"),
        ([*MINIMAL, "optim.lr_scheduler=polynomial"], "one of cosine, constant, wsd, linear; found 'polynomial'"),
        ([*MINIMAL, "model.fsdp_config.model_dtype=fp8"], "found 'fp8'"),
        ([*MINIMAL, "trainer.n_gpus_per_node=8"], "torchrun started 1"),
        ([*MINIMAL, "trainer.device=cuda"], "this machine offers cpu"),
        ([*MINIMAL, "model.fsdp_config.offload_params=True"], "contradicts cpu_offload=False"),
        ([*MINIMAL, "model.partial_pretrain=/no/such/model"], "found no folder model.partial_pretrain=/no/such/model"),
    ],
)
def test_mistakes_get_one_sentence(flags, message):
    with pytest.raises(ValueError) as error:
        complete_config(compose_config(flags), Launch(), say=lambda text: None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", REFUSED)
def test_refused_flags_name_the_replacement(flag):
    with pytest.raises(ValueError, match=f"{flag} is not supported by this trainer: "):
        compose_config([f"{flag}=1"])


@pytest.mark.parametrize(
    "flags, kind",
    [
        ([], "full"),
        (["model.enable_gradient_checkpointing=False"], "off"),
        (["model.activation_checkpointing=off"], "off"),
        (["model.activation_checkpointing=selective"], "selective"),
    ],
)
def test_checkpointing_has_one_setting_under_two_names(flags, kind):
    config = complete_config(compose_config([*MINIMAL, *flags]), Launch(), say=lambda text: None)
    assert config.model.activation_checkpointing == kind


def test_options_of_an_objective_need_no_plus():
    config = complete_config(
        compose_config([*MINIMAL, "objective.floor=0.1", "objective.full_weight_tokens=eos"]), Launch()
    )
    made = training_objective(config)
    assert dict(made.options) == {"floor": 0.1} and made.full_weight


def test_the_batch_must_divide_by_the_ranks():
    with pytest.raises(ValueError, match="a multiple of the 3 data-parallel ranks; found 256"):
        complete_config(compose_config(MINIMAL), Launch(3, 3), say=lambda text: None)


@pytest.mark.parametrize(
    "flag, message",
    [("model.override_config.attn_implementation=sdpa", "silently changes"), ("use_remove_padding=false", "packed")],
)
def test_sequence_parallelism_that_would_not_be_exact_is_refused(flag, message):
    flags = [*MINIMAL, "ulysses_sequence_parallel_size=2"]
    complete_config(compose_config(flags), Launch(2, 2), say=lambda text: None)
    with pytest.raises(ValueError, match=message):
        complete_config(compose_config([*flags, flag]), Launch(2, 2), say=lambda text: None)


def test_a_checkpoint_folder_given_as_model_is_its_exported_model(tmp_path):
    (tmp_path / "global_step_5" / "huggingface").mkdir(parents=True)
    (tmp_path / "global_step_5" / "huggingface" / "config.json").write_text("{}")
    flags = ["data.train_files=hdfs://a.parquet", f"model.partial_pretrain={tmp_path}/global_step_5"]
    config = complete_config(compose_config(flags), Launch(), say=lambda text: None)
    assert config.model.path == str(tmp_path / "global_step_5" / "huggingface")


def test_help_says_what_our_flags_mean_first_and_lists_verls_other_flags_as_they_are_typed():
    text = help_text()
    ours, rest = text.split("verl's other flags")
    assert ours.index("objective:") < ours.index("data:") and "# rows of one optimizer step, over all ranks" in ours
    assert "defaults:" not in ours and "hydra" not in text and "_target_" not in rest
    listed = [line.split("=")[0] for line in rest.splitlines() if "=" in line]
    assert "model.lora_rank" in listed and "optim.lr" not in listed
    assert not [flag for flag in listed if any(flag == name or flag.startswith(f"{name}.") for name in REFUSED)]
    for flag in listed:
        compose_config([f"{flag}=null"])
