"""Deep supervision: heads on the decoder's coarse features, in training alone.

Three channels that hold a class (eq. 5) give the layers below a weak signal at first. Two linear
heads on the features at stride 4 give them direct ones: one classifies for every class task, one
makes a coarse composite under the loss of the main one. Both are supervised where the main output
is, only where the palette asks and a label exists, and are thrown away after training.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctnet.blocks.decoder import Decoder
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.features import Features
from ctnet.data.sample import Sample
from ctnet.models.base import CompositeModel
from ctnet.tasks import get_task
from ctnet.training.distributed import anywhere
from ctnet.training.encoder_heads import EncoderHeads
from ctnet.training.losses import CompositeLoss, cross_entropy, supervised_pixels
from ctnet.training.readers import LearnedReaders

DEPTH = 3
"""The decoder's stages up to the supervised features."""

STRIDE = LEVELS[5 - DEPTH]


@dataclass(frozen=True)
class CoarseResult:
    """What the heads say of a forward pass.

    Attributes:
        total: The loss to minimize.
        losses: Unweighted loss of the coarse composite by task.
        guides: Class scores (N,C,H/4,W/4) by task, for those that were supervised.
    """

    total: Tensor
    losses: dict[str, float]
    guides: dict[str, Tensor]


class AuxiliaryHeads(nn.Module):
    """Linear heads on coarse features of the decoders of a network.

    Args:
        model: The network to watch; its decoders get a forward hook.
        loss: The loss of the composite, whose weights the class heads share.
        readers: Learned readers, if the run has any; they learn with the heads.
        encoder: Heads on the encoder, if the run has any.
    """

    def __init__(
        self,
        model: CompositeModel,
        loss: CompositeLoss,
        readers: LearnedReaders | None = None,
        encoder: EncoderHeads | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.tasks = model.tasks
        self.readers = readers
        self.encoder = encoder
        self._features: dict[int, Tensor] = {}
        self._decoders = [module for module in model.modules() if isinstance(module, Decoder)]
        for number, decoder in enumerate(self._decoders):

            def keep(stage: nn.Module, _: object, output: Tensor, number: int = number) -> None:
                if stage.training:
                    self._features[number] = output

            decoder.stages[DEPTH - 1].register_forward_hook(keep)
        config = self._decoders[0].config
        width = config.stages[DEPTH - 1]
        self.composite = nn.ModuleList(nn.Conv2d(width, config.outputs, 1) for _ in self._decoders)
        self.classes = nn.ModuleDict(
            {
                name: nn.Conv2d(width, len(get_task(name).classes), 1)
                for name in self.tasks
                if get_task(name).kind == "classes"
            }
        )

    def start_from(self, heads: Mapping[str, Tensor]) -> None:
        """Loads the weights of heads; a network with more decoders has those of a CTN for each.

        Readers and heads on the encoder that they do not have begin as they are.
        """
        state = self.state_dict()
        for name in state:
            if name in heads or not name.startswith(("readers.", "encoder.")):
                known = name if name in heads else f"composite.0.{name.rpartition('.')[2]}"
                state[name] = heads[known]
        self.load_state_dict(state, strict=True)

    def decode_coarse(self, model: CompositeModel, features: Features, palette: Tensor) -> None:
        """Runs the decoders up to the supervised features, instead of ``model.decode``."""
        padded = model.padded_palette(features, palette)
        for stages in model.stage_features(features, padded).values():
            for _ in itertools.islice(stages, DEPTH):
                pass

    def forward(self, sample: Sample) -> CoarseResult:
        """Supervises the features of the last forward pass, if it computed any."""
        sample = sample.at_stride(STRIDE)
        features, self._features = self._features, {}
        shared = len(self._decoders) == 1
        composite = sample.image.new_zeros(sample.image.shape)
        extra: list[Tensor] = []
        guides: dict[str, Tensor] = {}
        masks = supervised_pixels(sample)
        found = anywhere(masks)
        for number, name in enumerate(self.tasks):
            source = 0 if shared else number
            if source not in features:
                continue
            x = features[source]
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            asked = sample.palette == number
            composite = torch.where(asked[:, None], self.composite[source](x), composite)
            mask = masks[number]
            if name in self.classes and found[number]:
                guides[name] = self.classes[name](x)
                scores = guides[name].permute(0, 2, 3, 1)[mask]
                weights = self.loss.weights_of_classes(name, scores.device)
                entropy = cross_entropy(scores, sample.labels[name][mask], weights)
                extra.append(self.loss.weights.get(name, 1.0) * entropy)
        total, parts = self.loss(composite, sample, guides)
        return CoarseResult(sum(extra, total), parts, guides)
