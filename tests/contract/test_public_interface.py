"""The names that others import, how they are called, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import linnaeus
from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path

# Each with the parameters that callers pass by position, and those that they pass by name.
_CALLABLES = {
    "load_config": (["path", "overrides"], ["overrides"]),
    "resolve": (["identifier", "cfg"], ["progress"]),
    "load": (["path"], ["map_location", "mmap"]),
    "save": (["obj", "path"], ["about"]),
    "load_pretrained": (["cfg", "model"], []),
    "preview": (["cfg", "model"], ["recipe", "checkpoint"]),
    "stitch": (["recipe", "model", "cfg"], []),
    "verify": (["path"], ["content"]),
    "describe": (["path"], []),
    "CheckpointManager": (
        ["cfg"],
        ["model", "optimizer", "lr_scheduler", "scaler", "ema", "loader"],
    ),
    "ResumableLoader": (["dataset"], ["batch_size", "seed"]),
}


@pytest.mark.parametrize("name", _CALLABLES)
def test_every_public_name_is_there(name: str) -> None:
    """Each name can be imported, called, is listed, and is documented."""
    value = getattr(linnaeus, name)
    assert callable(value)
    assert name in linnaeus.__all__
    assert name in dir(linnaeus)
    assert inspect.getdoc(value)


@pytest.mark.parametrize(("name", "parameters"), _CALLABLES.items(), ids=_CALLABLES)
def test_public_names_are_called_as_documented(name: str, parameters: tuple[list[str], list[str]]) -> None:
    """The first parameters stand in their documented order; the others can be given by name."""
    by_position, by_name = parameters
    signature = inspect.signature(getattr(linnaeus, name))
    assert list(signature.parameters)[: len(by_position)] == by_position
    assert set(by_name) <= set(signature.parameters)
    required = [
        p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    assert set(required) <= {*by_position, *by_name}


@pytest.mark.parametrize("method", ["resume", "step", "end_epoch", "save", "close"])
def test_the_manager_has_what_a_loop_calls(method: str) -> None:
    """A training loop's calls are there, and documented."""
    assert inspect.getdoc(getattr(linnaeus.CheckpointManager, method))


def test_the_documented_doorway_has_its_signature() -> None:
    """`resolve_checkpoint_path(identifier, cache_dir, bucket_config)` can be called as it always was."""
    signature = inspect.signature(resolve_checkpoint_path)
    assert list(signature.parameters) == ["identifier", "cache_dir", "bucket_config"]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in signature.parameters.values())
    assert signature.return_annotation == "str"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that is not public is refused as by any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        linnaeus.nonsense  # noqa: B018 - looking is the test


def _modules_after(code: str) -> set[str]:
    listing = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import linnaeus",
        "import linnaeus; dir(linnaeus)",
        "import linnaeus; linnaeus.load_config()",
        "from linnaeus.errors import LinnaeusError",
        "from linnaeus import resolve, verify, describe, load, save",
        "from linnaeus.utils.checkpoint_utils import resolve_checkpoint_path",
        "import linnaeus.cli, linnaeus.remote, linnaeus.resolving, linnaeus.saving, linnaeus.runs",
    ],
)
def test_importing_does_not_import_torch(code: str) -> None:
    """Whoever only names, finds and examines checkpoints waits for no torch."""
    assert _modules_after(code) & {"torch", "numpy"} == set()


def test_importing_the_package_is_nearly_free() -> None:
    """`import linnaeus` itself loads nothing but the package."""
    ours = {name for name in _modules_after("import linnaeus") if name.startswith("linnaeus")}
    assert ours == {"linnaeus"}
