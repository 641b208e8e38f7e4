"""Encoders: one contract, five features at strides 2, 4, 8, 16 and 32 of a normalized image."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ctnet.blocks.efficientnet_lite import SCALES, EfficientNetLite, published_weights
from ctnet.checks import did_you_mean

Pretrained = bool | str | Path
"""Whether to start from ImageNet weights, or the file that holds them."""

STRIDES = (2, 4, 8, 16, 32)
RESNETS = ("resnet18", "resnet34", "resnet50")
TIMM_PREFIX = "timm:"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """The facts about an encoder that a decoder needs.

    Attributes:
        channels: Widths of the features at strides 2, 4, 8, 16 and 32.
        mean: Mean that the encoder expects to be subtracted from RGB in [0, 1].
        std: Scale that the encoder expects RGB to be divided by.
    """

    channels: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Returns the features at strides 2 to 32 of a normalized image (N,3,H,W)."""
        ...


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier."""

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, name: str, pretrained: Pretrained) -> None:
        super().__init__()
        # Imported here: a torchvision that does not fit torch must not break the other encoders.
        from torchvision.models import get_model

        try:
            net = get_model(name, weights="DEFAULT" if pretrained is True else None)
        except URLError as error:
            raise ConnectionError(
                f"the ImageNet weights of {name} could not be downloaded ({error.reason}); name a "
                "file that holds them (encoder_weights of a training configuration)."
            ) from error
        if not isinstance(pretrained, bool):
            net.load_state_dict(read_weights(pretrained), strict=True)
        wide = 4 if name == "resnet50" else 1
        self.channels = (64, 64 * wide, 128 * wide, 256 * wide, 512 * wide)
        self.layer1 = nn.Sequential(net.conv1, net.bn1, net.relu)
        self.layer2 = nn.Sequential(net.maxpool, net.layer1)
        self.layer3, self.layer4, self.layer5 = net.layer2, net.layer3, net.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the features at strides 2 to 32."""
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = layer(x)
            features.append(x)
        return features


class TimmEncoder(nn.Module):
    """Any timm network that yields features at strides 2, 4, 8, 16 and 32."""

    def __init__(self, name: str, pretrained: Pretrained) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"encoder '{TIMM_PREFIX}{name}' needs timm: pip install 'ctnet[timm]'"
            ) from error
        # A name may end in the tag of its weights, as in resnet18.a1_in1k.
        architecture, known = name.partition(".")[0], timm.list_models()
        if architecture not in known:
            close = difflib.get_close_matches(architecture, known, n=1)
            hint = f" did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"timm has no network {name!r};{hint} timm.list_models() names them all."
            )
        given = {} if isinstance(pretrained, bool) else {"file": str(pretrained)}
        net: Any = timm.create_model(
            name, pretrained=bool(pretrained), features_only=True, pretrained_cfg_overlay=given
        )
        reductions = tuple(net.feature_info.reduction())
        if reductions != STRIDES:
            raise ValueError(
                f"timm network {name!r} has features at strides {reductions}; "
                f"an encoder needs {STRIDES}."
            )
        self.net = net
        self.channels = tuple(net.feature_info.channels())
        self.mean = tuple(net.pretrained_cfg["mean"])
        self.std = tuple(net.pretrained_cfg["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the features at strides 2 to 32."""
        return list(self.net(x))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a file of weights, safetensors or torch's own, without running code from it.

    Raises:
        FileNotFoundError: If there is no such file.
        pickle.UnpicklingError: If a file of torch holds more than tensors.
    """
    if Path(path).suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def create_encoder(name: str, pretrained: Pretrained = False) -> Encoder:
    """Builds an encoder.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50``, ``efficientnet_lite0``,
            ``efficientnet_lite2`` or ``timm:NAME``.
        pretrained: Start from ImageNet weights. torchvision and timm download theirs;
            EfficientNet-Lite's come with the extra ``[train]``. Or the file that holds them, as
            its publisher laid it out (``.pth`` or ``.safetensors``).

    Raises:
        ValueError: If the name is unknown.
        ModuleNotFoundError: If an optional package is missing; the message names its install line.
        ConnectionError: If weights cannot be downloaded.
        FileNotFoundError: If there is no such file of weights.
        RuntimeError: If the weights are another network's.
    """
    if name.startswith(TIMM_PREFIX):
        return cast(Encoder, TimmEncoder(name.removeprefix(TIMM_PREFIX), pretrained))
    if name not in BUILDERS:
        raise ValueError(f"unknown encoder {name!r}{did_you_mean(name, (*BUILDERS, 'timm:NAME'))}")
    return BUILDERS[name](pretrained)


def _resnet(name: str, pretrained: Pretrained) -> Encoder:
    return cast(Encoder, ResNet(name, pretrained))


def _efficientnet_lite(name: str, pretrained: Pretrained) -> Encoder:
    encoder = EfficientNetLite(name)
    if pretrained:
        encoder.load_published(
            published_weights(name) if pretrained is True else read_weights(pretrained)
        )
    return cast(Encoder, encoder)


BUILDERS: dict[str, Callable[[Pretrained], Encoder]] = {
    name: partial(build, name)
    for names, build in ((RESNETS, _resnet), (SCALES, _efficientnet_lite))
    for name in names
}
"""Encoder builders by name; all others are available as ``timm:NAME``."""


def normalize(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Maps RGB in [0, 1] (N,3,H,W) to the range that an encoder was trained with."""
    shape = (1, 3, 1, 1)
    shift, scale = (
        torch.tensor(values, dtype=image.dtype, device=image.device).view(shape)
        for values in (mean, std)
    )
    return (image - shift).div_(scale)
