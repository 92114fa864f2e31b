"""Buckets: list, look up, fetch and send single files, with errors that say why.

The only room that starts processes. What the files are is none of its business.
"""

from linnaeus.remote._journal import Journal, kept_bytes
from linnaeus.remote._open import open_in_background, open_remote, open_website
from linnaeus.remote._protocol import Downloaded, Progress, Remote, RemoteFile, Session, Transfer

__all__ = [
    "Downloaded",
    "Journal",
    "Progress",
    "Remote",
    "RemoteFile",
    "Session",
    "Transfer",
    "kept_bytes",
    "open_in_background",
    "open_remote",
    "open_website",
]
