"""What the pages say can be typed, read and clicked: commands parse, flags, options, files and links exist.

The commands of the quickstart and of the tests are executed by .ci/run, and a test here holds the two together.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    ASSIGNMENT,
    ELSEWHERE,
    PROJECT,
    SWITCHES,
    check_command,
    check_trainer_flags,
    main_of_file,
    main_of_module,
    parser_of,
)
from omegaconf import OmegaConf
from torch.distributed.run import get_args_parser

from verl.trainer.fsdp_dft_trainer.command_line import OPEN_DICTS, compose_config

README = PROJECT / "README.md"
DOCS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = [README, PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", PROJECT / "benchmarks" / "README.md", *DOCS]
PROGRAMS = ("torchrun", "python", "bash", "pip", "source", "git", "cd", "vllm")
# What stands for a number in a page; other placeholders are texts, and any text will do.
NUMBERS = {"N": "2", "N_SAMPLING": "4", "TEMPERATURE": "1"}
FLAG = re.compile(r"(?<![\w/.-])(?:objective|data|model|engine|optim|trainer|checkpoint)(?:\.[a-z_]+)+")
MODULES = ("verl.math_eval", "verl.dft.diagnose", "verl.dft.plots")
SCRIPTS = [
    path
    for folder in (
        "examples/data_preprocess",
        "examples/quickstart",
        "examples/reproduce_paper",
        "examples/study",
        "scripts",
    )
    for path in sorted((PROJECT / folder).glob("*.py"))
    if "\ndef main(" in path.read_text(encoding="utf-8") and str(path.relative_to(PROJECT)) not in ELSEWHERE
]
FOREIGN_OPTIONS = {"--fresh", "--fast"}  # of sh/quickstart.sh, of scripts/test.sh


def blocks(text: str) -> tuple[list[str], str]:
    """The contents of the fenced blocks of commands, and the text without any fenced block."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    commands = [body for language, body in fenced if language == "bash"]
    return commands, re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def lines_of_commands(text: str) -> Iterator[str]:
    """Every line of a block of commands, and every indented line that begins like a command or a flag."""
    fenced, rest = blocks(text)
    for body in fenced:
        yield from (line for line in body.replace("\\\n", " ").splitlines() if line.strip())
    for line in rest.replace("\\\n", " ").splitlines():
        if line.startswith("    ") and line.strip():
            first = next((word for word in line.split() if not ASSIGNMENT.match(word)), "")
            if first in PROGRAMS or FLAG.match(first):
                yield line.strip()


def commands_of_line(line: str) -> list[list[str]]:
    """The commands of a line, without comments, placeholders like [more] and "..."."""
    before = None
    while before != line:
        before, line = line, re.sub(r"(?<=\s)\[[^\[\]]*\]", "", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&;|"):
            commands.append([])
        elif word not in ("...", "flag=value"):
            commands[-1].append(NUMBERS.get(word, word))
    return [command for command in commands if command]


CASES = [(page, line) for page in PAGES for line in lines_of_commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{page.name}: {line[:60]}" for page, line in CASES])
def test_every_command_of_the_pages_is_understood(page: Path, line: str):
    for command in commands_of_line(line):
        if FLAG.match(command[0]):
            check_trainer_flags(command)
        else:
            check_command(command)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", blocks(page.read_text(encoding="utf-8"))[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_named_in_a_page_exists(page: Path):
    defaults = compose_config([])
    for code in inline_code(page):
        for flag in FLAG.findall(code):
            parent, _, name = flag.rpartition(".")
            in_open_dict = any(flag.startswith(opened + ".") for opened in OPEN_DICTS)
            is_file = name in ("py", "sh", "md", "json", "jsonl", "parquet")
            assert in_open_dict or is_file or name in OmegaConf.select(defaults, parent), f"{flag} in `{code}`"


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of every command line of the project, and torchrun's."""
    mains = [*map(main_of_module, MODULES), *map(main_of_file, SCRIPTS)]
    parsers = [parser_of(main, [])[0] for main in mains]
    parsers += [parser_of(main_of_module("verl.math_eval"), ["compare"])[0], get_args_parser()]
    found = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    return found | {option.replace("_", "-") for option in found} | set(SWITCHES) | FOREIGN_OPTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_named_in_a_page_exists(page: Path, options):
    named = {option for code in inline_code(page) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert not named - options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_in_a_page_exists(page: Path):
    for code in inline_code(page):
        for name in re.findall(r"(?<![\w./{}-])(?:sh|scripts|docs|tests|examples|verl|benchmarks)/[\w./*-]+", code):
            assert list(PROJECT.glob(name.rstrip("/."))), f"no {name}, named in `{code}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_resolves(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", blocks(page.read_text(encoding="utf-8"))[1]):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def section(title: str) -> str:
    """What stands below a heading of the README, up to the next heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"the README has no section {title}"
    return found.group(1)


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) <= 1600


def test_the_index_names_every_page():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS if page.name != "README.md" and f"({page.name})" not in index]
    assert not missing


def test_the_map_of_the_rooms_names_every_folder():
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.relative_to(PROJECT).as_posix() for path in (PROJECT / "verl").rglob("*.py")}
    missing = [room for room in rooms if f"{room}/" not in text and f"{room.rsplit('/', 1)[1]}/`" not in text]
    assert len(rooms) > 8 and not missing


def flag_rows() -> list[tuple[list[str], str]]:
    """(flags, cell of their defaults) of the table of flags."""
    page = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]*) \|", page, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", cell), default) for cell, default in rows]


def test_the_defaults_in_the_table_of_flags_are_those_of_the_yaml():
    """In backticks, one for each flag of the row; a cell in words is the value null."""
    defaults = compose_config([])
    rows = flag_rows()
    assert len(rows) > 20
    for flags, cell in rows:
        named = [flag for flag in flags if "<" not in flag]
        stated = re.findall(r"`([^`]+)`", cell) or ["null"] * len(named)
        for flag, text in zip(named, stated, strict=True):
            value = OmegaConf.select(defaults, flag, throw_on_missing=True)
            assert value == OmegaConf.create(f"value: {text}").value, flag


def test_the_two_commands_are_what_continuous_integration_runs():
    (block, *_), _ = blocks(section("Quickstart"))
    commands = [commands_of_line(line)[0] for line in block.splitlines()]
    assert commands == [["bash", "sh/quickstart.sh"], ["bash", "scripts/test.sh"]]
    executed = [
        shlex.split(line) for line in (PROJECT / ".ci" / "run").read_text().splitlines() if line.startswith("bash")
    ]
    assert all(command in executed for command in commands)
