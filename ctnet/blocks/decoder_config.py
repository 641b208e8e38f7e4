"""Widths and details of a decoder, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctnet.checks import did_you_mean

LEVELS = (1, 2, 4, 8, 16, 32)
"""Strides at which the decoder works; the palette is needed at each."""


MAX_WIDTH = 4096
"""Largest number of channels of a layer: eight times the widest of the paper."""


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
        raise ValueError(f"unknown decoder {name!r}{did_you_mean(name, DECODERS)}")
    return DECODERS[name]
