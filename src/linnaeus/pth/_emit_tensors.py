"""Tensors into a pickle for stock readers and a description for ours; the face of taking an object apart.

No tensor is copied: storages are handed out as they are, each once, to be read when their bytes are written.

Source of the shapes of the calls: `torch/_utils.py`, the `_rebuild_…` functions that `torch.load` admits.
"""

from __future__ import annotations

from typing import Any

import torch

from linnaeus.pth import _opcodes as op
from linnaeus.pth._emit import (
    WRITERS,
    Emission,
    Emitter,
    Form,
    RefusedError,
    Storage,
    Whole,
    Writer,
    integers,
    join,
)
from linnaeus.pth._globals import STORAGE_CLASSES


def _write_parameter(e: Emitter, value: torch.nn.Parameter, path: str, depth: int) -> None:
    if e.shared(value):
        return
    _refuse_attributes(value, path)
    start = len(e.tree)
    e.named("torch._utils", "_rebuild_parameter")
    e.out.append(op.MARK)
    e.tree.append(f'{{"$parameter":{"true" if value.requires_grad else "false"},"data":')
    _write_tensor_itself(e, value.data, path)
    e.tree.append("}")
    e.out.append(op.TRUE if value.requires_grad else op.FALSE)
    _write_no_hooks(e)
    e.out.append(op.TUPLE + op.REDUCE)
    e.begin_tensor(value, "".join(e.tree[start:]))


def _write_tensor(e: Emitter, value: torch.Tensor, path: str, depth: int) -> None:
    if id(value) in e.seen:
        e.shared(value)
        return
    if vars(value):
        _refuse_attributes(value, path)
    if _write_whole(e, value):
        return
    start = len(e.tree)
    _write_tensor_itself(e, value, path)
    e.begin_tensor(value, e.tree[start] if len(e.tree) == start + 1 else "".join(e.tree[start:]))


def _write_whole(e: Emitter, value: torch.Tensor) -> bool:
    """Write one more tensor like one before, each all of a storage of its own; tell whether it is such.

    Most tensors of most checkpoints are, and with many small ones this is what saving costs.
    """
    if value.layout is not torch.strided or value.is_nested or value.requires_grad:
        return False
    kind = e.wholes.get((value.dtype, value.shape, value.stride()))
    if kind is None or not value.is_cpu or value.is_conj() or value.is_neg() or value.storage_offset():
        return False
    storage = value.untyped_storage()
    if storage.nbytes() != kind.size_bytes or storage._cdata in e.storages:
        return False
    key, number = len(e.storages), len(e.tensors)
    e.storages[storage._cdata] = Storage(key, kind.size_bytes, storage, True)
    e.dtypes[key] = value.dtype
    e.out.append(b"%bX%b\0\0\0%b%b" % (kind.head, b"%c" % len(str(key)), b"%d" % key, kind.tail))
    e.tensors.append(f"[{key}{kind.described}")
    node = f'{{"$tensor":{number}}}'
    e.tree.append(node)
    e.seen[id(value)] = (len(e.out) - 1, node, value)
    return True


def _refuse_attributes(value: torch.Tensor, path: str) -> None:
    for name in vars(value):
        if name not in ("_is_buffer", "persistent"):  # the marks of torch.nn.Buffer
            raise RefusedError(f"{join(path, name)} is an attribute of a tensor")


def _write_no_hooks(e: Emitter) -> None:
    e.named("collections", "OrderedDict")
    e.out.append(op.EMPTY_TUPLE + op.REDUCE)


def _write_tensor_itself(e: Emitter, value: torch.Tensor, path: str) -> None:
    if value.layout is not torch.strided:
        _write_sparse(e, value, path)
    elif value.is_nested:
        raise RefusedError(f"{path or 'the object'} is a nested tensor")
    elif value.is_meta:
        _write_meta(e, value)
    elif value.is_quantized:
        _write_quantized(e, value, path)
    else:
        _write_strided(e, value)


def _write_strided(e: Emitter, value: torch.Tensor) -> None:
    known, dtype = _storage_of(e, value), value.dtype
    # A storage seen as another type before, or of a type without a class, is named by its bytes.
    typed = e.dtypes[known.key] is dtype and dtype in _CLASSES and known.size_bytes % dtype.itemsize == 0
    shape, stride, offset = value.shape, value.stride(), int(value.storage_offset())
    extent = e.extents.get((shape, stride))
    if extent is None:
        extent = e.extents[shape, stride] = (
            integers(shape) + integers(stride),
            f"{list(shape)},{list(stride)}",
        )
    marks = marks_of(value)
    form = e.forms.get((dtype, marks)) if typed and value.is_cpu else None
    if form is None:
        _write_in_full(e, value, known, offset, extent[0], marks, typed=typed)
    else:
        count = op.integer(known.size_bytes // dtype.itemsize)
        number = op.text(str(known.key))
        tail = form.middle + count + b"tQ" + op.integer(offset) + extent[0] + form.tail
        e.out.append(form.head + number + tail)
        if not marks and not offset and known.size_bytes == value.nbytes:
            e.wholes[dtype, shape, stride] = Whole(
                known.size_bytes, form.head, tail, f',"{_NAMES[dtype]}",{extent[1]},0]'
            )
    _describe(e, dtype, known.key, extent[1], offset, marks)


def _write_in_full(
    e: Emitter,
    value: torch.Tensor,
    known: Storage,
    offset: int,
    extent: bytes,
    marks: tuple[str, ...],
    *,
    typed: bool,
) -> None:
    """Write a tensor with every name spelled out, and keep the form for the next of its kind."""
    name = str(value.dtype)[6:]
    rebuild = ("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
    storage = ("torch", STORAGE_CLASSES[name]) if typed else ("torch.storage", "UntypedStorage")
    # Stock readers stumble over the third version with gradients; the description tells us all the same.
    flag = op.TRUE if typed and "requires_grad" in marks else op.FALSE
    e.named(*rebuild)
    e.out.append(op.MARK)
    _write_storage_reference(e, known, storage, value.dtype.itemsize if typed else 1, value.device)
    e.out.append(op.integer(offset) + extent + flag)
    _write_no_hooks(e)
    if not typed:
        e.named("torch", name)
    lazy = [mark for mark in marks if mark != "requires_grad"]
    if lazy:  # what torch will do to the elements when they are used
        spelled = b"".join(op.text(mark) + op.TRUE for mark in lazy)
        e.out.append(op.EMPTY_DICT + op.MARK + spelled + op.SETITEMS)
    e.out.append(op.TUPLE + op.REDUCE)
    if typed and value.is_cpu and not lazy:
        e.forms[value.dtype, marks] = Form(
            head=e.names[rebuild] + op.MARK + op.MARK + e.texts["storage"] + e.names[storage],
            middle=e.texts["cpu"],
            tail=flag + e.names["collections", "OrderedDict"] + b")R" + op.TUPLE + op.REDUCE,
        )


def _storage_of(e: Emitter, value: torch.Tensor) -> Storage:
    storage = value.untyped_storage()
    known = e.storages.get(storage._cdata)
    if known is None:
        known = Storage(len(e.storages), storage.nbytes(), storage, value.is_cpu)
        e.storages[storage._cdata] = known
        e.dtypes[known.key] = value.dtype
    return known


def _write_storage_reference(
    e: Emitter, storage: Storage, storage_class: tuple[str, str], item_bytes: int, device: torch.device
) -> None:
    e.out.append(op.MARK)
    e.push_text("storage")
    e.named(*storage_class)
    e.out.append(op.text(str(storage.key)))
    e.push_text(str(device))
    e.out.append(op.integer(storage.size_bytes // item_bytes) + op.TUPLE + op.BINPERSID)


def _write_meta(e: Emitter, value: torch.Tensor) -> None:
    name = str(value.dtype)[6:]
    shape, stride = tuple(value.shape), value.stride()
    e.named("torch._utils", "_rebuild_meta_tensor_no_storage")
    e.out.append(op.MARK)
    e.named("torch", name)
    e.out.append(integers(shape) + integers(stride))
    e.out.append((op.TRUE if value.requires_grad else op.FALSE) + op.TUPLE + op.REDUCE)
    _describe(e, value.dtype, None, f"{list(shape)},{list(stride)}", 0, marks_of(value))


def _describe(
    e: Emitter, dtype: torch.dtype, key: int | None, extent: str, offset: int, marks: tuple[str, ...]
) -> None:
    e.tree.append(f'{{"$tensor":{len(e.tensors)}}}')
    record = "null" if key is None else key
    extra = "".join([f',"{mark}"' for mark in marks]) if marks else ""
    e.tensors.append(f'[{record},"{_NAMES[dtype]}",{extent},{offset}{extra}]')


def marks_of(value: torch.Tensor) -> tuple[str, ...]:
    """Return what is special about a tensor beside its place."""
    if not (value.requires_grad or value.is_conj() or value.is_neg()):
        return ()
    flags = (("requires_grad", value.requires_grad), ("conj", value.is_conj()), ("neg", value.is_neg()))
    return tuple(name for name, is_set in flags if is_set)


def _write_sparse(e: Emitter, value: torch.Tensor, path: str) -> None:
    layout = str(value.layout)
    if layout not in _SPARSE_PARTS:
        raise RefusedError(f"{path or 'the object'} is a tensor of layout {layout}")
    parts = [getattr(value, name)() for name in _SPARSE_PARTS[layout]]
    e.named("torch._utils", "_rebuild_sparse_tensor")
    e.out.append(op.MARK)
    e.named("torch.serialization", "_get_layout")
    e.push_text(layout)
    e.out.append(op.TUPLES[1] + op.REDUCE + op.MARK)
    e.tree.append(f'{{"$sparse":"{layout[6:]}","parts":[')
    for number, part in enumerate(parts):
        e.tree.append("," if number else "")
        _write_tensor_itself(e, part, path)
    size, coalesced = list(value.shape), value.layout is torch.sparse_coo and value.is_coalesced()
    e.tree.append(f'],"size":{size},"coalesced":{"true" if coalesced else "false"}}}')
    e.named("torch", "Size")
    e.out.append(integers(size) + op.TUPLES[1] + op.REDUCE)
    if value.layout is torch.sparse_coo:
        e.out.append(op.TRUE if coalesced else op.FALSE)
    e.out.append(op.TUPLE + op.TUPLE + op.REDUCE)


def _write_quantized(e: Emitter, value: torch.Tensor, path: str) -> None:
    known, name = _storage_of(e, value), str(value.dtype)[6:]
    e.named("torch._utils", "_rebuild_qtensor")
    e.out.append(op.MARK)
    _write_storage_reference(e, known, ("torch", STORAGE_CLASSES[name]), value.dtype.itemsize, value.device)
    shape, stride, offset = tuple(value.shape), value.stride(), int(value.storage_offset())
    e.out.append(op.integer(offset) + integers(shape) + integers(stride) + op.MARK)
    e.tree.append('{"$quantized":')
    _describe(e, value.dtype, known.key, f"{list(shape)},{list(stride)}", offset, marks_of(value))
    e.named("torch", str(value.qscheme())[6:])
    e.tree.append(f',"scheme":"{str(value.qscheme())[6:]}","by":[')
    _write_quantizer(e, value, path)
    e.tree.append("]}")
    e.out.append(op.TUPLE + (op.TRUE if value.requires_grad else op.FALSE))
    _write_no_hooks(e)
    e.out.append(op.TUPLE + op.REDUCE)


def _write_quantizer(e: Emitter, value: torch.Tensor, path: str) -> None:
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        e.node(value.q_scale(), path, 0)
        e.tree.append(",")
        e.node(value.q_zero_point(), path, 0)
        return
    for part in (value.q_per_channel_scales(), value.q_per_channel_zero_points()):
        _write_tensor_itself(e, part, path)
        e.tree.append(",")
    e.node(value.q_per_channel_axis(), path, 0)


def _write_dtype(e: Emitter, value: torch.dtype, path: str, depth: int) -> None:
    name = str(value)[6:]
    e.named("torch", name)
    e.tree.append(f'{{"$dtype":"{name}"}}')


def _write_device(e: Emitter, value: torch.device, path: str, depth: int) -> None:
    e.named("torch", "device")
    e.push_text(value.type)
    if value.index is not None:
        e.out.append(op.integer(value.index))
    e.out.append(op.TUPLES[1 if value.index is None else 2] + op.REDUCE)
    e.tree.append(f'{{"$device":"{value}"}}')


def _write_size(e: Emitter, value: torch.Size, path: str, depth: int) -> None:
    e.named("torch", "Size")
    e.out.append(integers(value) + op.TUPLES[1] + op.REDUCE)
    e.tree.append(f'{{"$size":{list(value)}}}')


_NAMES = {d: str(d).removeprefix("torch.") for d in vars(torch).values() if isinstance(d, torch.dtype)}
_CLASSES = frozenset(dtype for dtype, name in _NAMES.items() if name in STORAGE_CLASSES)

# What each sparse layout is made of, in the order in which torch rebuilds it.
_SPARSE_PARTS = {
    "torch.sparse_coo": ("_indices", "_values"),
    "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
    "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
}

_TENSOR_WRITERS: dict[type, Writer] = {
    torch.Tensor: _write_tensor,
    torch.nn.Parameter: _write_parameter,
    torch.dtype: _write_dtype,
    torch.device: _write_device,
    torch.Size: _write_size,
}


def emit(obj: Any) -> Emission:
    """Take an object apart.

    Raises:
        RefusedError: It holds something that a safe file can't.
    """
    emitter = Emitter(WRITERS | _TENSOR_WRITERS)
    emitter.node(obj, "", 0)
    emitter.out.append(op.STOP)
    return Emission(
        b"".join(emitter.out), "".join(emitter.tree), emitter.tensors, list(emitter.storages.values())
    )
