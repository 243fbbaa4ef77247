"""torchrun --standalone --nproc_per_node=N -m verl.trainer.fsdp_dft_trainer flag=value ...

The flags are those of config/dft_trainer.yaml; --help prints them, --cfg prints the ones this command would use, and
--dry_run checks files, tokenizer and batches, and counts steps, tokens and memory, without loading weights.
"""

import logging
import os
import sys
import warnings

# Before verl's modules read them: its progress notes stay quiet, and so do the warnings it gives on every start about
# each of its engines whose package is not installed, and torch's on every padded nested tensor about symbolic tracing.
os.environ.setdefault("VERL_LOGGING_LEVEL", "WARN")
warnings.filterwarnings("ignore", message=".* engine is not available")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

from omegaconf import OmegaConf  # noqa: E402

from verl.dft import peers  # noqa: E402
from verl.dft.errors import run_reporting_errors  # noqa: E402
from verl.trainer.fsdp_dft_trainer.command_line import compose_config, help_text  # noqa: E402


def main(arguments: list[str]) -> None:
    """Configuration in, trained model out."""
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return
    config = compose_config([argument for argument in arguments if argument not in ("--cfg", "--dry_run")])
    if "--cfg" in arguments:
        print(OmegaConf.to_yaml(config, resolve=True))
        return
    # Imported last: a mistyped flag is reported before torch and verl take their seconds.
    if "--dry_run" in arguments:
        from verl.trainer.fsdp_dft_trainer.dry_run import dry_run

        dry_run(config)
        return
    from verl.trainer.fsdp_dft_trainer.launch import train

    train(config)


if __name__ == "__main__":
    among_ranks = peers.report if peers.under_torchrun() else None
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:]), among_ranks))
