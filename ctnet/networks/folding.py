"""Batch norms folded into the convolutions before them: encoders and blocks for inference."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ctnet.networks.conditioning import ConditionedNorm
from ctnet.networks.decoder import Block
from ctnet.networks.efficientnet_lite import ConvNormAct
from ctnet.networks.encoders import Encoder

PROBE = 64
"""Side of the image on which an encoder shows which norm follows which convolution."""

FOLDABLE = ("Conv2d", "Conv2dSame")
"""Convolutions that use their weight as it is; others, such as weight-standardised ones, do not."""


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns scale and shift (C,) each that a batch norm applies in eval mode."""
    values = cast(Any, norm)
    scale = (values.running_var + values.eps).rsqrt()
    shift = -values.running_mean * scale
    if values.weight is not None:
        scale, shift = scale * values.weight, shift * values.weight + values.bias
    return scale, shift


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    scale, shift = affine_of(norm)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)


def fold_block(block: Block) -> tuple[Tensor, Tensor]:
    """Returns a block's kernel (O,I,k,k) and bias (O,), its norm's statistics folded in."""
    conv, norm = block.conv, block.norm
    scale, shift = affine_of(norm.norm if isinstance(norm, ConditionedNorm) else norm)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], bias


def _rest_of(norm: nn.Module) -> nn.Module:
    """Returns what a norm does beside normalising: timm's bring their activation along."""
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
    folded = cast(nn.Module, copy.deepcopy(encoder)).eval().requires_grad_(False)
    for module in folded.modules():
        if isinstance(module, ConvNormAct):
            _fold(module.conv, module.norm)
            module.norm = nn.Identity()
    for conv, name in _pairs(folded):
        _fold(conv, folded.get_submodule(name))
        parent, _, child = name.rpartition(".")
        setattr(folded.get_submodule(parent), child, _rest_of(folded.get_submodule(name)))
    return cast(Encoder, folded.to(memory_format=torch.channels_last))


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
