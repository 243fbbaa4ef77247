"""What ruff and mypy do not look at: public docstrings, functions that fit a screen, classes with one job, the plan."""

import ast
import importlib
import inspect
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from commands import module_of_file

PROJECT = Path(__file__).parents[1]
MODULES = sorted(path for path in (PROJECT / "verl").rglob("*.py") if path.stat().st_size)
FOLDERS = ("verl", "examples", "scripts", "tests")
SCREEN = 60
# A function that is longer: why it is not two.
LONGER = {
    "tests/math_eval/grading/variants.py: same": "a table",
    "verl/math_eval/__main__.py: parser": "one call per option",
}
# A class whose methods do not hang together by what they use of the object: why it is one class.
SEPARATE = {
    "verl/math_eval/backends/base.py: Backend": "what its subclasses share",
    "verl/math_eval/options.py: EvalOptions": "a record; its methods are views of it",
    "verl/trainer/fsdp_dft_trainer/stopping.py: StopRequests": "what this rank asks for, and what all ranks decided",
}
plan = module_of_file(PROJECT / "scripts" / "plan.py")


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


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_every_function_fits_a_screen():
    paths = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
    assert len(paths) > 150
    long = {
        f"{path.relative_to(PROJECT)}: {node.name}"
        for path in paths
        for node in functions(ast.parse(path.read_text(encoding="utf-8")))
        if lines_of(node) > SCREEN
    }
    assert long == set(LONGER), f"over {SCREEN} lines: {sorted(long)}"


def jobs(node: ast.ClassDef, given: Set[str] = frozenset()) -> list[set[str]]:
    """The methods of a class in groups that use no attribute and no method of the object in common.

    What uses nothing of the object belongs nowhere, and ``__init__`` everywhere. given: the names of methods that the
    base classes have, whose code holds them together.
    """
    groups: list[tuple[set[str], set[str]]] = []  # what is used, by which methods
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
            continue
        used = uses_of_self(method) | ({"self"} if method.name in given else set())
        if not used:
            continue
        shared = [group for group in groups if "self" in used | group[0] or group[0] & (used | {method.name})]
        apart = [group for group in groups if group not in shared]
        names = {method.name}.union(*(group[1] for group in shared))
        groups = [*apart, ({method.name, *used}.union(*(group[0] for group in shared)), names)]
    return [names for _, names in groups]


def uses_of_self(method: ast.FunctionDef) -> set[str]:
    """The attributes of the object that a method reads or sets; "self" where it hands the whole object on."""
    arguments = method.args.posonlyargs + method.args.args
    decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
    if not arguments or decorators & {"staticmethod", "classmethod"}:
        return set()
    own = arguments[0].arg
    attributes = [n for n in ast.walk(method) if isinstance(n, ast.Attribute) and is_name(n.value, own)]
    whole = sum(is_name(n, own) for n in ast.walk(method)) > len(attributes)
    return {attribute.attr for attribute in attributes} | ({"self"} if whole else set())


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def names_of_bases(path: Path, name: str) -> set[str]:
    found = importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    return {known for base in inspect.getmro(getattr(found, name))[1:-1] for known in vars(base)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_class_has_one_job(path: Path):
    """Two groups of methods that share nothing of the object are two classes, or a class and functions."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            apart = jobs(node, names_of_bases(path, node.name) if node.bases else frozenset())
            known = f"{path.relative_to(PROJECT)}: {node.name}" in SEPARATE
            assert len(apart) <= 1 or known, f"{node.name} holds {' and '.join(map(str, map(sorted, apart)))}"


def test_a_class_with_two_jobs_is_found():
    text = """
class A:
    def f(self): return self.x
    def g(self): return self.f()
    def h(self): self.y = 1
    def i(self): return 3
    @staticmethod
    def j(x): return x.y
"""
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    assert jobs(node) == [{"f", "g"}, {"h"}]
    assert jobs(node, {"h"}) == [{"f", "g", "h"}]


def test_no_circle_of_imports_and_no_arrow_upwards():
    arrows = plan.arrows_of(plan.sources())
    assert len(arrows) > 90
    assert plan.circles(arrows) == []
    assert plan.upwards(arrows) == []


def test_a_circle_and_an_arrow_upwards_are_found():
    files = {
        "verl/dft/errors.py": "",
        "verl/dft/loss/a.py": "import verl.dft.errors\nfrom verl.dft.loss import b\n",
        "verl/dft/loss/b.py": "def f():\n    from verl.dft.loss.c import x\n",
        "verl/dft/loss/c.py": "import torch\nfrom verl.dft.loss.a import y\nfrom verl.dft.model.d import z\n",
        "verl/dft/model/d.py": "from verl.dft.errors import e\n",
        "verl/dft/data/e.py": "from verl.dft.loss import d\n",
        "verl/dft/loss/__init__.py": "",
    }
    arrows = plan.arrows_of(files)
    assert plan.circles(arrows) == [[f"verl/dft/loss/{name}.py" for name in "abc"]]
    assert plan.upwards(arrows) == [
        ("verl/dft/data/e.py", "verl/dft/loss/__init__.py"),
        ("verl/dft/loss/c.py", "verl/dft/model/d.py"),
    ]
    with pytest.raises(ValueError, match="FLOORS"):
        plan.entry_of("verl/elsewhere/f.py")
