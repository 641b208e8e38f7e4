"""Trains a palette network: the classes are the tasks that a rule asks for (section 6.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ctnet.blocks.encoders import Pretrained
from ctnet.data.sample import Sample
from ctnet.evaluation.palettes import PALETTE, evaluate_palettes
from ctnet.models.convert import State
from ctnet.models.palette_network import PaletteNetwork
from ctnet.rules import Rule
from ctnet.tasks import IGNORE
from ctnet.training.config import TrainConfig
from ctnet.training.distributed import anywhere
from ctnet.training.loop import TrainingLoop
from ctnet.training.losses import balanced_class_weights, cross_entropy


class PaletteTrainer(TrainingLoop[PaletteNetwork]):
    """Trains the palette network of a configuration by the cross-entropy of its palettes.

    Arguments are those of :class:`~.loop.TrainingLoop`; the rule must map classes.

    Raises:
        ValueError: If the rule makes palettes by chance, or the configuration is another network's.
    """

    def _build(self, pretrained_encoder: Pretrained) -> PaletteNetwork:
        return PaletteNetwork(self.config.model, pretrained_encoder)

    def _prepare(self, weights: State | None, heads: State | None) -> None:
        if self.rule is None or not self.rule.needs_labels:
            raise ValueError(f"rule {self.config.rule} makes palettes that no image can tell.")

    def _begin_phase(self) -> None:
        self.class_weights: Tensor | None = None
        if self.rule is not None and self.phase.class_weight_power > 0:
            self.class_weights = self._task_weights(self.rule)

    def _task_weights(self, rule: Rule) -> Tensor:
        table = torch.from_numpy(rule.table(self.model.tasks)).long()
        pixels = self.class_counts(rule.reads).sum(0)
        counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
        counts.index_add_(0, table[: len(pixels)], pixels)
        counts = counts[: len(self.model.tasks)]
        return balanced_class_weights(counts, self.phase.class_weight_power).to(self.device)

    def compute_loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        """Runs the network on a batch: the total to minimize, and losses by name for the log."""
        image = sample.image.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            scores = self.model(image)
        if not any(anywhere([sample.palette != IGNORE])):
            return scores.new_zeros(()), {}
        precision = torch.promote_types(scores.dtype, torch.float32)
        loss = cross_entropy(scores.to(precision), sample.palette, self.class_weights)
        return loss, {PALETTE: float(loss.detach())}


def palette_validator(config: TrainConfig) -> Callable[[PaletteNetwork], Mapping[str, float]]:
    """Builds the measure of a run: ``score`` is the mIoU of the palettes.

    Raises:
        FileNotFoundError: If the data set is not there.
        ValueError: If it has no split to validate on.
    """
    source = config.open_data(config.splits[1], working_size=False)
    limit = config.validate_images or None

    def measure(network: PaletteNetwork) -> Mapping[str, float]:
        result = evaluate_palettes(network, source, config.rule, limit=limit, progress=False)
        return {"score": result.headline(PALETTE)}

    return measure
