"""Memory that training will change: the writer reads it where it is, until training needs it back.

Invariant: what the writer reads of a tensor is what it held when the snapshot was taken. Whoever is about
to change tensors calls `release` first, which returns once nothing is left to be read from them: what the
writer has not read by then is copied. The writer never hands the memory itself to the system, only a piece
in a buffer of its own, so that a disk that hangs never holds training up.

A change that nobody announced is found by the tensors' version counters or, if it went past those (writes
through `.data`), by comparing checksums taken right after the snapshot with those of what was written. Then
`TornSaveError` is raised and nothing is published.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from zlib_ng import zlib_ng

from linnaeus.errors import TornSaveError
from linnaeus.pth import memory_of, torn_save
from linnaeus.state._spare import SpareMemory
from linnaeus.state._staging import Lent, Owners

# As the writer's: fits the second-level cache, from which the piece then goes to the file.
_PIECE_BYTES = 1 << 20


# Summing and writing in one thread, into memory: more than was ever seen.
_READS_AT_MOST_BYTES_PER_SECOND = 4e9
_VERSION = attrgetter("_version")


@dataclass(slots=True)
class _Block:
    """One storage; `copied` is what to read in its place once training may change it."""

    storage: torch.UntypedStorage
    address: int
    size_bytes: int
    watched: list[tuple[torch.Tensor, int]]
    copied: memoryview | None = None
    was_read: bool = False
    crc32: int | None = None

    @property
    def has_moved(self) -> bool:
        return any(tensor._version != version for tensor, version in self.watched)


@dataclass(slots=True)
class Guard:
    """Keeps a writer's reading and training's changing apart.

    The writer calls `presum`, `pieces`, `require_same` and, at its end whatever that is, `finish`; training
    calls `release`.

    Args:
        lent: Tensors on the CPU, the run's own, and for each dict of them that of the content that they are
            for. They are still the run's objects: making a handle of each takes longer than all else that
            training waits for, so `settle` does that later.
        spare: Where copies go.
        narrow: Returns the parts of a storage that the writer reads, each as a storage of its own; None when
            it reads all of it.
        owners: Whose versions tell of changes, where not the tensors' own do.
    """

    lent: Sequence[Lent]
    spare: SpareMemory
    narrow: Callable[[torch.UntypedStorage], Sequence[torch.UntypedStorage]] | None = None
    owners: Owners = field(default_factory=dict)
    _blocks: dict[int, _Block] = field(default_factory=dict, init=False)
    _tensors: list[torch.Tensor] = field(default_factory=list, init=False)
    _versions: list[int] = field(default_factory=list, init=False)
    _addresses: list[int] = field(default_factory=list, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _may_read: threading.Event = field(default_factory=threading.Event, init=False)
    _is_copying: bool = field(default=False, init=False)
    _is_finished: bool = field(default=False, init=False)
    _is_released: bool = field(default=False, init=False)
    _is_torn: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._may_read.set()
        # The rest is left to the writer: training waits for this.
        self._tensors = [tensor for lent, _ in self.lent for tensor in lent.values()]
        self._versions = list(map(_VERSION, self._watched(self._tensors)))
        self._addresses = list(map(torch.Tensor.data_ptr, self._tensors))

    def _watched(self, handles: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return what tells of changes of each tensor, for which there is a handle."""
        if not self.owners:
            return handles
        pairs = zip(self._tensors, handles, strict=True)
        return [self.owners.get(id(tensor), handle) for tensor, handle in pairs]

    def settle(self) -> None:
        """Put handles of the guard's own in the place of what was lent to it, and sort out the storages."""
        with self._changed:
            if not self._tensors:
                return
            # Of the same memory and with the same version counter, but none can be given other memory.
            handles = [tensor.detach() for tensor in self._tensors]
            if [handle.data_ptr() for handle in handles] != self._addresses:
                self._is_torn = True  # through `.data`
            watched, self._tensors = self._watched(handles), []
            each = iter(handles)
            for lent, content in self.lent:
                content.update(zip(lent, each, strict=False))
            try:
                for handle, of, version in zip(handles, watched, self._versions, strict=True):
                    self._watch(handle, of, version)
            except BaseException:
                self._is_torn = True  # what is not watched could change unnoticed
                raise

    def _watch(self, handle: torch.Tensor, watched: torch.Tensor, version: int) -> None:
        whole = handle.untyped_storage()
        for storage in self.narrow(whole) if self.narrow else (whole,):
            block = self._blocks.get(storage._cdata)
            if block is None:
                block = _Block(storage, storage.data_ptr(), storage.nbytes(), [])
                self._blocks[storage._cdata] = block
            block.watched.append((watched, version))

    def _blocks_now(self) -> dict[int, _Block]:
        self.settle()
        return self._blocks

    # the writer's side

    def presum(self) -> None:
        """Sum every block right after the snapshot, as far as training lets it.

        Raises:
            TornSaveError: Something changed unannounced already.
        """
        blocks = self._blocks_now()
        if self._is_torn:
            raise _torn("a tensor was changed outside an optimizer's step")
        for block in blocks.values():
            crc32 = 0
            for piece in self._pieces(block, bytearray(min(_PIECE_BYTES, block.size_bytes))):
                if block.copied is not None:
                    return  # copies hold still
                crc32 = zlib_ng.crc32(piece, crc32)
            block.crc32 = crc32

    def pieces(self, storage: torch.UntypedStorage) -> Iterator[memoryview]:
        """Yield a storage's bytes, each piece good until the next one is asked for.

        Raises:
            TornSaveError: They are not what they were at the snapshot any more.
        """
        block = self._blocks_now().get(storage._cdata)
        if block is None:  # the snapshot's own copy
            memory = memory_of(storage)
            for start in range(0, len(memory), _PIECE_BYTES):
                yield memory[start : start + _PIECE_BYTES]
            return
        yield from self._pieces(block, bytearray(min(_PIECE_BYTES, block.size_bytes)))
        with self._changed:
            self._require_whole(block)
            block.was_read = True
            self._changed.notify_all()

    def _pieces(self, block: _Block, buffer: bytearray) -> Iterator[memoryview]:
        view = memoryview(buffer)
        target = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) if buffer else 0
        for start in range(0, block.size_bytes, _PIECE_BYTES):
            size = min(_PIECE_BYTES, block.size_bytes - start)
            # Else this thread, which is back at once, would keep the lock from training's.
            self._may_read.wait()
            with self._changed:
                self._changed.wait_for(lambda: not self._is_copying)
                self._require_whole(block)
                copied = block.copied
                if copied is None:
                    # Under the lock: `release` waits for it, a fraction of a millisecond.
                    ctypes.memmove(target, block.address + start, size)
            yield view[:size] if copied is None else copied[start : start + size]

    def _require_whole(self, block: _Block) -> None:
        if self._is_torn or (block.copied is None and block.has_moved):
            raise _torn("a tensor was changed outside an optimizer's step")

    def require_same(self, crc32s: Mapping[int, int]) -> None:
        """Compare what was written with the sums taken right after the snapshot.

        Args:
            crc32s: Of each storage as written, by its `_cdata`.

        Raises:
            TornSaveError: They differ.
        """
        for key, block in self._blocks_now().items():
            if block.crc32 is not None and crc32s.get(key, block.crc32) != block.crc32:
                raise _torn("a tensor's memory was changed outside an optimizer's step")

    def finish(self) -> None:
        """Tell that nothing is read any more."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    # training's side

    def release(self, *, hold_seconds: float = 0.0, no_memory_seconds: float | None = None) -> None:
        """Return when the tensors may be changed.

        Args:
            hold_seconds: How long to wait for the writer to finish by itself before copying what is left.
            no_memory_seconds: How long to wait for it when there is no memory for a copy.
        """
        if self._is_released or self._is_finished:
            return
        # No use in waiting when more is left than any writer reads in that time.
        may_hold = self._num_bytes_unread() <= hold_seconds * _READS_AT_MOST_BYTES_PER_SECOND
        if may_hold and self._wait_read(hold_seconds):
            return
        self._may_read.clear()
        try:
            self._take_back(no_memory_seconds)
        finally:
            self._may_read.set()

    def _num_bytes_unread(self) -> int:
        return sum(block.size_bytes for block in self._blocks_now().values() if not block.was_read)

    def _wait_read(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._is_finished or not self._num_bytes_unread(), seconds)

    def _take_back(self, no_memory_seconds: float | None) -> None:
        with self._changed:
            self._is_copying = True
        copied = self._copy_rest()
        with self._changed:
            self._is_copying = False
            self._changed.notify_all()
        if not copied:
            self._may_read.set()
            self._is_torn = not self._wait_read(no_memory_seconds)
        self._is_released = True

    def _copy_rest(self) -> bool:
        """Copy what was not read yet; tell whether there was memory for it."""
        rest = [block for block in self._blocks_now().values() if not block.was_read]
        if any(block.has_moved for block in rest):
            self._is_torn = True
            return True
        try:
            copies = self.spare.copies([block.storage for block in rest])
        except (MemoryError, RuntimeError):  # the latter is torch's
            return False
        for block, copied in zip(rest, copies, strict=True):
            block.copied = copied
        return True


def _torn(problem: str) -> TornSaveError:
    return torn_save("the checkpoint", f"{problem} while it was being saved")
