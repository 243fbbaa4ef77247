"""verl-dft: an overlay on the installed verl. It adds packages below ``verl`` and owns no file of verl's."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
PACKAGES = ("verl.dft", "verl.math_eval", "verl.trainer.fsdp_dft_trainer")


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="verl-dft",
    version="0.1.0",
    description="Dynamic Fine-Tuning (arXiv 2508.05629) on verl: data, trainer, evaluation",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    # "verl" and "verl.trainer" themselves belong to verl: listing them would overwrite its __init__ files.
    packages=[p for p in find_namespace_packages(include=["verl.*"]) if p.startswith(PACKAGES)],
    package_data={
        "verl.trainer.fsdp_dft_trainer": ["config/*.yaml"],
        "verl.math_eval": ["page.html", "page.js"],
    },
    install_requires=requirements(),
    # verl imports the entry points of this group on "import verl"; see verl/dft/model/platform.py.
    entry_points={"verl.plugins": ["verl_dft = verl.dft.model.platform"]},
)
