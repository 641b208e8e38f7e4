"""Trains CTN, MHN and STN by the loss of the composite (eq. 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ctnet.blocks.encoders import Encoder, Pretrained
from ctnet.blocks.features import Features
from ctnet.data.sample import Sample
from ctnet.label_tables import TableReader
from ctnet.labels import task_anchors
from ctnet.models.base import CompositeModel, build
from ctnet.models.convert import TABLES, State, config_with_tables
from ctnet.rules import S
from ctnet.tasks import TaskSpec, get_task
from ctnet.training.auxiliary import AuxiliaryHeads
from ctnet.training.consistency import Consistency, ConsistentBatch
from ctnet.training.distributed import anywhere, own_rows
from ctnet.training.encoder_heads import EncoderHeads
from ctnet.training.loop import TrainingLoop, find_encoders
from ctnet.training.losses import CompositeLoss, balanced_class_weights, smooth_class_scores
from ctnet.training.readers import LearnedReaders

START_LOGIT_SCALE = 20.0
"""Logit scale of a reader that starts from anchors."""


def cycled(rows: Tensor, count: int) -> Tensor:
    """Repeats rows (M,) from the first on until there are ``count``.

    cuDNN plans anew, for seconds, what meets a batch size for the first time; so on a GPU a task
    that few images are labeled for runs on as many rows as any other.
    """
    return rows[torch.arange(count, device=rows.device) % len(rows)]


class Trainer(TrainingLoop[CompositeModel]):
    """Trains the network of a configuration; arguments as for :class:`~.loop.TrainingLoop`."""

    auxiliary: AuxiliaryHeads | None

    def _build(self, pretrained_encoder: Pretrained) -> CompositeModel:
        return build(self.config.model, pretrained_encoder)

    def _prepare(self, weights: State | None, heads: State | None) -> AuxiliaryHeads | None:
        self.loss = self._create_loss()
        supervised = any(span.config.aux_loss_weight for span in self.config.spans)
        known = any(name.startswith("readers.") for name in heads or ())
        readers = self._create_readers(None if known else weights)
        if not supervised and readers is None:
            return None
        auxiliary = AuxiliaryHeads(self.model, self.loss, readers, self._create_encoder_heads())
        if heads is not None:
            auxiliary.start_from(heads)
        return auxiliary.to(self.device)

    def _create_readers(self, weights: State | None) -> LearnedReaders | None:
        if not self.config.reader_width:
            return None
        model = self.config.model
        # How tasks are read that do not learn stays as it is.
        first = len(model.tasks) - model.added if self.config.only_added else 0
        names = self.config.only_tasks or model.tasks[first:]
        tasks = [get_task(name) for name in names]
        coded = [task for task in tasks if task.kind == "classes"]
        if not coded:
            return None
        classes = {task.name: len(task.classes) for task in coded}
        readers = LearnedReaders(classes, self.config.reader_width)
        if weights is not None:
            for task in coded:
                readers.start_from(task.name, self._reading(task, weights))
        return readers

    def _reading(self, task: TaskSpec, weights: State) -> Callable[[Tensor], Tensor]:
        """How the network that the run starts from reads a task: raw outputs to probabilities."""
        table = weights.get(TABLES + task.name)
        if table is not None:
            return TableReader(table).probabilities
        points = task_anchors(task, self.config.model.anchors)
        return lambda outputs: smooth_class_scores(outputs, points, START_LOGIT_SCALE).softmax(-1)

    def _create_encoder_heads(self) -> EncoderHeads | None:
        if not any(span.config.encoder_aux_loss_weight for span in self.config.spans):
            return None
        encoders = find_encoders(self.model)
        if len(encoders) > 1:
            raise ValueError(
                "encoder_aux_loss_weight is for networks with one encoder: CTN and MHN."
            )
        return EncoderHeads(cast(Encoder, encoders[0]).channels, self.config.model.tasks)

    @property
    def readers(self) -> LearnedReaders | None:
        """The learned readers, if the run has any."""
        return None if self.auxiliary is None else self.auxiliary.readers

    def _begin_phase(self) -> None:
        self.loss = self._create_loss()
        self.consistency = self._create_consistency()
        if self.auxiliary is not None:
            self.auxiliary.loss = self.loss = replace(self.loss, readers=self.readers)

    def _create_result(self, weights: State) -> CompositeModel:
        model = build(config_with_tables(self.config.model, weights))
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def _result_weights(self) -> State:
        weights = super()._result_weights()
        if self.readers is None:
            return weights
        return weights | {TABLES + task: self.readers.table(task) for task in self.readers.classes}

    def _update_average(self) -> None:
        super()._update_average()
        if self.readers is not None:
            self.readers.follow(self._average_decay())

    def _create_loss(self) -> CompositeLoss:
        config = self.phase
        return CompositeLoss(
            config.model.tasks,
            config.loss_weights,
            config.focal_gamma,
            self._class_weights(),
            config.logit_scale,
            config.self_distillation_weight,
            config.model.anchors,
            config.normals_loss,
        )

    def _create_consistency(self) -> Consistency | None:
        config = self.phase
        if not config.consistency.weight:
            return None
        return Consistency(
            config.consistency,
            self._build(False).to(self.device),
            config.model.tasks,
            self.rule,
            config.task_shares,
            config.model.anchors,
            self.readers,
            config.seed,
        )

    def _class_weights(self) -> dict[str, Tensor]:
        if not self.phase.class_weight_power:
            return {}
        return {
            name: balanced_class_weights(
                self.class_counts(name).sum(0), self.phase.class_weight_power
            )
            for name in self.config.model.tasks
            if get_task(name).kind == "classes"
        }

    def compute_loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        """Runs the network on a batch: the total to minimize, and losses by name for the log."""
        coarse = self.phase.coarse_only
        batch = None
        # The average has no full output yet where its fine stages are not trained.
        within = self.step - self.span.start
        if self.consistency is not None and self.consistency.config.due(within) and not coarse:
            with self.autocast():
                size = self.phase.batch_size
                places = range(size)[own_rows(size)]
                batch = self.consistency.prepare(self.step, sample, self.average, places)
            sample = batch.sample
        image = sample.image.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            features = self.model.encode(image)
        total = image.new_zeros(())
        weight = self.phase.encoder_aux_loss_weight
        if weight and self.auxiliary is not None and self.auxiliary.encoder is not None:
            with self.autocast():
                total = weight * self.auxiliary.encoder(features.pyramids[0], sample, self.loss)
        if self.config.rule != S:
            loss, shown = self._composite_loss(features, sample, coarse, batch)
            return loss + total, shown
        parts: dict[str, float] = {}
        rows = [valid.flatten(1).any(1) for valid in sample.valid.unbind(1)]
        for number, found in enumerate(anywhere(rows)):
            if found:
                labeled = rows[number].nonzero()[:, 0]
                if self.device.type == "cuda" and len(labeled):
                    labeled = cycled(labeled, len(sample.image))
                chosen = sample.select(labeled)
                chosen.valid[int(rows[number].sum()) :] = False
                chosen = replace(chosen, palette=torch.full_like(chosen.palette, number))
                loss, part = self._composite_loss(features.select(labeled), chosen, coarse)
                total, parts = total + loss, parts | part
        return total, parts

    def _composite_loss(
        self,
        features: Features,
        sample: Sample,
        coarse: bool,
        batch: ConsistentBatch | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        if coarse and self.auxiliary is not None:
            with self.autocast():
                self.auxiliary.decode_coarse(self.model, features, sample.palette)
            result = self.auxiliary(sample)
            return self.phase.aux_loss_weight * result.total, result.losses
        with self.autocast():
            composite = self.model.decode(features, sample.palette)
        guides, extra = None, composite.new_zeros(())
        if self.auxiliary is not None and self.phase.aux_loss_weight:
            result = self.auxiliary(sample)
            guides, extra = result.guides, self.phase.aux_loss_weight * result.total
        loss, parts = self.loss(composite, sample, guides)
        if self.consistency is not None and batch is not None:
            within = self.step - self.span.start
            more, shown = self.consistency.loss(within, composite, batch, self.loss)
            extra, parts = extra + more, parts | shown
        return loss + extra, parts
