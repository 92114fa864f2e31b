"""Keep a run's state: when to save, how to write it, what to keep.

Knows nothing of resuming; the two meet only on disk.
"""

from linnaeus.saving._retention import Retention, Verdict
from linnaeus.saving._saver import Saver
from linnaeus.saving._schedule import Schedule
from linnaeus.saving._upload import UploadReport, upload

__all__ = ["Retention", "Saver", "Schedule", "UploadReport", "Verdict", "upload"]
