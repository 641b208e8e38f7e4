"""Deep supervision: plain class heads on the decoder's features, in training alone.

Eq. 5 reads classes out of three channels, which gives the layers below a weak signal at first. A
linear classifier on features at stride 4 gives them a direct one. It is supervised where the main
output is, only where the palette asks and a label exists, and is thrown away after training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.networks.composite import CompositeModel
from ctnet.networks.decoder import LEVELS, Decoder
from ctnet.tasks import get_task
from ctnet.training.datasets import Sample

STAGE = 2
"""The decoder stage whose output is classified; it works at stride 4."""

STRIDE = LEVELS[4 - STAGE]


class AuxiliaryHeads(nn.Module):
    """A linear classifier for every class task, on the features of the decoder that does it.

    Args:
        model: The network to watch; its decoders get a forward hook.
        class_weights: Weights of the classes of a task, by task name.
    """

    def __init__(self, model: CompositeModel, class_weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tasks = model.tasks
        self.class_weights = dict(class_weights)
        self._features: dict[int, Tensor] = {}
        decoders = [module for module in model.modules() if isinstance(module, Decoder)]
        self._shared = len(decoders) == 1
        self.heads = nn.ModuleDict()
        for number, decoder in enumerate(decoders):
            decoder.stages[STAGE].register_forward_hook(
                lambda _, __, output, number=number: self._features.update({number: output})
            )
        width = decoders[0].config.stages[STAGE]
        for name in self.tasks:
            if get_task(name).kind == "classes":
                self.heads[name] = nn.Conv2d(width, len(get_task(name).classes), 1)

    def forward(self, sample: Sample) -> Tensor | None:
        """Returns the sum of the tasks' cross-entropies on the last forward pass, if any."""
        total: Tensor | None = None
        palette = sample.palette[:, ::STRIDE, ::STRIDE]
        for name, head in self.heads.items():
            number = self.tasks.index(name)
            features = self._features.get(0 if self._shared else number)
            mask = (palette == number) & sample.valid[:, number, ::STRIDE, ::STRIDE]
            if features is None or not bool(mask.any()):
                continue
            scores = head(features.float()).permute(0, 2, 3, 1)[mask]
            target = sample.labels[name][:, ::STRIDE, ::STRIDE][mask]
            weights = self.class_weights.get(name)
            weights = None if weights is None else weights.to(scores.device)
            loss = F.cross_entropy(scores, target, weights)
            total = loss if total is None else total + loss
        self._features.clear()
        return total
