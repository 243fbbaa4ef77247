"""What the checks say on a GPU machine; the GPU is only pretended, and nothing is loaded."""

import importlib.metadata
import sys
from types import ModuleType

import pytest
import torch
from verl.plugin.platform import PlatformRegistry
from verl.utils.device import get_device_name

from verl.dft.model import attention, platform
from verl.trainer.fsdp_dft_trainer import settings
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config, package_problem

MINIMAL = ["data.train_files=hdfs://a.parquet", "model.partial_pretrain=org/name"]
LIGER = "model.use_liger=True"


@pytest.fixture(autouse=True)
def this_machines_platform_is_known() -> None:
    """verl finds it once per process, which must not happen while a GPU is pretended."""
    get_device_name()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(settings, "get_device_name", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    install(monkeypatch, "liger-kernel", "liger_kernel", "0.8.5")
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", ModuleType("liger_kernel.transformers"))


def install(monkeypatch, package: str, module: str, version: str) -> None:
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else known(name))
    monkeypatch.setitem(sys.modules, module, ModuleType(module))


def completed(*flags: str):
    return complete_config(compose_config([*MINIMAL, *flags]), Launch(), say=lambda text: None)


def refusal(*flags: str) -> str:
    with pytest.raises(ValueError) as error:
        completed(*flags)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("gpu")
def test_liger_is_refused_with_selective_checkpointing_and_only_with_it():
    assert "rotate them twice" in refusal(LIGER, "model.activation_checkpointing=selective")
    for kind in ("full", "off"):
        assert completed(LIGER, f"model.activation_checkpointing={kind}").model.use_liger
    assert not completed("model.activation_checkpointing=selective").model.use_liger


@pytest.mark.usefixtures("gpu")
def test_a_missing_liger_gets_the_command_that_installs_it(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "liger-kernel is not installed. pip install -r requirements-gpu.txt" in refusal(LIGER)


@pytest.mark.usefixtures("gpu")
def test_float16_does_without_the_fused_optimizer():
    assert completed().optim.override_optimizer_config == {"fused": True}
    assert not completed("engine.dtype=float16").optim.override_optimizer_config
    assert "float16" in refusal("engine.dtype=float16", "optim.override_optimizer_config.fused=True")


@pytest.mark.usefixtures("gpu")
def test_flash_attention_is_taken_only_on_request_and_if_it_loads(monkeypatch):
    asked = "model.override_config.attn_implementation=flash_attention_2"
    install(monkeypatch, "flash-attn", "flash_attn", "2.8.3")
    assert completed().model.override_config.attn_implementation == attention.NAME
    assert completed(asked).model.override_config.attn_implementation == "flash_attention_2"
    install(monkeypatch, "flash-attn", "flash_attn", "4.0.0")
    assert "its version is 4.0.0" in refusal(asked)


def test_a_package_that_is_found_and_does_not_load_is_told(monkeypatch, tmp_path):
    (tmp_path / "of_another_abi.py").write_text("raise ImportError('undefined symbol: _ZN3c10\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.8.3")
    problem = package_problem("flash-attn", "of_another_abi", "2.")
    assert problem == "flash-attn 2.8.3 does not load (ImportError: undefined symbol: _ZN3c10)"


def test_a_gpu_without_nvidia_smi_is_not_passed_over(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    cpu = PlatformRegistry.get(platform.PLATFORM_NAME)()
    assert cpu.is_platform_available(use_smi_check=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not cpu.is_platform_available(use_smi_check=True)


def test_a_gpu_that_torch_cannot_use_is_one_line_and_no_run_on_the_cpu(monkeypatch):
    monkeypatch.setattr(platform, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA" in refusal()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is empty" in refusal()
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert completed().trainer.device == "cpu"


def test_nvidia_smi_without_usable_cuda_is_one_line(monkeypatch):
    monkeypatch.setattr(settings, "get_device_name", lambda: "cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "expected a GPU, for nvidia-smi is there; found that torch sees no GPU" in refusal()
