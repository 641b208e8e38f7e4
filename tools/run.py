"""Read a finished training run: its weights, and the facts for card and manifest."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ctnet.models.convert import TABLES, adapt_weights, config_with_tables
from ctnet.training.config import TrainConfig
from ctnet.zoo.manifest import read_manifest

DATA = (
    "CompositeMT-mini (PASCAL VOC 2012/SBD, small COCO subsets, NYUv2, Clothing Co-Parsing, "
    "ECSSD, BSDS500, Caltech-101, CamVid, ImageNet samples; labels partly distilled). The "
    "photographs' terms limit them to research use."
)
TEACHER = (
    "Part of the segmentation learned from the labels of a teacher network (DeepLabV3-MobileNetV2, "
    "trained on PASCAL VOC, Apache-2.0) on train photographs. The teacher may have seen "
    "photographs of our val split in its own training."
)
"""Remark on the cards of networks that learned from a teacher's labels."""


@dataclass(frozen=True)
class Run:
    """A training run to publish.

    Attributes:
        folder: Folder of the run.
        hardware: Hardware of the training.
        note: Remark on the training, such as an early stop; may be empty.
        earlier: Folders of earlier runs of the same training, in order.
        averaged: Folders of runs whose weights are averaged with those of this run (Wortsman et
            al., "Model soups", ICML 2022). They may be earlier runs, or the run of the CTN that
            this one started from. A folder that is named twice counts twice.
    """

    folder: Path
    hardware: str
    note: str = ""
    earlier: tuple[Path, ...] = ()
    averaged: tuple[Path, ...] = ()

    @property
    def config(self) -> TrainConfig:
        """The configuration of the run."""
        return TrainConfig.from_dict(_facts(self.folder)["config"])

    def weights(self) -> dict[str, Tensor]:
        """Reads the best weights by validation, or the last if the run had no validation."""
        folders = (self.folder, *self.averaged)
        read = [_read_weights(folder) for folder in folders]
        own = config_with_tables(self.config.model, read[0])
        parts = [adapt_weights(weights, own) for weights in read]
        mean = {
            name: torch.stack([part[name].float() for part in parts]).mean(0).to(value.dtype)
            if value.is_floating_point()
            else value
            for name, value in parts[0].items()
        }
        # The mean of log-probabilities holds no probabilities yet.
        tables = {name: mean[name].float() for name in mean if name.startswith(TABLES)}
        return mean | {name: table.log_softmax(-1).half() for name, table in tables.items()}

    @property
    def data(self) -> str:
        """The data, as card and manifest describe it."""
        folders = (self.folder, *self.earlier, *self.averaged)
        return f"{DATA} {TEACHER}" if any(map(_had_teacher, folders)) else DATA

    def training(self) -> dict[str, Any]:
        """Returns the facts of the training for card and manifest."""
        folders = (*self.earlier, self.folder)
        runs = [_facts(folder) for folder in folders]
        configs = [TrainConfig.from_dict(run["config"]) for run in runs]
        start = configs[0]
        facts = {
            "split": "train, less the twentieth that chose the weights"
            if start.held_out
            else "train",
            "steps": ", then ".join(
                f"{sum(steps for _, steps in parts)} × {batch}"
                for batch, parts in groupby(
                    (
                        part
                        for run, config in zip(runs, configs, strict=True)
                        for part in _crops(config, run["step"])
                    ),
                    key=itemgetter(0),
                )
            ),
            "seconds": sum(run["seconds"] for run in runs),
            "seed": start.seed,
            "start": Path(start.init).stem if start.init else "ImageNet encoder",
            "hardware": self.hardware,
        }
        if self.averaged:
            counts = Counter(folder.name for folder in (*self.averaged, self.folder))
            *first, last = (f"{n} × {name}" if n > 1 else name for name, n in counts.items())
            names = f"{', '.join(first)} and {last}" if first else last
            facts["weights"] = f"mean of the ends of {names}"
        return facts | ({"note": self.note} if self.note else {})


def _crops(config: TrainConfig, steps: int) -> list[tuple[str, int]]:
    """Returns for each phase within the first ``steps`` its batch and its number of steps."""
    return [
        (
            f"{phase.batch_size} crops of {phase.crop_size} px{' at stride 4' * phase.coarse_only}",
            min(steps, span.end) - span.start,
        )
        for span in config.spans
        for phase in (span.config,)
        if span.start < steps
    ]


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    return facts


def _had_teacher(folder: Path) -> bool:
    """Returns whether a run, or the run it started from, used a teacher's labels."""
    if not (folder / "run.json").exists():
        return False
    config = TrainConfig.from_dict(_facts(folder)["config"])
    if config.teacher != "none":
        return True
    if config.init is None:
        return False
    start = read_manifest().get(config.init)
    return TEACHER in start.data if start else _had_teacher(Path(config.init))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    best = folder / "best.safetensors"
    return load_file(best if best.exists() else folder / "last.safetensors")
