"""The maintainers' tools stay outside the package, and the documentation's commands are real."""

import ast
import configparser
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser as benchmarks_parser
from ctnet.cli.main import build_parser as ctnet_parser
from tools.__main__ import build_parser as tools_parser

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
PARSERS = {
    ("ctnet",): ctnet_parser,
    ("python", "-m", "ctnet"): ctnet_parser,
    ("python", "-m", "tools"): tools_parser,
    ("python", "-m", "benchmarks"): benchmarks_parser,
}


def commands(text):
    """The commands in the blocks of a page that are for a shell, as words."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.partition(" #")[0].split("&&"):
                yield shlex.split(command)


def test_help_lists_every_tool(capsys):
    with pytest.raises(SystemExit):
        tools_parser().parse_args(["--help"])
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.M)
    assert listed[:5] == ["export", "register", "refresh", "cards", "tables"]


def test_the_package_is_ctnet_alone():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.packages.find"]["include"] == "ctnet*"
    for path in (ROOT / "ctnet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            outside = {"tools", "benchmarks", "website", "tests"} & {n.split(".")[0] for n in names}
            assert not outside, path


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_documentation_exist(page):
    for words in commands((ROOT / page).read_text()):
        if words[:1] == ["torchrun"]:
            words = ["python", *words[words.index("-m") :]]
        for start, parser in PARSERS.items():
            if tuple(words[: len(start)]) == start:
                parser().parse_args(words[len(start) :])


def test_extras_of_the_documentation_exist():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    for page in PAGES:
        for names in re.findall(r"pip install \"?\.\[([\w,]+)\]", (ROOT / page).read_text()):
            assert set(names.split(",")) <= set(setup["options.extras_require"]), page
