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
from ctnet.training.balance import class_balance, write_balance
from ctnet.training.consistency import Consistency, ConsistentBatch
from ctnet.training.datasets import Sample
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
        self.consistency = self._consistency() if config.consistency.weight else None
        if not config.auxiliary:
            return None
        auxiliary = AuxiliaryHeads(self.model, self.loss)
        if heads is not None:
            auxiliary.start_from(heads)
        return auxiliary.to(self.device)

    def _consistency(self) -> Consistency:
        config = self.config
        return Consistency(
            config.consistency,
            self._build(False).to(self.device),
            config.model.tasks,
            self.dataset.rule,
            config.task_shares,
            config.model.anchors,
            config.seed,
        )

    def _class_weights(self) -> dict[str, Tensor]:
        if not self.config.class_power:
            return {}
        balances = [
            class_balance(self.dataset.source, name)
            for name in self.config.model.tasks
            if get_task(name).kind == "classes"
        ]
        write_balance(self.folder / "classes.csv", balances)
        return {
            balance.task: balanced_class_weights(balance.used.pixels, self.config.class_power)
            for balance in balances
        }

    def _loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        coarse = self.step < self.config.coarse_steps
        if self.auxiliary is not None:
            self.auxiliary.set_coarse(coarse)
        batch = None
        # The average has no full output yet where its fine stages are not trained.
        if self.consistency is not None and self.config.consistency.due(self.step) and not coarse:
            with self.autocast():
                batch = self.consistency.prepare(self.step, sample, self.average)
            sample = batch.sample
        image = sample.image.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            features = self.model.encode(image)
        if self.config.rule != S:
            return self._composite_loss(features, sample, coarse, batch)
        total = image.new_zeros(())
        parts: dict[str, float] = {}
        for number in range(len(self.model.tasks)):
            labelled = sample.valid[:, number].flatten(1).any(1)
            if bool(labelled.any()):
                chosen = sample.select(labelled)
                chosen = replace(chosen, palette=torch.full_like(chosen.palette, number))
                loss, part = self._composite_loss(features.select(labelled), chosen, coarse)
                total, parts = total + loss, parts | part
        return total, parts

    def _composite_loss(
        self,
        features: Features,
        sample: Sample,
        coarse: bool,
        batch: ConsistentBatch | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        with self.autocast():
            composite = self.model.decode(features, sample.palette)
        guides, extra = None, composite.new_zeros(())
        if self.auxiliary is not None:
            result = self.auxiliary(sample)
            guides, extra = result.guides, self.config.auxiliary * result.total
            if coarse:
                return extra, result.losses
        loss, parts = self.loss(composite, sample, guides)
        if self.consistency is not None and batch is not None:
            more, shown = self.consistency.loss(self.step, composite, batch, self.loss)
            extra, parts = extra + more, parts | shown
        return loss + extra, parts
