"""The exception tree: builtins that callers catch, plain fields, one message, pickling, telling as JSON."""

import copy
import inspect
import json
import pickle

import pytest

from linnaeus import errors
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    ConfigError,
    CorruptCheckpointError,
    IdentifierError,
    IncompatibleWeightsError,
    IncompleteCheckpointError,
    InsufficientSpaceError,
    LinnaeusError,
    LoadError,
    PeerFailedError,
    PinMismatchError,
    RcloneMissingError,
    RemoteAuthError,
    RemoteConflictError,
    RemoteError,
    RemoteNotFoundError,
    RemoteTimeoutError,
    ResumeMismatchError,
    SaveError,
    SaveTimeoutError,
    StitchError,
    TornSaveError,
    UnsafeCheckpointError,
    UnsupportedFormatError,
    error_named,
)

_REMOTE = {
    "remote": "bucket b",
    "operation": "download of x.pth",
    "attempts": 4,
    "tail": "503",
    "advice": "Wait.",
}
_FILE = {"path": "/c/x.pth", "problem": "it is wrong", "advice": "Try this."}

EVERY = [
    ConfigError(
        field="TRAIN.EPOCHS", expected="should be a number", value="x", nearest="EPOCHS", source="a.yaml"
    ),
    IdentifierError(identifier="a/b", reason="it has a separator"),
    CheckpointNotFoundError(
        identifier="x.pth", places=["not in the cache /c"], nearest=["y.pth"], advice="Look."
    ),
    CheckpointInvalidError(**_FILE),
    CorruptCheckpointError(**_FILE, record="data/0", tensor="model.w"),
    IncompleteCheckpointError(**_FILE, missing=["__2_0.distcp", "__3_0.distcp"]),
    PinMismatchError(**_FILE, expected="ab", found="cd"),
    UnsafeCheckpointError(**_FILE, globals=["os.system"]),
    UnsupportedFormatError(**_FILE, found="a web page", supported="checkpoints"),
    RemoteError(**_REMOTE),
    RcloneMissingError(**_REMOTE),
    RemoteAuthError(**_REMOTE),
    RemoteConflictError(**_REMOTE),
    RemoteNotFoundError(**_REMOTE),
    RemoteTimeoutError(**_REMOTE),
    SaveError(**_FILE),
    InsufficientSpaceError(**_FILE, needed_bytes=2_000_000, free_bytes=1000),
    PeerFailedError(**_FILE, ranks=[3], details=["rank 3: no"]),
    SaveTimeoutError(**_FILE, seconds=600.0, stack="line 1"),
    TornSaveError(**_FILE),
    LoadError(**_FILE),
    IncompatibleWeightsError(**_FILE, details=["head: (10, 4) here, (5, 4) there"]),
    StitchError(**_FILE, details=["norm.weight is claimed twice"]),
    ResumeMismatchError(**_FILE, details=["no scheduler in the file"]),
]
CAUGHT_AS = {
    ConfigError: ValueError,
    IdentifierError: ValueError,
    CheckpointNotFoundError: FileNotFoundError,
    CheckpointInvalidError: ValueError,
    RemoteError: OSError,
    SaveError: RuntimeError,
    LoadError: RuntimeError,
}


def _name(error: LinnaeusError) -> str:
    return type(error).__name__


def test_every_class_is_tried_here():
    """No error class escapes these tests."""
    classes = {
        cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, LinnaeusError)
    }
    assert classes == {type(error) for error in EVERY} | {LinnaeusError}


@pytest.mark.parametrize(("cls", "builtin"), CAUGHT_AS.items())
def test_each_is_the_builtin_that_callers_already_catch(cls, builtin):
    """`except FileNotFoundError` and the like go on working."""
    assert issubclass(cls, builtin)
    assert issubclass(cls, LinnaeusError)


@pytest.mark.parametrize("error", EVERY, ids=_name)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_it_crosses_a_process_boundary_whole(error, through):
    """Class, fields and message survive pickling and copying."""
    twin = through(error)
    assert type(twin) is type(error)
    assert twin.fields() == error.fields()
    assert str(twin) == str(error)


@pytest.mark.parametrize("error", EVERY, ids=_name)
def test_it_is_told_as_json(error):
    """Its fields are plain enough for JSON, and its name and fields make it again."""
    told = json.loads(json.dumps({"error": _name(error), "fields": error.fields()}))
    twin = error_named(told["error"], told["fields"])
    assert type(twin) is type(error)
    assert str(twin) == str(error)


@pytest.mark.parametrize("error", EVERY, ids=_name)
def test_its_message_holds_every_field_that_was_given(error):
    """What failed, on what, what was found and what to do are all in the text."""
    text = str(error)
    for value in error.fields().values():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            assert (f"{item:,}" if isinstance(item, int) and item > 100 else str(item)) in text


@pytest.mark.parametrize("error", EVERY, ids=_name)
def test_its_message_is_tidy_without_the_optional_fields(error):
    """No None, no empty brackets and no double stops when only the required fields are given."""
    cls = type(error)
    required = {
        name: value
        for name, value in error.fields().items()
        if inspect.signature(cls).parameters[name].default is inspect.Parameter.empty
    }
    text = str(cls(**required))
    for untidy in ("None", "()", "..", "  ", ": .", ":."):
        assert untidy not in text


@pytest.mark.parametrize("error", EVERY, ids=_name)
def test_fields_are_given_by_name_only(error):
    """An argument's meaning never depends on its position."""
    with pytest.raises(TypeError):
        type(error)("x.pth")


def test_one_attempt_is_not_counted_in_the_message():
    """The number of attempts is told when there were several."""
    assert "attempts" not in str(RemoteError(remote="b", operation="listing"))
    assert "after 2 attempts" in str(RemoteError(remote="b", operation="listing", attempts=2))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("NoSuchError", {}),
        ("Mapping", {}),
        ("error_named", {}),
        ("ValueError", {}),
        ("SaveError", {"path": "x", "colour": "red"}),
        ("SaveError", {}),
    ],
)
def test_what_names_no_error_of_ours_makes_none(name, values):
    """Names and fields from elsewhere make no object and raise nothing."""
    assert error_named(name, values) is None
