"""Checkpoints: a folder with ``config.json`` and ``model.safetensors``, loaded strictly."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctnet.blocks.encoders import TIMM_PREFIX
from ctnet.label_tables import LabelTables
from ctnet.models.config import ModelConfig
from ctnet.models.registry import Network, build_network
from ctnet.zoo.files import CONFIG_FILE, WEIGHTS_FILE, check_size, file_info, replacing, verify
from ctnet.zoo.migrations import FORMAT, NEEDS, migrate
from ctnet.zoo.tensors import read_tensors

__all__ = [
    "CONFIG_FILE", "WEIGHTS_FILE", "file_info", "load_network", "parameter_count",
    "save_checkpoint", "verify",
]  # fmt: skip


def save_checkpoint(model: Network, folder: str | Path, half: bool = False) -> Path:
    """Writes a network's configuration and weights.

    Args:
        model: The network.
        folder: Where the two files go; made if missing. A checkpoint that is there is replaced
            as one, or stays as it is if writing fails.
        half: Store weights as fp16. Statistics of norms stay fp32: their range needs it. Label
            tables are fp16 always.

    Returns:
        The folder.
    """
    folder = Path(folder)
    content = {"format": FORMAT, "needs": NEEDS, "model": model.config.to_dict()}
    statistics = {name for name, _ in model.named_buffers()}

    def stored(name: str, value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.half() if half and name not in statistics else value

    state = {name: stored(name, value) for name, value in model.state_dict().items()}
    with replacing(folder / CONFIG_FILE, folder / WEIGHTS_FILE) as (config, weights):
        config.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        save_file(state, weights, metadata={"format": "pt"})
    return folder


def load_network(folder: str | Path) -> Network:
    """Builds the network of a folder and loads its weights strictly, as fp32, in eval mode.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they cannot be read, are of a newer format, or do not fit each other.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; a checkpoint is a folder with {CONFIG_FILE} and "
                f"{WEIGHTS_FILE}."
            )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        check_size(folder / name)
    model = _build_empty(_read_config(folder / CONFIG_FILE))
    try:
        state = read_tensors(folder / WEIGHTS_FILE, model.state_dict())
    except ValueError as error:
        raise ValueError(f"the weights in {folder} do not fit its config: {error}") from error
    model.load_state_dict(state, strict=True, assign=True)
    for module in model.modules():
        if isinstance(module, LabelTables):
            try:
                module.check()
            except ValueError as error:
                raise ValueError(f"the weights in {folder} are broken: {error}") from error
    return model.eval()


class _Undrawn(TorchFunctionMode):
    """Draws no parameters: for those without storage PyTorch would load half its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def _build_empty(config: ModelConfig) -> Network:
    """Builds a network whose parameters have shapes, but take no memory."""
    with ExitStack() as stack:
        # timm computes with tensors while it builds; the names that it knows bound their size.
        if not config.encoder.startswith(TIMM_PREFIX):
            stack.enter_context(_Undrawn())
            stack.enter_context(torch.device("meta"))
        return build_network(config)


def _read_config(path: Path) -> ModelConfig:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"expected a table, got {type(content).__name__}")
        return ModelConfig.from_dict(migrate(content, path)["model"])
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is no configuration of a model: {error!r}") from error


def parameter_count(model: torch.nn.Module) -> int:
    """Counts the parameters of a network."""
    return sum(p.numel() for p in model.parameters())
