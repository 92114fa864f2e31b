"""From an unsafe `.pth`, which its user trusts, to a safe one, by a child process.

The only place where a pickle's code is run. It runs in the child alone: what comes back are a file, which is
checked as any other before anybody sees it, and a line of JSON. Nothing of the child's is unpickled here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from linnaeus.errors import CheckpointInvalidError, LinnaeusError, SaveError, error_named
from linnaeus.files import commit, remove_file, temporary_name
from linnaeus.pth._archive import not_readable
from linnaeus.pth._outline import BAD_PICKLE
from linnaeus.pth._save import save
from linnaeus.pth._verify import require_valid

_LONGEST_ANSWER_BYTES = 1 << 20


def rewrite_trusted(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Run the code that an unsafe checkpoint asks for, and write what it holds as a safe one.

    Call it only for files whose origin is trusted: the code may do whatever this user may. It runs in a
    process of its own, started anew, in which modules of the current directory can be imported.
    Modules, optimizers and the like become their state dicts, other objects dicts of their attributes.

    Args:
        source: The unsafe file.
        target: Where to; an existing file is replaced.
        about: What the new file shall say of itself.

    Raises:
        CheckpointInvalidError: It can't be unpickled here; classes that it needs may be missing.
        SaveError: It holds something without a plain form (its place is named), or the system refused.
    """
    source, target = Path(source), Path(target)
    temporary = temporary_name(target)
    try:
        _run_child(source, temporary, target, dict(about or {}))
        require_valid(temporary)
        commit(temporary, target)
    except OSError as error:
        if isinstance(error, LinnaeusError):
            raise
        raise SaveError(path=str(target), problem=error.strerror or str(error)) from error
    finally:
        remove_file(temporary)


def _run_child(source: Path, temporary: Path, target: Path, about: dict[str, Any]) -> None:
    """Start the child, wait for it, and raise what it tells, of `target` where it tells of `temporary`.

    Raises:
        LinnaeusError: The file was not written.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(str(source), str(temporary), about, sender))
    try:
        child.start()
        sender.close()  # so that the child's end is seen here
        answer = _received(receiver)
        child.join()
    finally:
        receiver.close()
        if child.is_alive():
            child.terminate()
            child.join()
    if answer is None:
        raise CheckpointInvalidError(
            path=str(source), problem=f"the process that unpickled it ended with status {child.exitcode}"
        )
    if answer:
        raise _told(source, answer, {str(temporary): str(target)})


def _received(receiver: Connection) -> dict[str, Any] | None:
    """Return the child's answer, or None when it gave none; whatever ran there may have sent anything."""
    try:
        answer = json.loads(receiver.recv_bytes(_LONGEST_ANSWER_BYTES))
    except (EOFError, OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _told(source: Path, answer: dict[str, Any], names: Mapping[str, str]) -> LinnaeusError:
    fields = answer.get("fields")
    error = None
    if isinstance(fields, dict) and isinstance(path := fields.get("path"), str):
        error = error_named(str(answer.get("error")), fields | {"path": names.get(path, path)})
    return error or CheckpointInvalidError(path=str(source), problem="the process that unpickled it failed")


def _child(source: str, target: str, about: dict[str, Any], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is the parent's to tell
    os.dup2(2, 1)  # the code may print; standard output belongs to results
    sys.path.append(str(Path.cwd()))  # last, so that nothing there takes the place of an installed module
    try:
        _rewrite(Path(source), Path(target), about)
    except LinnaeusError as error:
        answer = {"error": type(error).__name__, "fields": error.fields()}
        sender.send_bytes(json.dumps(answer, default=str).encode())
    else:
        sender.send_bytes(b"{}")


def _rewrite(source: Path, target: Path, about: dict[str, Any]) -> None:
    from linnaeus.pth._plain import NotPlainError, plain

    try:
        obj = plain(_unpickled(source))
    except NotPlainError as error:
        raise SaveError(path=str(target), problem=str(error)) from error
    save(obj, target, about=about)


def _unpickled(source: Path) -> Any:
    import torch

    try:
        # The one unsafe load: its user asked for it by name, and this process exists for nothing else.
        return torch.load(source, map_location="cpu", weights_only=False)
    except OSError as error:
        raise not_readable(source, error) from error
    except (*BAD_PICKLE, RuntimeError) as error:
        missing = isinstance(error, (ImportError, AttributeError))
        raise CheckpointInvalidError(
            path=str(source),
            problem=f"unpickling it failed ({type(error).__name__}: {error})",
            advice="Run this where its classes are installed, or in the directory of their code."
            if missing
            else None,
        ) from error
