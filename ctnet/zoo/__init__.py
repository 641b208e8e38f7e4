"""The zoo: which models there are, where their weights lie, and how they are checked and loaded."""

from ctnet.zoo.hub import load, load_palette_network
from ctnet.zoo.manifest import ModelInfo, list_models, model_info

__all__ = ["ModelInfo", "list_models", "load", "load_palette_network", "model_info"]
