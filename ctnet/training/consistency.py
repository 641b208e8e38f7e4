"""Weak-to-strong consistency: unlabeled pixels learn from the moving average of the network.

The average, in eval mode, sees a crop in its own colors; the network sees the same crop with
strongly changed colors and with rectangles of other crops pasted in (CutMix), and learns to answer
alike where a task is asked for and not labeled: FixMatch (Sohn et al. 2020) with the mean teacher
of Tarvainen & Valpola (2017), as UniMatch (Yang et al. 2023) has it for segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.transforms.v2 import functional as TF

from ctnet.checks import check_keys
from ctnet.data.palette_batches import make_palettes
from ctnet.data.sample import Sample
from ctnet.labels import ClassAnchors, task_anchors, task_values
from ctnet.rules import Rule
from ctnet.tasks import get_task
from ctnet.training.distributed import anywhere, mean_of_all, rows_before, sum_of_all
from ctnet.training.losses import CompositeLoss, smooth_class_scores
from ctnet.training.readers import LearnedReaders

CHANCE = 3
"""Seed that keeps the random numbers of strong views apart from all others."""

SURE_LOGIT_SCALE = 20.0
"""Scale of the smooth scores that say how sure the average is of a class. The probabilities of
eq. 5 cannot: outputs that stop short of a corner of the cube have next to none."""

STRONG_JITTER = 0.5
"""Largest relative change of brightness, contrast and saturation."""

GRAY_CHANCE, BLUR_CHANCE = 0.2, 0.5
BLUR_KERNEL, BLUR_SIGMA = 9, (0.1, 2.0)
"""Side of the kernel and smallest and largest width of the blur, in pixels."""

MIXED_AREA, MIXED_SHAPE = (0.02, 0.4), (0.3, 3.3)
"""Share of the crop's area that is pasted in, and height over width of it."""


RENAMED = {"warmup": "warmup_steps", "shares": "task_shares", "cutmix": "cutmix_probability"}
"""Keys of older recipes and runs, and what they are called now."""


@dataclass(frozen=True)
class ConsistencyConfig:
    """How unlabeled pixels are learned from.

    Attributes:
        weight: Of the loss on them; 0 turns it off.
        threshold: Least probability from which on a class of the average is a target, by the smooth
            scores of :func:`~.losses.smooth_class_scores`, whose best class is that of eq. 5;
            probabilities and normals always are.
        warmup_steps: Steps over which the weight rises linearly.
        every: Every n-th step has it; those are the steps that cost one more forward pass.
        task_shares: Relative frequency in mosaic and random palettes, on such steps, of the tasks
            that a crop has no label for, whole numbers by name; 1 where none is given. Those that
            it has labels for have the run's ``task_shares``.
        cutmix_probability: Probability that a crop gets a rectangle of another crop.
    """

    weight: float = 0.0
    threshold: float = 0.9
    warmup_steps: int = 0
    every: int = 1
    task_shares: Mapping[str, int] = field(default_factory=dict)
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, kind in (("weight", float), ("threshold", float), ("cutmix_probability", float),
                           ("warmup_steps", int), ("every", int)):  # fmt: skip
            value = getattr(self, name)
            allowed = (float, int) if kind is float else (int,)
            if type(value) not in allowed:
                wanted = "a number" if kind is float else "a whole number"
                raise ValueError(f"consistency.{name} must be {wanted}; got {value!r}.")
        if not self.weight >= 0:
            raise ValueError(f"consistency.weight must be at least 0; got {self.weight}.")
        for name in ("threshold", "cutmix_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"consistency.{name} is 0 to 1; got {getattr(self, name)}.")
        for name, least in (("warmup_steps", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"consistency.{name} must be at least {least}; got {getattr(self, name)}."
                )
        if not isinstance(self.task_shares, Mapping):
            raise ValueError(
                f"consistency.task_shares is a table of tasks; got {self.task_shares!r}."
            )
        for task, share in self.task_shares.items():
            if type(share) is not int or share < 0:
                raise ValueError(
                    f"consistency.task_shares are whole numbers; got {share!r} for {task}."
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConsistencyConfig:
        """Reads it from plain types.

        Raises:
            ValueError: If a key is unknown or a value is not allowed.
        """
        for key in values:
            if key in RENAMED:
                raise ValueError(
                    f"'consistency.{key}' is called 'consistency.{RENAMED[key]}' now: rename it."
                )
        check_keys(values, cls, "consistency")
        return cls(**values)

    def due(self, step: int) -> bool:
        """Whether a step has it."""
        return self.weight > 0 and step % self.every == self.every - 1

    def weight_at(self, step: int) -> float:
        """Returns the weight of the loss at a step."""
        return self.weight * min(1.0, (step + 1) / max(1, self.warmup_steps))


@dataclass(frozen=True)
class ConsistentBatch:
    """The batch of a step with consistency.

    Attributes:
        sample: The strong view, with the request, the true labels and where they are.
        targets: The same view with the average's answers as labels, valid where they count: where
            their task is asked for and not labeled, and the average is sure.
        asked: Where each task is asked for and not labeled (N,K,H,W), sure or not.
    """

    sample: Sample
    targets: Sample
    asked: Tensor


class Consistency:
    """Creates strong views and their targets, and compares them; see the module.

    Chance depends on the run's seed, the step and the row in the batch alone, so that processes
    which share a batch make of it what one would.

    Args:
        config: How.
        twin: A network of the trained one's kind; it is put in eval mode and its own weights are
            never used.
        tasks: Names of the tasks by id.
        rule: The rule of the run. Mosaic and random ones also ask for tasks without a label.
        task_shares: Relative frequency of tasks with a label, as in the run's configuration.
        anchors: The network's own class anchors, if it has any.
        readers: Learned readers, whose averages say classes instead of anchors.
        seed: Seed of the run.
    """

    def __init__(
        self,
        config: ConsistencyConfig,
        twin: nn.Module,
        tasks: Sequence[str],
        rule: Rule | None,
        task_shares: Mapping[str, int],
        anchors: Sequence[ClassAnchors] = (),
        readers: LearnedReaders | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.tasks = tuple(tasks)
        self._twin = twin.eval().requires_grad_(False)
        self._rule = rule
        self._task_shares = task_shares
        self._anchors = anchors
        self._readers = readers
        self._seed = seed

    @torch.no_grad()
    def prepare(
        self,
        step: int,
        sample: Sample,
        average: Mapping[str, Tensor],
        rows: Sequence[int] | None = None,
    ) -> ConsistentBatch:
        """Asks the average for answers and makes the strong view.

        Args:
            step: Step of the run.
            sample: A batch with ``uncolored`` and ``inside``.
            average: Weights and buffers of the averaged network.
            rows: Places of the samples in the step's batch where this is a part of it.

        Raises:
            ValueError: If the batch lacks the crops in their own colors.
        """
        weak, inside = sample.uncolored, sample.inside
        if weak is None or inside is None:
            raise ValueError("consistency needs batches with the crops in their own colors.")
        chances = [
            np.random.default_rng((self._seed, step, CHANCE, row))
            for row in (range(len(weak)) if rows is None else rows)
        ]
        if self._rule is not None and self._rule.kind in ("mosaic", "random"):
            sample = replace(sample, palette=self._palettes(self._rule, sample, chances))
        seen = weak.contiguous(memory_format=torch.channels_last)
        composite = functional_call(self._twin, dict(average), (seen, sample.palette))
        numbers = torch.arange(len(self.tasks), device=weak.device)[:, None, None]
        asked = (sample.palette[:, None] == numbers) & ~sample.valid & inside[:, None]
        targets = self._targets(composite, sample, asked)
        strong = torch.stack([strong_view(x, c) for x, c in zip(weak, chances, strict=True)])
        size = inside.shape[1], inside.shape[2]
        boxes = torch.stack(
            [draw_box(size, self.config.cutmix_probability, chance) for chance in chances]
        )
        boxes = boxes.to(weak.device)
        return ConsistentBatch(
            _paste(replace(sample, image=strong), boxes),
            _paste(replace(targets, image=strong), boxes),
            _pasted(asked, boxes),
        )

    def loss(
        self, step: int, composite: Tensor, batch: ConsistentBatch, loss: CompositeLoss
    ) -> tuple[Tensor, dict[str, float]]:
        """Compares what the network makes of the strong view with the targets.

        Classes and normals have the losses that they have on labels, times the share of the asked
        pixels on which the average is sure. Probabilities have the plain cross-entropy: that of
        labels weighs the rarer side up, and so would raise its own targets step by step.

        Args:
            step: Step of the run.
            composite: Raw outputs (N,3,H,W) on the strong view.
            batch: What :meth:`prepare` gave.
            loss: The loss on labels; its task weights hold here too.

        Returns:
            The loss times its weight at that step, and for the log the loss of each task and the
            share of its pixels that are sure; with several processes the part of this one.
        """
        valid, targets = batch.targets.valid, batch.targets
        own = valid.sum((0, 2, 3))
        asked = sum_of_all(batch.asked.sum((0, 2, 3))).tolist()
        sure, own_sure = (
            [part / max(1, whole) for part, whole in zip(counts.tolist(), asked, strict=True)]
            for counts in (sum_of_all(own), own)
        )
        weights = {
            name: loss.weights.get(name, 1.0) * share
            for name, share in zip(self.tasks, sure, strict=True)
        }
        soft = [get_task(name).kind == "probability" for name in self.tasks]
        hard = ~torch.tensor(soft, device=valid.device)[:, None, None]
        total, parts = replace(loss, weights=weights)(
            composite, replace(targets, valid=valid & hard)
        )
        pixels = _pixels(composite)
        for number, there in enumerate(anywhere(valid.unbind(1))):
            if not soft[number] or not there:
                continue
            name, mask = self.tasks[number], valid[:, number]
            wanted = targets.labels[name][mask][:, None].expand(-1, 3).to(pixels.dtype)
            entropy = mean_of_all(
                F.binary_cross_entropy_with_logits(pixels[mask], wanted, reduction="none")
            )
            parts[name] = float(entropy.detach())
            total = total + weights[name] * entropy
        shown = {f"consistency_{name}": value for name, value in parts.items()}
        shown |= {
            f"sure_{name}": share
            for name, share, count in zip(self.tasks, own_sure, asked, strict=True)
            if count
        }
        return self.config.weight_at(step) * total, shown

    def _palettes(
        self, rule: Rule, sample: Sample, chances: Sequence[np.random.Generator]
    ) -> Tensor:
        device, size = sample.palette.device, (sample.palette.shape[1], sample.palette.shape[2])
        known, missing = (
            torch.tensor([shares.get(name, 1) for name in self.tasks], device=device)
            for shares in (self._task_shares, self.config.task_shares)
        )
        weights = torch.where(sample.valid.flatten(2).any(2), known, missing)
        return torch.cat(
            [
                make_palettes(rule, 1, size, chance, self.tasks, row[None], None, device)
                for row, chance in zip(weights, chances, strict=True)
            ]
        )

    def _targets(self, composite: Tensor, sample: Sample, asked: Tensor) -> Sample:
        pixels = _pixels(composite)
        valid = asked.clone()
        labels = {name: torch.zeros_like(label) for name, label in sample.labels.items()}
        for number, name in enumerate(self.tasks):
            mask = asked[:, number]
            task = get_task(name)
            if task.kind == "classes":
                best, ids = self._class_scores(name, pixels[mask]).softmax(1).max(1)
                valid[:, number][mask] = best >= self.config.threshold
                labels[name][mask] = ids
            elif task.kind == "probability":
                labels[name][mask] = task_values(pixels[mask], task)[:, 0].to(labels[name])
            else:
                values = task_values(pixels[mask], task)
                labels[name].permute(0, 2, 3, 1)[mask] = values.to(labels[name])
        return replace(sample, labels=labels, valid=valid)

    def _class_scores(self, name: str, outputs: Tensor) -> Tensor:
        if self._readers is not None and name in self._readers.classes:
            return self._readers.scores(name, outputs, average=True)
        points = task_anchors(get_task(name), self._anchors)
        return smooth_class_scores(outputs, points, SURE_LOGIT_SCALE)


def _pixels(composite: Tensor) -> Tensor:
    precision = torch.promote_types(composite.dtype, torch.float32)
    return composite.to(precision).permute(0, 2, 3, 1)


def strong_view(image: Tensor, chance: np.random.Generator) -> Tensor:
    """Changes the colors of a photograph (3,H,W) in [0, 1] strongly, and blurs some."""
    brightness, contrast, saturation = chance.uniform(1 - STRONG_JITTER, 1 + STRONG_JITTER, 3)
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    image = TF.adjust_saturation(image, saturation)
    gray, blurred = chance.random(2)
    sigma = float(chance.uniform(*BLUR_SIGMA))
    if gray < GRAY_CHANCE:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if blurred < BLUR_CHANCE:
        image = TF.gaussian_blur(image, [BLUR_KERNEL, BLUR_KERNEL], [sigma, sigma])
    return image


def draw_box(size: tuple[int, int], share: float, chance: np.random.Generator) -> Tensor:
    """Draws where (H,W) another crop is pasted in: a rectangle, or nowhere but for a share."""
    box = torch.zeros(size, dtype=torch.bool)
    chosen, area = chance.random(), chance.uniform(*MIXED_AREA)
    aspect = np.exp(chance.uniform(*np.log(MIXED_SHAPE)))
    top, left = chance.random(2)
    if chosen < share:
        sides = [np.sqrt(area * aspect), np.sqrt(area / aspect)]
        height, width = (min(round(a * b), b) for a, b in zip(sides, size, strict=True))
        y, x = round(top * (size[0] - height)), round(left * (size[1] - width))
        box[y : y + height, x : x + width] = True
    return box


def _paste(sample: Sample, boxes: Tensor) -> Sample:
    return sample.map(lambda x: _pasted(x, boxes))


def _pasted(x: Tensor, boxes: Tensor) -> Tensor:
    """Puts what the row before holds into the boxes (N,H,W) of a tensor (N,...,H,W)."""
    boxes = boxes.view(len(boxes), *[1] * (x.ndim - 3), *boxes.shape[1:])
    return torch.where(boxes, rows_before(x), x)
