"""From an object to a directory of shards, whole or not at all; by one process, or by all ranks together.

No rank needs to see the files of another: each writes its own. What each wrote, with digests, is told to
rank 0, which writes the metadata and, last, the commit file. Whether ranks share the directory is found out
by looking for what rank 0 made. On a node that does not see it, one rank makes a directory for all ranks
there, which gets the same metadata and commit file; together those of all nodes are the checkpoint.

Invariant: the final name holds what it held before, or the complete new directory. Everything is made under a
temporary name, and on disk before the rename. Where there are several directories, rank 0's is renamed last,
so that a checkpoint begins to exist when all of it is there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import LinnaeusError, SaveError
from linnaeus.files import (
    commit_directory,
    fsync_directory,
    fsync_file,
    make_directory,
    remove,
    require_space,
    temporary_name,
)
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._commit_file import COMMIT, FileSum, compose_commit
from linnaeus.pth._dcp_metadata import METADATA
from linnaeus.pth._save_together import Ranks
from linnaeus.pth._shares import Shares
from linnaeus.pth._told import Wording, same, told

if TYPE_CHECKING:
    from linnaeus.pth._shard_files import Kept, Writer
    from linnaeus.pth._shard_plan import Block, Plan, Spot

_WORDING = Wording(
    whole="a directory of shards",
    instead="Store it otherwise, or save one file: SCHEDULE.CHECKPOINT.FORMAT: pth.",
    made="directory",
    unseen="It was there when the save began; does somebody else clean this directory?",
)


class Alone:
    """The only process, for saves that no other takes part in."""

    rank, world_size = 0, 1

    def agree(
        self,
        _: str,
        act: Callable[[], Any],
        *,
        merge: Callable[[list[Any]], Any] = lambda many: many[0],
        conclude: Callable[[Any], Any] = lambda merged: merged,
    ) -> Any:
        """Act, and conclude."""
        return conclude(merge([act()]))


def save_sharded(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    shares: Shares | None = None,
    ranks: Ranks | None = None,
    about: Mapping[str, Any] | None = None,
    durable: bool = True,
    publish: Callable[[Path], Any] | None = None,
    follow: Callable[[Any], None] = lambda _: None,
) -> int:
    """Write a directory of shards that `torch.distributed.checkpoint` reads; call it on every rank.

    Args:
        obj: A dict, on every rank of the same structure; as for `save_together`.
        path: The directory, as this rank spells it; one that stands there is replaced. What it is in must
            exist for rank 0. Of ranks that do not see the same one, each node has a part.
        shares: What this rank has of it; of one process, all.
        ranks: All ranks; None for one process.
        about: What it shall say of itself; rank 0's.
        durable: Wait until the bytes are on disk.
        publish: On a rank that made a directory: makes it, finished and on disk, what `path` names. By
            default it is renamed. What rank 0's returns, JSON values, is told to the others.
        follow: On other ranks that made a directory: called when the checkpoint exists, with what rank 0's
            `publish` returned.

    Returns:
        The size of all files in bytes, wherever they are.

    Raises:
        SaveError: `obj` holds something that a directory can't, the ranks hold other structures, or the
            system refused.
        PeerFailedError: Another rank failed or is missing.
    """
    session = Session(Path(path), shares or Shares(), ranks or Alone(), durable=durable)
    try:
        session.write(obj, about or {})
        return session.commit(publish, follow)
    finally:
        session.clear()


def write_sharded(obj: Any, temporary: Path, path: Path, about: Mapping[str, Any]) -> None:
    """Write a directory of shards under a temporary name, on disk; `path` is told in messages.

    Raises:
        SaveError: As `save_sharded`.
    """
    Session(path, Shares(), Alone(), durable=True, temporary=temporary).write(obj, about)


class Session:
    """One save, seen from one rank."""

    def __init__(
        self,
        final: Path,
        shares: Shares,
        ranks: Ranks,
        *,
        durable: bool,
        temporary: Path | None = None,
        block_bytes: int | None = None,
    ) -> None:
        self._final, self._shares, self._ranks, self._durable = final, shares, ranks, durable
        self._given, self._temporary = temporary, temporary
        self._claim: Path | None = None
        self._size_bytes = 0
        self._writer: Writer | None = None
        self._sizes = {} if block_bytes is None else {"most_bytes": block_bytes}

    def write(
        self,
        obj: Any,
        about: Mapping[str, Any],
        blocks: Callable[[Plan], Iterator[Block]] | None = None,
        written: Callable[[Spot], None] = lambda _: None,
    ) -> None:
        """Write this rank's files; return when all ranks' are there, with the commit file.

        Args:
            obj: What to save.
            about: What the directory shall say of itself.
            blocks: What to write of it, where that is not told by the shares.
            written: Called with the place of each block when it is written.
        """
        from linnaeus.pth._shard_plan import plan_of  # here, so that describing stays free of torch

        with self._told(), collection_paused():
            plan = plan_of(obj)
        begun = self._ranks.agree(
            f"laying out {self._final}",
            lambda: {"digest": plan.digest(self._shares), "rank": self._ranks.rank, "odd": []},
            merge=same,
            conclude=lambda said: self._begin(plan, said["odd"]),
        )
        mine = blocks or (lambda plan: plan.blocks(self._shares, self._ranks.rank, self._ranks.world_size))
        told = self._ranks.agree(
            f"writing {self._final}",
            lambda: self._act(self._open(Path(begun), plan), mine(plan), written),
            merge=_joined,
            conclude=lambda said: self._end(plan, said, about),
        )
        if told is not None:
            self._ranks.agree(f"telling all nodes of {self._final}", lambda: self._take(told))

    def _begin(self, plan: Plan, odd: list[int]) -> str:
        if odd:
            raise SaveError(
                path=str(self._final),
                problem=f"ranks {', '.join(map(str, odd[:16]))} hold other tensors than rank 0",
                advice="Every rank must save the same parts with the same names and shapes.",
            )
        if os.path.lexists(self._final) and (self._final.is_symlink() or not self._final.is_dir()):
            raise SaveError(path=str(self._final), problem="it is no directory")
        made = self._given or temporary_name(self._final)
        with self._told():
            require_space(self._final, plan.size_bytes)
            made.mkdir()
        self._temporary = made
        return str(made)

    def _open(self, begun: Path, plan: Plan) -> Writer:
        """Return what writes this rank's files: where rank 0 does, or in a directory of this node's own."""
        from linnaeus.pth._shard_files import Writer

        with self._told():
            if self._temporary is None:
                self._temporary = self._seen(self._final.with_name(begun.name))
            label = f"{self._ranks.rank}_{_token(begun)}"
            self._writer = Writer(self._temporary, plan, label, durable=self._durable, **self._sizes)
        return self._writer

    def _seen(self, shared: Path) -> Path:
        """Return what this rank sees under the name that rank 0 gave; where nothing, make it for this node.

        The directory's own name tells whose it is, so that it is swept when this process is killed; under the
        common name a link leads there, which only one rank of a node can make.
        """
        if shared.exists():
            return shared
        make_directory(self._final.parent)
        own = temporary_name(self._final)
        own.mkdir()
        try:
            shared.symlink_to(own.name)
        except FileExistsError:
            own.rmdir()
            return shared
        self._claim = shared
        return own

    @property
    def _leads_apart(self) -> bool:
        """Whether this rank made a directory that rank 0 does not see."""
        return self._claim is not None

    def _act(
        self, writer: Writer, blocks: Iterator[Block], written: Callable[[Spot], None]
    ) -> dict[str, Any]:
        """Write this rank's files; return where everything is, and the digests."""
        with self._told():
            kept = []
            for one in writer.write(blocks, with_values=self._ranks.rank == 0):
                kept.append(one)
                if one.offsets is not None:
                    written(writer.spot(one.number))
        return {
            "kept": kept,
            "sums": {name: [one.size_bytes, one.sha256] for name, one in writer.sums.items()},
            "apart": int(self._leads_apart),
        }

    def _end(self, plan: Plan, said: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str] | None:
        """Write what tells of all files, and last the commit file; return both for directories elsewhere."""
        from linnaeus.pth._shard_files import Kept

        writer = self._writer
        assert self._temporary is not None and writer is not None  # noqa: S101, PT018 - set before writing
        kept = [Kept(*one) for one in said["kept"]]
        self._require_whole(plan, kept)
        with self._told():
            writer.finish(kept)
            sums = {name: FileSum(*one) for name, one in said["sums"].items()} | writer.sums
            commit = compose_commit(plan.describe(about), sums, plan.names, 1 + said["apart"])
            self._size_bytes = len(commit) + sum(one.size_bytes for one in sums.values())
            self._finish(commit)
            if not said["apart"]:
                return None
            metadata = (self._temporary / METADATA).read_bytes()
        return {COMMIT: _packed(commit), METADATA: _packed(metadata)}

    def _finish(self, commit: bytes) -> None:
        assert self._temporary is not None  # noqa: S101 - callers have written
        path = self._temporary / COMMIT
        path.write_bytes(commit)
        if self._durable:
            fsync_file(path)
            fsync_directory(self._temporary)

    def _take(self, told: Mapping[str, str]) -> None:
        """Put what tells of all files into the directory that this rank made for its node."""
        if not self._leads_apart:
            return
        assert self._temporary is not None  # noqa: S101 - it was made
        with self._told():
            metadata = self._temporary / METADATA
            metadata.write_bytes(_unpacked(told[METADATA]))
            if self._durable:
                fsync_file(metadata)
            self._finish(_unpacked(told[COMMIT]))

    def _require_whole(self, plan: Plan, kept: list[Kept]) -> None:
        """Check that every element of every tensor was written once."""
        counts = [0] * len(plan.spots)
        for one in kept:
            if one.offsets is not None:
                counts[one.number] += math.prod(one.shape)
        for name, spot, count in zip(plan.names, plan.spots, counts, strict=True):
            if spot is not None and count != math.prod(spot.shape):
                raise SaveError(
                    path=str(self._final), problem=f"what the ranks wrote does not join to all of {name}"
                )

    def commit(
        self,
        publish: Callable[[Path], Any] | None = None,
        follow: Callable[[Any], None] = lambda _: None,
    ) -> int:
        """Give the directory its name, rank 0's last; return the size of all files."""
        assert self._temporary is not None  # noqa: S101 - set when it was written
        temporary = self._temporary
        published: list[Path] = []

        def act() -> Any:
            with self._told():
                told = (publish or self._rename)(temporary)
            published.append(self._final)
            return told

        what = f"committing {self._final}"
        try:
            size_bytes, told = self._ranks.agree(
                what,
                lambda: act() if self._leads_apart else None,
                conclude=lambda _: [self._size_bytes, act()],
            )
        except LinnaeusError as error:
            if published and not getattr(error, "missing", ()):  # rank 0's never appeared
                remove(self._final)
            raise
        if self._leads_apart:
            follow(told)
        return int(size_bytes)

    def _rename(self, temporary: Path) -> None:
        commit_directory(temporary, self._final, durable=self._durable)

    def clear(self) -> None:
        """Remove what is left under the temporary name; any rank may, since that is given only once."""
        for left in (self._claim, self._temporary):
            if left is not None:
                with contextlib.suppress(OSError):
                    remove(left)

    def _told(self) -> AbstractContextManager[None]:
        return told(self._final, self._ranks.rank, _WORDING)


def _joined(said: list[Any]) -> Any:
    return {
        "kept": [one for part in said for one in part["kept"]],
        "sums": {name: told for part in said for name, told in part["sums"].items()},
        "apart": sum(part["apart"] for part in said),
    }


def _token(begun: Path) -> str:
    """Return what this save's files are called by, so that no other's can be taken for them."""
    return hashlib.sha256(begun.name.encode()).hexdigest()[:8]


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
