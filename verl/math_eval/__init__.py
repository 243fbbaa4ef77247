"""Math evaluation: a checkpoint in, a scored report out. See ``harness.evaluate`` or ``python -m verl.math_eval``."""
