"""A weight whose name fits and whose shape does not: reshaped where that keeps the function.

What the shapes mean is asked of the model: its convolution's stride, its grid of patches, which tokens stand
before the patches, how it indexes its bias table. What can't be known is refused with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from linnaeus.pretrained._adapters import changed, channels, wide
from linnaeus.pretrained._resample import Grid, patch_kernel, resampled, square_side
from linnaeus.pretrained._targets import Target
from linnaeus.pretrained._weights import Weight

POSITIONS = (
    "pos_embed",
    "pos_embedding",
    "position_embedding",
    "position_embeddings",
    "positional_embedding",
)
BIAS_TABLE = "relative_position_bias_table"
# Buffers that a model computes from its own grid; a source's are of the source's grid.
COMPUTED = ("relative_position_index", "relative_coords_table", "freqs_t_x", "freqs_t_y")
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "dist_token")
OTHER_TOKENS = ("reg_token", "reg_tokens", "register_tokens", "storage_tokens")


class UnresizableError(Exception):
    """A shape can't be adapted; the text says why."""


def reshaped(name: str, weight: Weight, target: Target, source: Mapping[str, Weight]) -> Weight | None:
    """Return a weight in the model's shape, or None when there is no adapter for what it is.

    Args:
        name: Its name in the model, without prefixes of wrappers.
        weight: The weight.
        target: The model's tensor, of another shape.
        source: All weights of the source by their names.

    Raises:
        UnresizableError: There is an adapter, and it can't keep the function.
    """
    last = name.rpartition(".")[2]
    if last in COMPUTED and not target.is_parameter:
        return _of_the_model(weight, target)
    if last in POSITIONS:
        return _positions(weight, target, source)
    if last == BIAS_TABLE:
        return _bias_table(name, weight, target, source)
    if last == "weight" and len(weight.shape) == len(target.shape) == 4:
        return _stem(weight, target)
    return None


def _of_the_model(weight: Weight, target: Target) -> Weight:
    return replace(
        changed(weight, "as the model computes it for its own grid", target.shape, lambda: target.tensor),
        dtype=target.tensor.dtype,
    )


def _stem(weight: Weight, target: Target) -> Weight | None:
    """Adapt the first convolution: to other input channels, and to patches of another size."""
    wanted = target.shape
    if weight.shape[0] != wanted[0]:
        return None
    made: Weight | None = weight
    if weight.shape[1] != wanted[1]:
        if weight.shape[1] not in (1, 3) or _groups(target) != 1:
            return None
        made = channels(weight, wanted[1])
    if made is not None and made.shape[2:] != wanted[2:]:
        made = _patches(made, target)
    return made


def _groups(target: Target) -> int:
    return int(getattr(target.owners[0], "groups", 1)) if target.owners else 1


def _patches(weight: Weight, target: Target) -> Weight | None:
    owner = target.owners[0] if target.owners else None
    if not isinstance(owner, nn.Conv2d) or weight.shape[1] not in (1, 3):
        return None
    size, given = target.shape[2:], weight.shape[2:]
    if owner.stride != owner.kernel_size or any(owner.padding) or len({*size}) > 1 or len({*given}) > 1:
        raise UnresizableError(
            f"a kernel of {given[0]} x {given[1]} can be brought to {size[0]} x {size[1]} only where it cuts"
            " the image into square patches (stride = kernel, no padding)"
        )
    note = f"patches of {given[0]} pixels resampled to {size[0]}"
    return changed(
        weight, note, target.shape, lambda: patch_kernel(weight.read(), size[0]), dtype=wide(weight.dtype)
    )


def _positions(weight: Weight, target: Target, source: Mapping[str, Weight]) -> Weight | None:
    """Resample an absolute position embedding; what stands before the patches keeps its positions."""
    if (
        len(weight.shape) != len(target.shape)
        or weight.shape[-1] != target.shape[-1]
        or len(weight.shape) > 3
    ):
        return None
    ours, theirs = target.shape[-2], weight.shape[-2]
    counts = _token_counts(target)
    grid = _model_grid(target)
    kind = _kind_of_tokens(ours, counts, grid)
    others = counts[kind]
    given = _source_counts(source)[kind]
    if given != others:
        raise UnresizableError(
            f"the model has positions for {others} tokens before its patches, the source for {given}"
        )
    grid = grid or _square(ours - others, "the model")
    old = _square(theirs - given, "the source")
    note = f"positions resampled from {old[0]} x {old[1]} to {grid[0]} x {grid[1]}"

    def read() -> Tensor:
        table = weight.read().reshape(theirs, -1)
        made = torch.cat([table[:others], resampled(table[others:], old, grid)])
        return made.reshape(target.shape)

    return changed(weight, note, target.shape, read)


def _square(count: int, whose: str) -> Grid:
    side = square_side(count)
    if side is None:
        raise UnresizableError(f"the {count} positions of {whose} are no square grid")
    return side, side


def _token_counts(target: Target) -> dict[str, int]:
    """Return how many positions before the patches there are, by which tokens have one."""
    holder = next((o for o in target.owners if any(True for _ in _tokens(o, CLASS_TOKENS))), None)
    if holder is None:
        return {"all": 0, "class": 0, "none": 0}
    few = sum(_tokens(holder, CLASS_TOKENS))
    return {"all": few + sum(_tokens(holder, OTHER_TOKENS)), "class": few, "none": 0}


def _tokens(module: nn.Module, names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        token = getattr(module, name, None)
        if isinstance(token, Tensor):
            yield math.prod(token.shape[:-1])


def _source_counts(source: Mapping[str, Weight]) -> dict[str, int]:
    counts = dict.fromkeys((CLASS_TOKENS, OTHER_TOKENS), 0)
    for name, weight in source.items():
        for names in counts:
            if name.rpartition(".")[2] in names:
                counts[names] += math.prod(weight.shape[:-1])
    few = counts[CLASS_TOKENS]
    return {"all": few + counts[OTHER_TOKENS], "class": few, "none": 0}


def _kind_of_tokens(length: int, counts: Mapping[str, int], grid: Grid | None) -> str:
    """Return which tokens have a position: that for which what is left is the grid, or else is a square."""
    for kind, number in counts.items():
        left = length - number
        if left == grid[0] * grid[1] if grid else square_side(left) is not None:
            return kind
    raise UnresizableError(
        f"the model's {length} positions are not those of its tokens and its grid of patches"
    )


def _model_grid(target: Target) -> Grid | None:
    """Return the grid of patches that a model tells; None when it tells none."""
    for owner in target.owners:
        for holder in (getattr(owner, "patch_embed", None), owner):
            for name in ("grid_size", "patches_resolution", "patch_shape"):
                grid = getattr(holder, name, None)
                if isinstance(grid, (tuple, list)) and len(grid) == 2:
                    return int(grid[0]), int(grid[1])
    return None


def _bias_table(name: str, weight: Weight, target: Target, source: Mapping[str, Weight]) -> Weight | None:
    """Resample a table of relative positions (rows, heads); rows of the class token stay what they are."""
    if weight.shape[1:] != target.shape[1:]:
        return None
    index = getattr(target.owners[0], "relative_position_index", None) if target.owners else None
    ours, theirs = target.shape[0], weight.shape[0]
    new = _table_grid(ours, index)
    extra = ours - new[0] * new[1]
    stored = source.get(name.replace(BIAS_TABLE, "relative_position_index"))
    old = _table_grid(theirs, stored.read() if stored else None, extra=extra)
    if theirs - old[0] * old[1] != extra:
        raise UnresizableError(f"the model's table has {extra} rows beside its grid, the source's others")
    shared = extra > 0 and _class_row_is_first(index)
    note = f"relative positions resampled from {old[0]} x {old[1]} to {new[0]} x {new[1]}"

    def read() -> Tensor:
        table = weight.read()
        count = old[0] * old[1]
        made = torch.cat([resampled(table[:count], old, new), table[count:]])
        if shared:  # MetaFormer: the row of the class token is also that of one corner
            made[0] = table[0]
        return made

    return changed(weight, note, target.shape, read)


def _table_grid(rows: int, index: Tensor | None, *, extra: int | None = None) -> Grid:
    """Return the grid of relative positions, (2h - 1, 2w - 1), that a table's first rows are."""
    if index is not None and not index.is_meta and index.ndim == 2:
        height, width = _window(index)
        return 2 * height - 1, 2 * width - 1
    tried = range(4) if extra is None else (extra,)
    for others in tried:
        side = square_side(rows - others)
        if side is not None and side % 2:
            return side, side
    raise UnresizableError(
        f"{rows} rows are no square grid of relative positions, with or without class tokens"
    )


def _window(index: Tensor) -> Grid:
    """Return the (height, width) of the window that an index of relative positions is about.

    The last token's distance to itself is that of every token of the window; going left from it, the index
    falls by one for each column, until the row ends.
    """
    here = int(index[-1, -1])
    last = index[-1].tolist()
    width = 1
    while width < len(last) and last[-1 - width] == here + width:
        width += 1
    others = sum(1 for place in range(index.shape[0]) if int(index[place, place]) != here)
    return (index.shape[0] - others) // width, width


def _class_row_is_first(index: Tensor | None) -> bool:
    return index is not None and (index.is_meta or int(index[0, 0]) == 0)
