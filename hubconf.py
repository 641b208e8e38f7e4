"""Entry points for torch.hub: ``torch.hub.load("<checkout>", "ctn_r2", source="local")``."""

dependencies = ["torch", "numpy", "PIL", "safetensors"]

from ctnet.networks.composite import CompositeModel as _CompositeModel  # noqa: E402
from ctnet.networks.palette_net import PaletteNetwork as _PaletteNetwork  # noqa: E402
from ctnet.zoo import load as _load  # noqa: E402
from ctnet.zoo import load_palette_network as _load_palette_network  # noqa: E402


def ctn_r1(device: str = "cpu") -> _CompositeModel:
    """Compact CTN trained on mosaics (R1): any task anywhere.

    Args:
        device: Where the network goes.

    Returns:
        The network in eval mode; ``model(image, palette)`` and ``model.predict(image, palette)``.
    """
    return _load("ctn-r1", device)


def ctn_r2(device: str = "cpu") -> _CompositeModel:
    """Compact CTN trained on the semantic rule R2; arguments as for ``ctn_r1``."""
    return _load("ctn-r2", device)


def palette_r2(device: str = "cpu") -> _PaletteNetwork:
    """Palette network of the semantic rule R2: ``network.predict(image)``; arguments as above."""
    return _load_palette_network("palette-r2", device)
