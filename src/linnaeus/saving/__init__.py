"""Keep a run's state: when to save, how to write it beside training, what to keep.

Knows nothing of resuming; the two meet only on disk.
"""

from linnaeus.saving._account import Account, OnSave, SaveRecord
from linnaeus.saving._acting import acts_here
from linnaeus.saving._copies import Copies
from linnaeus.saving._interval import best_interval_seconds, interval_for
from linnaeus.saving._job import Job
from linnaeus.saving._joint import JointPipeline, pipeline_of, share_now
from linnaeus.saving._mirror import Lag, Mirror, rules_there
from linnaeus.saving._mirror_of_job import open_mirror
from linnaeus.saving._pipeline import Pipeline, Policy
from linnaeus.saving._pretrained import write_report
from linnaeus.saving._prune import prune
from linnaeus.saving._push import copies_of, list_there, not_arrived, prune_there, push
from linnaeus.saving._retention import Candidate, Retention, Verdict, decide
from linnaeus.saving._saver import Saver
from linnaeus.saving._schedule import Schedule
from linnaeus.saving._signals import SAVE, SignalWatch, StoppedBySignal
from linnaeus.saving._tensorboard import TensorBoardCallback
from linnaeus.saving._timing import Timing
from linnaeus.saving._trace import Trace
from linnaeus.saving._upload import UploadReport, upload

__all__ = [
    "SAVE",
    "Account",
    "Candidate",
    "Copies",
    "Job",
    "JointPipeline",
    "Lag",
    "Mirror",
    "OnSave",
    "Pipeline",
    "Policy",
    "Retention",
    "SaveRecord",
    "Saver",
    "Schedule",
    "SignalWatch",
    "StoppedBySignal",
    "TensorBoardCallback",
    "Timing",
    "Trace",
    "UploadReport",
    "Verdict",
    "acts_here",
    "best_interval_seconds",
    "copies_of",
    "decide",
    "interval_for",
    "list_there",
    "not_arrived",
    "open_mirror",
    "pipeline_of",
    "prune",
    "prune_there",
    "push",
    "rules_there",
    "share_now",
    "upload",
    "write_report",
]
