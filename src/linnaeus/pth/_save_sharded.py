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

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.errors import LinnaeusError, SaveError
from linnaeus.files import (
    commit_directory,
    fsync_directory,
    fsync_file,
    remove,
    require_space,
)
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._commit_file import COMMIT, FileSum, compose_commit
from linnaeus.pth._dcp_metadata import METADATA
from linnaeus.pth._held import Held, Stillness, all_torn, require_still
from linnaeus.pth._place import Place, packed, token_of, unpacked
from linnaeus.pth._ranks import Alone, Ranks
from linnaeus.pth._shares import Shares
from linnaeus.pth._told import Wording, same, told

if TYPE_CHECKING:
    from linnaeus.pth._shard_files import Kept, Writer
    from linnaeus.pth._shard_plan import Block, Plan, Spot
    from linnaeus.pth._tape import Tapes

# What is read at a time of memory that may change, so much more than which is never held.
_HELD_BYTES = 16 << 20
_WORDING = Wording(
    whole="a directory of shards",
    instead="Store it otherwise, or save one file: SCHEDULE.CHECKPOINT.FORMAT: pth.",
    made="directory",
    unseen="It was there when the save began; does somebody else clean this directory?",
)


def save_sharded(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    shares: Shares | None = None,
    ranks: Ranks | None = None,
    about: Mapping[str, Any] | None = None,
    durable: bool = True,
    held: Held | None = None,
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
        held: How to read this rank's pieces, when they may change meanwhile.
        publish: On a rank that made a directory: makes it, finished and on disk, what `path` names. By
            default it is renamed. What rank 0's returns, JSON values, is told to the others.
        follow: On all ranks but rank 0: called when the checkpoint exists, with what rank 0's `publish`
            returned.

    Returns:
        The size of all files in bytes, wherever they are.

    Raises:
        SaveError: `obj` holds something that a directory can't, the ranks hold other structures, or the
            system refused.
        TornSaveError: On some rank the pieces did not hold still; on every rank.
        PeerFailedError: Another rank failed or is missing.
    """
    session = Session(Path(path), shares or Shares(), ranks or Alone(), durable=durable, held=held)
    try:
        session.write(obj, about or {})
        return session.commit(publish, follow)
    finally:
        session.clear()


def write_sharded(
    obj: Any, temporary: Path, path: Path, about: Mapping[str, Any], *, held: Held | None = None
) -> None:
    """Write a directory of shards under a temporary name, on disk; `path` is told in messages.

    Raises:
        SaveError: As `save_sharded`; and likewise what is `held`.
    """
    Session(path, Shares(), Alone(), durable=True, held=held, temporary=temporary).write(obj, about)


class Session:
    """One save, seen from one rank."""

    def __init__(
        self,
        final: Path,
        shares: Shares,
        ranks: Ranks,
        *,
        durable: bool,
        held: Held | None = None,
        temporary: Path | None = None,
        block_bytes: int | None = None,
    ) -> None:
        self._final, self._shares, self._ranks, self._durable = final, shares, ranks, durable
        self._tapes, self._still = _tapes(held), Stillness(held, ranks)
        self._place = Place(final, temporary)
        self._size_bytes = 0
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
        from linnaeus.pth._shard_files import Writer  # here, so that describing stays free of torch

        plan, begun = self._lay_out(obj)
        writers: list[Writer] = []

        def act() -> dict[str, Any]:
            with self._told():
                directory, label = self._place.find(begun), f"{self._ranks.rank}_{token_of(begun)}"
                # Of this rank's part: who else writes to this disk is not known.
                require_space(self._final, plan.size_bytes // self._ranks.world_size)
            writers.append(Writer(directory, plan, label, durable=self._durable, **self._sizes))
            return self._act(writers[0], (blocks or self._blocks)(plan), written)

        verdict = self._ranks.agree(
            f"writing {self._final}",
            act,
            merge=_joined,
            conclude=lambda said: self._conclude(writers[0], plan, said, about),
        )
        require_still(self._final, verdict["torn"])
        if verdict["told"] is not None:
            self._ranks.agree(f"telling all nodes of {self._final}", lambda: self._take(verdict["told"]))

    def _lay_out(self, obj: Any) -> tuple[Plan, Path]:
        """Agree on what there is; return it, and the temporary name."""
        from linnaeus.pth._shard_plan import plan_of

        made: list[Plan] = []

        def act() -> dict[str, Any]:
            with self._told(), collection_paused():
                made.append(plan_of(obj))
            return {"digest": made[0].digest(self._shares), "rank": self._ranks.rank, "odd": []}

        begun = self._ranks.agree(
            f"laying out {self._final}",
            act,
            merge=same,
            conclude=lambda said: self._begin(made[0], said["odd"]),
        )
        return made[0], Path(begun)

    def _begin(self, plan: Plan, odd: list[int]) -> str:
        if odd:
            raise SaveError(
                path=str(self._final),
                problem=f"ranks {', '.join(map(str, odd[:16]))} hold other tensors than rank 0",
                advice="Every rank must save the same parts with the same names and shapes.",
            )
        if os.path.lexists(self._final) and (self._final.is_symlink() or not self._final.is_dir()):
            raise SaveError(path=str(self._final), problem="it is no directory")
        with self._told():
            return str(self._place.make())

    def _blocks(self, plan: Plan) -> Iterator[Block]:
        """Yield what this rank writes."""
        sizes = {"most_bytes": _HELD_BYTES} if self._tapes else {}
        return plan.blocks(self._shares, self._ranks.rank, self._ranks.world_size, tapes=self._tapes, **sizes)

    def _act(
        self, writer: Writer, blocks: Iterator[Block], written: Callable[[Spot], None]
    ) -> dict[str, Any]:
        """Write this rank's files; return where everything is, the digests, and what did not hold still."""
        kept = []
        with self._still.noted(), self._told():
            for one in writer.write(blocks, with_values=self._ranks.rank == 0):
                kept.append(one)
                if one.offsets is not None:
                    written(writer.spot(one.number))
            self._still.require(self._tapes.finish() if self._tapes else {})
            writer.settle()
        return {
            "kept": kept,
            "sums": {name: [one.size_bytes, one.sha256] for name, one in writer.sums.items()},
            "torn": self._still.torn,
            "apart": int(self._place.leads_apart),
        }

    def _conclude(self, writer: Writer, plan: Plan, said: Mapping[str, Any], about: Mapping[str, Any]) -> Any:
        """End the directory, if all held still; return what did not, and what other directories need."""
        told = None if said["torn"] else self._end(writer, plan, said, about)
        return {"torn": said["torn"], "told": told}

    def _end(
        self, writer: Writer, plan: Plan, said: Mapping[str, Any], about: Mapping[str, Any]
    ) -> dict[str, str] | None:
        """Write what tells of all files, and last the commit file; return both for directories elsewhere."""
        from linnaeus.pth._shard_files import Kept

        kept = [Kept(*one) for one in said["kept"]]
        self._require_whole(plan, kept)
        with self._told():
            writer.finish(kept)
            sums = {name: FileSum(*one) for name, one in said["sums"].items()} | writer.sums
            commit = compose_commit(plan.describe(about), sums, plan.names, 1 + said["apart"])
            self._size_bytes = len(commit) + sum(one.size_bytes for one in sums.values())
            self._put(COMMIT, commit)
            if not said["apart"]:
                return None
            return {COMMIT: packed(commit), METADATA: packed((self._place.path / METADATA).read_bytes())}

    def _put(self, name: str, data: bytes) -> None:
        path = self._place.path / name
        path.write_bytes(data)
        if self._durable:
            fsync_file(path)
            fsync_directory(path.parent)

    def _take(self, told: Mapping[str, str]) -> None:
        """Put what tells of all files into the directory that this rank made for its node."""
        if self._place.leads_apart:
            with self._told():
                for name in (METADATA, COMMIT):
                    self._put(name, unpacked(told[name]))

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
        published: list[Path] = []

        def act() -> Any:
            with self._told():
                told = (publish or self._rename)(self._place.path)
            published.append(self._final)
            return told

        try:
            size_bytes, told = self._ranks.agree(
                f"committing {self._final}",
                lambda: act() if self._place.leads_apart else None,
                conclude=lambda _: [self._size_bytes, act()],
            )
        except LinnaeusError as error:
            if self._place.leads_apart and published and not getattr(error, "missing", ()):
                remove(self._final)  # rank 0's never appeared
            raise
        if self._ranks.rank != 0:
            follow(told)
        return int(size_bytes)

    def _rename(self, temporary: Path) -> None:
        commit_directory(temporary, self._final, durable=self._durable)

    def clear(self) -> None:
        """Remove what is left under temporary names."""
        self._place.clear()

    def _told(self) -> AbstractContextManager[None]:
        return told(self._final, self._ranks.rank, _WORDING)


def _joined(said: list[Any]) -> Any:
    return {
        "kept": [one for part in said for one in part["kept"]],
        "sums": {name: told for part in said for name, told in part["sums"].items()},
        "torn": all_torn(said),
        "apart": sum(part["apart"] for part in said),
    }


def _tapes(held: Held | None) -> Tapes | None:
    if held is None:
        return None
    from linnaeus.pth._tape import Tapes  # here, so that describing stays free of torch

    return Tapes(held.pieces)
