"""What is done in one room only is done nowhere else: read from the source itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import linnaeus
from linnaeus import errors

_SOURCE = Path(linnaeus.__file__).parent
_FILES = sorted(_SOURCE.rglob("*.py"))
_MAX_LINES = 400

Finder = Callable[[ast.Module], Iterator[str]]


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield every dotted name that is used or imported, as it would be written in full."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([aliases.get(first, first), *rest])


def _uses(pattern: str) -> Finder:
    def find(tree: ast.Module) -> Iterator[str]:
        return (name for name in _names(tree) if re.fullmatch(pattern, name))

    return find


def _calls_of_methods(*methods: str) -> Finder:
    def find(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in methods
            ):
                yield ast.unparse(node.func)

    return find


def _catching_all(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or ast.unparse(kind) == "Exception" for kind in kinds):
                yield f"line {node.lineno}"


def _unsafe_loading(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "weights_only" and ast.unparse(node.value) != "True":
            yield f"line {node.value.lineno}"


# What is looked for, where alone it may be, and a line that the finder must find.
_HOMES: dict[str, tuple[Finder, tuple[str, ...], str]] = {
    "torch.load and torch.save": (
        _uses(r"torch(\.serialization)?\.(load|save)"),
        ("pth/",),
        "from torch import load as read",
    ),
    "processes": (
        _uses(
            r"subprocess(\..*)?|os\.(system|popen|fork|exec\w+|spawn\w+|posix_spawn\w*)|multiprocessing(\..*)?|pty(\..*)?"
        ),
        # rclone; and the process in which a trusted unsafe file is unpickled, which no other room may start.
        ("remote/", "pth/_trusted.py"),
        "import subprocess as s",
    ),
    "renaming, linking and fsync": (
        _uses(r"os\.(replace|rename|renames|link|symlink|fsync|fdatasync|sync)|shutil\.move"),
        ("files/",),
        "import os\nos.replace(a, b)",
    ),
    "renaming and linking by pathlib": (
        _calls_of_methods("rename", "hardlink_to", "symlink_to", "link_to"),
        ("files/",),
        "path.rename(other)",
    ),
    "printing": (
        _uses(r"print|pprint\..*|sys\.(stdout|stderr|__stdout__|__stderr__)|rich(\..*)?|click(\..*)?"),
        # The latter flushes, when it must end a program whose last save failed.
        ("cli/", "saving/_exit.py"),
        "import sys\nsys.stdout.write('x')",
    ),
    "standard output in the CLI": (
        _uses(r"print|sys\.(stdout|stderr)|click\.(echo|secho)|rich\.print"),
        ("cli/_render.py", "saving/_exit.py"),
        "import click\nclick.echo('x')",
    ),
    "sleeping": (
        _uses(r"time\.sleep"),
        # and the looking for keys of the job's store, since torch's own waits can't be interrupted
        ("remote/_retry.py", "files/_lock.py", "distributed/_store.py"),
        "from time import sleep",
    ),
    "catching every exception": (
        _catching_all,
        # The rims: of commands, and of the thread that saves.
        ("cli/_errors.py", "saving/_job.py"),
        "try:\n    f()\nexcept (OSError, Exception):\n    pass",
    ),
    "loading without weights_only": (
        _unsafe_loading,
        ("pth/_trusted.py",),  # for `linnaeus convert --trust` alone, in a process of its own
        "load(path, weights_only=False)",
    ),
    "unpickling": (
        _uses(r"pickle\.(load|loads|Unpickler)|marshal\..*|shelve\..*"),
        # each by a reader that makes nothing of what it reads
        ("pth/_outline.py", "pth/_dcp_metadata.py"),
        "import pickle\npickle.loads(x)",
    ),
    "configuring logging": (
        _uses(
            r"logging\.(basicConfig|StreamHandler|Handler|captureWarnings|disable)|warnings\.(simplefilter|filterwarnings|showwarning)"
        ),
        ("cli/_listening.py",),
        "import logging\nlogging.basicConfig()",
    ),
}


@pytest.mark.parametrize("what", _HOMES)
def test_has_a_single_home(what: str) -> None:
    """What the design gives to one room is found in no other."""
    find, homes, _ = _HOMES[what]
    elsewhere = {
        name: found
        for path in _FILES
        if not (name := path.relative_to(_SOURCE).as_posix()).startswith(homes or ("nowhere",))
        if (found := sorted(set(find(ast.parse(path.read_text())))))
    }
    assert elsewhere == {}


def test_the_unsafe_load_is_one_line() -> None:
    """Exactly one call anywhere loads without weights_only."""
    assert sum(len(list(_unsafe_loading(ast.parse(path.read_text())))) for path in _FILES) == 1


@pytest.mark.parametrize("what", _HOMES)
def test_the_finder_finds(what: str) -> None:
    """The search above is no idle one: it finds a planted case."""
    find, _, planted = _HOMES[what]
    assert list(find(ast.parse(planted)))


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.relative_to(_SOURCE).as_posix())
def test_a_module_holds_one_idea(path: Path) -> None:
    """No module is longer than 400 lines."""
    assert len(path.read_text().splitlines()) <= _MAX_LINES


def _drawn_tree(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield each class of the tree in a docstring, with the builtin beside it and the class above it."""
    above: dict[int, str] = {}
    for line in text.splitlines():
        match = re.match(r"([\s│]*)(?:[├└]── )?(\w+Error)(?:\((\w+)\))?(?:\s{2,}|$)", line)
        if match and ("──" in line or match[2] == "LinnaeusError"):
            depth = line.index(match[2])
            above[depth] = match[2]
            higher = [column for column in above if column < depth]
            yield match[2], match[3], above[max(higher)] if higher else "Exception"


def test_the_drawn_tree_is_the_tree() -> None:
    """Every error class stands in the tree of its module's docstring, below its parent, with its builtin."""
    drawn = {name: {parent, builtin} - {None} for name, builtin, parent in _drawn_tree(errors.__doc__ or "")}
    real = {
        name: {base.__name__ for base in value.__bases__}
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.LinnaeusError)
    }
    assert drawn == real
