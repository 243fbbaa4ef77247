"""The files of one benchmark run: ``settings.json`` says what the samples depend on, ``samples.jsonl`` holds them.

Samples are appended as they arrive, so a killed run goes on where it was. Other settings in the same folder are
refused.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SAMPLES, SETTINGS = "samples.jsonl", "settings.json"

Record = dict[str, Any]


class SampleStore:
    """``settings`` has two parts: "generation" must equal what is stored; "grading" may change, and then all is graded
    again.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]):
        self.path = folder / SAMPLES
        self.settings_path = folder / SETTINGS
        self.settings = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
        self.records: dict[tuple[str, int], Record] = {}
        self.needs_regrading = False

    def open(self) -> "SampleStore":
        """Read what is there. Raises ValueError when it was made under other settings."""
        if self.settings_path.is_file():
            self._check(json.loads(self.settings_path.read_text(encoding="utf-8")))
            self._read()
        elif self.path.exists():
            raise ValueError(
                f"{self.path} has no {SETTINGS} beside it, so it cannot be continued: choose another output folder"
            )
        if not self.settings_path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write_settings()
        return self

    def append(self, records: Iterable[Record]) -> None:
        records = list(records)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(_line(record) for record in records)
        self._remember(records)

    def replace(self, records: Iterable[Record]) -> None:
        """Write all records anew after grading again; a kill in between loses nothing."""
        self.records = {}
        self._remember(records)
        self._write_atomically(self.path, "".join(_line(record) for record in self.records.values()))
        self._write_settings()  # last: until now the stored settings said that grades are out of date

    def _write_settings(self) -> None:
        self._write_atomically(self.settings_path, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")

    def _remember(self, records: Iterable[Record]) -> None:
        self.records.update({(r["problem"], r["sample"]): r for r in records})

    def _check(self, stored: Mapping[str, Any]) -> None:
        old, new = stored.get("generation", {}), self.settings["generation"]
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            shown = "; ".join(f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now" for key in changed)
            raise ValueError(
                f"{self.path.parent} holds samples of other settings ({shown}). Choose another output folder."
            )
        self.needs_regrading = stored.get("grading") != self.settings["grading"]

    def _read(self) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        torn = lines.pop()  # what follows the last line end: empty, unless the writer was killed inside a line
        for number, line in enumerate(lines, 1):
            try:
                self._remember([json.loads(line)] if line else [])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: expected a sample, found {line[:60]!r}. "
                    "Delete the line, and its sample is drawn again."
                ) from error
        if torn:
            self._write_atomically(self.path, "".join(_line(record) for record in self.records.values()))

    @staticmethod
    def _write_atomically(path: Path, text: str) -> None:
        temporary = path.with_suffix(path.suffix + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _line(record: Record) -> str:
    # ASCII on purpose: a model's text can hold lone surrogates and line separators, which JSON escapes keep intact.
    return json.dumps(record) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + "..." + text[-17:]
