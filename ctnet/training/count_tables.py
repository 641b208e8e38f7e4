"""Counts label tables: which classes the labels have where a network gives which output.

For every photograph with labels of a task the network does that task everywhere. Each labeled
pixel counts for its class in the cell of the cube that its output fell into. The counts are
smoothed over neighboring cells, mixed with the probabilities of eq. 5 where few or none were
counted, and weighed by the frequency of each class to a negative power, so that rare classes are
not read away. Power and smoothing are chosen, and the table is compared with eq. 5, by
cross-validation over photographs: a table is judged on photographs that did not count for it. All
of that needs one pass of the network.
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

from ctnet.decoding import AnchorReader, anchor_scores, task_anchors
from ctnet.evaluation.metrics import mean_iou
from ctnet.label_tables import TableReader, cell_index, table_cells
from ctnet.networks.composite import CompositeModel, build
from ctnet.predictor import evaluating
from ctnet.tasks import TaskSpec, get_task
from ctnet.training.datasets import CompositeDataset, LabelSource

FOLDS = 5
"""Parts of the photographs in cross-validation."""

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Powers of the class frequencies to choose from."""

PASSES = (0, 1, 2)
"""Box filters of 3 x 3 x 3 cells to choose from."""

PRIOR = 1.0
"""Pixels that the probabilities of eq. 5 count for in every cell."""

MIN_GAIN = 0.1
"""Least gain in mIoU points, in cross-validation, for which a task gets a table."""


@dataclass(frozen=True)
class Counts:
    """Labels by cell of the cube, fold by fold.

    Attributes:
        task: The task.
        counted: Labeled pixels (F,S,C) by fold, cell and class, S = G * G * G.
        measured: Those of the sources that the task is measured on.
        anchors: Pixels (F,C,C) of these by class and the class that eq. 5 reads.
        prior: Probabilities (S,C) of eq. 5 at the cells' centers.
        photographs: Photographs that counted.
    """

    task: TaskSpec
    counted: Tensor
    measured: Tensor
    anchors: Tensor
    prior: Tensor
    photographs: int


@dataclass(frozen=True)
class TableReport:
    """How a task's table reads photographs that did not count for it, beside eq. 5.

    Attributes:
        task: Name of the task.
        photographs: Photographs that counted.
        anchors: mIoU of eq. 5 in percent.
        table: mIoU of the table in percent.
        power: Power of the class frequencies.
        passes: Box filters over the counts.
    """

    task: str
    photographs: int
    anchors: float
    table: float
    power: float
    passes: int

    @property
    def gains(self) -> bool:
        """Whether the table reads better."""
        return self.table >= self.anchors + MIN_GAIN


def add_label_tables(
    model: CompositeModel,
    source: LabelSource,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> tuple[CompositeModel, tuple[TableReport, ...]]:
    """Gives a network label tables for the tasks where they read better than eq. 5.

    Args:
        model: A trained network. It is left as it is. Its tables of tasks that are not counted
            stay, the others are counted without them.
        source: Photographs and labels that the network was trained on, never those that it is
            measured on.
        tasks: Tasks to count for; None takes all that have classes.
        limit: Most photographs, taken evenly; None takes all.
        progress: Show a progress bar.

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
    found = {
        task: model.label_tables.reader(task).table
        for task in model.label_tables.tasks
        if task not in tasks
    }
    reports = []
    for counts in count_labels(model, source, tasks, limit, progress):
        if not counts.photographs:
            raise ValueError(
                f"no photograph of {source.name} ({source.split}) has labels of "
                f"{counts.task.name!r}: there is nothing to count."
            )
        report = choose(counts)
        reports.append(report)
        if report.gains:
            table = make_table(counts, counts.counted.sum(0), report.power, report.passes)
            cells = table_cells(len(counts.task.classes))
            found[counts.task.name] = table.log().half().view(cells, cells, cells, -1)
    config = replace(model.config, label_tables=tuple(found))
    read = build(config)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("label_tables.")}
    state |= {f"label_tables.{task}": table for task, table in found.items()}
    read.load_state_dict(state, strict=True)
    return read.to(model.device).eval(), tuple(reports)


@torch.inference_mode()
def count_labels(
    model: CompositeModel,
    source: LabelSource,
    tasks: Sequence[str],
    limit: int | None = None,
    progress: bool = True,
) -> list[Counts]:
    """Counts labels by the cells that a network's outputs fall into.

    Args:
        model: The network; it runs fused and in eval mode.
        source: Photographs and labels.
        tasks: Tasks of kind ``classes``.
        limit: Most photographs, taken evenly; None takes all.
        progress: Show a progress bar.

    Returns:
        The counts of each task.
    """
    counts = [_empty(model, get_task(task)) for task in tasks]
    photographs = [0] * len(tasks)
    labeled = [i for i in range(len(source.ids)) if any(source.kind(i, t) for t in tasks)]
    if limit is not None and len(labeled) > limit:
        labeled = [labeled[k * len(labeled) // limit] for k in range(limit)]
    dataset = CompositeDataset(source, None, model.tasks)
    measured_on = [source.measured_on(task, False) for task in tasks]
    with evaluating(model), model.inference():
        for index in tqdm(labeled, "label tables", unit="image", disable=not progress):
            sample = dataset[index]
            features = model.encode(sample.image[None].to(model.device))
            fold = zlib.crc32(source.ids[index].encode()) % FOLDS
            for number, entry in enumerate(counts):
                task = model.tasks.index(entry.task.name)
                valid = sample.valid[task]
                if not bool(valid.any()):
                    continue
                photographs[number] += 1
                palette = torch.full_like(sample.palette, task)
                outputs = model.decode(features, palette)[0].permute(1, 2, 0).float().cpu()[valid]
                labels = sample.labels[entry.task.name][valid]
                best = source.origin(index) in measured_on[number]
                _add(model, entry, fold, outputs, labels, best)
    return [replace(x, photographs=n) for x, n in zip(counts, photographs, strict=True)]


def _empty(model: CompositeModel, task: TaskSpec) -> Counts:
    classes = len(task.classes)
    cells = table_cells(classes)
    # Whole numbers of pixels, far more than single precision counts.
    counts = torch.zeros(FOLDS, cells**3, classes, dtype=torch.float64)
    centers = (torch.arange(cells) + 0.5) / cells
    grid = torch.cartesian_prod(centers, centers, centers)
    points = task_anchors(task, model.config.anchors)
    prior = anchor_scores(torch.logit(grid), points).softmax(-1)
    confusion = counts.new_zeros(FOLDS, classes, classes)
    return Counts(task, counts, counts.clone(), confusion, prior, 0)


def _add(
    model: CompositeModel, counts: Counts, fold: int, outputs: Tensor, labels: Tensor, best: bool
) -> None:
    """Adds the pixels (P,3) of a photograph with their classes (P,)."""
    cells, classes = counts.counted.shape[1:]
    index = cell_index(outputs, table_cells(classes)) * classes + labels
    found = torch.bincount(index, minlength=cells * classes).view(cells, classes)
    counts.counted[fold] += found
    if best:
        counts.measured[fold] += found
        reader = AnchorReader(task_anchors(counts.task, model.config.anchors))
        pairs = labels * classes + reader.classes(outputs)
        counts.anchors[fold] += torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def make_table(counts: Counts, counted: Tensor, power: float, passes: int) -> Tensor:
    """Turns counts into probabilities.

    Args:
        counts: The counts of a task, for their prior.
        counted: Labeled pixels (S,C) by cell and class.
        power: Power of the class frequencies.
        passes: Box filters over the counts.

    Returns:
        p(class | cell) (S,C).
    """
    classes = counted.shape[1]
    cells = table_cells(classes)
    grid = counted.T.reshape(classes, 1, cells, cells, cells)
    for _ in range(passes):
        # The filter's border counts no cells that are not there.
        grid = F.avg_pool3d(grid, 3, 1, 1, count_include_pad=False)
    smooth = grid.reshape(classes, -1).T + PRIOR * counts.prior
    weights = (counted.sum(0).clamp(min=1) / counted.sum()).pow(-power)
    weighted = smooth * weights
    return weighted / weighted.sum(1, keepdim=True)


def choose(counts: Counts) -> TableReport:
    """Chooses power and smoothing by cross-validation, and compares the table with eq. 5."""
    tried = [
        (mean_iou(torch.stack([*_held_out(counts, power, passes)]).sum(0)), power, passes)
        for power, passes in product(POWERS, PASSES)
    ]
    table, power, passes = max(tried)
    anchors = mean_iou(counts.anchors.sum(0))
    return TableReport(counts.task.name, counts.photographs, anchors, table, power, passes)


def _held_out(counts: Counts, power: float, passes: int) -> Iterator[Tensor]:
    """Yields, by fold, pixels (C,C) by class and what a table of the other folds reads."""
    total = counts.counted.sum(0)
    classes = total.shape[1]
    for counted, measured in zip(counts.counted, counts.measured, strict=True):
        table = make_table(counts, total - counted, power, passes)
        best = TableReader(table).best().long()
        yield measured.new_zeros(classes, classes).index_add_(1, best, measured.T.contiguous())
