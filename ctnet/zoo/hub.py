"""Finds, verifies and loads a model by name, from a folder, or from the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ctnet.networks.composite import CompositeModel
from ctnet.networks.palette_net import PaletteNetwork
from ctnet.zoo.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    load_palette_checkpoint,
    verify,
)
from ctnet.zoo.manifest import ModelInfo, model_info

EMBEDDED = Path(__file__).with_name("embedded")
CHECKOUT = Path(__file__).parents[2] / "weights"
HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"

_log = logging.getLogger(__name__)


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
    """
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
    """
    return load_palette_checkpoint(locate(name)).to(device)


def locate(name: str) -> Path:
    """Returns the folder of a model's files, verified against the manifest if it is the zoo's.

    Models of the zoo are looked for in the wheel, then in ``weights/`` of a checkout, then on the
    Hub (in its cache first).

    Raises:
        ValueError: If the name is unknown or files are damaged.
        FileNotFoundError: If files are missing.
    """
    if name.startswith(FOLDER_PREFIX):
        return Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if name.startswith(HUB_PREFIX):
        repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        return download(repo, revision or None)
    info = _zoo_entry(name)
    for base in (EMBEDDED, CHECKOUT):
        if (base / name).is_dir():
            folder = base / name
            break
    else:
        if info.repo_id is None:
            raise FileNotFoundError(
                f"the weights of {name} are neither installed nor published yet; get a checkout "
                "of the repository, which holds them in weights/."
            )
        folder = download(info.repo_id, info.revision)
    _log.info("%s: from %s", name, folder)
    verify(folder, info.files)
    return folder


def _zoo_entry(name: str) -> ModelInfo:
    try:
        return model_info(name)
    except ValueError as error:
        raise ValueError(
            f"{error} Or {FOLDER_PREFIX}PATH, or {HUB_PREFIX}ORG/REPO[@REVISION]."
        ) from None


def download(repo_id: str, revision: str | None = None) -> Path:
    """Fetches a checkpoint from the Hub, or finds it in the Hub's cache.

    Raises:
        FileNotFoundError: If the repository or one of its files cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        paths = [
            hf_hub_download(repo_id, file, revision=revision)
            for file in (CONFIG_FILE, WEIGHTS_FILE)
        ]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"cannot get {repo_id}{'@' + revision if revision else ''} from the Hub: {error}"
        ) from error
    return Path(paths[0]).parent
