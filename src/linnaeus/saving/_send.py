"""Send one checkpoint to a bucket, and prove that what stands there is it: a file, or a directory of shards.

A directory is a folder there. Its commit file is sent last, when every other file is proven to be there, and
is removed first; so a folder with a commit file is always whole, and one without is no checkpoint. Of nodes
that share no directory each sends its part, and whoever then sees all parts there sends the commit file: the
names of shards are new with every save, so that those of an older one can't be taken for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from linnaeus import pth
from linnaeus.errors import RemoteError
from linnaeus.files import hold, remove_file
from linnaeus.remote import Progress, Remote, RemoteFile, Session

Same = Callable[[Path, RemoteFile], bool]
"""Tells whether a local file and one that is there, with its digests, have the same content."""


def send(
    remote: Remote,
    session: Session,
    path: Path,
    name: str,
    same: Same,
    progress: Progress | None,
    *,
    mark: str = "",
) -> None:
    """Send a checkpoint, replacing what is there; of a part, what is here.

    Args:
        remote: Where to.
        session: The same place.
        path: The checkpoint.
        name: What to call it there.
        same: Compares a file that was sent.
        progress: Called now and then.
        mark: Whose upload it is, as for `Remote.send`.

    Raises:
        RemoteError: It did not arrive.
        CheckpointInvalidError: A directory has lost its commit file.
    """
    if not path.is_dir():
        held = hold(path)  # it may be pruned meanwhile; a directory that is pruned ends this with an error
        try:
            _send_file(remote, session, held, name, same, progress, mark)
        finally:
            if held != path:
                remove_file(held)
        return
    *shards, metadata, commit = pth.files_told_of(path)
    there = {file.name for file in session.folder(name)}
    if f"{name}/{commit}" in there:
        ours = (path / commit).read_bytes()
        if session.read(f"{name}/{commit}", 0, len(ours)) == ours:  # by the others, this moment
            return
        session.delete(f"{name}/{commit}")  # before anything beside it is changed

    def send_missing(file: str) -> None:
        """Send a file unless an earlier try has, where the bucket can prove it."""
        one = f"{name}/{file}"
        known = session.stat(one) if one in there else None
        if known is None or not known.digests or not _is_there(path / file, known, same):
            _send_file(remote, session, path / file, one, same, progress, mark)

    for shard in shards:
        if (path / shard).exists():  # else it is with another node
            send_missing(shard)
    if {*shards} - shards_there(session, path, name):
        return
    send_missing(metadata)
    _send_file(remote, session, path / commit, f"{name}/{commit}", same, progress, mark)
    for stale in there - {f"{name}/{one}" for one in (*shards, metadata, commit)}:
        session.delete(stale)


def shards_there(session: Session, path: Path, name: str) -> set[str]:
    """Return which shards of a directory have arrived in the folder of that name, other nodes' too."""
    there = {file.name: file.size_bytes for file in session.folder(name)}
    *shards, _, _ = pth.files_told_of(path).items()
    return {shard for shard, told in shards if there.get(f"{name}/{shard}") == told.size_bytes}


def delete(session: Session, name: str) -> None:
    """Remove a checkpoint from a bucket: of a directory of shards the commit file first, then all others."""
    if not name.endswith(pth.SHARDED):
        session.delete(name)
        return
    session.delete(f"{name}/{pth.COMMIT}")
    for file in session.folder(name):
        session.delete(file.name)


def _send_file(
    remote: Remote,
    session: Session,
    path: Path,
    name: str,
    same: Same,
    progress: Progress | None,
    mark: str,
) -> None:
    remote.send(path, name, progress=progress, mark=mark)
    known = session.stat(name)
    if known is not None and _is_there(path, known, same):
        return
    if known is not None:
        session.delete(name)  # what this call put there
    raise RemoteError(remote=remote.place, operation=f"upload of {name}", tail="what arrived there differs")


def _is_there(path: Path, known: RemoteFile, same: Same) -> bool:
    return known.size_bytes == path.stat().st_size and same(path, known)
