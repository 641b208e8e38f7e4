"""Fine-tuning: a trained network on a rule of one's own, or with a task more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctnet.evaluation.evaluate import EvalResult, evaluate
from ctnet.evaluation.validation import validator
from ctnet.networks.composite import CompositeModel
from ctnet.training.config import TrainConfig
from ctnet.training.datasets import open_source
from ctnet.training.distributed import is_main
from ctnet.training.trainer import Trainer
from ctnet.zoo import load
from ctnet.zoo.checkpoint import save_checkpoint

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
        data: Folder of the data set.
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
        model = load(model)
    else:
        weights = model.state_dict()
    config = TrainConfig.load(recipe, model=model.config, **changes)
    tuned = Trainer(config, out, validator(config), weights=weights).train()
    if is_main():
        save_checkpoint(tuned, out / CHECKPOINT)
    return tuned


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
