"""Data sets: image, palette, labels and validity, for every rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from ctnet.checks import did_you_mean
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.derived import DERIVATIONS, DerivedLabels
from ctnet.data.folder import FolderSource, is_folder_layout
from ctnet.data.held_out import SPLITS, split_train
from ctnet.data.label_source import LabelSource
from ctnet.data.pascal_mt import PascalMT
from ctnet.data.sampling import ClassDraws
from ctnet.data.teacher import Teacher, TeacherSource
from ctnet.data.transforms import (
    Normals,
    Strength,
    Uncolored,
    Validity,
    as_training_tensors,
)
from ctnet.data.working_size import WorkingSizeSource
from ctnet.data.wrapped import CachedSource, SubsetSource
from ctnet.rules import R1, Rule
from ctnet.tasks import DEFAULT_TASKS, IGNORE, TaskName, get_task

LABEL_TYPES = {"classes": tv_tensors.Mask, "probability": Strength, "normals": Normals}


@dataclass(frozen=True)
class Sample:
    """One image, or a batch of them (a leading N), with request and labels.

    Attributes:
        image: RGB in [0, 1] (3,H,W).
        palette: Task ids (H,W) int64, 255 = nothing asked.
        labels: By task name: class ids (H,W) int64 with 255 = not labeled, strengths (H,W) in
            [0, 1], unit normals (3,H,W). Where a label is missing its values mean nothing.
        valid: Where each task is labeled (K,H,W).
        uncolored: The image (3,H,W) before its colors were changed, where that is asked for.
        inside: Where (H,W) the crop lies in the photograph, where that is asked for.
    """

    image: Tensor
    palette: Tensor
    labels: dict[str, Tensor]
    valid: Tensor
    uncolored: Tensor | None = None
    inside: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """Changes every tensor in one way."""
        labels = {name: change(label) for name, label in self.labels.items()}
        uncolored, inside = (
            None if x is None else change(x) for x in (self.uncolored, self.inside)
        )
        return Sample(
            change(self.image), change(self.palette), labels, change(self.valid), uncolored, inside
        )

    def to(self, device: torch.device) -> Sample:
        """Moves all tensors."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def at_stride(self, stride: int) -> Sample:
        """Takes the pixels at the centers of cells of so many pixels a side."""
        cells = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
        return self.map(lambda x: x[cells])

    def select(self, rows: Tensor | slice) -> Sample:
        """Takes images of a batch by a mask (N,), indices or a slice."""
        return self.map(lambda x: x[rows])


def collate(samples: Sequence[Sample]) -> Sample:
    """Stacks samples of one size into a batch."""

    def stack(values: Sequence[Tensor | None]) -> Tensor | None:
        there = [value for value in values if value is not None]
        return torch.stack(there) if there else None

    return Sample(
        torch.stack([s.image for s in samples]),
        torch.stack([s.palette for s in samples]),
        {name: torch.stack([s.labels[name] for s in samples]) for name in samples[0].labels},
        torch.stack([s.valid for s in samples]),
        stack([s.uncolored for s in samples]),
        stack([s.inside for s in samples]),
    )


SOURCES: Mapping[str, Callable[[str | Path, str], LabelSource]] = {
    "compositemt": CompositeMTMini,
    "pascal-mt": PascalMT,
    "folder": FolderSource,
}
"""Label sources by the name of their layout."""

AUTO = "auto"
"""The layout that a folder shows."""


def find_layout(root: str | Path) -> str:
    """Finds out the layout of a data set.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it shows none of the layouts.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with a data set.")
    if (folder / "index.csv").is_file():
        return "compositemt"
    if (folder / "JPEGImages").is_dir():
        return "pascal-mt"
    if is_folder_layout(folder):
        return "folder"
    raise ValueError(
        f"{folder} is no data set: it has neither images/ with a folder of labels for each task "
        "beside it, nor index.csv (CompositeMT), nor JPEGImages (PASCAL-MT)."
    )


def open_source(
    layout: str,
    root: str | Path,
    split: str,
    tasks: Sequence[str] = DEFAULT_TASKS,
    teacher: Teacher = "none",
    working_size: bool = False,
    val_share: float | None = None,
    skip: Collection[str] = (),
) -> LabelSource:
    """Opens a data set.

    Args:
        layout: ``folder`` (:mod:`ctnet.data.folder`), ``compositemt``, ``pascal-mt``, or ``auto``,
            which finds out.
        root: Its folder.
        split: ``train`` or ``val``; ``held-in`` or ``held-out`` for a part of ``train``
            (:mod:`ctnet.data.held_out`).
        tasks: Names of the tasks that are wanted; those of :mod:`ctnet.data.derived` are made
            from the labels that there are.
        teacher: Where a teacher's class maps fill in for ``seg``, on the train split alone; see
            :class:`~.teacher.TeacherSource`.
        working_size: Scale larger photographs down to the size at which networks see them, as
            training and counting do; measuring compares at the size of the labels.
        val_share: Share of the photographs to validate on, for the layout ``folder``.
        skip: Names of photographs to leave out.

    Raises:
        FileNotFoundError: If the folder does not hold that data set, or a teacher's class map is
            missing.
        ValueError: If the layout or the split is unknown, nothing is left of it, or it can have no
            teacher.
    """
    if layout == AUTO:
        layout = find_layout(root)
    if layout not in SOURCES:
        raise ValueError(f"unknown layout {layout!r}{did_you_mean(layout, (AUTO, *SOURCES))}")
    if teacher != "none" and split not in ("train", "held-in"):
        raise ValueError(f"a teacher's labels are for training alone; got the split {split!r}.")
    part = "train" if split in SPLITS else split
    if layout == "folder":
        source: LabelSource = FolderSource(root, part, val_share, tasks)
    elif layout == "compositemt":
        source = CompositeMTMini(root, part, tasks=tasks)
    else:
        source = SOURCES[layout](root, part)
    if skip:
        left = [index for index, name in enumerate(source.ids) if name not in skip]
        if not left:
            raise ValueError(f"no photograph of {source.name} ({split}) can be used.")
        source = SubsetSource(source, left, source.split)
    if teacher != "none":
        source = TeacherSource(source, teacher)
    if split in SPLITS:
        source = split_train(source, split)
    if working_size:
        source = WorkingSizeSource(source)
    for task in tasks:
        if task in DERIVATIONS:
            source = DerivedLabels(source, DERIVATIONS[task])
    return source


class Draw(NamedTuple):
    """A sample that was drawn: the same draw gives the same sample.

    Attributes:
        image: Index of the photograph.
        seed: Of augmentation and palette.
        focus: Class in ``seg`` that the crop shall hold some of; 255 for none.
    """

    image: int
    seed: int
    focus: int = IGNORE


class CompositeDataset(Dataset[Sample]):
    """Samples of a label source under a rule, by index or as :class:`Draw` says.

    Args:
        source: Where images and labels come from.
        rule: What makes the palettes. Mosaic and random rules draw among the tasks that the image
            has labels for; semantic rules read the class map ``seg`` and ask for nothing where it
            is missing. None asks for nothing.
        tasks: Names of the tasks by id.
        transform: Joint augmentation; None keeps the image as it is.
        cache: Keep decoded files in memory, unless the source does so already.
        task_shares: Relative frequency of tasks in mosaic and random palettes, whole numbers by
            name; 1 where none is given.
        mosaic_fraction: Fraction of samples whose palette is a mosaic (R1) whatever the rule, so
            that a network of a semantic rule can still do any task anywhere.
        uncolored: Give each sample the image before its colors were changed, too.
    """

    def __init__(
        self,
        source: LabelSource,
        rule: Rule | None,
        tasks: Sequence[str] = DEFAULT_TASKS,
        transform: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        cache: bool = False,
        task_shares: Mapping[str, int] | None = None,
        mosaic_fraction: float = 0.0,
        uncolored: bool = False,
    ) -> None:
        self.uncolored = uncolored
        self.mosaic_fraction = mosaic_fraction
        self.task_shares = task_shares or {}
        shared = isinstance(source, CachedSource)
        self.source = CachedSource(source) if cache and not shared else source
        self.rule = rule
        # A process that is started from scratch, as macOS and Windows do, knows no added task.
        self.tasks: tuple[str, ...] = tuple(map(TaskName.of, tasks))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.source.ids)

    def raw(self, index: int) -> dict[str, np.ndarray]:
        """Returns the files of a sample, decoded, as :meth:`LabelSource.load` gives them."""
        return self.source.load(index)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> Sample:
        index, seed, focus = Draw(*key) if isinstance(key, tuple) else Draw(key, key)
        raw = self.raw(index)
        tensors = self._tensors(raw)
        if self.transform is not None:
            if focus != IGNORE and "seg" in raw:
                wanted = torch.from_numpy(raw["seg"] == focus)
                tensors["focus"] = tv_tensors.Mask(wanted[None].to(torch.uint8))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                tensors = self.transform(tensors)
        tensors = as_training_tensors(tensors)
        labeled = [t for t in self.tasks if t in raw for _ in range(self.task_shares.get(t, 1))]
        palette = self._palette(tensors, labeled, seed)
        valid = tensors["valid"] > 0
        labels = {}
        for number, name in enumerate(self.tasks):
            labels[name] = _finish(tensors[name], get_task(name).kind)
            if get_task(name).kind == "classes":
                valid[number] &= labels[name] != IGNORE
        image = tensors["image"].float() / 255
        if not self.uncolored:
            return Sample(image, palette, labels, valid)
        uncolored, inside = tensors["uncolored"].float() / 255, tensors["inside"][0] > 0
        return Sample(image, palette, labels, valid, uncolored, inside)

    def _tensors(self, raw: dict[str, np.ndarray]) -> dict[str, Tensor]:
        height, width = raw["image"].shape[:2]
        tensors: dict[str, Tensor] = {
            "image": tv_tensors.Image(torch.from_numpy(raw["image"]).permute(2, 0, 1))
        }
        valid = torch.zeros(len(self.tasks), height, width, dtype=torch.uint8)
        for number, name in enumerate(self.tasks):
            kind = get_task(name).kind
            shape = (3, height, width) if kind == "normals" else (1, height, width)
            if name in raw:
                array = torch.from_numpy(raw[name])
                value = array.permute(2, 0, 1) if kind == "normals" else array[None]
                mask = raw.get(f"{name}.valid")
                valid[number] = 1 if mask is None else torch.from_numpy(mask)
            else:
                value = torch.full(shape, IGNORE, dtype=torch.uint8)
            tensors[name] = LABEL_TYPES[kind](value)
        tensors["valid"] = Validity(valid)
        if self.uncolored:
            tensors["uncolored"] = Uncolored(tensors["image"].as_subclass(Tensor))
            tensors["inside"] = Validity(torch.ones(1, height, width, dtype=torch.uint8))
        if self.rule is not None and self.rule.needs_labels and self.rule.reads in raw:
            # Of its own, as the network's tasks need not have it among them.
            tensors["classes"] = tv_tensors.Mask(torch.from_numpy(raw[self.rule.reads])[None])
        return tensors

    def _palette(self, tensors: dict[str, Tensor], labeled: list[str], seed: int) -> Tensor:
        size = tensors["image"].shape[1], tensors["image"].shape[2]
        classes = tensors.get("classes")
        generator = np.random.default_rng(seed)
        rule = self.rule
        if self.mosaic_fraction and generator.random() < self.mosaic_fraction:
            rule = R1
        if rule is None or (rule.needs_labels and classes is None):
            return torch.full(size, IGNORE, dtype=torch.int64)
        labels = None if classes is None else classes[0].numpy()
        return rule.palette(size, generator, labels, self.tasks, labeled or None).tensor()


def _finish(label: Tensor, kind: str) -> Tensor:
    """Maps a stored label to the range that losses and metrics work in."""
    if kind == "classes":
        return label[0].long()
    if kind == "probability":
        return label[0].float() / 255
    normals = label.float() / 127.5 - 1
    return normals / normals.square().sum(0, keepdim=True).sqrt().clamp(min=1e-6)


def measured_images(source: LabelSource, task: str, semantic: bool = False) -> list[int]:
    """Returns the images that a task is measured on: those with its best labels.

    Args:
        source: Photographs and labels.
        task: Name of the task.
        semantic: As for :meth:`LabelSource.measured_on`.
    """
    sources = source.measured_on(task, semantic)
    return [
        i for i in range(len(source.ids)) if source.origin(i) in sources and source.kind(i, task)
    ]


def taken_evenly(images: Sequence[int], limit: int | None) -> list[int]:
    """Takes so many images, evenly from all; None takes all."""
    if limit is None or len(images) <= limit:
        return list(images)
    return [images[k * len(images) // limit] for k in range(limit)]


def sampling_weights(dataset: CompositeDataset, source_weights: Mapping[str, float]) -> Tensor:
    """Weighs photographs by their sources.

    Args:
        dataset: The photographs, and the rule that asks for tasks on them.
        source_weights: Factors by name of the source; 1 where none is given.

    Returns:
        Relative frequencies (len(dataset),); 0 where there is no label that the rule could use: no
        class map for a rule that maps classes, or none of the task that is asked everywhere.

    Raises:
        ValueError: If no image is from a source that is named.
    """
    source = dataset.source
    indices = range(len(dataset))
    origins = [source.origin(index) for index in indices]
    for name in source_weights:
        if name not in origins:
            raise ValueError(f"no image is from source {name!r}{did_you_mean(name, set(origins))}")
    weights = [source_weights.get(name, 1.0) for name in origins]
    rule = dataset.rule
    needed = None if rule is None else rule.reads if rule.needs_labels else rule.task
    if needed is not None:
        weights = [
            w if source.kind(i, needed) else 0.0 for i, w in zip(indices, weights, strict=True)
        ]
    return torch.tensor(weights, dtype=torch.float64)


class StepSampler(Sampler[list[Draw]]):
    """Batches that depend only on the step, so that training resumes exactly.

    Args:
        weights: Relative frequency of each sample.
        batch_size: Samples a step.
        steps: The steps to yield.
        seed: Seed of the whole run.
        draws: How a part of the samples is drawn for a class instead of the weights, if any is.
        rows: Samples of each batch that are yielded; None for all.

    Raises:
        ValueError: If fewer samples can be drawn than a batch takes.
    """

    def __init__(
        self,
        weights: Tensor,
        batch_size: int,
        steps: range,
        seed: int,
        draws: ClassDraws | None = None,
        rows: slice | None = None,
    ) -> None:
        drawable = int((weights > 0).sum())
        if batch_size > drawable:
            raise ValueError(
                f"a batch of {batch_size} needs as many images that the rule can use; there are "
                f"{drawable}."
            )
        self.weights = weights
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.draws = draws
        self.rows = rows

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in self.steps:
            generator = np.random.default_rng((self.seed, step))
            share = self.weights.double().numpy()
            indices = generator.choice(len(share), self.batch_size, False, share / share.sum())
            seeds = generator.integers(2**31, size=self.batch_size)
            batch = [Draw(int(i), int(s)) for i, s in zip(indices, seeds, strict=True)]
            if self.draws is not None:
                batch = [self._redraw(draw, generator) for draw in batch]
            yield batch if self.rows is None else batch[self.rows]

    def _redraw(self, drawn: Draw, generator: np.random.Generator) -> Draw:
        found = None if self.draws is None else self.draws.draw(generator)
        return drawn if found is None else Draw(found[0], drawn.seed, found[1])
