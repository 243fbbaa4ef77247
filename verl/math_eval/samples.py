"""The files of one benchmark run: ``settings.json`` says what the samples depend on, ``samples.jsonl`` holds them.

Samples are appended as they arrive, so a killed run goes on where it was. Other settings in the same folder are
refused, and so is a second run beside one that still writes.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SAMPLES, SETTINGS, LOCK = "samples.jsonl", "settings.json", ".lock"

Record = dict[str, Any]


class Records(Mapping[tuple[str, int], Record]):
    """(problem id, sample number) -> record, read from the file when it is asked for.

    What is kept in memory is where each line starts: some 100 bytes per sample, however long its text is.
    """

    def __init__(self, path: Path):
        self.path = path
        self._starts: dict[str, dict[int, int]] = {}
        self._count = 0
        self._file: IO[bytes] | None = None

    def add(self, record: Record, start: int) -> None:
        """The line of this record starts at byte ``start``; a later line takes the place of an earlier one."""
        numbers = self._starts.setdefault(record["problem"], {})
        self._count += record["sample"] not in numbers
        numbers[record["sample"]] = start

    def __getitem__(self, key: tuple[str, int]) -> Record:
        start = self._starts[key[0]][key[1]]
        if self._file is None:
            self._file = self.path.open("rb")
        self._file.seek(start)
        return json.loads(self._file.readline())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._starts.get(key[0], ())

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((problem, sample) for problem, numbers in self._starts.items() for sample in numbers)

    def __len__(self) -> int:
        return self._count


class SampleStore:
    """The samples of one benchmark in one folder.

    settings: "generation" must equal what is stored; "grading" may change, and then all must be graded again
        (``needs_regrading``); the rest describes the run to a reader.
    records: (problem id, sample number) -> record, a dictionary of JSON values with at least "problem" and "sample";
        they stay in the file.

    ``open()`` before ``append`` and ``replace``; it holds the folder against other processes until ``close()`` or the
    end of the process.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.path = folder / SAMPLES
        self.settings_path = folder / SETTINGS
        self.settings = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
        self.records = Records(self.path)
        self.needs_regrading = False
        self._end = 0  # bytes of whole lines in the file
        self._lock: IO[str] | None = None

    @classmethod
    def stored(cls, folder: Path) -> "SampleStore":
        """What a folder holds, to be read only. Raises ValueError for a folder that holds no samples."""
        store = cls(folder, stored_settings(folder))
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
            self._read()
            if self.path.exists():
                os.truncate(self.path, self._end)  # without a line that its writer was killed inside
        if not self.needs_regrading:
            self._write_settings()
        return self

    def close(self) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def append(self, records: Iterable[Record]) -> None:
        """Append finished samples to the file."""
        with self.path.open("a", encoding="utf-8") as file:
            for record in records:
                self._end = _write(file, record, self.records, self._end)

    def replace(self, records: Iterable[Record]) -> None:
        """Write all records anew after grading again; a kill in between loses nothing.

        ``records`` may be made from the ones that are there, one after the other.
        """
        temporary, found, end = self.path.with_suffix(".jsonl.tmp"), Records(self.path), 0
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                end = _write(file, record, found, end)
        os.replace(temporary, self.path)
        self.records, self._end = found, end
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

    def _read(self) -> None:
        """Find the samples. A line that does not end was torn when its writer was killed, and does not count."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    if line.strip():
                        self.records.add(json.loads(line), self._end)
                except (ValueError, KeyError, TypeError) as error:
                    self.close()
                    raise ValueError(
                        f"{self.path}, line {number}: expected a sample, found {line[:60]!r}. "
                        "Delete the line, and its sample is drawn again."
                    ) from error
                self._end += len(line)


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings of the samples in a folder. Raises ValueError for a folder that holds no samples."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"expected the samples of a run in {folder}, found no {SETTINGS}")
    return json.loads(path.read_text(encoding="utf-8"))


def _write(file: IO[str], record: Record, found: Records, start: int) -> int:
    """Write a line that starts at byte ``start``, and remember it; where the next one starts."""
    line = _line(record)
    file.write(line)
    found.add(record, start)
    return start + len(line)  # characters are bytes: the line is ASCII


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
