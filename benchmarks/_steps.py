"""Real steps of training: a ConvNeXt's forward and backward pass on random images, and AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import linnaeus
from benchmarks._states import Training

_PIXELS = 224


class ImageSteps:
    """Trains the model of a run.

    Args:
        run: A ConvNeXt and its optimizer.
        batch: Images in a step.
    """

    def __init__(self, run: Training, batch: int) -> None:
        self._run = run
        self._model: Any = run.model
        device = next(run.model.parameters()).device
        self._images = torch.randn(batch, 3, _PIXELS, _PIXELS, device=device)
        self._labels = torch.randint(0, 10, (batch,), device=device)

    def do(self, count: int, ckpt: linnaeus.CheckpointManager | None = None) -> None:
        """Do some steps, and count them with a manager if there is one."""
        for _ in range(count):
            self._run.optimizer.zero_grad(set_to_none=True)
            # A GPU is fed in half precision; on a CPU that would only be slower.
            with torch.autocast("cuda", torch.bfloat16, enabled=self._images.is_cuda):
                loss = functional.cross_entropy(_logits(self._model, self._images), self._labels)
            loss.backward()
            self._run.optimizer.step()
            if ckpt is not None:
                ckpt.step()


def _logits(model: Any, images: Tensor) -> Tensor:
    """Return the class scores; images are (batch, 3, height, width)."""
    x = _normed(model.stem[1], model.stem[0](images))
    for number, stage in enumerate(model.stages):
        if number:
            norm, conv = model.downsamplers[number - 1]
            x = conv(_normed(norm, x))
        for block in stage:
            x = x + _block(block, x)
    scores: Tensor = model.head(model.norm(x.mean((2, 3))))
    return scores


def _normed(norm: torch.nn.Module, x: Tensor) -> Tensor:
    normed: Tensor = norm(x.permute(0, 2, 3, 1))
    return normed.permute(0, 3, 1, 2)


def _block(block: Any, x: Tensor) -> Tensor:
    y = block.norm(block.dwconv(x).permute(0, 2, 3, 1))
    y = block.pwconv2(functional.gelu(block.pwconv1(y)))
    scaled: Tensor = (block.gamma * y).permute(0, 3, 1, 2)
    return scaled
