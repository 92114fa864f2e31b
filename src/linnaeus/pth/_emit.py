"""Plain values and containers into a pickle for stock readers and a description for ours.

One walk over the object makes both, so they cannot disagree. The pickle is written opcode by opcode for just
the types that a safe file may hold; anything else is refused with its place in the object.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

import torch

from linnaeus.pth import _opcodes as op
from linnaeus.pth._document import MAX_NAME, bits_of

MAX_DEPTH = 200  # stock readers, and ours of foreign files, take a little more


class Storage(NamedTuple):  # made for each of many tensors, twice as fast as a frozen dataclass
    """Bytes to be written as record `data/{key}`; `source` keeps them alive and says where they are."""

    key: int
    size_bytes: int
    source: torch.UntypedStorage
    on_cpu: bool


@dataclass(frozen=True, slots=True)
class Form:
    """The opcodes around what differs between CPU tensors of one dtype, once their names are known."""

    head: bytes
    middle: bytes
    tail: bytes


class Whole(NamedTuple):
    """The opcodes around its key, and the description, of a CPU tensor that is all of its storage."""

    size_bytes: int
    head: bytes
    tail: bytes
    described: str


Writer = Callable[["Emitter", Any, str, int], None]


@dataclass(slots=True)
class Emission:
    """What a file is made of.

    Attributes:
        pickle: The content of `data.pkl`.
        tree: The JSON text of the object's structure and plain values; tensors are `{"$tensor": n}`.
        tensors: The JSON text of tensor n: record, dtype, shape, stride, offset and what else is special.
        storages: The content of the records, in their order.
    """

    pickle: bytes
    tree: str
    tensors: list[str]
    storages: list[Storage]


class RefusedError(Exception):
    """Something that a safe file can't hold: where it stands in the object, and what it is."""


@dataclass(slots=True)
class Emitter:
    """The walk: what was written so far, and what can be referred to."""

    writers: dict[type, Writer]
    out: list[bytes] = field(default_factory=lambda: [op.PROTO2])
    tree: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    storages: dict[int, Storage] = field(default_factory=dict)
    # By id; the objects themselves are kept, because an id is only unique while its object lives.
    # With the place of the opcode that completes each, and its node.
    seen: dict[int, tuple[int, str, Any]] = field(default_factory=dict)
    again: dict[int, bytes] = field(default_factory=dict)
    num_objects: int = 0
    # The opcodes that push again what was named or spelled before.
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    spelled: dict[str, bytes] = field(default_factory=dict)
    # The dtype that each storage was first seen as, by key.
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    forms: dict[tuple[torch.dtype, tuple[str, ...]], Form] = field(default_factory=dict)
    extents: dict[tuple[Any, Any], tuple[bytes, str]] = field(default_factory=dict)
    wholes: dict[tuple[torch.dtype, torch.Size, tuple[int, ...]], Whole] = field(default_factory=dict)
    memo_size: int = 0

    def remember(self) -> int:
        index = self.memo_size
        self.memo_size = index + 1
        self.out.append(op.put(index))
        return index

    def named(self, module: str, name: str) -> None:
        again = self.names.get((module, name))
        if again is None:
            self.out.append(op.name_of(module, name))
            self.names[module, name] = op.get(self.remember())
        else:
            self.out.append(again)

    def push_text(self, value: str) -> None:
        again = self.texts.get(value)
        if again is None:
            self.out.append(op.text(value))
            self.texts[value] = op.get(self.remember())
        else:
            self.out.append(again)

    def spell(self, value: str) -> None:
        """Push a text; most stand there once, so it is not remembered."""
        spelled = self.spelled.get(value)
        if spelled is None:
            spelled = self.spelled[value] = op.text(value)
        self.out.append(spelled)

    def node(self, value: Any, path: str, depth: int) -> None:
        write = self.writers.get(type(value))
        if write is None:
            raise RefusedError(f"{path or 'the object'} is of type {type_name(value)}")
        if len(path) > MAX_NAME:
            raise RefusedError(f"{path[:80]}… has a name of more than {MAX_NAME} characters")
        if depth > MAX_DEPTH:
            raise RefusedError(f"{path[:80]}… is nested more than {MAX_DEPTH} deep")
        write(self, value, path, depth)

    def shared(self, value: Any) -> bool:
        """Write a reference if the value stands in the object before; tell whether it did."""
        known = self.seen.get(id(value))
        if known is None:
            return False
        again = self.again.get(id(value))
        if again is None:
            # Few objects stand in several places, so only those are made to be remembered, afterwards.
            again = self.again[id(value)] = op.get(self.memo_size)
            self.out[known[0]] += op.put(self.memo_size)
            self.memo_size += 1
        self.out.append(again)
        self.tree.append(known[1])
        return True

    def begin(self, value: Any) -> None:
        """Remember a value whose opcode stands last, so that it can be referred to."""
        self.seen[id(value)] = (len(self.out) - 1, f'{{"$same":{self.num_objects}}}', value)
        self.num_objects += 1

    def begin_tensor(self, value: torch.Tensor, node: str) -> None:
        """Remember a tensor; it is referred to by its node, which has its number."""
        self.seen[id(value)] = (len(self.out) - 1, node, value)


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _write_none(e: Emitter, value: None, path: str, depth: int) -> None:
    e.out.append(op.NONE)
    e.tree.append("null")


def _write_bool(e: Emitter, value: bool, path: str, depth: int) -> None:  # noqa: FBT001 - the value itself
    e.out.append(op.TRUE if value else op.FALSE)
    e.tree.append("true" if value else "false")


def _write_int(e: Emitter, value: int, path: str, depth: int) -> None:
    try:
        e.out.append(op.integer(value))
    except OverflowError as error:
        raise RefusedError(f"{path or 'the object'} is {error}") from error
    e.tree.append(str(value) if -(1 << 53) < value < 1 << 53 else f'{{"$int":"{value:x}"}}')


def _write_float(e: Emitter, value: float, path: str, depth: int) -> None:
    e.out.append(op.real(value))
    e.tree.append(repr(value) if math.isfinite(value) else f'{{"$float":"{bits_of(value)}"}}')


def _write_complex(e: Emitter, value: complex, path: str, depth: int) -> None:
    e.named("__builtin__", "complex")
    e.out.append(op.real(value.real) + op.real(value.imag) + op.TUPLES[2] + op.REDUCE)
    e.tree.append(f'{{"$complex":["{bits_of(value.real)}","{bits_of(value.imag)}"]}}')


def _write_text(e: Emitter, value: str, path: str, depth: int) -> None:
    e.tree.append(quoted(value))
    e.spell(value)


def _write_bytes(e: Emitter, value: bytes, path: str, depth: int) -> None:
    e.named("_codecs", "encode")
    e.out.append(op.text(value.decode("latin-1")) + op.text("latin1") + op.TUPLES[2] + op.REDUCE)
    e.tree.append(f'{{"$bytes":"{base64.b64encode(value).decode()}"}}')


def _write_dict(e: Emitter, value: dict[Any, Any], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.out.append(op.EMPTY_DICT)
    e.begin(value)
    if all(type(key) is str for key in value) and not any(key.startswith("$") for key in value):
        _write_plain_items(e, value, path, depth)
    else:
        e.tree.append('{"$dict":')
        _write_items(e, value, path, depth)
        e.tree.append("}")


def _write_plain_items(e: Emitter, value: dict[str, Any], path: str, depth: int) -> None:
    e.tree.append("{")
    if value:
        e.out.append(op.MARK)
        separator, within = "", f"{path}." if path else ""
        for key, item in value.items():
            e.tree.append(f"{separator}{quoted(key)}:")
            e.spell(key)
            e.node(item, within + key, depth + 1)
            separator = ","
        e.out.append(op.SETITEMS)
    e.tree.append("}")


def _write_items(e: Emitter, value: dict[Any, Any], path: str, depth: int) -> None:
    e.tree.append("[")
    if value:
        e.out.append(op.MARK)
        for number, (key, item) in enumerate(value.items()):
            if type(key) not in _KEYS:
                raise RefusedError(f"{path or 'the object'} has a key of type {type_name(key)}")
            e.tree.append(",[" if number else "[")
            e.node(key, path, depth + 1)
            e.tree.append(",")
            e.node(item, join(path, key), depth + 1)
            e.tree.append("]")
        e.out.append(op.SETITEMS)
    e.tree.append("]")


def _write_ordered(e: Emitter, value: OrderedDict[Any, Any], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.named("collections", "OrderedDict")
    e.out.append(op.EMPTY_TUPLE + op.REDUCE)
    e.begin(value)
    e.tree.append('{"$ordered":')
    _write_items(e, value, path, depth)
    attributes = vars(value)
    if attributes:  # a state dict's _metadata
        e.tree.append(',"attributes":')
        e.node(attributes, path, depth + 1)
        e.out.append(op.BUILD)
    e.tree.append("}")


def _write_counter(e: Emitter, value: Counter[Any], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.named("collections", "Counter")
    e.tree.append('{"$counter":')
    e.out.append(op.EMPTY_DICT)
    _write_items(e, value, path, depth)
    e.out.append(op.TUPLES[1] + op.REDUCE)
    e.begin(value)
    e.tree.append("}")


def _write_list(e: Emitter, value: list[Any], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.out.append(op.EMPTY_LIST)
    e.begin(value)
    e.tree.append("[")
    if value:
        e.out.append(op.MARK)
        _write_elements(e, value, path, depth)
        e.out.append(op.APPENDS)
    e.tree.append("]")


def _write_elements(e: Emitter, value: Any, path: str, depth: int) -> None:
    for number, item in enumerate(value):
        if number:
            e.tree.append(",")
        e.node(item, join(path, number), depth + 1)


def _write_tuple(e: Emitter, value: tuple[Any, ...], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.tree.append('{"$tuple":[')
    if len(value) > 3:
        e.out.append(op.MARK)
    _write_elements(e, value, path, depth)
    e.out.append(op.TUPLES[len(value)] if len(value) <= 3 else op.TUPLE)
    if value:  # the empty tuple is one object everywhere
        if id(value) in e.seen:
            raise RefusedError(f"{path or 'the object'} holds itself")
        e.begin(value)
    e.tree.append("]}")


def _write_set(e: Emitter, value: set[Any], path: str, depth: int) -> None:
    if e.shared(value):
        return
    e.named("__builtin__", "set")
    e.tree.append('{"$set":[')
    e.out.append(op.EMPTY_LIST + op.MARK)
    for number, item in enumerate(value):
        if type(item) not in _KEYS:
            raise RefusedError(f"{path or 'the object'} holds a {type_name(item)}")
        e.tree.append("," if number else "")
        e.node(item, join(path, number), depth + 1)
    e.out.append(op.APPENDS + op.TUPLES[1] + op.REDUCE)
    e.begin(value)
    e.tree.append("]}")


def type_name(value: object) -> str:
    """Return a value's type as messages name it."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def integers(values: Any) -> bytes:
    """Return the opcodes that push a tuple of integers."""
    if len(values) <= 3:
        return b"".join(map(op.integer, values)) + op.TUPLES[len(values)]
    return op.MARK + b"".join(map(op.integer, values)) + op.TUPLE


_KEYS = (str, int, float, bool, bytes, complex, type(None), tuple)

WRITERS: dict[type, Writer] = {
    type(None): _write_none,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    complex: _write_complex,
    str: _write_text,
    bytes: _write_bytes,
    dict: _write_dict,
    OrderedDict: _write_ordered,
    Counter: _write_counter,
    list: _write_list,
    tuple: _write_tuple,
    set: _write_set,
}
