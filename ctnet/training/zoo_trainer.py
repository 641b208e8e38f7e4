"""Trains the whole zoo in one process: one batch, cut and augmented once, for many networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctnet.checks import did_you_mean
from ctnet.data.crop_batches import CropBatches
from ctnet.data.label_source import LabelSource
from ctnet.data.photograph_stack import PhotographStack
from ctnet.data.wrapped import CachedSource
from ctnet.models.checkpoint import save_checkpoint
from ctnet.models.device import pick_device
from ctnet.training.config import TrainConfig
from ctnet.training.loop import DivergedError, TrainingLoop
from ctnet.training.palette_trainer import PaletteTrainer, palette_validator
from ctnet.training.stop import RunStoppedError, StopSignals
from ctnet.training.trainer import Trainer
from ctnet.training.validation import validator

GROUPS = (
    ("ctn-r1", "ctn-r2", "palette-r2", "stn-s", "mhn-r2"),
    ("ctn-r2-r3", "ctn-r3", "ctn-rnd"),
    ("mhn-s", "mhn-r1", "stn-r1", "stn-r2"),
)
"""Networks that train side by side, most wanted first; a later group may start from an earlier."""

SHARED = ("data", "layout", "val_share", "skip", "held_out", "teacher", "crop_size", "scale_range",
          "batch_size", "seed", "source_weights", "class_balanced_fraction", "device")  # fmt: skip
"""Fields that must agree between runs that train side by side."""


def create_loop(
    config: TrainConfig, folder: str | Path, source: LabelSource | None = None
) -> TrainingLoop[Any]:
    """Makes the training loop of a configuration, with its validation.

    Args:
        config: The run; its system tells whether a palette network is trained.
        folder: Folder of the run.
        source: Photographs and labels, where they are open already.
    """
    if config.model.system == "palette":
        return PaletteTrainer(config, folder, palette_validator(config), source)
    return Trainer(config, folder, validator(config, Path(folder)), source)


def train_zoo(
    out: str | Path, only: Sequence[str] | None = None, **changes: Any
) -> Iterator[tuple[str, Path]]:
    """Trains networks of the zoo by their recipes.

    Decoding and augmentation are done once for all networks that train side by side. Everything
    resumes; a network that is finished is passed over.

    Args:
        out: Folder of the runs, one folder each.
        only: Names to train; None for all.
        **changes: Fields of :class:`ctnet.training.config.TrainConfig` that differ from the
            recipes, such as ``data`` or ``steps``.

    Yields:
        Name and checkpoint of each network, when its group is finished.

    Raises:
        ValueError: If a name or a value is not allowed.
        FileNotFoundError: If the data is missing.
    """
    out = Path(out)
    known = [name for group in GROUPS for name in group]
    for name in only or ():
        if name not in known:
            raise ValueError(f"the zoo has no recipe {name!r}{did_you_mean(name, known)}")
    stack: PhotographStack | None = None
    source: LabelSource | None = None
    for group in GROUPS:
        names = [name for name in group if only is None or name in only]
        configs = [_config(name, out, changes) for name in names]
        if not configs:
            continue
        first = configs[0]
        source = source or CachedSource(first.open_data())
        loops = [create_loop(config, out / config.name, source) for config in configs]
        if any(loop.step < loop.config.steps for loop in loops):
            tasks = first.model.tasks
            stack = stack or PhotographStack.load(source, tasks, pick_device(first.device))
            crops = CropBatches(
                source,
                tasks,
                loops[0].draws(None),
                first.crop_size,
                first.scale_range,
                stack=stack,
            )
            train_side_by_side(loops, crops)
        for loop in loops:
            folder = out / loop.config.name / "checkpoint"
            yield loop.config.name, save_checkpoint(loop.finish(), folder)


def _config(name: str, out: Path, changes: dict[str, Any]) -> TrainConfig:
    config = TrainConfig.load(f"zoo/{name}")
    if config.init is not None:
        # Recipes name the run of a sibling.
        changes = changes | {"init": str(out / Path(config.init).name)}
    return TrainConfig.load(f"zoo/{name}", **changes)


def train_side_by_side(loops: Sequence[TrainingLoop[Any]], batches: CropBatches) -> None:
    """Runs training loops to their ends, each batch shared by all that have yet to see it.

    Args:
        loops: The runs; they agree in :data:`SHARED`.
        batches: The batches by step.

    Raises:
        ValueError: If the runs differ in what they share, or have phases.
        RunStoppedError: After SIGINT or SIGTERM, with the states saved.
        DivergedError: If the loss of one is not finite; the states of the others are saved.
    """
    for loop in loops:
        if loop.config.phases:
            raise ValueError(f"runs side by side have no phases; {loop.config.name} has some.")
    for name in SHARED:
        values = {repr(getattr(loop.config, name)) for loop in loops}
        if len(values) > 1:
            raise ValueError(f"runs side by side share {name}; got {', '.join(sorted(values))}.")
    start = min(loop.step for loop in loops)
    end = max(loop.config.steps for loop in loops)
    signals = StopSignals()
    for loop in loops:
        loop.signals = signals
    try:
        with (
            signals.caught(),
            tqdm(range(start, end), "zoo", end, unit="step", initial=start) as bar,
        ):
            for step in bar:
                shared = batches[step]
                for loop in loops:
                    if loop.step == step < loop.config.steps:
                        loop.advance(loop.requests.ask(shared, step))
    except (KeyboardInterrupt, DivergedError) as error:
        for loop in loops:
            loop.stopped()
            loop.close()
        if isinstance(error, KeyboardInterrupt):
            raise RunStoppedError("stopped; the same command goes on.") from None
        raise
