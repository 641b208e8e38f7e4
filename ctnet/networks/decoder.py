"""The decoder: a U-Net of task composition blocks, or of plain ones, whose widths are data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.networks.conditioning import ConditionedNorm, MixtureMap
from ctnet.tasks import nearest

LEVELS = (1, 2, 4, 8, 16, 32)
"""Strides at which the decoder works; the palette is needed at each."""

MAX_WIDTH = 4096
"""Most channels of a layer: eight times the widest of the paper."""


@dataclass(frozen=True)
class DecoderConfig:
    """Widths and details of a decoder.

    Attributes:
        stages: Output widths of the stages at strides 16, 8, 4, 2 and 1.
        skips: Output widths of the skips at strides 2 to 32; None keeps the encoder's.
        image: Output widths of the two blocks on the image; None takes the encoder's at stride 2.
        hidden: Hidden widths of the gamma/beta networks at strides 1, 2, 4, 8, 16 and 32.
        embedding: Length of task embeddings.
        bias: Whether convolutions before a norm have a (redundant) bias, as the paper's code has.
        align_corners: How bilinear upsampling aligns its samples.
        outputs: Channels of the composite.

    Raises:
        ValueError: If a value has another type or is out of its range: configurations come with
            downloads.
    """

    stages: tuple[int, int, int, int, int]
    skips: tuple[int, int, int, int, int] | None = None
    image: tuple[int, int] | None = None
    hidden: tuple[int, int, int, int, int, int] = (128, 128, 128, 256, 256, 256)
    embedding: int = 128
    bias: bool = False
    align_corners: bool = False
    outputs: int = 3

    def __post_init__(self) -> None:
        lists = {"stages": 5, "skips": 5, "image": 2, "hidden": len(LEVELS)}
        for name, length in lists.items():
            widths = getattr(self, name)
            if widths is None and name in ("skips", "image"):
                continue
            if not isinstance(widths, tuple) or len(widths) != length:
                raise ValueError(f"{name} of a decoder are {length} widths; got {widths!r}.")
            for width in widths:
                check_width(f"{name} of a decoder", width)
        check_width("embedding of a decoder", self.embedding)
        check_width("outputs of a decoder", self.outputs)
        for name in ("bias", "align_corners"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} of a decoder is true or false; got {getattr(self, name)!r}."
                )


def check_width(name: str, width: int) -> None:
    """Checks that a number of channels is a whole number from 1 to :data:`MAX_WIDTH`.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"{name} must be a whole number from 1 to {MAX_WIDTH}; got {width!r}.")


DECODERS = {
    "paper": DecoderConfig(stages=(512, 256, 256, 128, 64), bias=True, align_corners=True),
    "compact": DecoderConfig(
        stages=(192, 128, 64, 24, 16),
        skips=(16, 24, 40, 96, 160),
        image=(8, 8),
        hidden=(64, 64, 64, 64, 64, 64),
        embedding=64,
    ),
}
"""Decoders with a name."""


def get_decoder_config(name: str) -> DecoderConfig:
    """Returns a decoder's configuration by name.

    Raises:
        ValueError: If the name is unknown; the message names the nearest match.
    """
    if name not in DECODERS:
        raise ValueError(f"unknown decoder {name!r}{nearest(name, DECODERS)}")
    return DECODERS[name]


@dataclass(frozen=True)
class Condition:
    """What conditioned blocks need of the request.

    Attributes:
        embeddings: Task embeddings (K,E).
        levels: Mixture map of each stride.
    """

    embeddings: Tensor
    levels: dict[int, MixtureMap]


class Block(nn.Module):
    """Convolution, norm (conditioned or plain) and leaky ReLU: the task composition block.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the kernel, 1 or 3.
        stride: Stride of the level at which the block works.
        config: The decoder's configuration.
        conditioned: Whether the norm depends on the palette.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        config: DecoderConfig,
        conditioned: bool,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=config.bias)
        if conditioned:
            hidden = config.hidden[LEVELS.index(stride)]
            self.norm: nn.Module = ConditionedNorm(outputs, config.embedding, hidden)
        else:
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, condition: Condition | None) -> Tensor:
        """Maps (N,inputs,h,w) to (N,outputs,h,w); ``condition`` is None in a plain decoder."""
        x = self.conv(x)
        if condition is None:
            x = self.norm(x)
        else:
            x = self.norm(x, condition.levels[self.stride], condition.embeddings)
        return F.leaky_relu(x, inplace=True)


class Decoder(nn.Module):
    """Turns encoder features into a composite.

    Args:
        config: Widths and details.
        channels: Widths of the encoder's features at strides 2 to 32.
        conditioned: Whether norms depend on the palette.

    Attributes:
        depth: Stages that are run. Training sets fewer to work on the coarse ones alone, whose
            features it reads by a hook; the raw outputs are zero then.
    """

    def __init__(self, config: DecoderConfig, channels: tuple[int, ...], conditioned: bool) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        skips = config.skips or channels
        image = config.image or (channels[0], channels[0])

        def block(inputs: int, outputs: int, kernel: int, stride: int) -> Block:
            return Block(inputs, outputs, kernel, stride, config, conditioned)

        self.image = nn.ModuleList([block(3, image[0], 3, 1), block(image[0], image[1], 3, 1)])
        self.skips = nn.ModuleList(
            [block(channels[level], skips[level], 1, LEVELS[level + 1]) for level in range(5)]
        )
        stages = []
        inputs = skips[4]
        for number, outputs in enumerate(config.stages):
            side = skips[3 - number] if number < 4 else image[1]
            stages.append(block(inputs + side, outputs, 3, LEVELS[4 - number]))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(inputs, config.outputs, 1)
        self.depth = len(stages)

    def forward(self, image: Tensor, features: list[Tensor], condition: Condition | None) -> Tensor:
        """Decodes.

        Args:
            image: Normalised image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            condition: The request, None for a plain decoder.

        Returns:
            The composite's raw outputs (N,outputs,H,W).
        """
        skips = zip(self.skips, features, strict=True)
        sides = [
            skip(x, condition) for level, (skip, x) in enumerate(skips) if level >= 4 - self.depth
        ]
        x = sides.pop()
        if self.depth == len(self.stages):
            side = image
            for block in self.image:
                side = block(side, condition)
            sides.insert(0, side)
        for stage in self.stages[: self.depth]:
            x = F.interpolate(
                x, scale_factor=2, mode="bilinear", align_corners=self.config.align_corners
            )
            x = stage(torch.cat([x, sides.pop()], dim=1), condition)
        if self.depth < len(self.stages):
            return image.new_zeros(len(image), self.config.outputs, *image.shape[2:])
        return cast(Tensor, self.head(x))

    @torch.no_grad()
    def specialize(self, embedding: Tensor) -> Decoder:
        """Returns the plain decoder that does what this conditioned one does for one task.

        Args:
            embedding: The task's embedding (E,).
        """
        plain = Decoder(self.config, self.channels, conditioned=False).to(embedding)
        state = {k: v for k, v in self.state_dict().items() if ".norm." not in k}
        for name, module in self.named_modules():
            if isinstance(module, ConditionedNorm):
                gamma, beta = module.table(embedding[None])
                state |= {f"{name}.{k}": v for k, v in module.norm.state_dict().items()}
                state |= {f"{name}.weight": gamma[0], f"{name}.bias": beta[0]}
        plain.load_state_dict(state, strict=True)
        return plain.train(self.training)
