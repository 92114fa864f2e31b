"""The few pickle opcodes that plain values and tensors need, in protocol 2, the one that torch reads safely.

Source: the standard library's `pickletools`; what `torch/_weights_only_unpickler.py` admits.
"""

from __future__ import annotations

import struct

PROTO2 = b"\x80\x02"
STOP = b"."
MARK = b"("
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE = b"}", b"]", b")"
SETITEMS, APPENDS, TUPLE = b"u", b"e", b"t"
TUPLES = (b")", b"\x85", b"\x86", b"\x87")
REDUCE, BUILD, BINPERSID = b"R", b"b", b"Q"

_FLOAT = struct.Struct(">d")
_LONGEST_INT_BYTES = 255


def name_of(module: str, name: str) -> bytes:
    """Return the opcode that pushes a global."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def integer(value: int) -> bytes:
    """Return the opcode that pushes an integer.

    Raises:
        OverflowError: It takes more than 255 bytes.
    """
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if 0 <= value < 65536:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    length = value.bit_length() // 8 + 1
    if length > _LONGEST_INT_BYTES:
        raise OverflowError("an integer of more than 255 bytes")
    return b"\x8a" + bytes((length,)) + value.to_bytes(length, "little", signed=True)


def real(value: float) -> bytes:
    """Return the opcode that pushes a float."""
    return b"G" + _FLOAT.pack(value)


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def put(index: int) -> bytes:
    """Return the opcode that remembers the top of the stack."""
    return b"q" + bytes((index,)) if index < 256 else b"r" + index.to_bytes(4, "little")


def get(index: int) -> bytes:
    """Return the opcode that pushes what was remembered."""
    return b"h" + bytes((index,)) if index < 256 else b"j" + index.to_bytes(4, "little")
