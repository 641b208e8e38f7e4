"""The networks that the demo offers, loaded when they are first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctnet.checks import did_you_mean

if TYPE_CHECKING:
    import torch

    from ctnet.models.base import CompositeModel
    from ctnet.models.palette_network import PaletteNetwork


WORDS = {
    "S": "one task everywhere",
    "R1": "any task anywhere",
    "R2": "what suits each object",
    "R3": "what suits each object, another choice",
    "Rrnd": "any task at any pixel",
}
"""Uses of networks, by the rule of their training."""


class Models:
    """Networks by name.

    Args:
        first: The model that pages begin with, loaded at once: what is wrong with it shows before
            anybody waits for it.
        device: Where networks go.

    Attributes:
        names: What is offered: the first, then those of the zoo whose weights are on this machine.

    Raises:
        ValueError: If the first is unknown or its files are damaged.
        FileNotFoundError: If its files are missing.
    """

    def __init__(self, first: str, device: torch.device) -> None:
        self._device = device
        self._loaded: dict[str, CompositeModel] = {}
        self._proposer: PaletteNetwork | None = None
        self.names = (first, *(name for name in _present() if name != first))
        self.get(first)

    def get(self, name: str) -> CompositeModel:
        """Returns a network.

        Raises:
            ValueError: If it is not offered.
        """
        from ctnet.models.base import CompositeModel

        if name not in self.names:
            raise ValueError(f"unknown model {name!r}{did_you_mean(name, self.names)}")
        if name not in self._loaded:
            self._loaded[name] = CompositeModel.from_pretrained(name, device=self._device)
        return self._loaded[name]

    def proposer(self) -> PaletteNetwork:
        """Returns the zoo's palette network."""
        from ctnet import defaults
        from ctnet.models.palette_network import PaletteNetwork

        if self._proposer is None:
            self._proposer = PaletteNetwork.from_pretrained(
                defaults.PALETTE_NETWORK, device=self._device
            )
        return self._proposer


def describe(name: str) -> str:
    """Describes a network of the zoo in a few words; other names are returned as they are."""
    from ctnet.zoo.manifest import list_models, model_info

    if name not in list_models():
        return name
    info = model_info(name)
    return f"{name}: {WORDS.get(info.rule, info.rule)}"


def _present() -> list[str]:
    """Lists the zoo's composite models that need no download."""
    from ctnet.zoo.locate import places
    from ctnet.zoo.manifest import list_models, model_info

    names = []
    for name in list_models():
        info = model_info(name)
        composite = info.config["system"] != "palette"
        if composite and any(place.found for place in places(info)):
            names.append(name)
    return names
