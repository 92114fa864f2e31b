"""The door for people: commands, what they print, and the status they exit with.

Each command is one file that asks other rooms and says what is to be shown; only `_render.py` prints, and
only `_errors.py` turns errors into exit codes. Torch is imported only by commands
that take tensors or models: `train`, `convert`, `stitch`, `load-report`, `diff` of files that differ, and
`verify --finite`.
"""

from linnaeus.cli._main import main

__all__ = ["main"]
