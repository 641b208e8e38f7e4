"""Counts label tables: which classes the labels have where a network gives which output.

On every photograph of the sources whose labels of a task are best, the network does that task
everywhere (S), and where the palette of a semantic rule asks for it. Each labeled pixel counts for
its class in the cell of the cube that its output fell into. The counts are smoothed over
neighboring cells, mixed with how the network reads so far where few or none were counted, and
weighed by the frequency of each class to a negative power, so that rare classes are not read away.
Both ways of asking count, because they differ in what is likely: R2 never asks for the segmentation
of background, which is most of what there is to segment under S.

What is free is chosen by cross-validation over photographs, which judges a table on photographs
that did not count for it: the table that reads best under S among those that read no worse than the
network so far under the rule. A class that few photographs show is read badly by counts, and what
few show cross-validation cannot tell, so that a table needs some photographs of every class. All of
that needs one pass of the network.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ctnet.data.dataset import CompositeDataset, measured_images, taken_evenly
from ctnet.data.label_source import LabelSource
from ctnet.evaluation.metrics import mean_iou
from ctnet.label_tables import TableReader, cell_centers, cell_index, table_cells
from ctnet.labels import ClassAnchors, ClassReader, Point, class_reader
from ctnet.models.base import CompositeModel, build
from ctnet.models.convert import TABLES, adapt_weights
from ctnet.rules import get_rule
from ctnet.tasks import TaskSpec, get_task

FOLDS = 5
"""Number of folds in cross-validation."""

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Powers of the class frequencies to choose from."""

PASSES = (0, 1, 2)
"""Box filters of 3 x 3 x 3 cells to choose from."""

SHARES = (0.0, 0.5, 1.0, 2.0, 4.0, 16.0)
"""Weights of a pixel that the rule asks for, against 1 of one under S, to choose from."""

PRIOR = 1.0
"""Pixels that the probabilities of the present reading count for in every cell."""

MIN_GAIN = 0.1
"""Smallest cross-validated gain in mIoU points under S for which a task gets a table."""


MIN_PHOTOGRAPHS = 10
"""Smallest number of photographs that must show each class of a task that gets a table."""


@dataclass(frozen=True)
class RuleCounts:
    """Labels by cell of the cube, fold by fold, under one rule.

    Attributes:
        counted: Labeled pixels (F,M,C) by fold, cell and class, M = G * G * G.
        before: The same pixels (F,C,C) by class and the class that the network reads so far.
    """

    counted: Tensor
    before: Tensor

    @classmethod
    def empty(cls, classes: int) -> RuleCounts:
        """Returns counts of nothing."""
        # Whole numbers of pixels, more than single precision counts.
        counts = torch.zeros(FOLDS, table_cells(classes) ** 3, classes, dtype=torch.float64)
        return cls(counts, counts.new_zeros(FOLDS, classes, classes))

    def add(self, fold: int, outputs: Tensor, labels: Tensor, reader: ClassReader) -> None:
        """Adds pixels of a photograph.

        Args:
            fold: Fold of the photograph.
            outputs: Raw outputs (P,3).
            labels: Classes (P,).
            reader: How the network reads the task so far.
        """
        cells, classes = self.counted.shape[1:]
        index = cell_index(outputs, table_cells(classes)) * classes + labels
        found = torch.bincount(index, minlength=cells * classes).view(cells, classes)
        self.counted[fold] += found
        pairs = labels * classes + reader.classes(outputs)
        self.before[fold] += torch.bincount(pairs, minlength=classes**2).view(classes, classes)


@dataclass(frozen=True)
class Counts:
    """What was counted for a task.

    Attributes:
        task: The task.
        prior: Probabilities (M,C) at the cells' centers as the network reads them so far.
        everywhere: Counts where the task is asked everywhere.
        ruled: Counts where the rule asks for it; all 0 where it never does.
        shown: Photographs (C,) that show each class.
        photographs: Photographs that counted.
    """

    task: TaskSpec
    prior: Tensor
    everywhere: RuleCounts
    ruled: RuleCounts
    shown: Tensor
    photographs: int = 0

    def class_means(self) -> tuple[Point, ...]:
        """Returns the mean of the outputs of each class, a point of the cube.

        They are the anchors of a network that has learned to read its classes by itself.
        """
        counted = self.everywhere.counted.sum(0)
        centers = cell_centers(table_cells(counted.shape[1])).flatten(0, 2).to(counted)
        means = (counted.T @ centers) / counted.sum(0).clamp(min=1)[:, None]
        return tuple((x, y, z) for x, y, z in means.tolist())


@dataclass(frozen=True)
class TableChoice:
    """What is free in a table.

    Attributes:
        power: Power of the class frequencies.
        passes: Box filters over the counts.
        share: Weight of a pixel that the rule asks for, against 1 of one under S.
    """

    power: float = 0.2
    passes: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class TableReport:
    """How a task's table reads photographs that did not count for it, beside the reading so far.

    Attributes:
        task: Name of the task.
        photographs: Photographs that counted.
        rarest: Photographs that show the class that the fewest show.
        before: mIoU as read so far under S, in percent.
        table: mIoU of the table under S, in percent.
        rule_before: mIoU as read so far under the rule, in percent; NaN where it does not ask.
        rule_table: mIoU of the table under the rule, in percent.
        choice: What was chosen.
    """

    task: str
    photographs: int
    rarest: int
    before: float
    table: float
    rule_before: float
    rule_table: float
    choice: TableChoice

    @property
    def gains(self) -> bool:
        """Whether the table reads better under S, and no worse under the rule."""
        return self.table >= self.before + MIN_GAIN and not self.rule_table < self.rule_before


def add_label_tables(
    model: CompositeModel,
    source: LabelSource,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
    rule: str = "R2",
    min_photographs: int = MIN_PHOTOGRAPHS,
) -> tuple[CompositeModel, tuple[TableReport, ...]]:
    """Adds label tables to a network for the tasks where they read better.

    A task is read so far by eq. 5, or by the table that a learned reader or an earlier count left.

    Args:
        model: A trained network. It is left as it is. It keeps its tables of tasks that
            are not counted or do not gain.
        source: Photographs and labels that the network was trained on, never those that it is
            measured on.
        tasks: Tasks to count for; None takes all that have classes.
        limit: Most photographs, taken evenly; None takes all.
        progress: Show a progress bar.
        rule: Semantic rule under which tables must read no worse.
        min_photographs: Least photographs that show a class, for every class of a task that gets
            a table.

    Returns:
        The network with its tables, in eval mode, and a report on each task that was counted.

    Raises:
        ValueError: If a task has no classes, or the photographs have no labels of it.

    Example::

        source = open_source("compositemt", "~/data/compositemt", "train")
        model, reports = add_label_tables(ctnet.load("local-dir:runs/mine/checkpoint"), source)
    """
    coded = [task for task in model.tasks if get_task(task).kind == "classes"]
    for task in tasks or ():
        if task not in coded:
            raise ValueError(f"{task!r} has no classes to count; those with: {', '.join(coded)}.")
    tasks = tasks or coded
    found = {task: model.label_tables.reader(task).table for task in model.label_tables.tasks}
    anchors = {entry.task: entry for entry in model.config.anchors}
    reports = []
    for counts in count_labels(model, source, tasks, limit, progress, rule):
        if not counts.photographs:
            raise ValueError(
                f"no photograph of {source.name} ({source.split}) has labels of "
                f"{counts.task.name!r}: there is nothing to count."
            )
        report = choose(counts)
        reports.append(report)
        if report.gains and report.rarest >= min_photographs:
            cells = table_cells(len(counts.task.classes))
            table = make_table(counts, report.choice)
            name = counts.task.name
            if name in anchors and name in found:
                anchors[name] = ClassAnchors(name, counts.class_means())
            found[name] = table.log().half().view(cells, cells, cells, -1)
    config = replace(model.config, label_tables=tuple(found), anchors=tuple(anchors.values()))
    read = build(config)
    state = adapt_weights(model.state_dict(), replace(config, label_tables=()))
    state |= {TABLES + task: table for task, table in found.items()}
    read.load_state_dict(state, strict=True)
    return read.to(model.device).eval(), tuple(reports)


@torch.inference_mode()
def count_labels(
    model: CompositeModel,
    source: LabelSource,
    tasks: Sequence[str],
    limit: int | None = None,
    progress: bool = True,
    rule: str = "R2",
) -> list[Counts]:
    """Counts labels by the cells that a network's outputs fall into.

    Args:
        model: The network; it runs fused and in eval mode.
        source: Photographs and labels.
        tasks: Tasks of kind ``classes``.
        limit: Most photographs, taken evenly; None takes all.
        progress: Show a progress bar.
        rule: Semantic rule that asks beside S.

    Returns:
        The counts of each task.
    """
    counts = [_empty(model, get_task(task)) for task in tasks]
    photographs = [0] * len(tasks)
    best = {task: set(measured_images(source, task)) for task in tasks}
    labeled = taken_evenly(sorted(set().union(*best.values())), limit)
    dataset = CompositeDataset(source, get_rule(rule, model.tasks), model.tasks)
    with model.inference():
        for index in tqdm(labeled, "label tables", unit="image", disable=not progress):
            sample = dataset[index]
            features = model.encode(sample.image[None].to(model.device))
            fold = zlib.crc32(source.ids[index].encode()) % FOLDS
            ruled = _pixels(model.decode(features, sample.palette))
            for number, entry in enumerate(counts):
                task = model.tasks.index(entry.task.name)
                valid = sample.valid[task]
                if index not in best[entry.task.name] or not bool(valid.any()):
                    continue
                photographs[number] += 1
                reader = class_reader(entry.task, model.readers)
                palette = torch.full_like(sample.palette, task)
                outputs = _pixels(model.decode(features, palette))
                labels = sample.labels[entry.task.name]
                entry.shown[torch.unique(labels[valid])] += 1
                entry.everywhere.add(fold, outputs[valid], labels[valid], reader)
                asked = valid & (sample.palette == task)
                entry.ruled.add(fold, ruled[asked], labels[asked], reader)
    return [replace(x, photographs=n) for x, n in zip(counts, photographs, strict=True)]


def _pixels(outputs: Tensor) -> Tensor:
    """Turns the raw outputs (1,3,H,W) of an image into pixels (H,W,3) on the CPU."""
    return outputs[0].permute(1, 2, 0).float().cpu()


def _empty(model: CompositeModel, task: TaskSpec) -> Counts:
    classes = len(task.classes)
    cells = table_cells(classes)
    grid = cell_centers(cells).flatten(0, 2)
    reader = class_reader(task, model.readers)
    prior = reader.probabilities(torch.logit(grid)).double()
    rules = RuleCounts.empty(classes), RuleCounts.empty(classes)
    return Counts(task, prior, *rules, torch.zeros(classes, dtype=torch.int64))


def make_table(counts: Counts, choice: TableChoice) -> Tensor:
    """Turns counts into probabilities.

    Args:
        counts: The counts of a task.
        choice: What is free.

    Returns:
        p(class | cell) (M,C).
    """
    counted = [rule.counted.sum(0) for rule in (counts.everywhere, counts.ruled)]
    smooth = [_smooth(x, choice.passes) for x in counted]
    return _weigh(counts.prior, counted[0].sum(0), smooth, choice)


def _smooth(counted: Tensor, passes: int) -> Tensor:
    """Filters counts (M,C) over neighboring cells."""
    classes = counted.shape[1]
    cells = table_cells(classes)
    grid = counted.T.reshape(classes, 1, cells, cells, cells)
    for _ in range(passes):
        # Cells at the border have fewer neighbors.
        grid = F.avg_pool3d(grid, 3, 1, 1, count_include_pad=False)
    return grid.reshape(classes, -1).T


def _weigh(prior: Tensor, pixels: Tensor, smooth: Sequence[Tensor], choice: TableChoice) -> Tensor:
    """Makes probabilities (M,C) of the filtered counts under S and under the rule."""
    mixed = smooth[0] + choice.share * smooth[1] + PRIOR * prior
    frequency = pixels.clamp(min=1) / pixels.sum().clamp(min=1)
    weighted = mixed * frequency.pow(-choice.power)
    return weighted / weighted.sum(1, keepdim=True)


def choose(counts: Counts) -> TableReport:
    """Chooses a table by cross-validation, and compares it with the reading so far.

    Returns:
        The table that reads best under S among those that read no worse than so far under
        the rule; among all where none does.
    """
    rules = (counts.everywhere, counts.ruled)
    before, rule_before = (mean_iou(rule.before.sum(0)) for rule in rules)
    read: dict[TableChoice, list[Tensor]] = {}
    for choice, fold, table in _held_out_tables(counts):
        best = TableReader(table).best().long()
        totals = read.setdefault(choice, [torch.zeros_like(rule.before[0]) for rule in rules])
        for rule, total in zip(rules, totals, strict=True):
            total.index_add_(1, best, rule.counted[fold].T.contiguous())
    reports = [
        TableReport(
            task=counts.task.name,
            photographs=counts.photographs,
            rarest=int(counts.shown.min()),
            before=before,
            table=mean_iou(everywhere),
            rule_before=rule_before,
            rule_table=mean_iou(ruled),
            choice=choice,
        )
        for choice, (everywhere, ruled) in read.items()
    ]
    harmless = [x for x in reports if not x.rule_table < x.rule_before]
    return max(harmless or reports, key=lambda x: x.table)


def _held_out_tables(counts: Counts) -> Iterator[tuple[TableChoice, int, Tensor]]:
    """Yields every choice, a fold, and the table that the other folds make by that choice."""
    shares = SHARES if bool(counts.ruled.counted.any()) else SHARES[:1]
    for passes, held_out in product(PASSES, range(FOLDS)):
        others = [fold for fold in range(FOLDS) if fold != held_out]
        counted = [rule.counted[others].sum(0) for rule in (counts.everywhere, counts.ruled)]
        smooth = [_smooth(x, passes) for x in counted]
        for power, share in product(POWERS, shares):
            choice = TableChoice(power, passes, share)
            yield choice, held_out, _weigh(counts.prior, counted[0].sum(0), smooth, choice)
