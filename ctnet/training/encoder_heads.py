"""Heads on the encoder: every label of every crop trains it, in training alone.

A palette asks for one task at a pixel, so the composite's loss sees a fraction of the labels. The
encoder does not know the palette: small heads on its features at strides 8 to 32 do every task
everywhere and are supervised wherever a label exists. They are thrown away after training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.data.sample import Sample
from ctnet.tasks import get_task
from ctnet.training.distributed import anywhere
from ctnet.training.losses import CompositeLoss, cross_entropy

FIRST = 2
"""Place of the first feature that is used, at stride 8, in the encoder's list."""

STRIDE = 8
WIDTH = 96


class EncoderHeads(nn.Module):
    """One linear head for each task on a sum of the encoder's features.

    Args:
        channels: Widths of the encoder's features at strides 2 to 32.
        tasks: Names of the tasks by id.
        outputs: Channels of a task that has no classes.
    """

    def __init__(self, channels: Sequence[int], tasks: Sequence[str], outputs: int = 3) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.project = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in channels[FIRST:])
        specs = [get_task(name) for name in tasks]
        self.heads = nn.ModuleDict(
            {task.name: nn.Conv2d(WIDTH, len(task.classes) or outputs, 1) for task in specs}
        )

    def forward(self, pyramid: Sequence[Tensor], sample: Sample, loss: CompositeLoss) -> Tensor:
        """Compares every task with its labels, wherever there are any.

        Args:
            pyramid: The encoder's features at strides 2 to 32.
            sample: Labels at stride 1; the palette does not matter.
            loss: The loss of the composite, whose task and class weights count here too.

        Returns:
            The loss to minimize.
        """
        used = pyramid[FIRST:]
        size = used[0].shape[2:]
        projected = [
            F.interpolate(project(x), size, mode="bilinear")
            for project, x in zip(self.project, used, strict=True)
        ]
        features = F.relu(torch.stack(projected).sum(0))
        sample = sample.at_stride(STRIDE)
        masks = list(sample.valid.unbind(1))
        total = features[:0].sum()
        for number, there in enumerate(anywhere(masks)):
            if not there:
                continue
            name, mask = self.tasks[number], masks[number]
            outputs = self.heads[name](features).permute(0, 2, 3, 1)[mask]
            if get_task(name).kind == "classes":
                weights = loss.weights_of_classes(name, outputs.device)
                found = cross_entropy(outputs, sample.labels[name][mask], weights)
            else:
                found = loss.values_loss(name, outputs, sample.labels[name], mask)
            total = total + loss.weights.get(name, 1.0) * found
        return total
