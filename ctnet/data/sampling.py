"""Which photographs a step takes; class-balanced, rare classes are drawn as often as common ones.

A part of the samples is drawn for a class (class-aware sampling, Shen et al., "Relay
backpropagation", ECCV 2016): first a class, all but the background equally often, then one of the
photographs that have it. Its crop holds a pixel of the class.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctnet.checks import did_you_mean
from ctnet.data.label_source import LabelSource
from ctnet.rules import Rule
from ctnet.tasks import IGNORE, get_task

LEAST_PIXELS = 100
"""Smallest number of pixels of a class that makes a photograph count for it."""


def count_classes(source: LabelSource, task: str) -> Tensor:
    """Counts the pixels of each class on each photograph.

    Args:
        source: Photographs and labels.
        task: A task with classes.

    Returns:
        Pixels (N,C) int64; zero where there is no label.
    """
    classes = len(get_task(task).classes)
    counts = torch.zeros(len(source.ids), classes, dtype=torch.int64)
    for index in range(len(counts)):
        label = source.load(index).get(task)
        if label is not None:
            counts[index] = count_pixels(label, classes)
    return counts


def count_pixels(label: np.ndarray, classes: int) -> Tensor:
    """Counts the pixels (C,) int64 of each class in a class map (H,W), 255 = not labeled."""
    return torch.from_numpy(np.bincount(label.ravel(), minlength=IGNORE + 1)[:classes])


@dataclass(frozen=True)
class ClassDraws:
    """How often photographs are drawn for a class.

    Attributes:
        share: Share of the samples that are drawn for one.
        classes: Ids of the classes to draw among (C).
        weights: Relative frequency of each photograph among those drawn for a class (C,N).
    """

    share: float
    classes: tuple[int, ...]
    weights: np.ndarray

    @classmethod
    def create(cls, share: float, counts: Tensor, weights: Tensor) -> ClassDraws:
        """Draws among all classes but the first, the background, that photographs have.

        Sources that are drawn less often are so here too; those that are drawn more often, which
        they are for the labels of other tasks, are not.

        Args:
            share: Share of the samples that are drawn for a class.
            counts: Pixels of each class on each photograph (N,C).
            weights: Relative frequency of each photograph (N,).

        Raises:
            ValueError: If no photograph that may be drawn has a class.
        """
        present = (counts >= LEAST_PIXELS).T * weights.double().clamp(max=1)
        classes = [c for c in range(1, len(present)) if present[c].sum() > 0]
        if not classes:
            raise ValueError(
                "class_balanced_fraction needs photographs with "
                f"{LEAST_PIXELS} pixels of a class in seg; there are none that the rule can use."
            )
        chosen = present[classes].numpy()
        return cls(share, tuple(classes), chosen / chosen.sum(1, keepdims=True))

    def draw(self, generator: np.random.Generator) -> tuple[int, int] | None:
        """Draws a photograph for a class: (index, class id); None where it goes by the weights."""
        if generator.random() >= self.share:
            return None
        row = int(generator.integers(len(self.classes)))
        weights = self.weights[row]
        return int(generator.choice(len(weights), p=weights)), self.classes[row]


class Draw(NamedTuple):
    """A photograph that was drawn.

    Attributes:
        image: Its index.
        focus: Class in ``seg`` that the crop shall hold some of; 255 for none.
    """

    image: int
    focus: int = IGNORE


@dataclass(frozen=True)
class StepDraws:
    """The photographs of each step; they depend on seed and step alone, so runs resume exactly.

    Attributes:
        weights: Relative frequency of each photograph (N,).
        batch_size: Photographs a step.
        seed: Seed of the run.
        classes: How a part of the photographs is drawn for a class instead, if any is.

    Raises:
        ValueError: If fewer photographs can be drawn than a batch takes.
    """

    weights: Tensor
    batch_size: int
    seed: int
    classes: ClassDraws | None = None

    def __post_init__(self) -> None:
        drawable = int((self.weights > 0).sum())
        if self.batch_size > drawable:
            raise ValueError(
                f"a batch of {self.batch_size} needs as many images that the rule can use; there "
                f"are {drawable}."
            )

    def __getitem__(self, step: int) -> list[Draw]:
        generator = np.random.default_rng((self.seed, step))
        share = self.weights.double().numpy()
        indices = generator.choice(len(share), self.batch_size, False, share / share.sum())
        return [self._for_class(generator) or Draw(int(index)) for index in indices]

    def _for_class(self, generator: np.random.Generator) -> Draw | None:
        found = None if self.classes is None else self.classes.draw(generator)
        return None if found is None else Draw(*found)


def sampling_weights(
    source: LabelSource, rule: Rule | None, source_weights: Mapping[str, float]
) -> Tensor:
    """Weighs photographs by their sources.

    Args:
        source: The photographs.
        rule: What asks for tasks on them, if anything does.
        source_weights: Factors by name of the source; 1 where none is given.

    Returns:
        Relative frequencies (N,); 0 where there is no label that the rule could use: no class map
        for a rule that maps classes, or none of the task that is asked everywhere.

    Raises:
        ValueError: If no image is from a source that is named.
    """
    indices = range(len(source.ids))
    origins = [source.origin(index) for index in indices]
    for name in source_weights:
        if name not in origins:
            raise ValueError(f"no image is from source {name!r}{did_you_mean(name, set(origins))}")
    weights = [source_weights.get(name, 1.0) for name in origins]
    needed = None if rule is None else rule.reads if rule.needs_labels else rule.task
    if needed is not None:
        weights = [
            w if source.kind(i, needed) else 0.0 for i, w in zip(indices, weights, strict=True)
        ]
    return torch.tensor(weights, dtype=torch.float64)


@dataclass(frozen=True)
class Balance:
    """How often a network sees each class, before and after sampling.

    Attributes:
        task: The task with the classes.
        names: The classes.
        photographs: Share of the samples whose photograph has each class (2,C): before, after.
        pixels: Share of each class in the labeled pixels of these photographs (2,C). Crops around
            drawn classes raise it further.
        sources: Share of each source in the samples, before and after, by its name.
    """

    task: str
    names: Sequence[str]
    photographs: Tensor
    pixels: Tensor
    sources: dict[str, tuple[float, float]]

    @classmethod
    def compute(
        cls,
        source: LabelSource,
        task: str,
        counts: Tensor,
        weights: Tensor,
        draws: ClassDraws | None,
    ) -> Balance:
        """Computes the balance that is to be expected; arguments as for :class:`ClassDraws`.

        Args:
            source: The photographs.
            task: The task whose classes are counted.
            counts: Pixels of each class on each photograph (N,C).
            weights: Relative frequency of each photograph (N,).
            draws: How photographs are drawn for a class, if they are.
        """
        after = weights.double() / weights.sum()
        if draws is not None:
            drawn = torch.from_numpy(draws.weights.mean(0))
            after = torch.lerp(after, drawn, draws.share)
        chances = torch.stack([torch.full_like(after, 1 / len(after)), after])
        present = (counts >= LEAST_PIXELS).double()
        pixels = chances @ counts.double()
        origins = np.array([source.origin(index) for index in range(len(after))])
        shares = {
            str(name): (float(chances[0, origins == name].sum()),
                        float(chances[1, origins == name].sum()))
            for name in np.unique(origins)
        }  # fmt: skip
        names = get_task(task).classes
        total = pixels.sum(1, keepdim=True).clamp(min=1e-12)
        return cls(task, names, chances @ present, pixels / total, shares)

    def rows(self) -> list[tuple[str, str, float, float]]:
        """Returns rows of (what, of which, before, after), shares from 0 to 1."""
        rows = [("source", name, *pair) for name, pair in self.sources.items()]
        for what, values in (("photographs", self.photographs), ("pixels", self.pixels)):
            rows += [
                (what, name, float(values[0, c]), float(values[1, c]))
                for c, name in enumerate(self.names)
            ]
        return rows

    def write(self, path: Path) -> None:
        """Writes the rows as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "name", "before", "after"])
            writer.writerows([w, n, f"{b:.6g}", f"{a:.6g}"] for w, n, b, a in self.rows())

    def __str__(self) -> str:
        lines = [f"{self.task}: share in % of samples (photographs) and pixels, before -> after"]
        for c, name in enumerate(self.names):
            photographs, pixels = 100 * self.photographs[:, c], 100 * self.pixels[:, c]
            lines.append(
                f"  {name:<14}{photographs[0]:6.1f} -> {photographs[1]:5.1f}"
                f"{pixels[0]:9.2f} -> {pixels[1]:5.2f}"
            )
        sources = (f"{n} {100 * b:.1f} -> {100 * a:.1f}" for n, (b, a) in self.sources.items())
        return "\n".join([*lines, f"  sources: {', '.join(sources)}"])
