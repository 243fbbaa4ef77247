"""Nothing that is read, be it data, a checkpoint, a model's folder or a model's answer, is run as a program."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoConfig

from tiny_model import save_tiny_model
from verl.dft import diagnose
from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.inputs import model_and_prompts
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config

PROJECT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("verl", "examples") for path in (PROJECT / folder).rglob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"importlib.import_module", "load_extern_object", "exec_module", "runpy.run_path", "torch.load"}
METHODS = {"compile", "eval"}  # harmless as methods: re.compile, model.eval
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FLAGS = {"shell", "trust_remote_code", "allow_pickle"}  # set to True, or to what we cannot see
# What runs code that the user named or allowed on the command line, or that settings.py names: that is its purpose.
ALLOWED = {
    ("verl/dft/loss/objectives.py", "exec_module"): "objective.path",
    ("verl/trainer/fsdp_dft_trainer/trainer.py", "load_extern_object"): "data.custom_cls.path",
    ("verl/dft/model/loading.py", "trust_remote_code"): "model.trust_remote_code",
    ("verl/trainer/fsdp_dft_trainer/settings.py", "importlib.import_module"): "whether flash-attn and Liger load",
}


def executions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called if called in CALLS else called.rsplit(".", 1)[-1]
            if name in CALLS and (name == called or name not in METHODS):
                yield name
            for flag in node.keywords:
                if flag.arg in FLAGS and not (isinstance(flag.value, ast.Constant) and flag.value.value is False):
                    yield flag.arg


@pytest.mark.parametrize(
    "source, found",
    [
        ("eval(x)", ["eval"]),
        ("model.eval(); re.compile(x); layer.compile()", []),
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("torch.load(x, weights_only=False)", ["torch.load"]),
        ("np.load(x, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(x)", []),
        ("subprocess.run(x, shell=True)", ["shell"]),
        ("AutoConfig.from_pretrained(x, trust_remote_code=options.trust)", ["trust_remote_code"]),
        ("spec.loader.exec_module(m)", ["exec_module"]),
    ],
)
def test_the_search_finds_what_it_should(source, found):
    assert list(executions(source)) == found


def test_no_source_runs_or_unpickles_what_it_reads():
    found = {(str(path.relative_to(PROJECT)), name) for path in SOURCES for name in executions(path.read_text())}
    assert found == set(ALLOWED)


@pytest.fixture
def hostile_model(tmp_path) -> tuple[Path, Path]:
    """A model's folder that asks for programs of its own, and the file that they would leave."""
    folder, mark = save_tiny_model(tmp_path / "model"), tmp_path / "was run"
    config, tokenizer = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    config["auto_map"] = {"AutoConfig": "hostile.C", "AutoModelForCausalLM": "hostile.M"}
    config["model_type"] = "hostile"
    tokenizer["auto_map"] = {"AutoTokenizer": ["hostile.T", "hostile.T"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "hostile.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: ...\nclass M: ...\nclass T: ...\n")
    return folder, mark


def test_the_hostile_model_would_run_if_it_were_trusted(hostile_model):
    folder, mark = hostile_model
    with pytest.raises(Exception):  # noqa: B017, its classes are none
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_the_trainer_runs_no_code_of_a_models_folder(hostile_model, parquet_files):
    folder, mark = hostile_model
    flags = [f"data.train_files={parquet_files[0]}", f"model.partial_pretrain={folder}"]
    config = compose_config(flags)
    assert config.model.trust_remote_code is False
    with pytest.raises(ValueError, match=r"expected a model and its tokenizer in model.partial_pretrain"):
        model_and_prompts(complete_config(config, Launch(), say=lambda text: None))
    assert not mark.exists()


def test_diagnosis_and_evaluation_run_no_code_of_a_models_folder(hostile_model):
    folder, mark = hostile_model
    with pytest.raises(ValueError):
        diagnose.load(str(folder), "cpu")
    with pytest.raises(ValueError):
        TransformersBackend(str(folder))
    assert not mark.exists()
