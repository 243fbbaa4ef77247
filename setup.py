"""verl-dft: an overlay on the installed verl. It adds packages below ``verl`` and owns no file of verl's."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
PACKAGES = ("verl.dft", "verl.math_eval", "verl.trainer.fsdp_dft_trainer")
# Those that need nothing but what is installed.
SCRIPTS = ("sh/*.sh", "examples/data_preprocess/*.py", "examples/grpo/*.py")


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def scripts() -> list[tuple[str, list[str]]]:
    """share/verl-dft/ of the environment, laid out as the repository is."""
    files = [path.relative_to(ROOT) for pattern in SCRIPTS for path in sorted(ROOT.glob(pattern))]
    folders = sorted({path.parent for path in files})
    return [
        (f"share/verl-dft/{folder.as_posix()}", [path.as_posix() for path in files if path.parent == folder])
        for folder in folders
    ]


setup(
    name="verl-dft",
    version="0.2.0",
    description="Dynamic Fine-Tuning (arXiv 2508.05629) on verl: data, trainer, evaluation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    # "verl" and "verl.trainer" themselves belong to verl: listing them would overwrite its __init__ files.
    packages=[p for p in find_namespace_packages(include=["verl.*"]) if p.startswith(PACKAGES)],
    package_data={
        "verl.trainer.fsdp_dft_trainer": ["config/*.yaml"],
        "verl.math_eval": ["page.html", "page.js", "katex.min.js"],
    },
    data_files=scripts(),
    install_requires=requirements("requirements.txt"),
    extras_require={
        "cpu": [],  # a CPU needs no package more, but the CPU build of torch, which no requirement can name
        "gpu": requirements("requirements-gpu.txt"),
        "vllm": requirements("requirements-vllm.txt"),
        "dev": requirements("requirements-dev.txt"),
    },
    # verl imports the entry points of this group on "import verl"; see verl/dft/model/platform.py.
    entry_points={"verl.plugins": ["verl_dft = verl.dft.model.platform"]},
)
