"""Tensors on a GPU: copied to page-locked memory on a stream of their own, while the GPU computes on.

Invariant: neither side waits on the host. The copying stream begins after what was enqueued before the
snapshot; a step that is about to change the tensors lets its own stream wait for the copies, on the device.
Only the writer waits until the bytes have arrived, in its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Protocol

import torch

from linnaeus.pth import memory_of, torn_save

_VERSION = attrgetter("_version")
_ALIGNMENT = 64

# Tensors of the run in dicts that nobody else has, and the dicts of the content that they are for.
Lent = tuple[dict[Any, torch.Tensor], dict[Any, Any]]
# For a tensor, by its id, the one whose version tells of changes: parts of distributed ones have none.
Owners = Mapping[int, torch.Tensor]
Move = tuple[torch.Tensor, torch.Tensor]


class Lane(Protocol):
    """Copies from one device beside what that device computes."""

    def mark(self) -> Any:
        """Return an event after all that this thread has enqueued on the device so far."""

    def copy(self, moves: Sequence[Move], after: Any) -> Any:
        """Enqueue copies, (target, source), after an event; return one after them."""

    def hold(self, done: Any) -> None:
        """Let what this thread enqueues on the device from now on come after an event."""

    def wait(self, done: Any) -> None:
        """Wait, on the host, until an event has come."""


class CudaLane:
    """A CUDA device's copying stream.

    Args:
        device: The device, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def mark(self) -> torch.cuda.Event:
        """Return an event on the stream that this thread uses."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def copy(self, moves: Sequence[Move], after: torch.cuda.Event) -> torch.cuda.Event:
        """Enqueue copies on the stream of this lane."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            for target, source in moves:
                target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        return done

    def hold(self, done: torch.cuda.Event) -> None:
        """Let the stream that this thread uses wait."""
        torch.cuda.current_stream(self._device).wait_event(done)

    def wait(self, done: torch.cuda.Event) -> None:
        """Wait until the copies have arrived."""
        done.synchronize()


def lane_of(device: torch.device) -> Lane | None:
    """Return a new lane from a device, None when it has none: tensors there are copied at once."""
    return CudaLane(device) if device.type == "cuda" else None


def _locked_memory(size_bytes: int) -> torch.Tensor:
    try:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:  # the system lets no more be locked: slower, but as right
        return torch.empty(size_bytes, dtype=torch.uint8)


@dataclass(slots=True)
class Staging:
    """What a run keeps from one save to the next: a lane for each device, and one buffer for what arrives.

    Page-locked memory takes about a second for each few gigabytes, once.

    Args:
        make_lane: Makes a lane from a device.
        make_memory: Makes a buffer of so many bytes that a device can copy into by itself.
    """

    make_lane: Callable[[torch.device], Lane | None] = lane_of
    make_memory: Callable[[int], torch.Tensor] = _locked_memory
    _lanes: dict[torch.device, Lane | None] = field(default_factory=dict)
    _buffer: torch.Tensor | None = None

    def lane(self, device: torch.device) -> Lane | None:
        """Return the lane from a device."""
        if device not in self._lanes:
            self._lanes[device] = self.make_lane(device)
        return self._lanes[device]

    def memory(self, size_bytes: int) -> memoryview:
        """Return memory to be copied into, good until the next call."""
        if self._buffer is None or self._buffer.numel() < size_bytes:
            self._buffer = None  # the old one first, so that both are never held
            self._buffer = self.make_memory(size_bytes)
        return memory_of(self._buffer.untyped_storage())


class Staged:
    """The tensors of one snapshot that are on their way from devices.

    The writer calls `arrive`; training calls `release` before it changes them. Whoever needs the tensors, but
    not yet their values, calls `begin`.

    Args:
        staging: Has the lanes and the memory.
        lent: The run's own tensors, which only an optimizer's step changes.
        clones: Device tensors of bytes that are nobody else's, each with the memory that it is for.
        owners: Whose versions tell of changes, where not the tensors' own do.
    """

    def __init__(
        self,
        staging: Staging,
        lent: Sequence[Lent],
        clones: Sequence[Move] = (),
        owners: Owners = MappingProxyType({}),
    ) -> None:
        self._staging = staging
        self._lent = lent
        self._clones = clones
        self._tensors = [tensor for tensors, _ in lent for tensor in tensors.values()]
        self._watched = [owners.get(id(tensor), tensor) for tensor in self._tensors]
        self._versions = list(map(_VERSION, self._watched))
        self._addresses = list(map(torch.Tensor.data_ptr, self._tensors))
        devices = {tensor.device for tensor in self._tensors} | {source.device for _, source in clones}
        self._lanes = {device: lane for device in devices if (lane := staging.lane(device)) is not None}
        self._marks = {device: lane.mark() for device, lane in self._lanes.items()}
        self._done: Mapping[torch.device, Any] | None = None
        self._moves: list[Move] = []  # keeps what is being copied alive
        self._lock = threading.Lock()
        self._is_released = False
        self._is_torn = False

    def arrive(self) -> None:
        """Return when all bytes are in this host's memory and the content has its tensors.

        Raises:
            TornSaveError: Something was changed outside an optimizer's step meanwhile.
        """
        for device, done in self.begin().items():
            self._lanes[device].wait(done)
        with self._lock:
            self._look()
            self._is_released = True  # what changes from here on was copied
        if self._is_torn:
            problem = "a tensor was changed outside an optimizer's step while it was being saved"
            raise torn_save("the checkpoint", problem)

    def release(self) -> None:
        """Return when what is enqueued from now on may change the tensors: at once, mostly."""
        if self._is_released:
            return
        begun = self.begin()
        with self._lock:
            self._look()
            self._is_released = True
        for device, done in begun.items():
            self._lanes[device].hold(done)

    def _look(self) -> None:
        if not self._is_released and list(map(_VERSION, self._watched)) != self._versions:
            self._is_torn = True

    def begin(self) -> Mapping[torch.device, Any]:
        """Give the content its tensors, and enqueue the copies, in whichever thread comes first.

        Returns:
            The event after the copies, by device.
        """
        with self._lock:
            if self._done is None:
                self._moves = [*self._place(), *self._clones]
                self._done = {device: self._copy(device, lane) for device, lane in self._lanes.items()}
            return self._done

    def _copy(self, device: torch.device, lane: Lane) -> Any:
        moves = [move for move in self._moves if move[1].device == device]
        return lane.copy(moves, self._marks[device])

    def _place(self) -> list[Move]:
        """Put tensors of host memory into the content, and return what is to be copied into them."""
        if list(map(torch.Tensor.data_ptr, self._tensors)) != self._addresses:
            self._is_torn = True  # a tensor was given other memory, through `.data`
        sources = {t.untyped_storage()._cdata: t.untyped_storage() for t in self._tensors}
        needed = sum(_rounded(source.nbytes()) for source in sources.values())
        memory, position = self._staging.memory(needed), 0
        targets: dict[int, torch.Tensor] = {}
        for key, source in sources.items():
            targets[key] = _bytes_in(memory[position : position + source.nbytes()])
            position += _rounded(source.nbytes())
        for tensors, content in self._lent:
            for name, tensor in tensors.items():
                storage = targets[tensor.untyped_storage()._cdata].untyped_storage()
                content[name] = _like(tensor, storage)
        return [(targets[key], bytes_of(source)) for key, source in sources.items()]


def bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a storage's memory as a tensor of bytes on its device, shared."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _bytes_in(memory: memoryview) -> torch.Tensor:
    # A storage of its own, so that a file holds each tensor's bytes and not the whole buffer.
    return torch.frombuffer(memory, dtype=torch.uint8) if memory else torch.empty(0, dtype=torch.uint8)


def _like(tensor: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
    host = torch.empty(0, dtype=tensor.dtype)
    host.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    return host


def _rounded(size_bytes: int) -> int:
    return size_bytes + -size_bytes % _ALIGNMENT
