"""How far class probabilities are from frequencies, by label tables and by eq. 5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torchmetrics.classification import MulticlassCalibrationError
from tqdm import tqdm

import ctnet
from ctnet.data.dataset import CompositeDataset, measured_images, open_source, taken_evenly
from ctnet.data.label_source import LabelSource
from ctnet.labels import AnchorReader, ClassReader, task_anchors
from ctnet.models.base import CompositeModel
from ctnet.tasks import IGNORE, get_task

BINS = 15
"""Bins of confidence."""

STRIDE = 4
"""Every so many pixels each way count: neighbors say the same."""


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error of a network's class probabilities.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        images: Photographs that counted.
        table: Error of the label table in percent; None where there is no table.
        anchors: Error of the softmax of the scores of eq. 5, in percent.
    """

    model: str
    task: str
    images: int
    table: float | None
    anchors: float


@torch.inference_mode()
def calibration(
    name: str, model: CompositeModel, source: LabelSource, limit: int | None = None
) -> list[Calibration]:
    """Measures how far the probabilities of a network's classes are from their frequencies.

    The expected calibration error (Guo et al. 2017) is the mean over bins of confidence of the
    distance between confidence and accuracy, weighed by the pixels in a bin.

    Args:
        name: Name of the model.
        model: The network.
        source: Photographs and labels; each task counts on the sources that it is measured on.
        limit: Most photographs a task, taken evenly; None takes all.
    """
    found = []
    dataset = CompositeDataset(source, None, model.tasks)
    for number, task in enumerate(map(get_task, model.tasks)):
        if task.kind != "classes":
            continue
        classes = len(task.classes)
        readers: dict[str, ClassReader] = {
            "anchors": AnchorReader(task_anchors(task, model.config.anchors))
        }
        if task.name in model.label_tables.tasks:
            readers["table"] = model.label_tables.reader(task.name)
        errors = {
            way: MulticlassCalibrationError(classes, BINS, ignore_index=IGNORE) for way in readers
        }
        fit = taken_evenly(measured_images(source, task.name), limit)
        for index in tqdm(fit, f"{name}, {task.name}", unit="image"):
            sample = dataset[index]
            palette = torch.full_like(sample.palette, number)
            outputs = model(sample.image[None], palette)[0].permute(1, 2, 0)
            outputs = outputs[::STRIDE, ::STRIDE].reshape(-1, 3)
            labels = sample.labels[task.name][::STRIDE, ::STRIDE].flatten()
            for way, reader in readers.items():
                errors[way].update(reader.probabilities(outputs), labels)
        percent = {way: round(100 * float(error.compute()), 3) for way, error in errors.items()}
        found.append(
            Calibration(name, task.name, len(fit), percent.get("table"), percent["anchors"])
        )
    return found


def measure_calibration(
    names: Sequence[str], data: Path, limit: int | None = None
) -> list[Calibration]:
    """Measures models of the zoo on val."""
    found = []
    for name in names:
        model = ctnet.load(name).fuse()
        source = open_source("compositemt", data, "val", model.tasks)
        found += calibration(name, model, source, limit)
    return found


def save_calibration(found: Sequence[Calibration], path: Path) -> None:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(x) for x in found], indent=1) + "\n", "utf-8")


def calibration_table(path: Path) -> str:
    """Returns a Markdown table of what :func:`save_calibration` wrote."""
    lines = ["| Model | Task | Photographs | Label table | Eq. 5 |", "|---|---|---|---|---|"]
    for x in (Calibration(**values) for values in json.loads(path.read_text("utf-8"))):
        table = "–" if x.table is None else f"{x.table:.1f} %"
        lines.append(f"| `{x.model}` | {x.task} | {x.images} | {table} | {x.anchors:.1f} % |")
    return "\n".join(lines)
