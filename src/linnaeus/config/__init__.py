"""The configuration: a YAML file and overrides become one frozen, typed object.

Sections that linnaeus owns are typed, checked and documented in `docs/configuration.md`; all other
sections belong to the rest of a training framework and pass through untouched. The room also is the
home of redaction, since it is the one that knows which values are secret.
"""

from linnaeus.config._bucket import bucket_config_from
from linnaeus.config._config import Config, load_config
from linnaeus.config._older import LinnaeusDeprecationWarning
from linnaeus.config._redaction import REDACTED, is_secret_name, redact, secrets_in_environment
from linnaeus.config._schema import (
    BucketConfig,
    CheckpointScheduleConfig,
    DirsConfig,
    EnvConfig,
    InputConfig,
    ModelConfig,
    OutputBucketConfig,
    OutputConfig,
    ScheduleConfig,
    TrainConfig,
)
from linnaeus.config._section import Section
from linnaeus.config._types import default_cache_dir

__all__ = [
    "REDACTED",
    "BucketConfig",
    "CheckpointScheduleConfig",
    "Config",
    "DirsConfig",
    "EnvConfig",
    "InputConfig",
    "LinnaeusDeprecationWarning",
    "ModelConfig",
    "OutputBucketConfig",
    "OutputConfig",
    "ScheduleConfig",
    "Section",
    "TrainConfig",
    "bucket_config_from",
    "default_cache_dir",
    "is_secret_name",
    "load_config",
    "redact",
    "secrets_in_environment",
]
