"""The multi-task loss (eq. 4): each task's over the pixels that request it and have a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.data.sample import Sample
from ctnet.labels import ClassAnchors, Point, anchor_scores, task_anchors
from ctnet.tasks import IGNORE, get_task
from ctnet.training.distributed import anywhere, mean_of_all, sum_of_all
from ctnet.training.readers import LearnedReaders

PAPER_WEIGHTS = {"seg": 3.0, "parts": 4.0, "edges": 50.0, "saliency": 8.0, "normals": 4.0}
"""lambda_k of eq. 4."""

NormalsLoss = Literal["cosine", "angular"]
"""How normals are compared."""


def focal_cross_entropy(
    scores: Tensor, target: Tensor, gamma: float = 2.0, class_weights: Tensor | None = None
) -> Tensor:
    """Focal cross-entropy (Lin et al. 2017), averaged over pixels.

    This and all the losses are averaged over the pixels of all processes that share a batch, if
    there are several; what each returns is its part, as the parts are summed.

    Args:
        scores: Class scores (P,C).
        target: Class ids (P,).
        gamma: Focusing exponent; 0 is plain cross-entropy.
        class_weights: Weight of each class (C,), all 1 where None.
    """
    log_p = scores.log_softmax(1).gather(1, target[:, None])[:, 0]
    rest = 1 - log_p.exp()
    if gamma < 1:
        # The power's slope is infinite at 0.
        rest = rest.clamp(min=1e-6)
    loss = -(rest**gamma) * log_p
    return mean_of_all(loss, None if class_weights is None else class_weights.to(loss)[target])


def cross_entropy(scores: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, averaged over the pixels with a label.

    Args:
        scores: Class scores (P,C) or (N,C,H,W).
        target: Class ids (P,) or (N,H,W), 255 = not labeled.
        class_weights: Weight of each class (C,), all 1 where None.
    """
    weights = scores.new_ones(scores.shape[1]) if class_weights is None else class_weights
    summed = F.cross_entropy(
        scores, target, weights.to(scores), ignore_index=IGNORE, reduction="sum"
    )
    return summed / sum_of_all(weights.to(scores)[target[target != IGNORE]].sum())


def smooth_class_scores(outputs: Tensor, points: Sequence[Point], logit_scale: float) -> Tensor:
    """Scores classes by minus the squared distance to their anchors.

    The best class is that of eq. 5, the nearest anchor, but the cross-entropy of these scores has
    no minimum at a wrong anchor: up to a term that all classes share they are linear in the point.

    Args:
        outputs: Raw outputs (P,3).
        points: The anchor of each of C classes, in [0, 1].
        logit_scale: Score lost per squared unit of distance, where the cube's side is 1.

    Returns:
        Scores (P,C), less that shared term.
    """
    anchors = outputs.new_tensor(points)
    return logit_scale * (2 * torch.sigmoid(outputs) @ anchors.T - anchors.square().sum(1))


def balanced_cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy on every channel, positives and negatives weighed equally.

    Positives weigh by the share of negatives among the pixels at hand and the other way round
    (Xie & Tu 2015), with soft targets as they are; one pixel of each is added to the counts, so
    that no share is zero.

    Args:
        outputs: Raw outputs (P,3).
        target: Strengths (P,) in [0, 1].
    """
    target = target.to(outputs.dtype)
    strength, count = sum_of_all(torch.stack([target.sum(), target.new_full((), len(target))]))
    positive = (strength + 1) / (count + 2)
    target = target[:, None]
    losses = -(
        (1 - positive) * target * F.logsigmoid(outputs)
        + positive * (1 - target) * F.logsigmoid(-outputs)
    )
    return mean_of_all(losses)


def cosine_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """1 - cosine between raw outputs (P,3) and unit normals (P,3), averaged."""
    return mean_of_all(1 - F.cosine_similarity(outputs, target, dim=1))


def angular_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Angle in radians between raw outputs (P,3) and unit normals (P,3), averaged.

    It is what normals are measured by; against 1 - cosine it minds large errors less.
    """
    cosine = F.cosine_similarity(outputs, target, dim=1)
    # The slope of the arc cosine is infinite at its ends.
    return mean_of_all(torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4)))


def supervised_pixels(sample: Sample) -> list[Tensor]:
    """Returns the pixels (N,H,W) of each task that request it and have a label."""
    return [
        (sample.palette == number) & sample.valid[:, number]
        for number in range(sample.valid.shape[1])
    ]


@dataclass(frozen=True)
class CompositeLoss:
    """The weighted sum of the tasks' losses.

    Attributes:
        tasks: Names of the tasks by id.
        weights: lambda of each task; a task that is left out weighs 1.
        gamma: Focusing exponent of the class losses.
        class_weights: Weights of the classes of a task, by task name.
        logit_scale: Of :func:`smooth_class_scores`; 0 takes the scores of eq. 5.
        self_distillation_weight: Fraction of a class loss that takes the guide's best class as its
            target instead of the label.
        anchors: The network's own class anchors, if it has any.
        normals_loss: ``cosine`` (:func:`cosine_loss`) or ``angular`` (:func:`angular_loss`).
        readers: Learned readers, whose scores stand in for those of anchors.
    """

    tasks: Sequence[str]
    weights: Mapping[str, float]
    gamma: float
    class_weights: Mapping[str, Tensor]
    logit_scale: float = 0.0
    self_distillation_weight: float = 0.0
    anchors: Sequence[ClassAnchors] = ()
    normals_loss: NormalsLoss = "cosine"
    readers: LearnedReaders | None = None

    def __call__(
        self, composite: Tensor, sample: Sample, guides: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Compares a composite with the labels where they were requested.

        Three channels that hedge between classes may end at the anchor of another one. A guide, a
        plain classifier of the same pixels, says which of them to decide for.

        Args:
            composite: Raw outputs (N,3,H,W).
            sample: Request and labels.
            guides: Class scores (N,C,h,w) by task name, at any stride; they get no gradient.

        Returns:
            The total to minimize, and the unweighted loss of every task that was supervised.
        """
        total: Tensor | None = None
        parts = {}
        precision = torch.promote_types(composite.dtype, torch.float32)
        pixels = composite.to(precision).permute(0, 2, 3, 1)
        masks = supervised_pixels(sample)
        found = anywhere(masks)
        for number, name in enumerate(self.tasks):
            mask = masks[number]
            if not found[number]:
                continue
            guide = None if guides is None else guides.get(name)
            loss = self._task_loss(name, pixels[mask], sample.labels[name], mask, guide)
            parts[name] = float(loss.detach())
            loss = self.weights.get(name, 1.0) * loss
            total = loss if total is None else total + loss
        # Without any request there is still something to differentiate: the sum of no pixels.
        return pixels[:0].sum() if total is None else total, parts

    def weights_of_classes(self, name: str, device: torch.device) -> Tensor | None:
        """Returns the weights of a task's classes (C,) on a device, None where all weigh 1."""
        weights = self.class_weights.get(name)
        return None if weights is None else weights.to(device)

    def values_loss(self, name: str, outputs: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Returns the unweighted loss of a task without classes.

        Args:
            name: Name of the task.
            outputs: Raw outputs (P,3) of the pixels of the mask.
            label: Its labels (N,H,W) or (N,3,H,W).
            mask: The pixels (N,H,W) that count.
        """
        if get_task(name).kind == "probability":
            return balanced_cross_entropy(outputs, label[mask])
        compare = angular_loss if self.normals_loss == "angular" else cosine_loss
        return compare(outputs, label.permute(0, 2, 3, 1)[mask])

    def _task_loss(
        self, name: str, outputs: Tensor, label: Tensor, mask: Tensor, guide: Tensor | None
    ) -> Tensor:
        if get_task(name).kind != "classes":
            return self.values_loss(name, outputs, label, mask)
        scores = self._class_scores(name, outputs)
        weights = self.weights_of_classes(name, outputs.device)
        loss = focal_cross_entropy(scores, label[mask], self.gamma, weights)
        if guide is None or not self.self_distillation_weight:
            return loss
        guide = F.interpolate(guide.detach(), size=label.shape[1:], mode="bilinear")
        guided = focal_cross_entropy(scores, guide.argmax(1)[mask], self.gamma, weights)
        return torch.lerp(loss, guided, self.self_distillation_weight)

    def _class_scores(self, name: str, outputs: Tensor) -> Tensor:
        if self.readers is not None and name in self.readers.classes:
            return self.readers.scores(name, outputs)
        points = task_anchors(get_task(name), self.anchors)
        if self.logit_scale:
            return smooth_class_scores(outputs, points, self.logit_scale)
        return anchor_scores(outputs, points)


def balanced_class_weights(counts: Tensor, power: float) -> Tensor:
    """Weighs classes by their share of pixels to the power of -``power``, with mean 1."""
    weights = (counts.double().clamp(min=1) / counts.sum()).pow(-power)
    return (weights / weights.mean()).to(torch.float32)
