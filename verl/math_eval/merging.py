"""Take over the samples of other runs of the same model on the same data (``--merge``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from verl.math_eval.grades import graded_in_pieces
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
        numbers = _numbers(store, other, known, same_seed)
        new: Iterator[Record] = ({**other.records[key], "sample": number} for key, number in numbers)
        if other.settings["grading"] != store.settings["grading"]:
            new = graded_in_pieces(new, store.settings["grading"])
        store.append(new)
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


def _numbers(
    store: SampleStore, other: SampleStore, known: set[tuple[str, int]], keep: bool
) -> list[tuple[tuple[str, int], int]]:
    """The new samples of ``other``, each with its number here: its own where that is to be kept and free, else the next
    free one of its problem. Their seeds become known.
    """
    taken = set(store.records)
    free: dict[str, int] = {}
    for problem, sample in store.records:
        free[problem] = max(free.get(problem, 0), sample + 1)
    numbers = []
    for key in sorted(other.records, key=lambda key: key[1]):
        problem, number = key
        seed = other.records[key]["seed"]
        if (problem, seed) in known:
            continue
        known.add((problem, seed))
        if not keep or (problem, number) in taken:
            number = free.get(problem, 0)
        free[problem] = max(free.get(problem, 0), number + 1)
        taken.add((problem, number))
        numbers.append((key, number))
    return numbers
