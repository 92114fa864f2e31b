"""Keep a run's state: when to save, how to write it beside training, what to keep.

Knows nothing of resuming; the two meet only on disk.
"""

from linnaeus.saving._account import Account, OnSave, SaveRecord
from linnaeus.saving._job import Job
from linnaeus.saving._pipeline import Pipeline, Policy
from linnaeus.saving._retention import Candidate, Retention, Verdict, decide
from linnaeus.saving._saver import Saver
from linnaeus.saving._schedule import Schedule
from linnaeus.saving._upload import UploadReport, upload

__all__ = [
    "Account",
    "Candidate",
    "Job",
    "OnSave",
    "Pipeline",
    "Policy",
    "Retention",
    "SaveRecord",
    "Saver",
    "Schedule",
    "UploadReport",
    "Verdict",
    "decide",
    "upload",
]
