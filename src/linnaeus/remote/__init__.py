"""Buckets: list, look up, fetch and send single files, with errors that say why.

The only room that starts processes. What the files are is none of its business.
"""

from linnaeus.remote._open import open_remote
from linnaeus.remote._protocol import Progress, Remote, RemoteFile, Session, Transfer

__all__ = ["Progress", "Remote", "RemoteFile", "Session", "Transfer", "open_remote"]
