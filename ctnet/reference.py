"""Section 3 of the paper, literally and in its symbols: the reference for the fast code.

Every pixel computes its own gamma and beta from its own embedding, as published, and the norm is
written out. Slow, without a line of the library's own blocks: they only lend their parameters.
Tests and benchmarks compare with it.

    I  image (N,3,H,W), H and W multiples of 32       z_k  code of task k
    T  palette: ids (N,H,W) or shares (N,K,H,W)       e_k  embedding of task k
    O  output (N,3,H,W), O = M(I, T)                  E    map of embeddings (N,E,h,w)
    h  features before the norm (N,C,h,w)             mu, sigma, gamma, beta: of the norm
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 20
"""Number of ones in a task code."""

NOTHING = 255
"""Value of T where nothing is requested."""

STRIDES = (1, 2, 4, 8, 16, 32)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """Returns x where it is positive, slope * x elsewhere."""
    return torch.where(x > 0, x, slope * x)


def task_representation_block(block: Any) -> Tensor:
    """Maps the codes z_k to the embeddings e_k (K,E): six fully connected layers, slope 0.2."""
    layers = [layer for layer in block.mapping if hasattr(layer, "weight")]
    tasks, length = block.codes.shape
    z = torch.zeros(tasks, length)
    for k in range(tasks):
        z[k, BLOCK * k : BLOCK * (k + 1)] = 1
    # The network keeps its codes in float32, whatever it computes in.
    e = (z / z.norm(dim=1, keepdim=True)).to(block.codes)
    for layer in layers:
        e = leaky_relu(e @ layer.weight.T + layer.bias, 0.2)
    # Tasks that came later have embeddings of their own.
    return e if block.added is None else torch.cat([e, block.added])


def halve(x: Tensor) -> Tensor:
    """Returns the means of 2 x 2 cells."""
    return F.avg_pool2d(x, 2)


def embedding_maps(T: Tensor, e: Tensor) -> dict[int, Tensor]:
    """Spreads the embeddings by the palette, and halves the map from stride to stride.

    Pixels that request nothing take no part in a mean; a cell of such pixels alone is zero.
    """
    if T.is_floating_point():
        total = torch.einsum("nkhw,ke->nehw", T, e)
        asked = torch.ones_like(total[:, :1])
    else:
        rows = torch.cat([e, torch.zeros_like(e[:1])])
        total = rows[T.clamp(max=len(e))].permute(0, 3, 1, 2)
        asked = (T != NOTHING)[:, None].to(total)
    maps = {}
    for stride in STRIDES:
        if stride > 1:
            total, asked = halve(total), halve(asked)
        maps[stride] = torch.where(asked > 0, total / asked.clamp(min=1e-9), 0)
    return maps


def conv_1x1(x: Tensor, layer: Any) -> Tensor:
    """Applies a fully connected layer at every pixel."""
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def normalized(h: Tensor, norm: Any) -> Tensor:
    """Returns (h - mu) / sigma; at eval mu and sigma are the running statistics."""
    if norm.training:
        mu = h.mean((0, 2, 3), keepdim=True)  # eq. 2
        variance = (h - mu).square().mean((0, 2, 3), keepdim=True)
    else:
        mu, variance = (x[:, None, None] for x in (norm.running_mean, norm.running_var))
    sigma = (variance + norm.eps).sqrt()  # eq. 3
    answer: Tensor = (h - mu) / sigma
    return answer


def conditioned_batch_norm(h: Tensor, norm: Any, E: Tensor) -> Tensor:
    """Normalizes, and gives each pixel the gamma and beta of what it requests."""
    hidden = leaky_relu(conv_1x1(E, norm.shared))
    gamma, beta = conv_1x1(hidden, norm.gamma), conv_1x1(hidden, norm.beta)
    return gamma * normalized(h, norm.norm) + beta  # eq. 1


def convolution(x: Tensor, block: Any) -> Tensor:
    """Convolves: in full, by a product of two kernels, or four pixels of a cell at once."""
    conv = block.conv
    if hasattr(conv, "pointwise"):
        kernel = conv.pointwise.weight * conv.depthwise.weight
        x = F.conv2d(x, kernel, conv.depthwise.bias, padding=kernel.shape[2] // 2)
    else:
        padding = (conv.weight.shape[2] - 1) // 2
        x = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding)
    if block.factor == 1:
        return x
    pixels = x.new_zeros(len(x), x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3])
    for row in range(2):
        for column in range(2):
            pixels[..., row::2, column::2] = x[:, 2 * row + column :: 4]
    return pixels


def task_composition_block(x: Tensor, block: Any, maps: dict[int, Tensor] | None) -> Tensor:
    """Convolves, normalizes as requested, activates. Without maps: the plain norm of baselines."""
    h = convolution(x, block)
    if maps is not None:
        # The map of its own resolution.
        stride = maps[1].shape[2] // h.shape[2]
        return leaky_relu(conditioned_batch_norm(h, block.norm, maps[stride]))
    weight, bias = (p[:, None, None] for p in (block.norm.weight, block.norm.bias))
    return leaky_relu(normalized(h, block.norm) * weight + bias)


def decoder(
    module: Any,
    I: Tensor,  # noqa: E741
    features: list[Tensor],
    maps: dict[int, Tensor] | None,
    align_corners: bool,
) -> Tensor:
    """Decodes: skips at strides 2 to 32, blocks on the image, five stages, a 1 x 1 convolution.

    Args:
        module: The decoder whose parameters are taken.
        I: Normalized image.
        features: The encoder's features at strides 2 to 32.
        maps: Maps of embeddings by stride; None for a plain decoder.
        align_corners: How features are upsampled; the published code aligns corners.
    """
    sides = [
        task_composition_block(x, skip, maps)
        for x, skip in zip(features, module.skips, strict=True)
    ]
    x = sides.pop()
    side = I
    for block in module.image:
        side = task_composition_block(side, block, maps)
    sides.insert(0, side)
    for stage in module.stages:
        side = sides.pop()
        # To the same size where the last stage works at stride 2: nothing changes.
        x = F.interpolate(x, side.shape[2:], mode="bilinear", align_corners=align_corners)
        x = task_composition_block(torch.cat([x, side], 1), stage, maps)
    return F.conv2d(x, module.head.weight, module.head.bias)


def ctn(model: Any, I: Tensor, T: Tensor) -> Tensor:  # noqa: E741
    """Returns O = M(I, T) of a CTN, whose encoder is taken as it is."""
    mean, std = (I.new_tensor(x)[:, None, None] for x in (model.encoder.mean, model.encoder.std))
    x = (I - mean) / std
    maps = embedding_maps(T, task_representation_block(model.representation))
    corners = model.config.decoder_config.align_corners
    return decoder(model.decoder, x, model.encoder(x), maps, corners)
