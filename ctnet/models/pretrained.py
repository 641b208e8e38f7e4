"""Loads trained networks by name, from a folder, or from the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctnet.zoo.locate import locate

if TYPE_CHECKING:
    import torch

    from ctnet.models.base import CompositeModel
    from ctnet.models.palette_network import PaletteNetwork


def load(name: str = "ctn-r2", device: str | torch.device = "cpu") -> CompositeModel:
    """Loads a trained network.

    Args:
        name: A model of the zoo (see :func:`ctnet.list_models`), ``local-dir:PATH`` of a folder
            with ``config.json`` and ``model.safetensors``, or ``hf-hub:ORG/REPO[@REVISION]``.
        device: Where the network goes.

    Returns:
        The network in eval mode.

    Raises:
        ValueError: If the name is unknown or files are damaged.
        FileNotFoundError: If files are missing.
        ConnectionError: If the Hub is needed and cannot be reached.
        PermissionError: If the Hub refuses, or its cache cannot be written.
    """
    from ctnet.models.checkpoint import load_checkpoint

    return load_checkpoint(locate(name)).to(device)


def load_palette_network(
    name: str = "palette-r2", device: str | torch.device = "cpu"
) -> PaletteNetwork:
    """Loads a trained palette network: from an image to what to do where.

    Args:
        name: As for :func:`load`.
        device: Where the network goes.

    Returns:
        The network in eval mode.

    Raises:
        ValueError: If the name is unknown, files are damaged, or it is no palette network.
        FileNotFoundError: If files are missing.
        ConnectionError: If the Hub is needed and cannot be reached.
        PermissionError: If the Hub refuses, or its cache cannot be written.
    """
    from ctnet.models.checkpoint import load_palette_checkpoint

    return load_palette_checkpoint(locate(name)).to(device)
