"""What ruff and mypy do not look at: public docstrings, and files that are short enough to read."""

import ast
import importlib
import inspect
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MODULES = sorted(path for path in (PROJECT / "verl").rglob("*.py") if path.stat().st_size)
LONGEST = 400
# A file that is longer: why it is not two.
LONGER: dict[str, str] = {}


def undocumented(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """The names, from the outside in, of public classes, functions and methods without a docstring of their own."""
    places: list[tuple[tuple[str, ...], ast.Module | ast.ClassDef]] = [((), tree)]
    for names, parent in places:
        for node in parent.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                here = (*names, node.name)
                if ast.get_docstring(node) is None:
                    yield here
                if isinstance(node, ast.ClassDef):
                    places.append((here, node))


def inherits_its_docstring(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a method takes the place of one that is documented, or declared, in a class from elsewhere."""
    *owners, name = names
    if not owners:
        return False
    found = importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    for owner in owners:
        found = getattr(found, owner)
    return any(name in vars(base) for base in inspect.getmro(found)[1:])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_everything_public_has_a_docstring(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has none"
    missing = [".".join(names) for names in undocumented(tree) if not inherits_its_docstring(path, names)]
    assert not missing


def test_a_missing_docstring_is_found():
    tree = ast.parse('class A:\n    "x"\n    def f(self): pass\n    def _g(self): pass\ndef h(): "y"\ndef i(): pass')
    assert set(undocumented(tree)) == {("A", "f"), ("i",)}


def test_no_file_is_long_without_a_reason():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    files = [PROJECT / name for name in listed.stdout.splitlines() if name.endswith((".py", ".sh", ".md", ".js"))]
    assert len(files) > 100
    long = {str(path.relative_to(PROJECT)) for path in files if len(path.read_text("utf-8").splitlines()) > LONGEST}
    assert long == set(LONGER)
