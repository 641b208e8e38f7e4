"""Measures a model under a rule on labeled photographs.

Under S every task is asked everywhere, under a rule each pixel counts for the task that the
rule's palette asks for there. Each task is measured on the sources with the best labels for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ctnet import defaults
from ctnet.checks import did_you_mean
from ctnet.data.dataset import CompositeDataset, measured_images, taken_evenly
from ctnet.data.label_source import LabelSource
from ctnet.evaluation.answers import View
from ctnet.evaluation.boundaries import BoundaryF
from ctnet.evaluation.metrics import ClassMetric, NormalsMetric, SaliencyMetric
from ctnet.label_tables import TableReader
from ctnet.models.base import CompositeModel
from ctnet.rules import Rule, S, get_rule
from ctnet.tasks import get_task, known_tasks

RULE_NAMES = (S, "R1", "R2", "R3", "Rrnd")

HEADLINE = {
    "seg": "miou",
    "parts": "miou",
    "edges": "ods_f",
    "saliency": "miou",
    "normals": "mean",
}
"""The figure of each task that the paper's tables show."""


def headline_name(task: str) -> str:
    """Returns the name of a task's one figure; tasks beyond the paper's have that of their kind."""
    spec = known_tasks([task]).get(task)
    return HEADLINE.get(task, "mean" if spec and spec.kind == "normals" else "miou")


@dataclass(frozen=True)
class EvalResult:
    """Figures of one model under one rule.

    Attributes:
        model: Name of the model.
        rule: Name of the rule.
        data: Name of the data set.
        split: Split of it.
        sources: Sources of each task.
        labels: Kinds of the labels of each task (``true``, ``distilled``).
        scores: Figures of each task by name.
        seed: Seed of the palettes.
        read_by: How the classes of a task were read: ``table`` or ``eq. 5``.
    """

    model: str
    rule: str
    data: str
    split: str
    sources: dict[str, tuple[str, ...]]
    labels: dict[str, tuple[str, ...]]
    scores: dict[str, dict[str, Any]]
    seed: int
    read_by: dict[str, str] = field(default_factory=dict)

    def headline(self, task: str) -> float:
        """Returns the task's figure of the paper's tables."""
        return float(self.scores[task][headline_name(task)])

    def path(self, folder: str | Path) -> Path:
        """Returns the file of the result: ``MODEL_RULE.json``, a rule's colon as a dash."""
        return result_path(folder, self.model, self.rule)

    def on_top_of(self, earlier: EvalResult) -> EvalResult:
        """Returns an earlier result of the same model with the tasks of this one measured again."""
        return replace(
            earlier,
            sources={**earlier.sources, **self.sources},
            labels={**earlier.labels, **self.labels},
            scores={**earlier.scores, **self.scores},
            read_by={**earlier.read_by, **self.read_by},
        )

    def save(self, folder: str | Path) -> Path:
        """Writes the result and returns the path of its file."""
        path = self.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_rounded(asdict(self)), indent=1, allow_nan=False)
        path.write_text(text + "\n")
        return path


def result_path(folder: str | Path, model: str, rule: str) -> Path:
    """Returns the file of the result of a model under a rule, inside the folder by any name."""
    return Path(folder) / f"{_file_name(model)}_{_file_name(rule)}.json"


def _file_name(name: str) -> str:
    """Returns what is left of a name that every file system takes as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "unnamed"


def _rounded(value: Any) -> Any:
    """Rounds to four digits, and NaN to null, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value


class Evaluator:
    """Accumulates the metrics of all tasks over images.

    Args:
        tasks: Tasks to measure.
        edge_thresholds: Number of thresholds of the boundary measure.
    """

    def __init__(self, tasks: Sequence[str], edge_thresholds: int = 33) -> None:
        levels = [k / (edge_thresholds + 1) for k in range(1, edge_thresholds + 1)]
        self._metrics: dict[str, Any] = {}
        for name in tasks:
            task = get_task(name)
            if task.kind == "classes":
                self._metrics[name] = ClassMetric(len(task.classes))
            elif task.kind == "normals":
                self._metrics[name] = NormalsMetric()
            elif name == "edges":
                self._metrics[name] = BoundaryF(thresholds=levels)
            else:
                self._metrics[name] = SaliencyMetric()

    def update(
        self,
        name: str,
        values: Tensor,
        label: Tensor,
        valid: Tensor,
        annotators: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Adds one image's answer for one task.

        Args:
            name: The task.
            values: What :func:`ctnet.labels.decode` gave, without the batch dimension.
            label: The label of the task, without the batch dimension.
            valid: Pixels that were asked and have a label (H,W).
            annotators: Boundaries of several humans (H,W); they replace the label of edges.
        """
        if not bool(valid.any()):
            return
        if name == "edges":
            truth = annotators or [label.numpy() >= 0.5]
            self._metrics[name].update(values.numpy(), truth, valid=valid.numpy())
        else:
            self._metrics[name].update(values, label, valid)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Returns the figures of each task that was seen."""
        found = {}
        for name, metric in self._metrics.items():
            try:
                found[name] = asdict(metric.compute())
            except ValueError:
                continue
        return found


@torch.inference_mode()
def evaluate(
    model: CompositeModel,
    source: LabelSource,
    rule: str = S,
    name: str = "model",
    limit: int | None = None,
    edge_thresholds: int = 33,
    seed: int = 0,
    progress: bool = True,
    tasks: Sequence[str] | None = None,
    label_tables: bool = True,
    long_side: int = defaults.LONG_SIDE,
) -> EvalResult:
    """Measures a model.

    Args:
        model: Network in eval mode.
        source: Photographs and labels.
        rule: ``S``, a rule's name, or a rule file.
        name: Name of the model in the result.
        limit: Most images a task, taken evenly; None takes all.
        edge_thresholds: Number of thresholds of the boundary measure.
        seed: Seed of mosaic and random palettes.
        progress: Show a progress bar.
        tasks: Tasks to measure; None takes all that the rule asks for.
        label_tables: Read classes by the network's label tables; else by eq. 5 alone.
        long_side: Longest side in pixels at which the network sees a photograph, as for
            ``model.predict``; answers are compared at the size of the label.

    Raises:
        ValueError: If the rule is unknown, or does not ask for a task of ``tasks``; or if no
            photograph has a label of any task that is asked for.
    """
    parsed = None if rule == S else _find_rule(rule, model.tasks)
    semantic = parsed is not None and parsed.needs_labels
    names = model.tasks if parsed is None else parsed.requested(model.tasks)
    for task in tasks or ():
        if task not in names:
            raise ValueError(
                f"{rule} does not ask for the task {task!r}{did_you_mean(task, names)}"
            )
    names = tuple(task for task in names if tasks is None or task in tasks)
    readers = model.readers if label_tables else model.anchor_readers
    by_task = {task: tuple(source.measured_on(task, semantic)) for task in names}
    plan = _plan(source, names, semantic, limit)
    view = View(model, readers, long_side)
    dataset = CompositeDataset(source, parsed, model.tasks)
    evaluator = Evaluator(model.tasks, edge_thresholds)
    bar = tqdm(sorted(plan), desc=f"{name} on {rule}", unit="image", disable=not progress)
    for index in bar:
        sample = dataset[(index, seed * 1_000_003 + index)]
        annotators = source.annotators(index)
        for task, values, asked in view.answers(sample, plan[index], parsed):
            number = model.tasks.index(task)
            valid = sample.valid[number] & asked
            evaluator.update(task, values, sample.labels[task], valid, annotators)
    scores = evaluator.compute()
    if not scores:
        raise ValueError(
            f"nothing to measure: no photograph of {source.name} ({source.split}) has a label "
            f"where {rule} asks for {', '.join(names)}."
        )
    kinds = {
        task: tuple(sorted({source.kind(i, task) for i, names in plan.items() if task in names}))
        for task in by_task
    }
    return EvalResult(
        name,
        parsed.name if parsed else S,
        source.name,
        source.split,
        by_task,
        kinds,
        scores,
        seed,
        {
            task: "table" if isinstance(readers.get(task), TableReader) else "eq. 5"
            for task in by_task
            if get_task(task).kind == "classes"
        },
    )


def _find_rule(name: str, tasks: Sequence[str]) -> Rule:
    try:
        return get_rule(name, tasks)
    except ValueError as error:
        raise ValueError(f"unknown rule {name!r}{did_you_mean(name, RULE_NAMES)}") from error


def _plan(
    source: LabelSource, tasks: Sequence[str], semantic: bool, limit: int | None
) -> dict[int, list[str]]:
    """Chooses the tasks to measure on each image, by index."""
    plan: dict[int, list[str]] = {}
    for task in tasks:
        for index in taken_evenly(measured_images(source, task, semantic), limit):
            plan.setdefault(index, []).append(task)
    return plan
