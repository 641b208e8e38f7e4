"""Trains CTN, MHN and STN by the loss of the composite (eq. 4)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ctnet.networks.composite import CompositeModel, build
from ctnet.networks.encoders import Pretrained
from ctnet.networks.features import Features
from ctnet.networks.from_ctn import State
from ctnet.rules import S
from ctnet.tasks import get_task
from ctnet.training.auxiliary import AuxiliaryHeads
from ctnet.training.datasets import Sample
from ctnet.training.distributed import anywhere
from ctnet.training.loop import TrainingLoop
from ctnet.training.losses import CompositeLoss, balanced_class_weights


class Trainer(TrainingLoop[CompositeModel]):
    """Trains the network of a configuration; arguments as for :class:`~.loop.TrainingLoop`."""

    auxiliary: AuxiliaryHeads | None

    def _build(self, pretrained_encoder: Pretrained) -> CompositeModel:
        return build(self.config.model, pretrained_encoder)

    def _prepare(self, heads: State | None) -> AuxiliaryHeads | None:
        config = self.config
        self.loss = CompositeLoss(
            config.model.tasks,
            config.loss_weights,
            config.focal_gamma,
            self._class_weights(),
            config.sharpness,
            config.guidance,
            config.model.anchors,
            config.angular,
        )
        if not config.auxiliary:
            return None
        auxiliary = AuxiliaryHeads(self.model, self.loss)
        if heads is not None:
            auxiliary.start_from(heads)
        return auxiliary.to(self.device)

    def _class_weights(self) -> dict[str, Tensor]:
        if not self.config.class_power:
            return {}
        found = {}
        for name in self.config.model.tasks:
            task = get_task(name)
            if task.kind != "classes":
                continue
            counts = torch.zeros(256, dtype=torch.int64)
            for index in range(len(self.dataset)):
                label = self.dataset.raw(index).get(name)
                if label is not None:
                    counts += torch.bincount(torch.from_numpy(label).flatten(), minlength=256)
            found[name] = balanced_class_weights(
                counts[: len(task.classes)], self.config.class_power
            )
        return found

    def _loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        coarse = self.step < self.config.coarse_steps
        if self.auxiliary is not None:
            self.auxiliary.set_coarse(coarse)
        image = sample.image.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            features = self.model.encode(image)
        if self.config.rule != S:
            return self._composite_loss(features, sample, coarse)
        total = image.new_zeros(())
        parts: dict[str, float] = {}
        rows = [valid.flatten(1).any(1) for valid in sample.valid.unbind(1)]
        for number, found in enumerate(anywhere(rows)):
            if found:
                labelled = rows[number]
                chosen = sample.select(labelled)
                chosen = replace(chosen, palette=torch.full_like(chosen.palette, number))
                loss, part = self._composite_loss(features.select(labelled), chosen, coarse)
                total, parts = total + loss, parts | part
        return total, parts

    def _composite_loss(
        self, features: Features, sample: Sample, coarse: bool
    ) -> tuple[Tensor, dict[str, float]]:
        with self.autocast():
            composite = self.model.decode(features, sample.palette)
        if self.auxiliary is None:
            return self.loss(composite, sample)
        result = self.auxiliary(sample)
        extra = self.config.auxiliary * result.total
        if coarse:
            return extra, result.losses
        loss, parts = self.loss(composite, sample, result.guides)
        return loss + extra, parts
