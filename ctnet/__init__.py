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

from ctnet.version import __version__

if TYPE_CHECKING:
    from ctnet.labels import to_labels
    from ctnet.models.add_task import add_task
    from ctnet.models.base import CompositeModel, create
    from ctnet.models.config import ModelConfig
    from ctnet.models.palette_network import PaletteNetwork
    from ctnet.models.pretrained import load
    from ctnet.palette import Palette
    from ctnet.prediction.prediction import Prediction
    from ctnet.rules import Rule, get_rule
    from ctnet.tasks import Task, TaskSpec
    from ctnet.zoo.manifest import ModelInfo, list_models, model_info

# Imported on first use, so that `import ctnet` costs next to nothing.
_EXPORTS = {
    "CompositeModel": "ctnet.models.base",
    "ModelConfig": "ctnet.models.config",
    "ModelInfo": "ctnet.zoo.manifest",
    "Palette": "ctnet.palette",
    "PaletteNetwork": "ctnet.models.palette_network",
    "Prediction": "ctnet.prediction.prediction",
    "Rule": "ctnet.rules",
    "Task": "ctnet.tasks",
    "TaskSpec": "ctnet.tasks",
    "add_task": "ctnet.models.add_task",
    "create": "ctnet.models.base",
    "finetune": "ctnet.training.finetune",
    "get_rule": "ctnet.rules",
    "list_models": "ctnet.zoo.manifest",
    "load": "ctnet.models.pretrained",
    "model_info": "ctnet.zoo.manifest",
    "set_precision": "ctnet.fused.precision",
    "to_labels": "ctnet.labels",
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
    "__version__",
    "add_task",
    "create",
    "finetune",
    "get_rule",
    "list_models",
    "load",
    "model_info",
    "set_precision",
    "to_labels",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ctnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
