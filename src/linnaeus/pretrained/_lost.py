"""What can't be left out without the rest meaning another thing: refused, and never passed over.

A batch norm that the model has no place for: folding it into the convolution before it needs its epsilon,
which no file tells, and gives a model whose batch statistics can't be trained on. A scale of a branch
(LayerScale), absolute positions: what follows was trained with them. And a batch norm without statistics.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from linnaeus.pretrained._reshape import POSITIONS
from linnaeus.pretrained._weights import Held

_STATISTICS = ".running_mean"
_MEASURED = (".running_mean", ".running_var")
# As the last part of a name, or in the part before it.
_SCALE = re.compile(
    r"(?:(.+?)\.)?(?:(?:ls_?\d|layer_scale\w*)\.(?:gamma|weight|scale)|gamma(?:_\d)?|layer_scale\w*|lambda_?\d)"
)
_DROP = "a `drop` of a recipe's own says that it is meant to be left out"


def lost_norms(
    tensors: Mapping[str, Held], used: Collection[str], unplaced: Collection[str]
) -> Iterator[str]:
    """Yield a reason for each batch norm that has no place while the layer that it follows has one.

    Args:
        tensors: The source's tensors, in their order.
        used: Names of those that go into the model.
        unplaced: Names of those that the model has no name for.
    """
    before: list[str] = []
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1:
            before.append(name)
        if name.endswith(_STATISTICS) and name in unplaced:
            width = tensor.shape[0]
            scaled = next((n for n in reversed(before) if tensors[n].shape[0] == width), None)
            if scaled in used:
                norm = name.removesuffix(_STATISTICS)
                yield (
                    f"{norm} is a batch norm that the model has no place for, and {scaled}, which it follows,"
                    " has one: folding it in needs its epsilon, which the file does not tell;"
                    " fold it before saving"
                )


def lost_scales(
    tensors: Mapping[str, Held], used: Collection[str], unplaced: Collection[str]
) -> Iterator[str]:
    """Yield a reason for each module whose scale has no place while what it scales has one.

    Args:
        tensors: The source's tensors.
        used: Names of those that go into the model.
        unplaced: Names of those that the model has no name for.
    """
    found: dict[str, str] = {}
    for name in tensors:
        scale = _SCALE.fullmatch(name) if name in unplaced else None
        if scale and scale[1] and f"{scale[1]}.beta" not in tensors:
            found.setdefault(scale[1], name)
    modules = {module for module in found if any(other.startswith(f"{module}.") for other in used)}
    if modules:
        names = [name for module, name in found.items() if module in modules]
        more = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
        yield f"{names[0]}{more}: a scale that the model has no place for, unlike what it scales; {_DROP}"


def lost_positions(
    tensors: Mapping[str, Held], used: Collection[str], unplaced: Collection[str]
) -> Iterator[str]:
    """Yield a reason for positions that have no place while what was trained with them has one.

    Absolute ones, and learned rotary frequencies.
    """
    for name in tensors:
        parent, _, last = name.rpartition(".")
        beside = f"{parent}." if parent else ""
        lost = name in unplaced and name not in used and last in (*POSITIONS, "freqs")
        if lost and any(other.startswith(beside) for other in used):
            yield (
                f"{name}: positions that the model has no place for, unlike what was trained with"
                f" them; {_DROP}"
            )


def unmeasured(names: Collection[str], filled: Collection[str]) -> Iterator[str]:
    """Yield a reason for each statistic of a batch norm that stays fresh while its scale is loaded.

    Args:
        names: The model's.
        filled: Those that are loaded.
    """
    for name in names:
        module = name.rpartition(".")[0]
        if name.endswith(_MEASURED) and name not in filled and f"{module}.weight" in filled:
            yield f"{name}: the batch norm would be the source's, its statistics nobody's"
