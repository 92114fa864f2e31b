"""Where a pickle ends, and that it stays within bounds, found out before any unpickler obeys it.

Python's unpickler trusts what a pickle claims: a memo index of 2**31 makes it fill 32 GB, a dict key of a
million nested tuples overflows the C stack while it is hashed. This walk over the opcodes makes nothing and
believes nothing.

Source of the opcodes: the standard library's `pickletools`.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, overload

# No pickle of tensors comes near these; each is far below what harms.
MAX_DEPTH = 256
_MAX_TUPLES = 100_000
_MEMO_SLACK = 1000  # picklers count memo entries up one by one

_Nest = tuple[int, int]  # how deep tuples stand in a tuple, and how many with all repetitions written out
_FLAT: _Nest = (0, 0)


class Bytes(Protocol):
    """Bytes in memory or a mapped file."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, index: int, /) -> int: ...

    @overload
    def __getitem__(self, part: slice, /) -> bytes: ...

    def find(self, sub: bytes, start: int, /) -> int:
        """Return where `sub` first occurs at or after `start`, or -1."""


def pickle_end(data: Bytes, start: int = 0, *, by_tensor: bool = True) -> int:
    """Return the position after the pickle that begins at `start`.

    Args:
        data: What holds it.
        start: Where it begins.
        by_tensor: Pass over the opcodes of a tensor at once, which comes to the same and takes a third.

    Raises:
        pickle.UnpicklingError: It is cut short, no pickle, or claims more than any real one.
    """
    walk, table, size = _Walk(), _table(), len(data)
    push = walk.stack.append
    position = start
    while position < size:
        code = data[position]
        if code == _BINGET and by_tensor:
            after = _tensor_end(walk, data, position)
            if after:
                position = after
                continue
        entry = table[code]
        if entry is None:
            raise pickle.UnpicklingError(f"no such opcode: {data[position : position + 1]!r}")
        length, act = entry
        begin = position + 1
        position = begin + length if length >= 0 else _variable_end(data, begin, length)
        if position > size:
            break
        if act is _push:  # most opcodes do only this
            push(_FLAT)
        elif act is not None:
            act(walk, data[begin:position] if length else b"")
        elif data[begin - 1] == _STOP:
            return position
    raise pickle.UnpicklingError("it is cut short")


_BINGET = pickle.BINGET[0]
_INT, _PUT, _GET = rb"(?:K.|M..|J.{4})", rb"(q.|r.{4})", rb"h(.)"
_SIZES = rb"(?:\((?:%b)+t|%b\x85|(?:%b){2}\x86|(?:%b){3}\x87)" % ((_INT,) * 4)
# What torch writes for every tensor but the first, some 30 opcodes:
# rebuild(("storage", type, key, device, count), offset, shape, stride, requires_grad, hooks)
_TENSOR = re.compile(
    rb"(?s:%b\(\(%b%bX(.)\0{3}([0-9]+)%b%b%bt%bQ%b%b%b%b%b[\x88\x89]%b\)R%bt%bR%b)"
    % (*(_GET,) * 3, _PUT, _GET, _INT, _PUT, _INT, _SIZES, _PUT, _SIZES, _PUT, _GET, *(_PUT,) * 3)
)
# How what it remembers is nested: key, storage, shape, stride, hooks, arguments, and the tensor itself.
_TENSOR_NESTS: tuple[_Nest, ...] = (_FLAT, (1, 1), (1, 1), (1, 1), _FLAT, (2, 3), _FLAT)


def _tensor_end(walk: _Walk, data: Any, position: int) -> int | None:
    """Do to the walk what the opcodes of one tensor do, and return the position after them.

    Returns:
        None where others stand there, or these do more than usual; then nothing was done.
    """
    found = _TENSOR.match(data, position)
    if found is None:
        return None
    one, two, three, length, key, first, four, *puts, five, hooks, arguments, tensor = found.groups()
    memo = walk.memo
    gets = (one[0], two[0], three[0], four[0], five[0])
    indices = [int.from_bytes(put[1:], "little") for put in (first, *puts, hooks, arguments, tensor)]
    start = indices[0]
    usual = (
        length[0] == len(key)
        and indices == list(range(start, start + len(indices)))
        and start + len(indices) <= _MEMO_SLACK + 2 * len(memo)
        and all(memo.get(index, _FLAT) is _FLAT for index in gets)
    )
    if not usual:
        return None
    memo.update(zip(indices, _TENSOR_NESTS, strict=True))
    walk.stack.append(_FLAT)
    return found.end()


# Lengths of arguments that begin with their own size, by how many bytes that size has.
_LINE, _TWO_LINES, _SIZED = -1, -2, {1: -3, 4: -4, 8: -5}


def _variable_end(data: Bytes, begin: int, kind: int) -> int:
    if kind in (_LINE, _TWO_LINES):
        for _ in range(-kind):
            begin = data.find(b"\n", begin) + 1
            if not begin:
                raise pickle.UnpicklingError("it is cut short")
        return begin
    width = {-3: 1, -4: 4, -5: 8}[kind]
    return begin + width + int.from_bytes(data[begin : begin + width], "little")


class _Walk:
    """The unpickler's stack and memo, holding only how tuples are nested."""

    def __init__(self) -> None:
        self.stack: list[_Nest] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Nest] = {}

    def pop(self, _: bytes) -> None:
        # The unpickler pops a mark in the same way.
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._take(1)

    def dup(self, _: bytes) -> None:
        self.stack.append(self._top())

    def mark(self, _: bytes) -> None:
        self.marks.append(len(self.stack))

    def pop_mark(self, _: bytes) -> None:
        self._take_marked()

    def push_marked(self, _: bytes) -> None:
        self._take_marked()
        self.stack.append(_FLAT)

    def nest_marked(self, _: bytes) -> None:
        self._nest(self._take_marked())

    def put(self, argument: bytes) -> None:
        self._remember(int.from_bytes(argument, "little"))

    def put_text(self, argument: bytes) -> None:
        self._remember(int(argument))

    def memoize(self, _: bytes) -> None:
        self._remember(len(self.memo))

    def get(self, argument: bytes) -> None:
        self.stack.append(self.memo.get(int.from_bytes(argument, "little"), _FLAT))

    def get_text(self, argument: bytes) -> None:
        self.stack.append(self.memo.get(int(argument), _FLAT))

    def drop(self, number: int) -> None:
        self._take(number)

    def replace(self, number: int) -> None:
        self._take(number)
        self.stack.append(_FLAT)

    def nest(self, number: int) -> None:
        self._nest(self._take(number))

    def _top(self) -> _Nest:
        if not self.stack:
            raise pickle.UnpicklingError("its stack is empty")
        return self.stack[-1]

    def _take(self, number: int) -> list[_Nest]:
        if len(self.stack) < number:
            raise pickle.UnpicklingError("its stack is empty")
        taken = self.stack[-number:]
        del self.stack[-number:]
        return taken

    def _take_marked(self) -> list[_Nest]:
        if not self.marks:
            raise pickle.UnpicklingError("a mark is missing")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _remember(self, index: int) -> None:
        if not 0 <= index <= _MEMO_SLACK + 2 * len(self.memo):
            raise pickle.UnpicklingError(f"memo index {index} comes far too early")
        self.memo[index] = self._top()

    def _nest(self, parts: list[_Nest]) -> None:
        nested = [part for part in parts if part is not _FLAT]
        depth = 1 + max((depth for depth, _ in nested), default=0)
        tuples = 1 + sum(tuples for _, tuples in nested)
        if depth > MAX_DEPTH or tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError("its tuples are nested too deeply")
        self.stack.append((depth, tuples))


_Act = Callable[[_Walk, bytes], None]
_STOP = pickle.STOP[0]


def _push(walk: _Walk, _: bytes) -> None:
    walk.stack.append(_FLAT)


@cache
def _table() -> list[tuple[int, _Act | None] | None]:
    """Return the length of the argument and the act on the walk, by the opcode's byte."""
    table: list[tuple[int, _Act | None] | None] = [None] * 256
    for op in pickletools.opcodes:
        table[ord(op.code)] = _length(op), _act(op)
    return table


def _length(op: pickletools.OpcodeInfo) -> int:
    if op.arg is None:
        return 0
    if op.arg.name == "stringnl_noescape_pair":
        return _TWO_LINES
    sized = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
    sized |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
    if op.arg.n in sized:
        return _SIZED[sized[op.arg.n]]
    return _LINE if op.arg.n == pickletools.UP_TO_NEWLINE else op.arg.n


_ACTS: dict[str, _Act | None] = {
    "PROTO": None,
    "FRAME": None,
    "STOP": None,
    "MARK": _Walk.mark,
    "POP": _Walk.pop,
    "POP_MARK": _Walk.pop_mark,
    "DUP": _Walk.dup,
    "PUT": _Walk.put_text,
    "BINPUT": _Walk.put,
    "LONG_BINPUT": _Walk.put,
    "MEMOIZE": _Walk.memoize,
    "GET": _Walk.get_text,
    "BINGET": _Walk.get,
    "LONG_BINGET": _Walk.get,
    "TUPLE": _Walk.nest_marked,
    "FROZENSET": _Walk.nest_marked,
    "TUPLE1": lambda walk, _: walk.nest(1),
    "TUPLE2": lambda walk, _: walk.nest(2),
    "TUPLE3": lambda walk, _: walk.nest(3),
    # These leave the container below their items on the stack.
    "APPEND": lambda walk, _: walk.drop(1),
    "SETITEM": lambda walk, _: walk.drop(2),
    "BUILD": lambda walk, _: walk.drop(1),
    "APPENDS": _Walk.pop_mark,
    "SETITEMS": _Walk.pop_mark,
    "ADDITEMS": _Walk.pop_mark,
}


def _act(op: pickletools.OpcodeInfo) -> _Act | None:
    if op.name in _ACTS:
        return _ACTS[op.name]
    if pickletools.markobject in op.stack_before:
        return _Walk.push_marked
    number = len(op.stack_before)
    return (lambda walk, _: walk.replace(number)) if number else _push
