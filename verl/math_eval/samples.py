"""The files of one benchmark run: ``settings.json`` says what the samples depend on, ``samples.jsonl`` holds them.

Samples are appended as they arrive, so a killed run goes on where it was. Other settings in the same folder are
refused, and so is a second run beside one that still writes.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

SAMPLES, SETTINGS, LOCK = "samples.jsonl", "settings.json", ".lock"

Record = dict[str, Any]


class SampleStore:
    """The samples of one benchmark in one folder.

    settings: "generation" must equal what is stored; "grading" may change, and then all must be graded again
        (``needs_regrading``); the rest describes the run to a reader.
    records: (problem id, sample number) -> record, a dictionary of JSON values with at least "problem" and "sample".

    ``open()`` before ``append`` and ``replace``; it holds the folder against other processes until ``close()`` or the
    end of the process.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.path = folder / SAMPLES
        self.settings_path = folder / SETTINGS
        self.settings = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
        self.records: dict[tuple[str, int], Record] = {}
        self.needs_regrading = False
        self._lock: IO[str] | None = None

    @classmethod
    def stored(cls, folder: Path) -> "SampleStore":
        """What a folder holds, to be read only. Raises ValueError for a folder that holds no samples."""
        path = folder / SETTINGS
        if not path.is_file():
            raise ValueError(f"expected the samples of a run in {folder}, found no {SETTINGS}")
        store = cls(folder, json.loads(path.read_text(encoding="utf-8")))
        store._read()
        return store

    def open(self) -> "SampleStore":
        """Read what is there. Raises ValueError when it was made under other settings, or is being written to."""
        if self.path.exists() and not self.settings_path.is_file():
            raise ValueError(
                f"{self.path} has no {SETTINGS} beside it, so it cannot be continued: choose another output folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if self.settings_path.is_file():
            self._check(json.loads(self.settings_path.read_text(encoding="utf-8")))
            if self._read():
                write_atomically(self.path, "".join(_line(record) for record in self.records.values()))
        if not self.needs_regrading:
            self._write_settings()
        return self

    def close(self) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def append(self, records: Iterable[Record]) -> None:
        """Write finished samples behind the others."""
        records = list(records)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(_line(record) for record in records)
        self._remember(records)

    def replace(self, records: Iterable[Record]) -> None:
        """Write all records anew after grading again; a kill in between loses nothing."""
        self.records = {}
        self._remember(records)
        write_atomically(self.path, "".join(_line(record) for record in self.records.values()))
        self._write_settings()  # last: until now the stored settings said that grades are out of date
        self.needs_regrading = False

    def _take_lock(self) -> None:
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ValueError(
                f"another run is writing to {self.folder}: wait for it, or choose another output folder"
            ) from error

    def _write_settings(self) -> None:
        write_atomically(self.settings_path, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")

    def _remember(self, records: Iterable[Record]) -> None:
        self.records.update({(r["problem"], r["sample"]): r for r in records})

    def _check(self, stored: Mapping[str, Any]) -> None:
        old, new = stored.get("generation", {}), self.settings["generation"]
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            shown = "; ".join(f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now" for key in changed)
            self.close()
            raise ValueError(
                f"{self.path.parent} holds samples of other settings ({shown}). Choose another output folder."
            )
        self.needs_regrading = stored.get("grading") != self.settings["grading"]

    def _read(self) -> bool:
        """Read the samples; whether the last line is torn, because its writer was killed inside it."""
        if not self.path.exists():
            return False
        lines = self.path.read_bytes().split(b"\n")
        torn = lines.pop()  # what follows the last line end
        for number, line in enumerate(lines, 1):
            try:
                self._remember([json.loads(line)] if line else [])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                self.close()
                raise ValueError(
                    f"{self.path}, line {number}: expected a sample, found {line[:60]!r}. "
                    "Delete the line, and its sample is drawn again."
                ) from error
        return bool(torn)


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a run after a kill, finds the old file or the new one."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _line(record: Record) -> str:
    # ASCII on purpose: a model's text can hold lone surrogates and line separators, which JSON escapes keep intact.
    return json.dumps(record) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + "..." + text[-17:]
