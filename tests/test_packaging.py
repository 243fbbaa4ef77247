"""What is installed: our packages, no file of verl's, and the entry point that registers the CPU platform."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> dict[str, str]:
    """Name -> text of the files of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "setup.cfg", "README.md", *(path.name for path in PROJECT.glob("requirements*.txt"))):
        shutil.copy(PROJECT / name, folder)
    for name in ("verl", "sh", "examples"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", ".", "-w", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


SUFFIXES = (".py", ".yaml", ".html", ".js")


def test_the_wheel_holds_every_module_and_setting_of_ours(wheel_files):
    ours = {str(p.relative_to(PROJECT)) for p in (PROJECT / "verl").rglob("*") if p.suffix in SUFFIXES}
    assert ours == {name for name in wheel_files if name.startswith("verl/")}


def test_the_wheel_leaves_verls_own_packages_alone(wheel_files):
    assert not {"verl/__init__.py", "verl/trainer/__init__.py"} & set(wheel_files)


def test_the_wheel_pins_what_it_was_tested_with(wheel_files):
    metadata = next(text for name, text in wheel_files.items() if name.endswith("METADATA"))
    for pin in ("verl==0.9.1", "torch==2.13.0", "transformers==5.10.4"):
        assert f"Requires-Dist: {pin}" in metadata


def test_the_wheel_names_what_each_extra_needs(wheel_files):
    metadata = next(text for name, text in wheel_files.items() if name.endswith("METADATA"))
    assert all(f"Provides-Extra: {extra}\n" in metadata for extra in ("cpu", "gpu", "vllm", "dev"))
    for needed, extra in (("liger-kernel==0.8.5", "gpu"), ("vllm==0.30.0", "vllm"), ("ruff==", "dev")):
        assert re.search(rf'^Requires-Dist: {needed}.*extra == "{extra}"$', metadata, re.MULTILINE)


def test_the_wheel_brings_the_scripts_that_need_nothing_else(wheel_files):
    brought = {name.partition("/share/verl-dft/")[2] for name in wheel_files if "/share/verl-dft/" in name}
    ours = {
        str(path.relative_to(PROJECT))
        for pattern in ("sh/*.sh", "examples/data_preprocess/*.py", "examples/grpo/*.py")
        for path in PROJECT.glob(pattern)
    }
    assert ours == brought


def test_versions_agree(wheel_files):
    (version,) = {found[1] for name in wheel_files if (found := re.match(r"verl_dft-(.+)\.dist-info/", name))}
    assert f"\nversion: {version}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"verl_dft-{version}-py3" in (PROJECT / "README.md").read_text(encoding="utf-8")
    assert f"\n## {version}" in (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_installed_entry_point_registers_the_cpu_platform():
    (ours,) = (point for point in entry_points(group="verl.plugins") if point.name == "verl_dft")
    assert ours.value == "verl.dft.model.platform"


def test_the_command_works_from_any_directory(tmp_path):
    command = [sys.executable, "-m", "verl.trainer.fsdp_dft_trainer", "--cfg", "optim.lr=0.5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lr: 0.5" in done.stdout
