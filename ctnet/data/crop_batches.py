"""Batches of random crops by step, and what a run asks for on them.

What a batch is depends on the seed and the step alone: several networks can share it, a resumed
run repeats it, each of several processes cuts its own rows of it, and runs on other hardware differ
only by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctnet.data.crops import CHANCES, draw_crops
from ctnet.data.label_source import LabelSource
from ctnet.data.palette_batches import make_palettes
from ctnet.data.photograph_stack import PhotographStack
from ctnet.data.sample import Sample
from ctnet.data.sampling import StepDraws
from ctnet.rules import R1, Rule
from ctnet.tasks import IGNORE, TaskName

PALETTES, CROPS = 1, 2
"""Seeds that keep the random numbers of palettes and crops apart from those of photographs."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class CropBatch:
    """Crops that several runs can train on.

    Attributes:
        sample: Images and labels of the rows at hand; nothing is asked for yet.
        labeled: Which tasks the photograph of each row of the whole batch has a label for (N,K).
        rows: Which of these rows are at hand.
    """

    sample: Sample
    labeled: Tensor
    rows: slice = field(default_factory=lambda: slice(None))


class CropBatches:
    """Batches of crops by step.

    Args:
        source: Where photographs and labels come from.
        tasks: Names of the tasks by id.
        draws: Which photographs a step takes.
        crop_size: Side of the crops in pixels.
        scale_range: Smallest and largest scale of the photographs.
        rows: Rows of each batch to cut.
        stack: All photographs of the source, decoded on the device where crops shall be; None
            decodes those of a batch when it is asked for, on the CPU.
        class_maps: Class maps to cut beside those of the tasks.
    """

    def __init__(
        self,
        source: LabelSource,
        tasks: Sequence[str],
        draws: StepDraws,
        crop_size: int,
        scale_range: tuple[float, float],
        rows: slice = slice(None),
        stack: PhotographStack | None = None,
        class_maps: Sequence[str] = ("seg",),
    ) -> None:
        self.source = source
        # A process that is started from scratch, as macOS and Windows do, knows no added task.
        self.tasks = tuple(map(TaskName.of, tasks))
        self.draws = draws
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.rows = rows
        self.stack = stack
        self.class_maps = tuple(class_maps)

    def __getitem__(self, step: int) -> CropBatch:
        drawn = self.draws[step]
        generator = np.random.default_rng((self.draws.seed, step, CROPS))
        chance = generator.random((len(drawn), CHANCES + 1))[self.rows]
        labeled = [[bool(self.source.kind(d.image, t)) for t in self.tasks] for d in drawn]
        own = drawn[self.rows]
        stack, places = self.stack, [draw.image for draw in own]
        if stack is None:
            loaded = (self.source.load(draw.image) for draw in own)
            stack = PhotographStack(loaded, self.tasks, CPU, self.class_maps)
            places = list(range(len(own)))
        focus = {
            row: stack.pixel_of(places[row], draw.focus, chance[row, CHANCES])
            for row, draw in enumerate(own)
            if draw.focus != IGNORE
        }
        crops = draw_crops(
            chance[:, :CHANCES], stack.sizes[places], self.crop_size, self.scale_range, focus
        )
        sample = stack.cut(places, crops, self.crop_size)
        return CropBatch(sample, torch.tensor(labeled), self.rows)


@dataclass(frozen=True)
class Requests:
    """Asks for tasks on crops by a rule.

    Attributes:
        rule: What makes the palettes; None asks for nothing. Mosaic and random rules draw among
            the tasks that a photograph has labels for; semantic rules read its class map and ask
            for nothing where that is missing.
        tasks: Names of the tasks by id.
        seed: Seed of the run.
        task_shares: Relative frequency of tasks in mosaic and random palettes, by name; 1 where
            none is given.
        mosaic_fraction: Fraction of crops whose palette is a mosaic (R1) whatever the rule, so that
            a network of a semantic rule can still do any task anywhere.
    """

    rule: Rule | None
    tasks: tuple[str, ...]
    seed: int = 0
    task_shares: Mapping[str, int] = field(default_factory=dict)
    mosaic_fraction: float = 0.0

    def ask(self, batch: CropBatch, step: int) -> Sample:
        """Returns the crops of a step with palettes."""
        if self.rule is None:
            return batch.sample
        generator = np.random.default_rng((self.seed, step, PALETTES))
        palette = self._palettes(self.rule, batch, generator)
        if self.mosaic_fraction:
            mosaics = self._palettes(R1, batch, generator)
            draws = torch.from_numpy(generator.random(len(batch.labeled))[batch.rows])
            chosen = (draws < self.mosaic_fraction).to(palette.device)
            palette = torch.where(chosen[:, None, None], mosaics, palette)
        return replace(batch.sample, palette=palette)

    def _palettes(self, rule: Rule, batch: CropBatch, generator: np.random.Generator) -> Tensor:
        count, *size = batch.sample.palette.shape
        device = batch.sample.palette.device
        shape = size[0], size[1]
        if rule.task is not None or rule.needs_labels:
            labels = batch.sample.labels.get(rule.reads)
            return make_palettes(rule, count, shape, generator, self.tasks, None, labels, device)
        shares = torch.tensor([self.task_shares.get(task, 1) for task in self.tasks])
        weights = (batch.labeled * shares).to(device)
        # Of all rows, so that processes that share a batch draw alike.
        whole = make_palettes(
            rule, len(weights), shape, generator, self.tasks, weights, None, device
        )
        return whole[batch.rows]


class RequestedBatches(Dataset[Sample]):
    """The batches that a run trains on, by step.

    Args:
        batches: The crops.
        requests: What is asked for on them.
    """

    def __init__(self, batches: CropBatches, requests: Requests) -> None:
        self.batches = batches
        self.requests = requests

    def __getitem__(self, step: int) -> Sample:
        return self.requests.ask(self.batches[step], step)
