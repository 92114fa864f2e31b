"""The models: mFormer, ConvNeXt stages followed by RoPE-ViT blocks, and a head for each taxonomic rank.

Building only. Weights from files are the business of `linnaeus.pretrained`.
"""

from linnaeus.models._build import build_model, model_names
from linnaeus.models._mformer import mFormer
from linnaeus.models._shapes import VARIANTS, MFormerShape

__all__ = ["VARIANTS", "MFormerShape", "build_model", "mFormer", "model_names"]
