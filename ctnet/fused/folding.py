"""Batch norms folded into the convolutions before them: encoders and blocks for inference."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.efficientnet_lite import ConvNormAct
from ctnet.blocks.encoders import Encoder
from ctnet.blocks.task_composition import SeparableConv, TaskCompositionBlock

PROBE = 64
"""Side of the image that traces which norm follows which convolution of an encoder."""

FOLDABLE = ("Conv2d", "Conv2dSame")
"""Convolutions that use their weight as it is; others, such as weight-standardised ones, do not."""


def fold(conv: nn.Conv2d, norm: nn.Module, factor: int = 1) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias of a convolution, the norm after it folded in.

    Args:
        conv: The convolution.
        norm: A batch norm, with or without an affine map of its own.
        factor: Outputs of the convolution in each direction of a cell: with 2 each channel of the
            norm is four of its, as :func:`torch.nn.functional.pixel_shuffle` takes them.
    """
    found: Any = norm
    mean, var, weight, bias = (
        cast(Tensor, None if x is None else x.repeat_interleave(factor**2))
        for x in (found.running_mean, found.running_var, found.weight, found.bias)
    )
    kernel, shift = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, found.eps, weight, bias)
    return kernel.detach(), shift.detach()


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    kernel, bias = fold(conv, norm)
    conv.weight = nn.Parameter(kernel, requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)


def fold_block(block: TaskCompositionBlock) -> tuple[Tensor, Tensor]:
    """Returns a block's kernel (O,I,k,k) and bias (C,), its norm's statistics folded in.

    The kernel is the depthwise one (O,1,k,k) of a separable convolution. O is C, or four times C in
    a subpixel block, as :func:`torch.nn.functional.pixel_shuffle` takes them.
    """
    norm = block.norm
    conv = block.conv.depthwise if isinstance(block.conv, SeparableConv) else block.conv
    inner = norm.norm if isinstance(norm, ConditionedBatchNorm) else norm
    kernel, bias = fold(cast(nn.Conv2d, conv), inner, block.factor)
    return kernel, bias[:: block.factor**2]


def _rest_of(norm: nn.Module) -> nn.Module:
    """Returns what a norm does beside normalizing: timm's bring their activation along."""
    parts = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*parts) if parts else nn.Identity()


@torch.no_grad()
def fold_encoder(encoder: Encoder) -> Encoder:
    """Returns a copy of an encoder in eval mode, channels last, without its batch norms.

    A norm is folded where its input is, in a run of the encoder, the output of a convolution; any
    other stays as it is.

    Args:
        encoder: The encoder, which is left as it is.
    """
    original = cast(nn.Module, encoder)
    # Modules are copied, tensors are not: folding replaces those that it changes.
    shared: dict[int, Any] = {id(x): x for x in original.buffers()}
    shared |= {id(x): nn.Parameter(x.detach(), False) for x in original.parameters()}
    folded = copy.deepcopy(original, shared).eval()
    for module in folded.modules():
        if isinstance(module, ConvNormAct):
            _fold(module.conv, module.norm)
            module.norm = nn.Identity()
    for conv, name in _pairs(folded):
        _fold(conv, folded.get_submodule(name))
        parent, _, child = name.rpartition(".")
        setattr(folded.get_submodule(parent), child, _rest_of(folded.get_submodule(name)))
    return cast(Encoder, folded.to(memory_format=torch.channels_last))


@torch.no_grad()
def pad_inside(encoder: Encoder) -> Encoder:
    """Makes depthwise convolutions pad alike on all sides, by zeros in their kernels; in place.

    "Same" padding with stride 2 pads one pixel more after than before, which takes a copy of the
    wide features; a row and a column of zeros more in the kernel takes less on a CPU, where alone
    this is done. The answer is the same.

    Args:
        encoder: A folded encoder.

    Returns:
        The encoder.
    """
    for module in cast(nn.Module, encoder).modules():
        if not isinstance(module, ConvNormAct) or module.conv.weight.device.type != "cpu":
            continue
        if module.asymmetric and module.conv.groups > 1:
            before, after = module.padding[:2]
            missing = after - before
            weight = F.pad(module.conv.weight, (missing, 0, missing, 0))
            weight = weight.contiguous(memory_format=torch.channels_last)
            module.conv.weight = nn.Parameter(weight, requires_grad=False)
            module.conv.padding, module.asymmetric = (after, after), False
    return encoder


def _pairs(network: nn.Module) -> list[tuple[nn.Conv2d, str]]:
    """Finds convolutions and the names of the norms that take their outputs."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    inputs: list[tuple[Tensor, str]] = []
    hooks = []
    for name, module in network.named_modules():
        if type(module).__name__ in FOLDABLE:
            hooks.append(
                module.register_forward_hook(
                    lambda conv, _, out: outputs.append((out, cast(nn.Conv2d, conv)))
                )
            )
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: inputs.append((args[0], name))
                )
            )
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        first = next(network.parameters())
        network(torch.zeros(1, 3, PROBE, PROBE, dtype=first.dtype, device=first.device))
    for hook in hooks:
        hook.remove()
    return [(conv, name) for x, name in inputs for out, conv in outputs if out is x]
