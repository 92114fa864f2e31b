"""Files that ask for code: refused with the names that they ask for, and nothing of them is executed."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import linnaeus
from linnaeus.errors import CheckpointInvalidError, UnsafeCheckpointError
from linnaeus.pth import require_valid
from support.pickles import MAGIC, PROTOCOL, SYSTEM, Call, archive, dumps, legacy, tensor_pickle

WEIGHTS = {"model": {"w": [1, 2]}}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that each malicious pickle would make."""
    return tmp_path / "canary"


def attacks(canary: Path) -> dict[str, Any]:
    """Return objects whose unpickling makes the canary, with what they ask for."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call("os", "system", touch),
        "posix.system": Call("posix", "system", touch),
        "subprocess.Popen": Call("subprocess", "Popen", ["touch", str(canary)]),
        "builtins.eval": Call("builtins", "eval", code),
        "builtins.exec": Call("builtins", "exec", code),
        "__builtin__.eval": Call("__builtin__", "eval", code),
        "pathlib.Path.touch": Call("pathlib", "Path.touch", Call("pathlib", "PosixPath", str(canary))),
        "runpy._run_code": Call("runpy", "_run_code", code, {}),
        "torch.load": Call("torch", "load", str(canary)),
        "torch.hub.load": Call("torch.hub", "load", "x"),
        "torch.serialization.load": Call("torch.serialization", "load", "x"),
        "torch.FloatStorage.from_file": Call("torch", "FloatStorage.from_file", str(canary), True, 10),
        "builtins.getattr": Call("builtins", "getattr", WEIGHTS, "x"),
        "numpy.core.multiarray._reconstruct": Call("numpy.core.multiarray", "_reconstruct"),
    }


NAMES = sorted(attacks(Path("x")))


def test_the_attacks_are_real(canary: Path) -> None:
    """An ordinary unpickler would have been caught; the canary proves something."""
    pickle.loads(dumps(Call("os", "system", f"touch {canary}")))
    assert canary.exists()


def refuse(path: Path, canary: Path, *names: str) -> None:
    """Check that every way to read a file refuses it, tells the names, and runs nothing."""
    ways: list[Callable[[Path], Any]] = [linnaeus.load, require_valid]
    for way in ways:
        with pytest.raises(UnsafeCheckpointError) as caught:
            way(path)
        assert set(names) <= set(caught.value.globals), caught.value
        assert all(name in str(caught.value) for name in names)
    report = linnaeus.verify(path)
    assert isinstance(report.error, UnsafeCheckpointError)
    with contextlib.suppress(UnsafeCheckpointError):  # what is no checkpoint at all is not described
        assert set(names) <= set(linnaeus.describe(path).unsafe)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_code_in_an_archive_is_refused(tmp_path: Path, canary: Path, name: str, protocol: int) -> None:
    """Whatever it calls and however it spells it, in REDUCE or STACK_GLOBAL, it is named and not run."""
    attack = attacks(canary)[name]
    refuse(archive(tmp_path / "x.pth", dumps(attack, protocol)), canary, name)
    refuse(
        archive(
            tmp_path / "y.pth", dumps({"model": {}, "optimizer": {"state": [0, {"a": attack}]}}, protocol)
        ),
        canary,
        name,
    )


@pytest.mark.parametrize("where", range(5))
@pytest.mark.parametrize("name", ["os.system", "builtins.eval"])
def test_code_in_any_pickle_of_the_old_format_is_refused(
    tmp_path: Path, canary: Path, name: str, where: int
) -> None:
    """The old format has five pickles; code in any of them is found, also instead of its first number."""
    attack = attacks(canary)[name]
    parts = [dumps(part) for part in (MAGIC, PROTOCOL, SYSTEM, {"w": 1}, [])]
    refuse(legacy(tmp_path / "x.pth", [*parts[:where], dumps(attack)]), canary, name)
    hidden = [dumps(part) for part in (MAGIC, PROTOCOL, SYSTEM | {"x": attack}, {"w": attack}, [attack])]
    if where >= 2:
        refuse(legacy(tmp_path / "y.pth", [*parts[:where], hidden[where]]), canary, name)


def test_a_bare_pickle_that_asks_for_code_is_refused(tmp_path: Path, canary: Path) -> None:
    """A file that is no checkpoint at all, but would be run by an unsafe reader, is called unsafe."""
    for protocol in (0, 2, 4):
        path = tmp_path / "x.pth"
        path.write_bytes(dumps(Call("os", "system", f"touch {canary}"), protocol))
        refuse(path, canary, "os.system")


def opcodes(canary: Path) -> dict[str, bytes]:
    """Return pickles made by hand, of kinds that no pickler writes."""
    text = str(canary).encode()
    unicode = b"X" + len(text).to_bytes(4, "little") + text
    touch = b"X" + (len(text) + 6).to_bytes(4, "little") + b"touch " + text
    return {
        "inst": b"(" + touch + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + touch + b"o.",
        "newobj": b"\x80\x02csubprocess\nPopen\n]" + touch + b"a\x85\x81.",
        "newobj_ex": b"\x80\x04csubprocess\nPopen\n]" + touch + b"a\x85}\x92.",
        "getattr chain": b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nU\x08__call__\x86R" + touch + b"\x85R.",
        "called result": b"\x80\x02coperator\nattrgetter\nU\x06system\x85Rcos\nos\n\x85R" + touch + b"\x85R.",
        "build": b"\x80\x02cos\nsystem\n)R}U\x0c__setstate__cos\nsystem\nsb" + touch + b"b.",
        "setitem": b"\x80\x02cos\nenviron\nU\x01a" + touch + b"s.",
        "append": b"\x80\x02csys\npath\n" + unicode + b"a.",
        "popped": b"\x80\x02cos\nsystem\n" + touch + b"\x85R0}.",
        "memoised": b"\x80\x02cos\nsystem\nq\x000}U\x01ah\x00" + touch + b"\x85Rs.",
        "persistent": b"\x80\x02cos\nsystem\n" + touch + b"\x85RQ.",
        "key": b"\x80\x02}cos\nsystem\n" + touch + b"\x85RNs.",
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(opcodes(Path("x"))))
def test_code_asked_for_by_rare_opcodes_is_refused(tmp_path: Path, canary: Path, kind: str) -> None:
    """INST, OBJ, NEWOBJ, BUILD, SETITEM and the like reach nothing, and the file is unsafe, not damaged."""
    refuse(archive(tmp_path / "x.pth", opcodes(canary)[kind]), canary)


@pytest.mark.parametrize(
    "name",
    ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor",
     "torch._utils._rebuild_parameter", "collections.OrderedDict",
     "torch.Size", "torch.FloatStorage", "torch.float32", "builtins.complex", "_codecs.encode",
     "torch.device"],
)  # fmt: skip
def test_a_file_cannot_poison_the_reading_of_the_next(tmp_path: Path, name: str) -> None:
    """A state set on what stands for a function changes nothing for files read afterwards."""
    module, _, last = name.rpartition(".")
    for attribute in (
        b"__defaults__",
        b"__kwdefaults__",
        b"__call__",
        b"__setstate__",
        b"__new__",
        b"_function",
    ):
        key = b"U" + bytes([len(attribute)]) + attribute
        for state in (b"}" + key + b")s", b"N}" + key + b")s\x86"):
            evil = b"\x80\x02c" + f"{module}\n{last}\n".encode() + state + b"b."
            report = linnaeus.verify(archive(tmp_path / "evil.pth", evil))
            assert not report.ok or report.num_tensors == 0
    oldest = tensor_pickle().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    oldest = oldest.replace(b"\x89ccollections\nOrderedDict\n)RtR.", b"tR.")
    assert linnaeus.verify(archive(tmp_path / "oldest.pth", oldest, {"data/0": bytes(8)})).ok
    good = {"w": torch.nn.Parameter(torch.ones(2)), "z": 1j, "b": b"x", "s": torch.Size([2])}
    linnaeus.save(good, tmp_path / "good.pth")
    assert linnaeus.verify(tmp_path / "good.pth").ok
    assert [tensor.shape for tensor in linnaeus.describe(tmp_path / "good.pth").tensors] == [(2,)]


def test_an_attribute_set_on_a_dict_does_not_hide_its_tensors(tmp_path: Path) -> None:
    """A state that shadows `items` fools neither the description nor the check of bounds."""
    state = b"}U\x05itemscbuiltins\nbytearray\nsb."
    inner = tensor_pickle()[2:-1]
    evil = b"\x80\x02ccollections\nOrderedDict\n)RU\x01w" + inner + b"s" + state
    path = archive(tmp_path / "x.pth", evil, {"data/0": bytes(8)})
    assert [tensor.name for tensor in linnaeus.describe(path).tensors] == ["w"]


def test_a_refused_file_is_refused_by_resume_too(tmp_path: Path, canary: Path) -> None:
    """A run does not go on from a file that asks for code, named or found, and runs nothing of it."""
    directory = tmp_path / "run"
    directory.mkdir()
    evil = archive(directory / "checkpoint_epoch_1.pth", dumps(attacks(canary)["os.system"]))
    plain = {"ENV": {"OUTPUT": {"DIRS": {"CHECKPOINTS": str(directory)}}}}
    for train in ({"AUTO_RESUME": True}, {"AUTO_RESUME": False, "RESUME": str(evil)}):
        cfg = linnaeus.Config.from_plain(plain | {"TRAIN": train})
        with pytest.raises(CheckpointInvalidError, match=r"os\.system"):
            linnaeus.CheckpointManager(cfg, model=torch.nn.Linear(1, 1)).resume()
    assert evil.exists()
    assert not canary.exists()
    assert os.listdir(directory) == [evil.name]  # noqa: PTH208
