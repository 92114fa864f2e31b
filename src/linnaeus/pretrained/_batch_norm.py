"""Batch normalization that a model has no place for, refused: the layer before would mean another thing.

Folding it into the convolution before it needs its epsilon, which no file tells, and gives a model whose
batch statistics can't be trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from linnaeus.pretrained._weights import Held

_STATISTICS = ".running_mean"


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
