"""From a directory of shards to one file and back, of which only a bounded part is in memory at a time."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnaeus.files import commit, remove_file, require_space, temporary_name
from linnaeus.pth._examine import examine
from linnaeus.pth._load import load
from linnaeus.pth._ranks import Alone
from linnaeus.pth._save import save_error, take_apart
from linnaeus.pth._save_sharded import Session
from linnaeus.pth._sharded_load import Lazy
from linnaeus.pth._shares import Shares

if TYPE_CHECKING:
    from linnaeus.pth._shard_plan import Block, Plan, Spot

# A block may be held four times while it is written: as pages of the source, as a copy, as what torch makes
# of that to write it, and the one before.
_BLOCK_BYTES = 32 << 20
_PAGE_OUT = 21  # madvise(2); unlike its older relatives it never loses what was written


def rewrite_as_file(source: Path, target: Path, *, about: Mapping[str, Any]) -> None:
    """Write a directory of shards as one `.pth`; its tensors are read as they are written.

    Tensors that share memory with others are held whole, one storage at a time.

    Args:
        source: The directory, which was verified.
        target: The file; an existing one is replaced.
        about: What the file shall say of itself.

    Raises:
        CheckpointInvalidError: The directory is damaged.
        SaveError: The system refused.
    """
    lazy = _lazy(source)
    parts = take_apart(lazy.content, about, target)
    temporary = temporary_name(target)
    try:
        require_space(target, parts.size_bytes)
        parts.write(temporary, lazy.pieces)
        commit(temporary, target)
    except OSError as error:
        raise save_error(error, target, parts.size_bytes) from error
    finally:
        with contextlib.suppress(OSError):  # whoever saves there next sweeps it
            remove_file(temporary)


def rewrite_as_directory(source: Path, target: Path, *, about: Mapping[str, Any]) -> None:
    """Write a checkpoint as a directory of shards; its tensors are read as they are written.

    Those of files from before torch 1.6 can't be read one by one; such a file is loaded.

    Args:
        source: A file, or another directory, which was verified.
        target: The directory; an existing one is replaced.
        about: What it shall say of itself.

    Raises:
        CheckpointInvalidError: The source is damaged.
        SaveError: It holds what a directory can't, or the system refused.
    """
    session = Session(target, Shares(), Alone(), durable=True, block_bytes=_BLOCK_BYTES)
    try:
        if source.is_dir():
            lazy = _lazy(source)
            session.write(lazy.content, about, lambda plan: _blocks_of(plan, lazy))
        else:
            session.write(load(source), about, _blocks, _give_back)
        session.commit()
    finally:
        session.clear()


def _lazy(path: Path) -> Lazy:
    found = examine(path)
    found.require_safe()
    assert found.sharded is not None  # noqa: S101 - callers have looked
    return Lazy(found.sharded)


def _blocks_of(plan: Plan, lazy: Lazy) -> Iterator[Block]:
    """Yield the blocks of a plan that was made of a directory's content."""
    for block in _blocks(plan):
        spot = plan.spots[block.number]
        assert spot is not None  # noqa: S101 - blocks are made of spots
        yield block._replace(
            source=lambda block=block, storage=spot.storage.source: lazy.read_block(  # type: ignore[misc]
                storage, block.offsets, block.shape, block.source
            )
        )


def _blocks(plan: Plan) -> Iterator[Block]:
    return plan.blocks(Shares(), 0, 1, _BLOCK_BYTES)


def _give_back(spot: Spot) -> None:
    """Let the system have the pages of a mapped file that were read; touched again, they are read again.

    Where the kernel can't be told, it takes them by itself when memory is short, since they are a file's.
    """
    first, size_bytes = spot.storage.source.data_ptr(), spot.storage.size_bytes
    last = (first + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    if last > first and sys.platform == "linux":
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGE_OUT)
