"""Fine-tuning: a trained network on a rule of one's own, or with a task more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ctnet.data.dataset import LabelSource, open_source
from ctnet.evaluation.evaluate import EvalResult, evaluate
from ctnet.models.base import CompositeModel
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import get_task
from ctnet.training.config import TrainConfig
from ctnet.training.count_tables import add_label_tables
from ctnet.training.distributed import from_main, is_main
from ctnet.training.trainer import Trainer
from ctnet.training.validation import validator

TABLE_PHOTOGRAPHS = 1500
"""Most photographs that label tables are counted on after fine-tuning."""

CHECKPOINT = "checkpoint"
"""Folder of the fine-tuned network inside a run's folder."""


def finetune(
    model: str | CompositeModel,
    rule: str,
    data: str | Path,
    out: str | Path,
    recipe: str | Path = "finetune",
    **changes: Any,
) -> CompositeModel:
    """Trains a trained network on another rule.

    Args:
        model: The network, or its name in the zoo (or any other that :func:`ctnet.load` takes).
        rule: Rule that makes the palettes: a name, or a rule file.
        data: Folder of the data set; its labels also say how classes are read afterwards
            (:func:`ctnet.training.count_tables.add_label_tables`).
        out: Folder of the run; a run that is there already goes on. The network is written to
            ``OUT/checkpoint``, which ``ctnet.load("local-dir:OUT/checkpoint")`` reads.
        recipe: ``finetune`` trains everything, ``new-task`` only the embeddings of tasks that
            :func:`ctnet.add_task` brought; or a configuration file.
        **changes: Fields of :class:`ctnet.training.config.TrainConfig` that differ from it.

    Returns:
        The best network by validation, in eval mode.

    Raises:
        ValueError: If a name or a value is not allowed.
        FileNotFoundError: If weights, rule file or data are missing.

    Example::

        import ctnet
        from ctnet.training.finetune import finetune

        model = finetune("ctn-r2", "pets.toml", "~/data/compositemt", "runs/pets", steps=300)
        model.predict("photo.jpg", "pets.toml").save("out")
    """
    out = Path(out)
    changes = {"name": out.name, "rule": rule, "data": str(data)} | changes
    if isinstance(model, str):
        changes["init"], weights = model, None
        model = CompositeModel.from_pretrained(model)
    else:
        weights = model.state_dict()
    config = TrainConfig.load(recipe, model=model.config, **changes)
    if not config.only_added:
        config = replace(config, model=replace(config.model, label_tables=()))
    tuned = Trainer(config, out, validator(config), weights=weights).train()
    source = open_source(config.layout, config.data, "train", tuned.tasks, working_size=True)
    kept = model.config.label_tables if config.only_added else ()
    tasks = [task for task in tuned.tasks if task not in kept and _has_classes(source, task)]
    if tasks:
        if is_main():
            tuned, _ = add_label_tables(tuned, source, tasks, TABLE_PHOTOGRAPHS)
        tuned = from_main(tuned)
    if is_main():
        save_checkpoint(tuned, out / CHECKPOINT)
    return tuned


def _has_classes(source: LabelSource, task: str) -> bool:
    """Whether the labels can say how a task's classes are read."""
    return get_task(task).kind == "classes" and any(
        source.kind(index, task) for index in range(len(source.ids))
    )


def compare(
    before: CompositeModel,
    after: CompositeModel,
    rule: str,
    data: str | Path,
    layout: str = "compositemt",
    limit: int | None = None,
) -> tuple[EvalResult, EvalResult]:
    """Measures a network before and after fine-tuning on the same photographs of ``val``.

    Args:
        before: The network that was fine-tuned.
        after: What became of it.
        rule: Rule to measure under.
        data: Folder of the data set.
        layout: Layout of that folder.
        limit: Most images a task; None takes all.
    """
    source = open_source(layout, data, "val", after.tasks)
    first, second = (
        evaluate(model, source, rule, name, limit)
        for model, name in ((before, "before"), (after, "after"))
    )
    return first, second
