"""The overlay adds packages to verl and changes nothing else."""

import importlib.metadata
from pathlib import Path

import pytest
import torch
from verl.plugin.platform import PlatformRegistry, get_platform

import verl
from verl.dft.model.platform import PlatformCPU

PROJECT = Path(__file__).parents[3]


def test_no_file_of_ours_belongs_to_verl():
    theirs = {str(path) for path in importlib.metadata.files("verl") or ()}
    ours = {str(path.relative_to(PROJECT)) for path in (PROJECT / "verl").rglob("*.py")}
    assert theirs and not theirs & ours
    for package in ("verl", "verl/trainer"):
        assert not (PROJECT / package / "__init__.py").exists()


def test_the_installed_verl_is_the_pinned_one_and_not_ours():
    assert verl.__version__ == importlib.metadata.version("verl") == "0.9.1"
    assert PROJECT / "verl" not in Path(verl.__file__).parents


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_an_accelerator_verl_runs_on_the_cpu():
    assert get_platform().device_name == "cpu"


def test_with_an_accelerator_the_cpu_platform_steps_back(monkeypatch):
    nvidia = PlatformRegistry.get("nvidia")
    monkeypatch.setattr(nvidia, "is_platform_available", lambda self, use_smi_check=False: True)
    assert not PlatformCPU().is_platform_available(use_smi_check=True)
    from verl.plugin.platform import platform_manager

    assert platform_manager._detect_platform_name() == "nvidia"
