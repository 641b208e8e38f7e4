"""The paper's metrics for classes, saliency and normals, streaming: no growth with images.

Boundaries have a module of their own, :mod:`ctnet.evaluation.boundaries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ctnet.tasks import IGNORE

SALIENCY_THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
ANGLE_BINS = 18_000
"""Bins of the histogram of angles over 0 to 180 degrees: the median is exact to 0.01 degrees."""


RESAMPLES = 1000
"""Samples of photographs in a bootstrap."""

INTERVAL = (0.025, 0.975)
"""Quantiles of a bootstrap interval: 95 %."""


def class_ious(confusion: Tensor) -> Tensor:
    """Computes intersections over unions in percent.

    Args:
        confusion: Pixels (...,C,C) by true class and predicted class.

    Returns:
        IoU of each class (...,C); NaN where a class is not among the true ones.
    """
    both = confusion.diagonal(dim1=-2, dim2=-1)
    true = confusion.sum(-1)
    iou = 100 * both / (true + confusion.sum(-2) - both)
    return torch.where(true > 0, iou, torch.nan)


def mean_iou(confusion: Tensor) -> float:
    """Returns the mean over the classes that occur of :func:`class_ious`."""
    return float(class_ious(confusion).nanmean())


@dataclass(frozen=True)
class ClassScore:
    """Intersection over union, in percent.

    Attributes:
        miou: Mean over the classes that occur in the labels.
        interval: 95 % bootstrap interval of ``miou`` over photographs (low, high).
        iou: IoU of each class by id; NaN where a class does not occur.
        images: Images that counted.
    """

    miou: float
    interval: tuple[float, float]
    iou: tuple[float, ...]
    images: int


class ClassMetric:
    """Mean intersection over union over all pixels of a data set (PASCAL VOC).

    Args:
        classes: Number of classes, background included.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._confusion = torch.zeros(classes, classes, dtype=torch.float64)
        # Poisson bootstrap: each photograph counts in each sample a random number of times.
        self._samples = self._confusion.repeat(RESAMPLES, 1, 1)
        self._draws = np.random.default_rng(0)
        self._images = 0

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds an image.

        Args:
            predicted: Class ids (H,W).
            target: Class ids (H,W), 255 = not labeled.
            valid: Pixels that count (H,W).
        """
        target = torch.where(valid, target.long(), IGNORE)
        if bool((target != IGNORE).any()):
            pixels = multiclass_confusion_matrix(
                predicted.long()[None], target[None], self._classes, ignore_index=IGNORE
            ).double()
            self._confusion += pixels
            times = torch.from_numpy(self._draws.poisson(1.0, RESAMPLES)).double()
            self._samples += times[:, None, None] * pixels
            self._images += 1

    def compute(self) -> ClassScore:
        """Returns the score so far.

        Raises:
            ValueError: If no pixel has counted yet.
        """
        if not self._images:
            raise ValueError("no labeled pixel was seen: there is nothing to score.")
        means = class_ious(self._samples).nanmean(-1).numpy()
        low, high = (float(x) for x in np.nanquantile(means, INTERVAL))
        iou = tuple(round(float(x), 4) for x in class_ious(self._confusion))
        return ClassScore(mean_iou(self._confusion), (low, high), iou, self._images)


@dataclass(frozen=True)
class SaliencyScore:
    """Saliency at its best threshold.

    Attributes:
        miou: Largest mean over images of the IoU of the salient region, in percent.
        threshold: Where it is reached.
        images: Images that counted.
    """

    miou: float
    threshold: float
    images: int


class SaliencyMetric:
    """Mean over images of the salient region's IoU, at the best of some thresholds.

    Args:
        thresholds: Thresholds on the predicted probability.
    """

    def __init__(self, thresholds: Sequence[float] = SALIENCY_THRESHOLDS) -> None:
        self._thresholds = torch.tensor(thresholds, dtype=torch.float64)
        self._sum = torch.zeros(len(thresholds), dtype=torch.float64)
        self._images = 0

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds an image: probability and strength (H,W) in [0, 1], pixels that count (H,W)."""
        if not bool(valid.any()):
            return
        salient = target[valid] >= 0.5
        found = predicted[valid].double()[None] > self._thresholds[:, None]
        both = (found & salient).sum(1).double()
        either = (found | salient).sum(1).double()
        # Nothing salient and nothing found is a perfect answer.
        self._sum += torch.where(either > 0, both / either.clamp(min=1), 1.0)
        self._images += 1

    def compute(self) -> SaliencyScore:
        """Returns the score so far.

        Raises:
            ValueError: If no pixel has counted yet.
        """
        if not self._images:
            raise ValueError("no labeled pixel was seen: there is nothing to score.")
        means = self._sum / self._images * 100
        best = int(means.argmax())
        return SaliencyScore(float(means[best]), float(self._thresholds[best]), self._images)


@dataclass(frozen=True)
class NormalsScore:
    """Angles between predicted and true normals, over all pixels.

    Attributes:
        mean: Mean angle in degrees.
        median: Median angle in degrees.
        within_11_25: Share of pixels below 11.25 degrees, in percent; likewise the next two.
        within_22_5: Below 22.5 degrees.
        within_30: Below 30 degrees.
        images: Images that counted.
    """

    mean: float
    median: float
    within_11_25: float
    within_22_5: float
    within_30: float
    images: int


class NormalsMetric:
    """Angular error of normals over all pixels of a data set."""

    def __init__(self) -> None:
        self._histogram = np.zeros(ANGLE_BINS, np.int64)
        self._below = np.zeros(3, np.int64)
        self._sum = 0.0
        self._images = 0

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds an image: unit normals (3,H,W) each, pixels that count (H,W)."""
        if not bool(valid.any()):
            return
        cosine = (predicted.double() * target.double()).sum(0)[valid].clamp(-1, 1)
        angles = torch.rad2deg(torch.acos(cosine)).cpu().numpy()
        bins = np.minimum((angles * (ANGLE_BINS / 180)).astype(np.int64), ANGLE_BINS - 1)
        self._histogram += np.bincount(bins, minlength=ANGLE_BINS)
        self._below += [int((angles < limit).sum()) for limit in (11.25, 22.5, 30)]
        self._sum += float(angles.sum())
        self._images += 1

    def compute(self) -> NormalsScore:
        """Returns the score so far.

        Raises:
            ValueError: If no pixel has counted yet.
        """
        pixels = int(self._histogram.sum())
        if not pixels:
            raise ValueError("no labeled pixel was seen: there is nothing to score.")
        middle = int(np.searchsorted(np.cumsum(self._histogram), pixels / 2))
        near, mid, far = (float(n) / pixels * 100 for n in self._below)
        median = (middle + 0.5) * 180 / ANGLE_BINS
        return NormalsScore(self._sum / pixels, median, near, mid, far, self._images)
