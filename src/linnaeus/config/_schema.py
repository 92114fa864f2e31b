"""The keys that linnaeus owns: their types and defaults. `docs/configuration.md` explains each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from linnaeus.config._redaction import redact_tree, secrets_in_environment
from linnaeus.config._section import missing_key, plain, wrap
from linnaeus.config._types import (
    BucketName,
    Count,
    Directory,
    Endpoint,
    Flag,
    Hours,
    Megabytes,
    Minutes,
    OptionalDirectory,
    OptionalText,
    PathPrefix,
    Positive,
    PositiveHours,
    RemoteName,
    Seconds,
    Secret,
    Share,
    SignalNames,
    Text,
    default_cache_dir,
)

DEFAULT_RUN_NAME = "run"


class ClosedSection(BaseModel):
    """A section all of whose keys are ours; any other key is a mistake."""

    # inputs are hidden because pydantic would show secrets in the text of its errors
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def get(self, key: str, default: object = None) -> Any:
        """Return the value of a key, or the default when there is no such key."""
        try:
            return self[key]
        except KeyError:
            return default

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        return key in type(self).model_fields

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from redact_tree(plain(self), secrets_in_environment()).items()


class OpenSection(ClosedSection):
    """A section that is ours in part; the keys of others pass through untouched."""

    model_config = ConfigDict(extra="allow")

    claimed: ClassVar[frozenset[str]] = frozenset()
    """Keys for which a key that merely looks like them is taken for a mistake."""

    def model_post_init(self, context: object, /) -> None:
        """Make the keys of others readable as attributes, however deep they are."""
        extra = self._extra()
        extra.update({key: wrap(value, key) for key, value in extra.items()})

    def _extra(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}

    def __contains__(self, key: str) -> bool:
        return super().__contains__(key) or key in self._extra()

    def __getitem__(self, key: str) -> Any:
        # not by attribute: a key of others may have the name of a method
        return self._extra()[key] if key in self._extra() else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # a copy in the making asks for these before it has any values
        if name not in self._extra():
            raise missing_key(name, "", [key for key, _ in self])
        return self._extra()[name]


class BucketConfig(ClosedSection):
    """A bucket, and how patiently to transfer from and to it."""

    ENABLED: Flag = False
    NAME: BucketName = "linnaeus-checkpoints"
    PATH_PREFIX: PathPrefix = "modelZoo/"
    REMOTE: RemoteName = None
    ENDPOINT: Endpoint = None
    APP_KEY_ID: Secret = None
    APP_KEY: Secret = None
    RETRIES: Count = 4
    CONNECT_TIMEOUT_SECONDS: Seconds = 10.0
    IDLE_TIMEOUT_SECONDS: Seconds = 60.0
    TOTAL_TIMEOUT_SECONDS: Seconds | None = None
    STREAMS: Positive = 4
    PER_JOB: Flag = False

    @field_validator("NAME")
    @classmethod
    def _named_when_enabled(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("ENABLED") and not name:
            raise ValueError("should name the bucket, since it is enabled")
        return name


class OutputBucketConfig(BucketConfig):
    """The bucket that a run's checkpoints are copied to, and which of them stay there."""

    PATH_PREFIX: PathPrefix = f"runs/{DEFAULT_RUN_NAME}/"
    KEEP_LAST_N: Count = 3
    KEEP_TOP_N: Count = 1
    KEEP_EVERY_N_EPOCHS: Count = 0
    MAX_MEGABYTES_PER_SECOND: Megabytes = 0.0
    CLOSE_TIMEOUT_SECONDS: Seconds = 600.0


class InputConfig(ClosedSection):
    """Where checkpoints that are named in the config come from."""

    CACHE_DIR: Directory = Field(default_factory=default_cache_dir)
    BUCKET: BucketConfig = BucketConfig()
    OFFLINE: Flag = False
    LOCK: OptionalDirectory = None


class DirsConfig(ClosedSection):
    """The directories that a run writes to."""

    EXP_BASE: OptionalDirectory = None
    CHECKPOINTS: Directory = Path("runs", DEFAULT_RUN_NAME, "checkpoints")


class OutputConfig(ClosedSection):
    """Where a run's checkpoints go."""

    DIRS: DirsConfig = DirsConfig()
    BUCKET: OutputBucketConfig = OutputBucketConfig()


class EnvConfig(ClosedSection):
    """What depends on the machine: directories and buckets."""

    INPUT: InputConfig = Field(default_factory=InputConfig)
    OUTPUT: OutputConfig = OutputConfig()


_RESUME = ("AUTO_RESUME", "RESUME", "RESUME_SKIP_OPTIMIZER", "PRESERVE_CHECKPOINT_SCHEDULE")
_PRETRAINED = (
    "PRETRAINED",
    "PRETRAINED_SOURCE",
    "PRETRAINED_CONVNEXT",
    "PRETRAINED_ROPEVIT",
    "PRETRAINED_RECIPE",
    "PRETRAINED_EMA",
    "PRETRAINED_CONTAINER",
    "PRETRAINED_HEADS",
    "PRETRAINED_MIN_COVERAGE",
)


class ModelConfig(OpenSection):
    """The model and the weights that it starts from."""

    claimed = frozenset(_PRETRAINED + _RESUME)

    TYPE: OptionalText = None
    NAME: OptionalText = None
    PRETRAINED: OptionalText = None
    PRETRAINED_SOURCE: OptionalText = None
    PRETRAINED_CONVNEXT: OptionalText = None
    PRETRAINED_ROPEVIT: OptionalText = None
    PRETRAINED_RECIPE: OptionalText = None
    PRETRAINED_EMA: Flag = False
    PRETRAINED_CONTAINER: OptionalText = None
    PRETRAINED_HEADS: Any = None
    PRETRAINED_MIN_COVERAGE: Share = 0.9

    @field_validator("PRETRAINED_HEADS")
    @classmethod
    def _text_or_section(cls, value: object) -> object:
        if value is None or value == "" or isinstance(value, dict):
            return value or None
        if value not in ("fit", "drop", "keep"):
            raise ValueError("should be fit, drop, keep, or a section that maps heads by class name")
        return value


class TrainConfig(OpenSection):
    """How long to train, and what to resume from."""

    claimed = frozenset(_PRETRAINED + _RESUME)

    AUTO_RESUME: Flag = True
    RESUME: OptionalText = None
    EPOCHS: Count = 1
    RESUME_SKIP_OPTIMIZER: Flag = False
    PRESERVE_CHECKPOINT_SCHEDULE: Flag = True


class CheckpointScheduleConfig(ClosedSection):
    """When to save a checkpoint, and which ones to keep; 0 switches a rule off."""

    INTERVAL_EPOCHS: Count = 1
    INTERVAL_STEPS: Count = 0
    INTERVAL_MINUTES: Minutes = 0.0
    KEEP_LAST_N: Count = 3
    KEEP_TOP_N: Count = 1
    KEEP_EVERY_N_EPOCHS: Count = 0
    KEEP_EVERY_HOURS: Hours = 0.0
    METRIC: Text = "loss"
    MODE: Literal["min", "max"] = "min"
    CHECK_FINITE: Flag = False
    AT_VALIDATION: Flag = True
    INTERVAL: Literal["auto"] | None = None
    MTBF_HOURS: PositiveHours = 24.0
    FORMAT: Literal["pth", "sharded"] = "pth"
    ASYNC: Flag = True
    WHEN_BUSY: Literal["wait", "skip"] = "wait"
    ON_FAILURE: Literal["raise", "warn", "retry"] = "raise"
    DEADLINE_SECONDS: Seconds = 600.0
    HOLD_SECONDS: Share = 0.002
    EXIT_SIGNALS: SignalNames = ("SIGTERM", "SIGINT")
    SAVE_SIGNALS: SignalNames = ("SIGUSR1",)
    GRACE_SECONDS: Seconds = 30.0


class ScheduleConfig(OpenSection):
    """What happens when."""

    claimed = frozenset({"CHECKPOINT"})

    CHECKPOINT: CheckpointScheduleConfig = CheckpointScheduleConfig()
