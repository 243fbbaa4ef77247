#!/usr/bin/env python
"""The plan of the house, read from its imports: folders, files, imports between folders, circles, arrows upwards.

    python scripts/plan.py                 # the working tree
    python scripts/plan.py --at HEAD~20    # any commit
    python scripts/plan.py --map           # every file with the first line of its docstring: where to look for what

An arrow points from a file to one that it imports, at its top or inside a function. It points upwards unless it leads
to a lower floor, or to a file of the same entry of FLOORS. Exit status 1 if there is a circle or an arrow upwards.
docs/architecture.md has the same plan in words.
"""

import argparse
import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path, PurePosixPath

PROJECT = Path(__file__).resolve().parents[1]
HOUSE = "verl"
# From the ground up. A file belongs to the longest entry that its path begins with; the entries of one floor do not
# know each other.
FLOORS = (
    ("verl/dft/errors.py", "verl/dft/transfer.py"),
    ("verl/dft/loss", "verl/dft/data", "verl/math_eval/grading"),
    ("verl/dft", "verl/math_eval/requests.py"),
    ("verl/dft/model", "verl/math_eval/backends"),
    ("verl/dft/diagnose.py", "verl/math_eval"),
    ("verl/dft/score.py", "verl/trainer/fsdp_dft_trainer"),
)
FLOOR_OF = {entry: number for number, floor in enumerate(FLOORS) for entry in floor}

Arrows = Mapping[str, Set[str]]


def sources(commit: str | None = None) -> dict[str, str]:
    """path -> text of the Python files below verl/, as they lie in the working tree or as ``commit`` has them."""
    if commit is None:
        paths = sorted((PROJECT / HOUSE).rglob("*.py"))
        return {path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    done = subprocess.run(["git", "archive", commit, HOUSE], cwd=PROJECT, capture_output=True)
    if done.returncode:
        raise SystemExit(f"error: expected --at to be a commit with a folder {HOUSE}; git says: {done.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.name.endswith(".py")}
        return {name: file.read().decode("utf-8") for name, file in files.items() if file}


def arrows_of(files: Mapping[str, str]) -> dict[str, set[str]]:
    """path -> the paths of the files among ``files`` that it imports."""
    by_module = {_module(path): path for path in files}
    arrows: dict[str, set[str]] = {path: set() for path in files}
    for path, text in files.items():
        for name in _imported(ast.parse(text)):
            while name and name not in by_module:
                name = name.rpartition(".")[0]
            if name and by_module[name] != path:
                arrows[path].add(by_module[name])
    return arrows


def _module(path: str) -> str:
    name = ".".join(PurePosixPath(path).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups of two or more files each of which imports all others of its group, directly or through further files."""
    reached = {path: _reached(path, arrows) for path in arrows}
    groups = {
        tuple(sorted(other for other in reached[path] if path in reached[other]))
        for path in arrows
        if path in reached[path]
    }
    return [list(group) for group in sorted(groups)]


def _reached(start: str, arrows: Arrows) -> set[str]:
    found: set[str] = set()
    ahead = list(arrows[start])
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += arrows[path]
    return found


def entry_of(path: str) -> str:
    """The longest entry of FLOORS that ``path`` begins with. Raises ValueError for a file that has no floor."""
    entries = [entry for entry in FLOOR_OF if path == entry or path.startswith(entry + "/")]
    if not entries:
        raise ValueError(
            f"expected {path} below an entry of FLOORS in scripts/plan.py, found none; add its folder there"
        )
    return max(entries, key=len)


def upwards(arrows: Arrows) -> list[tuple[str, str]]:
    """The arrows that lead neither down nor to a file of the same entry."""
    found = []
    for path, imported in arrows.items():
        for other in imported:
            here, there = entry_of(path), entry_of(other)
            if here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
                found.append((path, other))
    return sorted(found)


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def report(files: Mapping[str, str]) -> tuple[str, bool]:
    """The plan as text, and whether it has neither circle nor arrow upwards."""
    arrows = arrows_of(files)
    count = Counter(map(_folder, files))
    lines = Counter({folder: 0 for folder in count})
    for path, text in files.items():
        lines[_folder(path)] += len(text.splitlines())
    between = Counter(
        (_folder(path), _folder(other)) for path in arrows for other in arrows[path] if _folder(path) != _folder(other)
    )
    out = [f"{'folder':<42}{'files':>6}{'lines':>7}"]
    out += [f"{folder:<42}{count[folder]:>6}{lines[folder]:>7}" for folder in sorted(count)]
    out += ["", f"{'imports from':<42}{'of':<42}{'files':>6}"]
    out += [f"{here:<42}{there:<42}{number:>6}" for (here, there), number in sorted(between.items())]
    round_trips, rising = circles(arrows), upwards(arrows)
    out += ["", *(f"circle: {' <-> '.join(group)}" for group in round_trips)]
    out += [f"upwards: {path} -> {other}" for path, other in rising]
    out.append(
        f"{len(count)} folders, {len(files)} files, {sum(lines.values())} lines; {between.total()} imports between "
        f"folders; {len(round_trips)} circles, {len(rising)} arrows upwards"
    )
    return "\n".join(out), not round_trips and not rising


def file_map(files: Mapping[str, str]) -> str:
    """Every file that is not empty below the name of its folder, with the first line of its docstring."""
    out: list[str] = []
    for path in sorted(files, key=lambda path: (_folder(path), path)):
        if files[path].strip():
            heading = [f"\n{_folder(path)}/"] if f"\n{_folder(path)}/" not in out else []
            first = (ast.get_docstring(ast.parse(files[path])) or "").partition("\n")[0]
            out += [*heading, f"  {PurePosixPath(path).stem:<22} {first}"]
    return "\n".join(out).strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", metavar="COMMIT", help="read this commit instead of the working tree")
    parser.add_argument("--map", action="store_true", help="print every file with the first line of its docstring")
    options = parser.parse_args(arguments)
    files = sources(options.at)
    if options.map:
        print(file_map(files))
        return 0
    text, is_sound = report(files)
    print(text)
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
