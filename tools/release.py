"""Turns a finished training run into a model of the zoo: files, card and manifest entry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ctnet.evaluation.evaluate import EvalResult, headline_name
from ctnet.evaluation.results import read_results
from ctnet.models.checkpoint import load_network, parameter_count, save_checkpoint
from ctnet.models.convert import adapt_weights, config_with_tables
from ctnet.models.registry import build_network
from ctnet.training.config import TrainConfig
from ctnet.zoo.files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, file_info
from ctnet.zoo.locate import locate, places
from ctnet.zoo.manifest import MANIFEST, FileInfo, ModelInfo, read_manifest, write_manifest
from tools.cards import model_card

LICENCE = "MIT"
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
"""What the card of a network says that learned from a teacher's labels."""


@dataclass(frozen=True)
class Run:
    """A training run to publish.

    Attributes:
        folder: Folder of the run.
        hardware: What it ran on.
        note: What a reader must know of it, such as an early end; may be empty.
        earlier: Folders of the runs that it went on from, the first one first, where they are
            parts of the same training.
        averaged: Earlier ones, or the run of a CTN that it started from, whose weights are averaged
            with this one's in equal parts, as often as they are named (Wortsman et al., "Model
            soups", ICML 2022).
    """

    folder: Path
    hardware: str
    note: str = ""
    earlier: tuple[Path, ...] = ()
    averaged: tuple[Path, ...] = ()

    @property
    def config(self) -> TrainConfig:
        """The run's configuration."""
        return TrainConfig.from_dict(_facts(self.folder)["config"])

    def weights(self) -> dict[str, Tensor]:
        """Reads the best weights by validation, or the last where there was none."""
        folders = (self.folder, *self.averaged)
        parts = [adapt_weights(_read_weights(folder), self.config.model) for folder in folders]
        return {
            name: torch.stack([part[name] for part in parts]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in parts[0].items()
        }

    @property
    def data(self) -> str:
        """What the card and the manifest say of the data."""
        folders = (self.folder, *self.earlier, *self.averaged)
        return f"{DATA} {TEACHER}" if any(map(_had_teacher, folders)) else DATA

    def training(self) -> dict[str, Any]:
        """Returns what the card and the manifest say of the training."""
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
    """Returns what a batch was in each phase of a run of so many steps, and for how many."""
    return [
        (
            f"{phase.batch_size} crops of {phase.size} px{' at stride 4' * phase.coarse}",
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
    """Whether a run, or what its weights started from, learned from a teacher's labels."""
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


def export_run(run: Run, folder: str | Path) -> Path:
    """Writes the checkpoint of a run, weights as fp16.

    Returns:
        The folder, for ``ctnet eval local-dir:FOLDER``.
    """
    weights = run.weights()
    model = build_network(config_with_tables(run.config.model, weights))
    model.load_state_dict(weights, strict=True)
    return save_checkpoint(model, folder, half=True)


def register(
    folder: str | Path, run: Run, summary: str, results: str | Path, manifest: Path = MANIFEST
) -> ModelInfo:
    """Writes the card of a checkpoint and its entry in the manifest.

    Args:
        folder: The checkpoint; its last part is the model's name.
        run: The run that it comes from.
        summary: What the model is, in a sentence.
        results: Folder with the results of ``ctnet eval`` on it.
        manifest: The manifest to change.

    Raises:
        FileNotFoundError: If there is no result for the model.
    """
    folder = Path(folder)
    measured = [r for r in read_results(results) if r.model == folder.name]
    if not measured:
        raise FileNotFoundError(f"no results for {folder.name} in {results}: run ctnet eval first.")
    model = load_network(folder)
    info = ModelInfo(
        name=folder.name,
        summary=summary,
        config=model.config.to_dict(),
        parameters=parameter_count(model),
        rule=run.config.rule,
        licence=LICENCE,
        data=run.data,
        training=run.training(),
        metrics=_metrics(measured),
        files=_files(folder),
    )
    _enter(info, folder, measured, manifest)
    return info


def refresh(name: str, results: str | Path, manifest: Path = MANIFEST) -> None:
    """Brings card and entry of a model up to date with its files and its results.

    Args:
        name: The model; its files are in the package or the checkout.
        results: Folder with the results of ``ctnet eval`` on it.
        manifest: The manifest to change.
    """
    known = read_manifest(manifest)[name]
    # The files need not be those of the manifest yet.
    folder = next(Path(str(place.where)) for place in places(known) if place.found)
    measured = [r for r in read_results(results) if r.model == name]
    info = replace(
        known,
        config=load_network(folder).config.to_dict(),
        metrics=_metrics(measured),
        files=_files(folder),
    )
    _enter(info, folder, measured, manifest)


def _metrics(results: Sequence[EvalResult]) -> dict[str, dict[str, float]]:
    return {
        r.rule: {f"{task}.{headline_name(task)}": round(r.headline(task), 4) for task in r.scores}
        for r in results
    }


def _files(folder: Path) -> dict[str, FileInfo]:
    return {name: file_info(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}


def _enter(info: ModelInfo, folder: Path, results: Sequence[EvalResult], manifest: Path) -> None:
    """Writes the card and the entry of a model."""
    (folder / CARD_FILE).write_text(model_card(info, results), "utf-8")
    models = read_manifest(manifest) if manifest.exists() else {}
    write_manifest({**models, info.name: info}, manifest)


def write_cards(results: str | Path) -> None:
    """Writes the cards of all models of the zoo anew, from the manifest and the results."""
    measured = read_results(results)
    for info in read_manifest().values():
        card = model_card(info, [result for result in measured if result.model == info.name])
        (locate(info.name) / CARD_FILE).write_text(card, "utf-8")
