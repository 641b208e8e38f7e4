"""Checkpoints: a folder with ``config.json`` and ``model.safetensors``, loaded strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctnet.networks.composite import CompositeModel, ModelConfig
from ctnet.networks.palette_net import PaletteNetwork, build_network
from ctnet.zoo.manifest import FORMAT, FileInfo

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_checkpoint(
    model: CompositeModel | PaletteNetwork, folder: str | Path, half: bool = False
) -> Path:
    """Writes a network's configuration and weights.

    Args:
        model: The network.
        folder: Where the two files go; made if missing.
        half: Store weights as fp16. Statistics of norms stay fp32: their range needs it.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "model": model.config.to_dict()}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    statistics = {name for name, _ in model.named_buffers()}

    def stored(name: str, value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.half() if half and name not in statistics else value

    state = {name: stored(name, value) for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


def load_checkpoint(folder: str | Path) -> CompositeModel:
    """Builds the network of a folder and loads its weights strictly, as fp32, in eval mode.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they cannot be read, are of a newer format, do not fit each other, or are a
            palette network's.
    """
    network = load_network(folder)
    if isinstance(network, PaletteNetwork):
        raise ValueError(f"{folder} has a palette network; load it by ctnet.load_palette_network.")
    return network


def load_palette_checkpoint(folder: str | Path) -> PaletteNetwork:
    """Does the same for a palette network.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they cannot be read, are of a newer format, do not fit each other, or are
            no palette network's.
    """
    network = load_network(folder)
    if not isinstance(network, PaletteNetwork):
        raise ValueError(
            f"{folder} has a {network.config.system}, which proposes no palette; load it by "
            "ctnet.load."
        )
    return network


def load_network(folder: str | Path) -> CompositeModel | PaletteNetwork:
    """Loads a checkpoint of either kind; see :func:`load_checkpoint`."""
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; a checkpoint is a folder with {CONFIG_FILE} and "
                f"{WEIGHTS_FILE}."
            )
    model = build_network(_read_config(folder / CONFIG_FILE))
    try:
        state = load_file(folder / WEIGHTS_FILE)
        model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights in {folder} do not fit its config: {error}") from error
    return model.eval()


def _read_config(path: Path) -> ModelConfig:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content["format"] > FORMAT:
            raise ValueError(f"{path} has format {content['format']}: it needs a newer ctnet.")
        return ModelConfig.from_dict(content["model"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of a model: {error!r}") from error


def file_info(path: Path) -> FileInfo:
    """Computes digest and size of a file, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return FileInfo(digest.hexdigest(), path.stat().st_size)


def verify(folder: Path, files: dict[str, FileInfo]) -> None:
    """Compares files with what a manifest says of them.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If one has other bytes.
    """
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name} is missing in {folder}; install or download it again.")
        found = file_info(folder / name)
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged or not what the manifest names: {found.size} bytes, "
                f"sha256 {found.sha256[:12]}..., expected {expected.size} bytes, "
                f"{expected.sha256[:12]}...; delete it and install or download it again."
            )


def parameter_count(model: torch.nn.Module) -> int:
    """Counts the parameters of a network."""
    return sum(p.numel() for p in model.parameters())
