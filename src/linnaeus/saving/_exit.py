"""The end of the interpreter, when the program forgot to close: the save under way is still waited for."""

from __future__ import annotations

import logging
import os
import sys

from linnaeus.errors import LinnaeusError


def fail_at_exit(error: LinnaeusError) -> None:
    """Tell an error that can't be raised any more, as the interpreter tells one, and end with status 1.

    What an exit handler raises is printed and forgotten, and the program would end with status 0.
    """
    sys.excepthook(type(error), error, error.__traceback__)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
