"""What a run prints while its engine is built: one rank speaks, and of verl's own notes only those that say something.

With VERL_LOGGING_LEVEL=INFO or DEBUG, for those who look for trouble, everything is printed by every rank.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO

import transformers

# How verl 0.9.1 begins the lines in which every rank tells of its patches, and one of memory before and after a step.
NOTES = re.compile(r"Monkey patch |Skipping monkey patch |Total steps: |(Before|After) .*, memory allocated \(GB\)")


@contextlib.contextmanager
def quiet(rank: int) -> Iterator[None]:
    """While it lasts, ``print`` drops lines that begin like NOTES, and other ranks than 0 draw no progress bars."""
    if os.environ.get("VERL_LOGGING_LEVEL", "").upper() in ("INFO", "DEBUG"):
        yield
        return
    bars = transformers.utils.logging
    draws = bars.is_progress_bar_enabled()
    if rank != 0:
        bars.disable_progress_bar()
    lines = _Lines(sys.stdout)
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.close()
        if draws:
            bars.enable_progress_bar()


class _Lines(io.TextIOBase):
    """Hands whole lines on to ``target``, but for those that begin like NOTES."""

    def __init__(self, target: TextIO) -> None:
        self.target, self.rest = target, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if not NOTES.match(line):
                self.target.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self.target.flush()

    def close(self) -> None:
        """Hand on what ended without a line break."""
        if self.rest and not NOTES.match(self.rest):
            self.target.write(self.rest)
        self.rest = ""
        self.target.flush()
