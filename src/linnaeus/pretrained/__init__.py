"""Foreign weights into a model, and proof that they arrived.

Names are matched and shapes adapted by rules that are data (`rules/*.yaml`, `recipes/*.yaml`); every load
returns a report, and one that would bring too little, or change the function, leaves the model alone.
"""

from linnaeus.pretrained._choose import checkpoints_of
from linnaeus.pretrained._keep import remember, report_of
from linnaeus.pretrained._load import load_pretrained, load_together, preview, save_stitched, stitch
from linnaeus.pretrained._recipe import RECIPES, Recipe, read_recipe
from linnaeus.pretrained._report import Arrival, LoadReport, Mismatch, ModuleRow, SourceReport, Unused
from linnaeus.pretrained._unwrap import Unwrapped, unwrap

__all__ = [
    "RECIPES",
    "Arrival",
    "LoadReport",
    "Mismatch",
    "ModuleRow",
    "Recipe",
    "SourceReport",
    "Unused",
    "Unwrapped",
    "checkpoints_of",
    "load_pretrained",
    "load_together",
    "preview",
    "read_recipe",
    "remember",
    "report_of",
    "save_stitched",
    "stitch",
    "unwrap",
]
