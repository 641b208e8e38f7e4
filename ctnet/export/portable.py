"""Networks as one graph of plain operators, for other runtimes: image and palette in, answer out.

A graph cannot look at its data: the distinct mixtures of a palette, which are looked up by
:mod:`ctnet.fused.block`, are not known in it. Here every cell computes its own scale and shift
from its own shares of tasks, by 1 x 1 convolutions over few channels: one at stride 1, where a cell
holds one task, and the two layers of the gamma/beta network at the coarser strides.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder import STAGE_STRIDES, Decoder, last, u_net
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.features import GRID
from ctnet.blocks.task_composition import SeparableConv, TaskCompositionBlock
from ctnet.fused.block import Affine
from ctnet.fused.folding import fold_block, fold_encoder, pad_inside
from ctnet.fused.network import Parts
from ctnet.models.base import CompositeModel
from ctnet.models.palette_network import PaletteNetwork


def _convolution(
    weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Makes a convolution, padded by zeros, of a kernel (O,I,k,k) or a layer (O,I)."""
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    outputs, inputs, side, _ = weight.shape
    conv = nn.Conv2d(
        inputs * groups, outputs, side, stride, (side - 1) // 2, 1, groups, bias is not None
    )
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return conv


def _subpixel(layer: Tensor, factor: int) -> Tensor:
    """Makes a layer (O,I) work on each of the factor x factor pixels of a cell.

    Returns:
        Layer (O factor^2, I factor^2), channels as :func:`torch.nn.functional.pixel_shuffle` takes
        them.
    """
    return torch.kron(
        layer.contiguous(), torch.eye(factor**2, dtype=layer.dtype, device=layer.device)
    )


class CellAffine(nn.Module):
    """Scale and shift of each cell from its shares of tasks.

    Args:
        affine: The tables that they come from.
        stride: Stride of the level; at 1 a cell holds one task or none.
        factor: 2 if the pixels of 2 x 2 cells are channels of one.
    """

    def __init__(self, affine: Affine, stride: int, factor: int) -> None:
        super().__init__()
        tasks = len(affine.first)
        if stride == 1:
            self.hidden: nn.Module = nn.Identity()
            single = torch.eye(tasks, dtype=affine.first.dtype, device=affine.first.device)
            rows = [table.T for table in affine.table(F.pad(single, (0, 0, 0, 1)))]
            layers = [
                (
                    _subpixel(row[:, :-1] - row[:, -1:], factor),
                    row[:, -1].repeat_interleave(factor**2),
                )
                for row in rows
            ]
        else:
            first = _convolution(affine.first.T, affine.first_bias)
            self.hidden = nn.Sequential(first, nn.LeakyReLU())
            second = affine.second.T.chunk(2), affine.second_bias.chunk(2)
            layers = list(zip(*second, strict=True))
        self.scale, self.shift = (_convolution(*layer) for layer in layers)

    def forward(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Maps shares (N,K,h,w), summing to 1, or to 0 where nothing is asked, to (N,C,h,w).

        With a factor of 2, shares are (N,4K,h,w) and the answers (N,4C,h,w).
        """
        hidden = self.hidden(shares)
        return self.scale(hidden), self.shift(hidden)


class PortableBlock(nn.Module):
    """A convolution, what is left of its norm, and a leaky ReLU.

    The pixels that a subpixel block gives stay channels of their cell: graphs run such small
    convolutions at the coarser level faster.

    Args:
        block: The block, in eval mode.
        embeddings: Task embeddings (K,E) of a conditioned block, None of a plain one.
        coarse: Its first input channels, which the stage before gave.
        align_corners: How these are upsampled.
    """

    def __init__(
        self,
        block: TaskCompositionBlock,
        embeddings: Tensor | None,
        coarse: int = 0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        weight, bias = fold_block(block)
        self.stride, self.factor = block.stride, block.factor
        self.align_corners = align_corners
        self.affine: CellAffine | None = None
        if isinstance(block.norm, ConditionedBatchNorm):
            affine = Affine.of(block.norm, cast(Tensor, embeddings), bias)
            self.affine = CellAffine(affine, block.stride, block.factor)
        plain = None
        if self.affine is None:
            plain = bias.repeat_interleave(block.factor**2)
        self.above: nn.Module | None = None
        self.pointwise: nn.Module | None = None
        if isinstance(block.conv, SeparableConv):
            first = block.conv.pointwise.weight.detach()
            # It commutes with upsampling, and has a quarter of the work above.
            if coarse and block.factor == 1:
                self.above, first = _convolution(first[:, :coarse]), first[:, coarse:]
            self.pointwise = _convolution(first)
            self.conv = _convolution(weight, plain, groups=len(weight))
        else:
            self.conv = _convolution(weight, plain, cast(nn.Conv2d, block.conv).stride[0])

    def forward(self, x: Tensor, shares: dict[int, Tensor], coarse: Tensor | None = None) -> Tensor:
        """Maps (N,I,h,w) to the output.

        Args:
            x: Features of the block's level.
            shares: Shares of tasks by stride, empty if plain.
            coarse: What the stage before gave: of the next coarser level, or of the same one if
                this is a subpixel block.
        """
        if coarse is not None and self.above is None:
            x = torch.cat([coarse if self.factor > 1 else self._upsampled(coarse), x], 1)
        if self.pointwise is not None:
            x = self.pointwise(x)
        if coarse is not None and self.above is not None:
            x = x + self._upsampled(self.above(coarse))
        y = self.conv(x)
        if self.affine is not None:
            scale, shift = self.affine(shares[self.stride])
            y = y * scale + shift
        return F.leaky_relu(y)

    def _upsampled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)


class PortableDecoder(nn.Module):
    """A decoder of such blocks.

    Args:
        decoder: The decoder, in eval mode.
        embeddings: Task embeddings (K,E) of a conditioned decoder, None of a plain one.
    """

    def __init__(self, decoder: Decoder, embeddings: Tensor | None) -> None:
        super().__init__()
        self.image, self.skips = (
            nn.ModuleList(
                PortableBlock(cast(TaskCompositionBlock, block), embeddings) for block in part
            )
            for part in (decoder.image, decoder.skips)
        )
        config = decoder.config
        coarsest = (config.skips or decoder.channels)[4]
        stages = [
            PortableBlock(
                cast(TaskCompositionBlock, block), embeddings, width, config.align_corners
            )
            for block, width in zip(decoder.stages, (coarsest, *config.stages[:-1]), strict=True)
        ]
        self.stages = nn.ModuleList(stages)
        self.factor = factor = stages[-1].factor
        kernel, bias = decoder.head.weight[:, :, 0, 0], cast(Tensor, decoder.head.bias)
        self.head = nn.Sequential(
            _convolution(_subpixel(kernel, factor), bias.repeat_interleave(factor**2)),
            nn.PixelShuffle(factor) if factor > 1 else nn.Identity(),
        )

    def forward(self, image: Tensor, features: list[Tensor], shares: dict[int, Tensor]) -> Tensor:
        """Decodes: raw outputs (N,outputs,H,W)."""

        def side(stride: int) -> Tensor:
            if stride > 1:
                level = LEVELS.index(stride) - 1
                skip: Tensor = self.skips[level](features[level], shares)
                return skip
            x = image
            for block in self.image:
                x = block(x, shares)
            return x

        def stage(stride: int, x: Tensor, side: Tensor) -> Tensor:
            y: Tensor = self.stages[STAGE_STRIDES.index(stride)](side, shares, x)
            return y

        return cast(Tensor, self.head(last(u_net(side, stage))))


def _padded(x: Tensor) -> Tensor:
    """Repeats the last row and column of (N,C,H,W) up to multiples of 32, any H and W."""
    # As a number of cells, not as a remainder: tracing then knows that 32 divides the size.
    rows, columns = ((side + GRID - 1) // GRID * GRID for side in x.shape[2:])
    return F.pad(x, (0, columns - x.shape[3], 0, rows - x.shape[2]), mode="replicate")


def _shares(palette: Tensor, tasks: int, factor: int) -> dict[int, Tensor]:
    """Finds the shares of tasks (N,K,h,w) in the cells of each level.

    Args:
        palette: Task ids (N,1,H,W), float, H and W multiples of 32; any other number asks for
            nothing.
        tasks: Number of tasks K.
        factor: 2 for the shares at stride 1 as channels (N,4K,H/2,W/2) of the cells at stride 2.
    """
    pixels = F.pixel_unshuffle(palette, factor)[:, None]
    ids = torch.arange(tasks, dtype=palette.dtype, device=palette.device).view(1, -1, 1, 1, 1)
    asked = (pixels == ids).to(palette.dtype)
    means = asked.mean(2)
    shares = {1: asked.flatten(1, 2)}
    for stride in LEVELS[1:]:
        if stride > factor:
            means = F.avg_pool2d(means, 2)
        # Pixels that ask for nothing take no part; where all do, the shares are zero.
        shares[stride] = means / means.sum(1, keepdim=True).clamp(min=stride**-2)
    return shares


class _Portable(nn.Module):
    """Encoders and decoders of a network in eval mode, folded."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(
            PortableDecoder(decoder, parts.embeddings) for decoder in parts.decoders
        )
        folded = [cast(nn.Module, pad_inside(fold_encoder(x))) for x in parts.encoders]
        self.encoders = nn.ModuleList(x.to(memory_format=torch.contiguous_format) for x in folded)
        weight = parts.decoders[0].head.weight
        self.mean, self.std = (
            nn.Parameter(weight.new_tensor(values).view(1, 3, 1, 1), requires_grad=False)
            for values in (parts.encoders[0].mean, parts.encoders[0].std)
        )

    def _prepared(self, image: Tensor) -> Tensor:
        return _padded((image - self.mean) / self.std)


class PortableComposite(_Portable):
    """A CTN, MHN or STN: answers (image, palette) with a composite.

    The decoders of an MHN and an STN all run, whatever is asked for.

    Args:
        model: The network, in eval mode; its weights are copied.
    """

    def __init__(self, model: CompositeModel) -> None:
        parts = model.parts()
        super().__init__(parts)
        self.tasks = parts.tasks
        self.conditioned = parts.embeddings is not None

    def forward(self, image: Tensor, palette: Tensor) -> Tensor:
        """Does the requested tasks.

        Args:
            image: RGB in [0, 1] (N,3,H,W), any H and W.
            palette: Task ids (N,H,W), int64; any other number, such as 255, asks for nothing.

        Returns:
            The composite's raw outputs (N,3,H,W); of an MHN and an STN 0 where nothing is asked.
        """
        height, width = image.shape[2:]
        prepared = self._prepared(image)
        pyramids = [encoder(prepared) for encoder in self.encoders]
        if self.conditioned:
            ids = _padded(palette[:, None].to(image.dtype))
            shares = _shares(ids, self.tasks, cast(int, self.decoders[0].factor))
            composite = self.decoders[0](prepared, pyramids[0], shares)
            return cast(Tensor, composite[:, :, :height, :width])
        composite = torch.zeros_like(image)
        for task, decoder in enumerate(self.decoders):
            pyramid = pyramids[task if len(pyramids) > 1 else 0]
            answer = decoder(prepared, pyramid, {})[:, :, :height, :width]
            composite = torch.where((palette == task)[:, None], answer, composite)
        return composite


class PortablePaletteNetwork(_Portable):
    """A palette network: answers (image) with scores of tasks.

    Args:
        network: The network, in eval mode; its weights are copied.
    """

    def __init__(self, network: PaletteNetwork) -> None:
        super().__init__(Parts([network.encoder], [network.decoder], None, len(network.tasks)))

    def forward(self, image: Tensor) -> Tensor:
        """Maps RGB in [0, 1] (N,3,H,W), any H and W, to scores (N,K,H,W)."""
        prepared = self._prepared(image)
        scores = self.decoders[0](prepared, self.encoders[0](prepared), {})
        return cast(Tensor, scores[:, :, : image.shape[2], : image.shape[3]])


@torch.no_grad()
def portable(model: CompositeModel | PaletteNetwork) -> _Portable:
    """Returns the graph of a network, which stays as it is.

    Raises:
        ValueError: If the network is in training mode.
    """
    if model.training:
        raise ValueError("the network is in training mode; call its eval() first.")
    made = PortablePaletteNetwork if isinstance(model, PaletteNetwork) else PortableComposite
    return made(model).eval().requires_grad_(False)  # type: ignore[arg-type]
