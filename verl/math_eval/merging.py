"""Take over the samples of other runs of the same model on the same data (``--merge``)."""

from collections.abc import Sequence
from pathlib import Path

from verl.math_eval.grades import graded
from verl.math_eval.samples import Record, SampleStore


def merge_samples(store: SampleStore, folders: Sequence[Path]) -> int:
    """Append the samples of other benchmark folders to an open store; the number of new ones.

    Everything that changes samples must be equal, but for the base seed. A sample is known by its problem and its seed,
    so merging twice adds nothing. Under the same base seed it keeps its number where that is free, else it gets
    the next free number of its problem. Raises ValueError for other settings and for a folder without samples.
    """
    before = len(store.records)
    known = {(r["problem"], r["seed"]) for r in store.records.values()}
    for folder in folders:
        other = SampleStore.stored(folder)
        same_seed = _check(store, other)
        new = [r for r in other.records.values() if (r["problem"], r["seed"]) not in known]
        known.update((r["problem"], r["seed"]) for r in new)
        if other.settings["grading"] != store.settings["grading"]:
            new = graded(new, store.settings["grading"])
        store.append(_numbered(store, new, same_seed))
    return len(store.records) - before


def _check(store: SampleStore, other: SampleStore) -> bool:
    """Whether the base seeds are the same; everything else must be."""
    ours, theirs = dict(store.settings["generation"]), dict(other.settings["generation"])
    same_seed = ours.pop("seed") == theirs.pop("seed")
    changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if changed:
        raise ValueError(
            f"expected samples under the settings of {store.folder} in {other.folder}, found another "
            f"{', '.join(changed)}: they cannot be merged"
        )
    if not same_seed and ours["sampling"]["temperature"] == 0:
        raise ValueError(f"{other.folder} was decoded greedily: under another seed its samples are copies")
    return same_seed


def _numbered(store: SampleStore, new: Sequence[Record], keep: bool) -> list[Record]:
    """The records under their own numbers where these are to be kept and free, else under the next free ones."""
    taken = set(store.records)
    free: dict[str, int] = {}
    for problem, sample in store.records:
        free[problem] = max(free.get(problem, 0), sample + 1)
    records = []
    for record in sorted(new, key=lambda r: r["sample"]):
        problem, number = record["problem"], record["sample"]
        if not keep or (problem, number) in taken:
            number = free.get(problem, 0)
        free[problem] = max(free.get(problem, 0), number + 1)
        taken.add((problem, number))
        records.append({**record, "sample": number})
    return records
