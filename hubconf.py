"""Entry points for torch.hub: one for each model, and one for checkpoints of your own.

``torch.hub.load(REPOSITORY, "ctn_r2")``, or
``torch.hub.load(REPOSITORY, "from_pretrained", "runs/pets/checkpoint")``.
"""

dependencies = ["torch", "numpy", "PIL", "safetensors"]

from collections.abc import Callable as _Callable  # noqa: E402

from torch.nn import Module as _Module  # noqa: E402

from ctnet.models.pretrained import load as _load  # noqa: E402
from ctnet.zoo.manifest import ModelInfo as _ModelInfo  # noqa: E402
from ctnet.zoo.manifest import list_models as _list_models  # noqa: E402
from ctnet.zoo.manifest import model_info as _model_info  # noqa: E402


def _entry(info: _ModelInfo) -> _Callable[..., _Module]:
    proposes = info.config["system"] == "palette"
    use = "network.predict(image)" if proposes else "model.predict(image, palette)"

    def entry(device: str = "cpu") -> _Module:
        return _load(info.name, device)

    entry.__name__ = entry.__qualname__ = info.name.replace("-", "_")
    entry.__doc__ = (
        f"{info.summary}\n\nArgs:\n    device: Where the network goes.\n\n"
        f"Returns:\n    The network in eval mode: ``{use}``.\n"
    )
    return entry


for _name in _list_models():
    globals()[_name.replace("-", "_")] = _entry(_model_info(_name))


def from_pretrained(name: str, device: str = "cpu") -> _Module:
    """Loads a checkpoint that training or fine-tuning saved, or one of the Hub.

    Args:
        name: A model of the zoo, the path of a folder with ``config.json`` and
            ``model.safetensors``, or ``ORG/REPO[@REVISION]`` of the Hugging Face Hub.
        device: Where the network goes.

    Returns:
        The network in eval mode: ``model.predict(image, palette)``, or for a palette network
        ``network.predict(image)``.
    """
    return _load(name, device)
