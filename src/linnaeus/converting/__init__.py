"""Checkpoints from one file format into another: safetensors, older and unsafe `.pth`, and ours.

What a format can't hold is refused or told, never dropped unsaid. The formats' own bytes are the business of
`pth/` and of the package safetensors, which is imported when it is needed.
"""

from linnaeus.converting._convert import SUFFIXES, Conversion, convert, is_safetensors

__all__ = ["SUFFIXES", "Conversion", "convert", "is_safetensors"]
