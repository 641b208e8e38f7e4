"""Batches that several runs share, cut and augmented once on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctnet.data.dataset import Sample, StepSampler
from ctnet.data.device_data import DeviceData, draw_crops
from ctnet.data.sampling import ClassDraws
from ctnet.tasks import IGNORE
from ctnet.training.config import TrainConfig

CROPS = 2
"""Separates the chance of crops from that of batches."""


@dataclass(frozen=True)
class SharedBatch:
    """A batch that several runs can train on.

    Attributes:
        sample: Images and labels; nothing is asked for yet.
        labeled: Which tasks each image has a label for (N,K) bool.
    """

    sample: Sample
    labeled: Tensor


class SharedBatches:
    """The batches of a configuration by step, cut and augmented on the device.

    Args:
        data: Photographs and labels.
        config: Gives batch size, crops and seed.
        weights: Relative frequency of each image.
        draws: How a part of the samples is drawn for a class, if any is.
    """

    def __init__(
        self,
        data: DeviceData,
        config: TrainConfig,
        weights: Tensor,
        draws: ClassDraws | None = None,
    ) -> None:
        self.data = data
        self.config = config
        self.weights = weights
        self.draws = draws

    def __getitem__(self, step: int) -> SharedBatch:
        config = self.config
        steps = range(step, step + 1)
        sampler = StepSampler(self.weights, config.batch_size, steps, config.seed, self.draws)
        drawn = next(iter(sampler))
        indices = [draw.image for draw in drawn]
        generator = np.random.default_rng((config.seed, step, CROPS))
        focus = {
            number: self.data.pixel_of(draw.image, draw.focus, generator)
            for number, draw in enumerate(drawn)
            if draw.focus != IGNORE
        }
        crops = draw_crops(
            generator, self.data.sizes[indices], config.crop_size, config.scale_range, focus
        )
        sample = self.data.batch(indices, crops, config.crop_size)
        return SharedBatch(
            sample, self.data.labeled(torch.tensor(indices, device=self.data.device))
        )
