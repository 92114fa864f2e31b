"""Comparing and converting as people do it: real processes, real files of other formats."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import linnaeus as library
from linnaeus.cli import main
from support.directories import names
from support.program import Ended, environment, linnaeus
from support.trees import same

_CODE = """
import enum
class Kind(enum.Enum):
    SMALL = "small"
class Settings:
    def __init__(self):
        self.rate, self.kind, self.sizes = 0.1, Kind.SMALL, (1, 2)
class Loud:
    def __reduce__(self):
        return print, ("was executed",)
class Forger:
    def __reduce__(self):
        return exec, (
            "import linnaeus.pth._trusted as t\\n"
            "t.save = lambda obj, path, about: __import__('shutil').copy('unsafe.pth', path)",
        )
"""


def state(epoch: int) -> dict[str, Any]:
    """Return a small run's state."""
    return {
        "model": {"weight": torch.arange(6.0).view(2, 3) * epoch, "bias": torch.ones(3)},
        "optimizer": {"state": {0: {"m": torch.full((3,), epoch)}}, "lr": 0.1},
        "epoch": epoch,
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a directory with the checkpoints of two epochs."""
    for epoch in (1, 2):
        about = {"epoch": epoch, "metrics": {"loss": 1 / epoch}, "name": "2"}
        library.save(state(epoch), tmp_path / f"{epoch}.pth", about=about)
    return tmp_path


def _made_by_code(directory: Path, expression: str) -> None:
    """Save what an expression gives as unsafe.pth, in a process that has the module `our_code`."""
    (directory / "our_code.py").write_text(_CODE)
    script = f"import torch, our_code\ntorch.save({expression}, 'unsafe.pth')"
    env = environment(directory, {"PYTHONPATH": str(directory)})
    subprocess.run([sys.executable, "-c", script], cwd=directory, env=env, check=True)


Here = Callable[..., Ended]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """Return what runs the program in this process, which has torch already: as `linnaeus`, but faster."""

    def run(*arguments: object, cwd: Path) -> Ended:
        monkeypatch.chdir(cwd)
        code = main([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return run


# diff


def test_diff_shows_what_differs(runs: Path) -> None:
    """Tensors with their numbers, parts that are no weights on one line, then other values, then counts."""
    ended = linnaeus("diff", "1.pth", "2.pth", cwd=runs)
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert (ended.code, ended.err) == (0, "")
    assert lines == [
        "tensor what differs elements largest relative",
        "model.weight values 5 5 0.5",
        "optimizer 1 tensor, see --all 3 1 0.5",
        "",
        "value A B",
        "epoch 1 2",
        "metrics.loss 1 0.5",
        "",
        "differ: 2 tensors changed, 2 other values changed; 1 tensor equal",
    ]
    assert "optimizer.state.0.m" in linnaeus("diff", "--all", "1.pth", "2.pth", cwd=runs).out


def test_diff_shows_what_one_file_lacks(here: Here, runs: Path) -> None:
    """What is in one file only, and other shapes, are told in words."""
    library.save({"model": {"weight": torch.ones(3, 3), "head": torch.ones(1)}}, runs / "other.pth")
    out = here("diff", "1.pth", "other.pth", cwd=runs).out
    told = [" ".join(line.split()) for line in out.splitlines()]
    assert "model.weight 2 x 3 → 3 x 3" in told
    assert "model.bias only in A" in told
    assert "model.head only in B" in told
    assert "optimizer 1 tensor only in A, see --all" in told


def test_diff_tells_by_its_status_when_asked(here: Here, runs: Path) -> None:
    """Differing is no failure; with --exit-code it is status 1, and errors keep theirs."""
    assert here("diff", "1.pth", "1.pth", "--exit-code", cwd=runs).code == 0
    assert here("diff", "1.pth", "2.pth", cwd=runs).code == 0
    assert here("diff", "1.pth", "2.pth", "--exit-code", cwd=runs).code == 1
    assert here("diff", "1.pth", "/none.pth", "--exit-code", cwd=runs).code == 3
    assert here("diff", "1.pth", "1.pth", cwd=runs).out == "equal: 3 tensors and everything else\n"


def test_diff_as_json(here: Here, runs: Path) -> None:
    """The JSON form names everything with its numbers; what is not finite is a text."""
    library.save(state(2) | {"model": {"weight": torch.full((2, 3), torch.nan)}}, runs / "nan.pth")
    found = json.loads(here("diff", "--json", "1.pth", "nan.pth", cwd=runs).out)
    assert found["only_a"] == ["model.bias"]
    weight = found["tensors"][0]
    assert (weight["name"], weight["largest"], weight["num_differing"]) == ("model.weight", "Infinity", 6)


# convert


def test_weights_into_safetensors_and_back(here: Here, runs: Path) -> None:
    """The weights arrive bit for bit, what the file says of its run with them; the rest is told."""
    done = here("convert", "2.pth", "2.safetensors", cwd=runs)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1] == "left out: 3 tensors and values: optimizer, epoch"
    assert same(load_file(runs / "2.safetensors"), dict(sorted(state(2)["model"].items())))
    assert here("convert", "2.safetensors", "back.pth", cwd=runs).code == 0
    assert same(library.load(runs / "back.pth"), dict(sorted(state(2)["model"].items())))
    assert library.describe(runs / "back.pth").about == library.describe(runs / "2.pth").about


def test_everything_into_safetensors(here: Here, runs: Path) -> None:
    """With --all, every tensor goes by its dotted name; values that the format has not are told."""
    done = json.loads(here("convert", "--all", "--json", "2.pth", "2.safetensors", cwd=runs).out)
    assert (done["num_tensors"], done["left_out"]) == (3, ["optimizer.lr", "epoch"])
    assert set(load_file(runs / "2.safetensors")) == {"model.weight", "model.bias", "optimizer.state.0.m"}


def test_views_and_shared_tensors_into_safetensors(here: Here, tmp_path: Path) -> None:
    """Tied, transposed and conjugated tensors are written as what they show."""
    base = torch.arange(6.0).view(2, 3)
    tensors = {"a": base, "tied": base, "t": base.t(), "part": base[1], "c": torch.tensor([1 + 2j]).conj()}
    library.save(tensors, tmp_path / "x.pth")
    assert here("convert", "x.pth", "x.safetensors", cwd=tmp_path).code == 0
    found = load_file(tmp_path / "x.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.eye(2).to_sparse(), "a sparse tensor"),
        (torch.zeros(1, dtype=torch.complex128), "a complex128 tensor"),
        (torch.zeros(1, device="meta"), "a meta tensor"),
    ],
    ids=["sparse", "complex128", "meta"],
)
def test_what_safetensors_cannot_hold_is_refused(
    here: Here, tmp_path: Path, tensor: torch.Tensor, what: str
) -> None:
    """The tensor is named, and nothing is written."""
    library.save({"block": {"odd": tensor}}, tmp_path / "x.pth")
    ended = here("convert", "--all", "x.pth", "x.safetensors", cwd=tmp_path)
    assert ended.code == 1
    assert f"block.odd is {what}, which safetensors can't hold" in ended.err
    assert names(tmp_path) == ["x.pth"]


def test_a_missing_package_is_told(runs: Path) -> None:
    """Without the package safetensors, the error says how to install it; other conversions go on."""
    blocked = runs / "blocked"
    blocked.mkdir()
    (blocked / "safetensors.py").write_text("raise ImportError('not here')")
    save_file({"w": torch.ones(1)}, runs / "w.safetensors")
    for pair in (("1.pth", "1.safetensors"), ("w.safetensors", "w.pth")):
        ended = linnaeus("convert", *pair, cwd=runs, PYTHONPATH=str(blocked))
        assert ended.code in (1, 6)
        assert "pip install 'linnaeus[safetensors]'" in ended.err
    assert linnaeus("convert", "1.pth", "3.pth", cwd=runs, PYTHONPATH=str(blocked)).code == 0


def test_a_damaged_safetensors_file_is_refused(here: Here, runs: Path) -> None:
    """A file that is cut short, and one that is something else, end with 6 and leave nothing."""
    here("convert", "1.pth", "1.safetensors", cwd=runs)
    content = (runs / "1.safetensors").read_bytes()
    for bad in (content[:-8], b"", b"<html>"):
        (runs / "bad.safetensors").write_bytes(bad)
        assert here("convert", "bad.safetensors", "bad.pth", cwd=runs).code == 6
        assert not (runs / "bad.pth").exists()


def test_older_formats_become_ours(here: Here, tmp_path: Path) -> None:
    """A file of the format before 1.6, with objects of older training code, comes out whole and safe."""
    old = state(3) | {"args": argparse.Namespace(lr=0.1)}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert here("convert", "old.pth", "new.pth", cwd=tmp_path).code == 0
    assert library.describe(tmp_path / "new.pth").kind == "linnaeus"
    assert library.describe(tmp_path / "new.pth").about["epoch"] == 3
    assert same(library.load(tmp_path / "new.pth"), state(3) | {"args": {"lr": 0.1}})


def test_a_target_is_not_replaced_unasked(here: Here, runs: Path) -> None:
    """An existing target is kept unless --force is given."""
    before = (runs / "2.pth").read_bytes()
    refused = here("convert", "1.pth", "2.pth", cwd=runs)
    assert (refused.code, (runs / "2.pth").read_bytes()) == (1, before)
    assert "--force" in refused.err
    assert here("convert", "1.pth", "2.pth", "--force", cwd=runs).code == 0
    assert here("diff", "1.pth", "2.pth", "--exit-code", cwd=runs).code == 0


@pytest.mark.parametrize(
    "arguments", [["1.pth", "1.zip"], ["--all", "1.pth", "3.pth"], ["a.safetensors", "b.safetensors"]]
)
def test_names_that_make_no_sense_are_usage_errors(here: Here, runs: Path, arguments: list[str]) -> None:
    """An unknown suffix, --all where it means nothing, and no change of format end with 2."""
    save_file({"w": torch.ones(1)}, runs / "a.safetensors")
    assert here("convert", *arguments, cwd=runs).code == 2


# convert --trust


def test_an_unsafe_file_needs_trust(tmp_path: Path) -> None:
    """Without --trust nothing is executed, and the error names it; with it, the code runs elsewhere."""
    _made_by_code(tmp_path, "{'w': torch.ones(2), 'loud': our_code.Loud()}")
    refused = linnaeus("convert", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert (refused.code, refused.out) == (7, "")
    assert "convert --trust" in refused.err
    assert "\nwas executed" not in f"\n{refused.err}"
    assert not (tmp_path / "safe.pth").exists()
    done = linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert done.code == 0
    assert "running code of unsafe.pth: __builtin__.print" in done.err
    assert "\nwas executed\n" in done.err  # what the code prints is no result
    assert "was executed" not in done.out


def test_objects_become_plain_values(tmp_path: Path) -> None:
    """Modules become state dicts, objects dicts of their attributes, enumerations values; sharing stays."""
    _made_by_code(
        tmp_path,
        "(lambda m, s: {'model': m, 'settings': s, 'again': s, 'optimizer': torch.optim.SGD(m.parameters()),"
        " 'epoch': 4})(torch.nn.Linear(2, 1), our_code.Settings())",
    )
    assert linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path).code == 0
    assert library.verify(tmp_path / "safe.pth").ok
    made = library.load(tmp_path / "safe.pth")
    assert set(made["model"]) == {"weight", "bias"}
    assert made["settings"] == {"rate": 0.1, "kind": "small", "sizes": (1, 2)}
    assert made["settings"] is made["again"]
    assert made["optimizer"]["param_groups"][0]["params"] == [0, 1]
    assert library.describe(tmp_path / "safe.pth").about["epoch"] == 4


def test_an_unsafe_file_into_safetensors(tmp_path: Path) -> None:
    """A pickled module's weights arrive, and no file between is left."""
    _made_by_code(tmp_path, "{'model': torch.nn.Linear(2, 1)}")
    assert linnaeus("convert", "--trust", "unsafe.pth", "w.safetensors", cwd=tmp_path).code == 0
    assert set(load_file(tmp_path / "w.safetensors")) == {"weight", "bias"}
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("expression", "told", "code"),
    [
        ("{'a': {'b': [1, len]}}", "a.b.1 is of type builtins.builtin_function_or_method", 1),
        ("{'a': our_code.Settings}", "a is of type builtins.type", 1),
    ],
)
def test_what_has_no_plain_form_is_refused(tmp_path: Path, expression: str, told: str, code: int) -> None:
    """Code inside the object is refused with its place, and nothing is written."""
    _made_by_code(tmp_path, expression)
    before = names(tmp_path)
    ended = linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert ended.code == code
    assert told in ended.err
    assert [name for name in names(tmp_path) if name != "__pycache__"] == [
        name for name in before if name != "__pycache__"
    ]


def test_missing_classes_are_named(tmp_path: Path) -> None:
    """Where the code is not installed, the error says which module is missing and what to do."""
    _made_by_code(tmp_path, "our_code.Settings()")
    (tmp_path / "our_code.py").unlink()
    ended = linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert ended.code == 6
    assert "No module named 'our_code'" in ended.err
    assert "where its classes are installed" in ended.err


def test_code_that_ends_its_process_harms_nobody(tmp_path: Path) -> None:
    """A child that dies is told with its status; the target is not there."""
    (tmp_path / "dying.py").write_text("import os\nclass D:\n    def __reduce__(self): return os._exit, (3,)")
    script = "import torch, dying\ntorch.save({'w': torch.ones(1), 'd': dying.D()}, 'unsafe.pth')"
    env = environment(tmp_path, {"PYTHONPATH": str(tmp_path)})
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True)
    ended = linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert ended.code == 6
    assert "ended with status 3" in ended.err
    assert not (tmp_path / "safe.pth").exists()


def test_what_the_code_leaves_is_checked(tmp_path: Path) -> None:
    """Code that writes an unsafe file in place of the converted one gets nowhere."""
    _made_by_code(tmp_path, "our_code.Forger()")
    ended = linnaeus("convert", "--trust", "unsafe.pth", "safe.pth", cwd=tmp_path)
    assert ended.code == 7
    assert not (tmp_path / "safe.pth").exists()
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


# verify


def test_verify_finite_names_the_tensor(here: Here, runs: Path) -> None:
    """NaN in a whole file is found only when asked for; --deep is the default and excludes --structure."""
    bad = state(1)
    bad["model"]["weight"][1, 2] = torch.inf
    library.save(bad, runs / "bad.pth")
    assert here("verify", "bad.pth", cwd=runs).out == here("verify", "--deep", "bad.pth", cwd=runs).out
    found = here("verify", "--deep", "--finite", "1.pth", "bad.pth", cwd=runs)
    good, line = found.out.splitlines()
    assert (found.code, good.endswith("every byte checked, all values finite)")) == (6, True)
    assert "model.weight" in line


@pytest.mark.parametrize("target", ["new.pth", "new.safetensors"])
def test_damage_is_not_converted_into_a_whole_file(here: Here, runs: Path, target: str) -> None:
    """Flipped bits would get checksums of their own, and nobody could tell any more."""
    content = bytearray((runs / "1.pth").read_bytes())
    content[content.find(torch.ones(3).numpy().tobytes())] ^= 1
    (runs / "1.pth").write_bytes(content)
    ended = here("convert", "1.pth", target, cwd=runs)
    assert ended.code == 6
    assert "model.bias" in ended.err
    assert not (runs / target).exists()
