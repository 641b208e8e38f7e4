"""Loads trained networks by name, from a folder, or from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast, overload

import torch

from ctnet import defaults
from ctnet.models.base import CompositeModel
from ctnet.models.checkpoint import load_network
from ctnet.models.device import pick_device
from ctnet.models.palette_network import PaletteNetwork
from ctnet.zoo.locate import locate


@overload
def load(  # type: ignore[overload-overlap]  # other names than this one have no type of their own
    name: Literal["palette-r2"], device: str | torch.device = ...
) -> PaletteNetwork: ...
@overload
def load(name: str | Path = ..., device: str | torch.device = ...) -> CompositeModel: ...
def load(
    name: str | Path = defaults.MODEL, device: str | torch.device = "cpu"
) -> CompositeModel | PaletteNetwork:
    """Loads a trained network of any kind.

    Where only one kind will do, ``CompositeModel.from_pretrained`` and
    ``PaletteNetwork.from_pretrained`` check it.

    Args:
        name: A model of the zoo (see :func:`ctnet.list_models`), the path of a folder with
            ``config.json`` and ``model.safetensors``, or ``ORG/REPO[@REVISION]`` of the Hub;
            ``local-dir:`` and ``hf-hub:`` may stand before the latter two.
        device: Where the network goes: ``cpu``, ``cuda``, ``mps`` or ``auto``.

    Returns:
        The network in eval mode: a composite model, or a palette network such as ``palette-r2``.

    Raises:
        ValueError: If the name or the device is unknown, or files are damaged.
        FileNotFoundError: If files are missing.
        ConnectionError: If the Hub is needed and cannot be reached.
        PermissionError: If the Hub refuses, or its cache cannot be written.
    """
    network = load_network(locate(name)).to(pick_device(device))
    return cast("CompositeModel | PaletteNetwork", network)
