"""Fine-tuning: a trained network on your photographs, by your rule or with your task."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctnet.checks import did_you_mean
from ctnet.data.check import check_data
from ctnet.data.dataset import find_layout, open_source
from ctnet.data.derived import DERIVATIONS
from ctnet.data.folder import FolderSource
from ctnet.data.label_files import NoPhotographsError
from ctnet.data.label_source import LabelSource
from ctnet.evaluation.evaluate import EvalResult, evaluate
from ctnet.models.add_task import add_task as grow
from ctnet.models.base import CompositeModel
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import TASKS, TaskSpec, get_task
from ctnet.training.config import TrainConfig
from ctnet.training.count_tables import add_label_tables
from ctnet.training.distributed import from_main, is_main
from ctnet.training.trainer import Trainer
from ctnet.training.validation import validator

TABLE_PHOTOGRAPHS = 1500
"""Largest number of photographs for counting label tables after fine-tuning."""

MOST_PROBLEMS = 10
"""Largest number of unusable files that an error lists."""

CHECKPOINT = "checkpoint"
"""Folder of the fine-tuned network inside a run's folder."""


def finetune(
    model: str | CompositeModel,
    data: str | Path,
    out: str | Path,
    rule: str = "R1",
    add_task: str | TaskSpec | None = None,
    like: str | None = None,
    train_all: bool = False,
    only: Sequence[str] = (),
    recipe: str | Path | None = None,
    skip_bad: bool = False,
    **changes: Any,
) -> CompositeModel:
    """Trains a trained network on your photographs: on another rule, or a task of your own.

    Args:
        model: The network, or its name in the zoo (or any other that :func:`ctnet.load` takes).
        data: Folder of the data set (:mod:`ctnet.data.folder`, or another layout); its labels also
            say how classes are read afterwards
            (:func:`ctnet.training.count_tables.add_label_tables`).
        out: Folder of the run; a run that is there already goes on. The network is written to
            ``OUT/checkpoint``, which ``ctnet.load("local-dir:OUT/checkpoint")`` reads.
        rule: Rule that makes the palettes: a name, or a rule file. Mosaics (R1) ask for the tasks
            that a photograph has labels for.
        add_task: New task: its name, whose classes the data tells, or the task itself.
        like: Task whose embedding the new one starts from; None starts from the mean of all.
        train_all: Train everything together with the new task, not its embedding alone. Without
            it, no other task's answers change.
        only: Tasks of the network that alone get better: nothing learns but the scales and shifts
            that the decoder gives them, so that no other task's answers change. The rule
            ``single:TASK`` suits one.
        recipe: ``finetune`` trains everything, ``new-task`` only the embeddings of tasks that were
            added, ``one-task`` what ``only`` names; or a configuration file. None chooses by the
            other arguments.
        skip_bad: Go on without the photographs of a ``folder`` data set whose files cannot be used.
        **changes: Fields of :class:`ctnet.training.config.TrainConfig` that differ from it.

    Returns:
        The best network by validation, or the last one where there is none, in eval mode.

    Raises:
        ValueError: If a name or a value is not allowed, or files of the data cannot be used.
        FileNotFoundError: If weights, rule file or data are missing.

    Example::

        import ctnet

        model = ctnet.finetune("ctn-r1", "clothing/", "runs/clothing", add_task="clothing")
        model.predict("photo.jpg", "single:clothing").save("out")
    """
    out = Path(out)
    if add_task is None and (like is not None or train_all):
        raise ValueError("like and train_all go with add_task.")
    if add_task is not None and only:
        raise ValueError("add_task brings a task, only trains some that are there: choose one.")
    recipe = recipe or choose_recipe(add_task is not None and not train_all, only)
    changes = {"name": out.name, "rule": rule, "data": str(data)} | changes
    if only:
        changes["only_tasks"] = tuple(only)
    if isinstance(model, str) and add_task is None:
        changes["init"], weights = model, None
        model = CompositeModel.from_pretrained(model)
    else:
        model = CompositeModel.from_pretrained(model) if isinstance(model, str) else model
        if add_task is not None:
            layout = str(changes.get("layout", "auto"))
            model = grow(model, find_task(add_task, data, layout), like)
        weights = model.state_dict()
    config = TrainConfig.load(recipe, model=model.config, **changes)
    config = replace(config, skip=(*config.skip, *_bad_photographs(config, skip_bad)))
    kept = _kept_tables(config)
    config = replace(config, model=replace(config.model, label_tables=kept))
    tuned = Trainer(config, out, _validator(config, out), weights=weights).train()
    source = replace(config, model=tuned.config, teacher="none").open_data("train")
    tasks = [task for task in tuned.tasks if task not in kept and _has_classes(source, task)]
    if tasks:
        if is_main():
            tuned, _ = add_label_tables(tuned, source, tasks, TABLE_PHOTOGRAPHS)
        tuned = from_main(tuned)
    if is_main():
        save_checkpoint(tuned, out / CHECKPOINT)
    return tuned


def choose_recipe(added: bool, only: Sequence[str]) -> str:
    """Names the recipe for training an added task alone, some tasks alone, or everything."""
    if only:
        return "one-task"
    return "new-task" if added else "finetune"


def _kept_tables(config: TrainConfig) -> tuple[str, ...]:
    """Tasks whose classes are read as before, as their answers do not change."""
    if not (config.only_added or config.only_tasks):
        return ()
    return tuple(task for task in config.model.label_tables if task not in config.only_tasks)


def find_task(task: str | TaskSpec, data: str | Path, layout: str = "auto") -> str | TaskSpec:
    """Finds a task that a network shall learn: a known one, or one that the data declares.

    Args:
        task: Its name, or the task itself.
        data: Folder of the data set.
        layout: Layout of that folder.

    Raises:
        ValueError: If no task has that name and the data has no labels of it.
    """
    if isinstance(task, TaskSpec) or task in TASKS:
        return task
    if task in DERIVATIONS:
        return DERIVATIONS[task].task
    source = open_source(layout, data, "train")
    known = source.specs if isinstance(source, FolderSource) else {}
    if task not in known:
        names = [*TASKS, *DERIVATIONS, *known]
        raise ValueError(
            f"unknown task {task!r}, to ctnet and in {data}{did_you_mean(task, names)}"
        )
    return known[task]


def _bad_photographs(config: TrainConfig, skip_bad: bool) -> tuple[str, ...]:
    """Finds the photographs of a folder whose files cannot be used, before training begins."""
    layout = config.layout if config.layout != "auto" else find_layout(config.data)
    if layout != "folder":
        return ()
    report = check_data(config.data, layout, config.val_share)
    if report.problems and not skip_bad:
        shown = "\n".join(f"  {problem}" for problem in report.problems[:MOST_PROBLEMS])
        raise ValueError(
            f"{len(report.problems)} files of {config.data} cannot be used:\n{shown}\n"
            f"'ctnet data check {config.data}' lists them all; skip_bad (--skip-bad) goes on "
            "without them."
        )
    for problem in report.problems:
        warnings.warn(f"left out: {problem}", stacklevel=3)
    return report.bad


def _validator(
    config: TrainConfig, out: Path
) -> Callable[[CompositeModel], Mapping[str, float]] | None:
    """Builds the measure of a run; None where a folder has no photographs to validate on."""
    try:
        config.open_data(config.splits[1])
    except NoPhotographsError:
        return None
    return validator(config, out)


def _has_classes(source: LabelSource, task: str) -> bool:
    """Whether the labels can say how a task's classes are read."""
    return get_task(task).kind == "classes" and any(
        source.kind(index, task) for index in range(len(source.ids))
    )


def compare(
    before: CompositeModel,
    after: CompositeModel,
    rule: str,
    run: str | Path,
    limit: int | None = None,
) -> tuple[EvalResult, EvalResult]:
    """Measures a network before and after fine-tuning on the same photographs of ``val``.

    Args:
        before: The network that was fine-tuned.
        after: What became of it.
        rule: Rule to measure under.
        run: Folder of the run, which says what the data are.
        limit: Most images per task; None takes all.

    Raises:
        ValueError: If there are no photographs to validate on.
    """
    facts = json.loads((Path(run) / "run.json").read_text())
    config = replace(TrainConfig.from_dict(facts["config"]), model=after.config)
    source = config.open_data("val", working_size=False)
    first, second = (
        evaluate(model, source, rule, name, limit)
        for model, name in ((before, "before"), (after, "after"))
    )
    return first, second
