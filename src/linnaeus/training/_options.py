"""The sections DATA, OPTIMIZER and TRAIN of a config, as the reference trainer understands them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from linnaeus.config import Config
from linnaeus.errors import ConfigError

# Keys of TRAIN that belong to resuming, which the config itself reads.
_OF_RESUMING = {"AUTO_RESUME", "RESUME", "RESUME_SKIP_OPTIMIZER", "PRESERVE_CHECKPOINT_SCHEDULE"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataOptions(_Section):
    """What to train on.

    Attributes:
        DATASET: "digits": scikit-learn's 1797 handwritten digits, 8 x 8 pixels.
        IMG_SIZE: Pixels per side that images are scaled to.
        SHIFT: Move training images by up to so many pixels at random.
        NUM_WORKERS: Processes that load ahead.
    """

    DATASET: Literal["digits"] = "digits"
    IMG_SIZE: int = Field(default=8, gt=0)
    SHIFT: int = Field(default=0, ge=0)
    NUM_WORKERS: int = Field(default=0, ge=0)


class TrainOptions(_Section):
    """How to train.

    Attributes:
        EPOCHS: Passes over the data.
        BATCH_SIZE: Samples per step.
        LR: Highest learning rate; it rises over the first steps, then falls along a cosine.
        WARMUP_STEPS: Steps of rising.
        WEIGHT_DECAY: Of AdamW.
        EMA_DECAY: Average the weights with this decay and evaluate the average; null for none.
        PRECISION: Of the forward pass.
        SEED: Decides initial weights, order of the data and every other draw.
        DEVICE: "auto" takes a GPU if there is one.
        PARALLEL: How the ranks that torchrun started share the work: "ddp", each with the whole model, or
            "fsdp", each with a shard of it. `BATCH_SIZE` counts the samples of all ranks together.
    """

    EPOCHS: int = Field(default=10, gt=0)
    BATCH_SIZE: int = Field(default=32, gt=0)
    LR: float = Field(default=3e-3, gt=0)
    WARMUP_STEPS: int = Field(default=20, ge=0)
    WEIGHT_DECAY: float = Field(default=0.05, ge=0)
    EMA_DECAY: float | None = Field(default=None, gt=0, lt=1)
    PRECISION: Literal["float32", "bfloat16", "float16"] = "float32"
    SEED: int = 0
    DEVICE: str = "auto"
    PARALLEL: Literal["none", "ddp", "fsdp"] = "none"


def read_options(cfg: Config) -> tuple[DataOptions, TrainOptions]:
    """Return the trainer's options.

    Raises:
        ConfigError: A key is unknown to this trainer, or its value can't be used.
    """
    plain: dict[str, Any] = cfg.to_plain()
    train = {key: value for key, value in plain["TRAIN"].items() if key not in _OF_RESUMING}
    return _read(DataOptions, "DATA", plain.get("DATA") or {}), _read(TrainOptions, "TRAIN", train)


def _read(kind: Any, section: str, values: dict[str, Any]) -> Any:
    values = {key: value for key, value in values.items() if value is not None}
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(kind.model_fields)
        raise ConfigError(
            field=f"{section}.{'.'.join(map(str, first['loc']))}",
            expected=f"{first['msg']}; this trainer knows {known}",
            value=first["input"],
        ) from error
