"""ctnet: a zoo of CompositeTasking networks.

One network takes an image and a task palette (which task at which pixel) and does each task where
it is asked, in one pass (Popovic et al., CVPR 2021)::

    import ctnet
    model = ctnet.load("ctn-r2")
    prediction = model.predict("photo.jpg", "R2")
    prediction.save("out")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctnet.decoding import to_labels
    from ctnet.networks.composite import CompositeModel, create
    from ctnet.networks.config import ModelConfig
    from ctnet.networks.new_tasks import add_task
    from ctnet.networks.palette_net import PaletteNetwork
    from ctnet.palette import Palette
    from ctnet.predictor import Prediction
    from ctnet.rules import Rule, get_rule
    from ctnet.tasks import Task, TaskSpec
    from ctnet.zoo import ModelInfo, list_models, load, load_palette_network, model_info

__version__ = "0.1.0"

# Imported on first use, so that `import ctnet` costs next to nothing.
_EXPORTS = {
    "CompositeModel": "ctnet.networks.composite",
    "ModelConfig": "ctnet.networks.config",
    "ModelInfo": "ctnet.zoo",
    "Palette": "ctnet.palette",
    "PaletteNetwork": "ctnet.networks.palette_net",
    "Prediction": "ctnet.predictor",
    "Rule": "ctnet.rules",
    "Task": "ctnet.tasks",
    "TaskSpec": "ctnet.tasks",
    "add_task": "ctnet.networks.new_tasks",
    "create": "ctnet.networks.composite",
    "get_rule": "ctnet.rules",
    "list_models": "ctnet.zoo",
    "load": "ctnet.zoo",
    "load_palette_network": "ctnet.zoo",
    "model_info": "ctnet.zoo",
    "to_labels": "ctnet.decoding",
}

__all__ = [
    "CompositeModel",
    "ModelConfig",
    "ModelInfo",
    "Palette",
    "PaletteNetwork",
    "Prediction",
    "Rule",
    "Task",
    "TaskSpec",
    "add_task",
    "create",
    "get_rule",
    "list_models",
    "load",
    "load_palette_network",
    "model_info",
    "to_labels",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ctnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
