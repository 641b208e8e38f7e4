"""The decoder: a U-Net of task composition blocks, or of plain ones, whose widths are data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedNorm, MixtureMap
from ctnet.tasks import nearest

LEVELS = (1, 2, 4, 8, 16, 32)
"""Strides at which the decoder works; the palette is needed at each."""

MAX_WIDTH = 4096
"""Most channels of a layer: eight times the widest of the paper."""

DEPTHWISE = (0, 3, 5, 7)
"""Sides that a depthwise kernel may have; 0 stands for a full 3 x 3 convolution."""


@dataclass(frozen=True)
class DecoderConfig:
    """Widths and details of a decoder.

    Attributes:
        stages: Output widths of the stages at strides 16, 8, 4, 2 and 1.
        skips: Output widths of the skips at strides 2 to 32; None keeps the encoder's.
        image: Output widths of the blocks on the image, two at stride 1, or with ``subpixel`` one
            at stride 2; None takes the encoder's at stride 2.
        hidden: Hidden widths of the gamma/beta networks at strides 1, 2, 4, 8, 16 and 32.
        embedding: Length of task embeddings.
        bias: Whether convolutions before a norm have a (redundant) bias, as the paper's code has;
            that of a subpixel stage has none.
        align_corners: How bilinear upsampling aligns its samples.
        outputs: Channels of the composite.
        depthwise: Sides of the depthwise kernels of the stages at strides 16, 8, 4, 2 and 1: such
            a stage convolves 1 x 1, then depthwise; 0 convolves full 3 x 3.
        subpixel: Whether the last stage convolves at stride 2 and gives the four pixels of a cell
            as channels (Shi et al. 2016). Norm, activation and head are at full resolution all
            the same.

    Raises:
        ValueError: If a value has another type or is out of its range: configurations come with
            downloads.
    """

    stages: tuple[int, int, int, int, int]
    skips: tuple[int, int, int, int, int] | None = None
    image: tuple[int, ...] | None = None
    hidden: tuple[int, int, int, int, int, int] = (128, 128, 128, 256, 256, 256)
    embedding: int = 128
    bias: bool = False
    align_corners: bool = False
    outputs: int = 3
    depthwise: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    subpixel: bool = False

    def __post_init__(self) -> None:
        for name in ("bias", "align_corners", "subpixel"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} of a decoder is true or false; got {getattr(self, name)!r}."
                )
        self._check_depthwise()
        images = 1 if self.subpixel else 2
        lists = {"stages": 5, "skips": 5, "image": images, "hidden": len(LEVELS)}
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

    def _check_depthwise(self) -> None:
        sides: Any = self.depthwise
        if (
            not isinstance(sides, tuple)
            or len(sides) != 5
            or any(type(side) is not int or side not in DEPTHWISE for side in sides)
        ):
            raise ValueError(
                f"depthwise of a decoder are 5 sides of {DEPTHWISE}; got {self.depthwise!r}."
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
    "light": DecoderConfig(
        stages=(192, 160, 96, 24, 8),
        skips=(16, 24, 40, 96, 160),
        image=(8,),
        hidden=(64, 64, 64, 64, 64, 64),
        embedding=64,
        depthwise=(0, 5, 5, 3, 0),
        subpixel=True,
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


class SeparableConv(nn.Module):
    """A 1 x 1 convolution and a depthwise one, without anything between them: one linear map.

    The 1 x 1 comes first (Haase & Amthor 2020): in a stage it then acts at the coarser level on
    what is upsampled, and few channels are left for the finer one.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the depthwise kernel, odd.
        bias: Whether the depthwise convolution has a bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.depthwise = nn.Conv2d(
            outputs, outputs, kernel, padding=kernel // 2, groups=outputs, bias=bias
        )
        # Random kernels of one channel alone blur or erase it: begin close to a 1 x 1 convolution.
        with torch.no_grad():
            self.depthwise.weight[..., kernel // 2, kernel // 2] += 1

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,inputs,h,w) to (N,outputs,h,w)."""
        return cast(Tensor, self.depthwise(self.pointwise(x)))


class Block(nn.Module):
    """Convolution, norm (conditioned or plain) and leaky ReLU: the task composition block.

    Args:
        conv: The convolution.
        outputs: Output channels.
        stride: Stride of the level of its output.
        config: The decoder's configuration.
        conditioned: Whether the norm depends on the palette.
        factor: 2 if the convolution works at twice the stride and gives each channel of the 2 x 2
            pixels of a cell (Shi et al. 2016), which are put to their places before the norm.
    """

    def __init__(
        self,
        conv: nn.Module,
        outputs: int,
        stride: int,
        config: DecoderConfig,
        conditioned: bool,
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.factor = stride, factor
        self.conv = conv
        if conditioned:
            hidden = config.hidden[LEVELS.index(stride)]
            self.norm: nn.Module = ConditionedNorm(outputs, config.embedding, hidden)
        else:
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, condition: Condition | None) -> Tensor:
        """Maps (N,inputs,h,w) to the output; ``condition`` is None in a plain decoder."""
        x = self.conv(x)
        if self.factor > 1:
            x = F.pixel_shuffle(x, self.factor)
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
        image = config.image or (channels[0],) * (1 if config.subpixel else 2)

        def block(conv: nn.Module, outputs: int, stride: int, factor: int = 1) -> Block:
            return Block(conv, outputs, stride, config, conditioned, factor)

        def full(inputs: int, outputs: int, kernel: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=config.bias)

        if config.subpixel:
            # A cell sees its four pixels and those around.
            halving = nn.Conv2d(3, image[0], 4, stride=2, padding=1, bias=config.bias)
            blocks = [block(halving, image[0], 2)]
        else:
            pairs = zip((3, image[0]), image, strict=True)
            blocks = [block(full(a, b, 3), b, 1) for a, b in pairs]
        self.image = nn.ModuleList(blocks)
        self.skips = nn.ModuleList(
            block(full(a, b, 1), b, stride)
            for a, b, stride in zip(channels, skips, LEVELS[1:], strict=True)
        )
        stages = []
        inputs = skips[4]
        for number, (outputs, kernel) in enumerate(
            zip(config.stages, config.depthwise, strict=True)
        ):
            inputs += skips[3 - number] if number < 4 else image[-1]
            factor = 2 if number == 4 and config.subpixel else 1
            wide, bias = outputs * factor**2, config.bias and factor == 1
            conv: nn.Module = (
                SeparableConv(inputs, wide, kernel, bias)
                if kernel
                else nn.Conv2d(inputs, wide, 3, padding=1, bias=bias)
            )
            stages.append(block(conv, outputs, LEVELS[4 - number], factor))
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
            if cast(Block, stage).factor == 1:
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
