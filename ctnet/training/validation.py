"""Validation during training: a quick measure whose ``score`` picks the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ctnet.evaluation.evaluate import evaluate
from ctnet.models.base import CompositeModel
from ctnet.rules import S, get_rule
from ctnet.tasks import get_task
from ctnet.training.config import TrainConfig
from ctnet.training.preview import write_preview

PREVIEW = "predictions.png"
"""Picture of the last validation in a run's folder."""

EDGE_THRESHOLDS = 7
WORST_ANGLE = 90.0


def validator(
    config: TrainConfig, folder: Path | None = None
) -> Callable[[CompositeModel], Mapping[str, float]]:
    """Builds the measure of a run.

    Rules that map classes are validated on themselves, the others on S. ``score`` is the mean of
    the tasks' figures, each on a scale where 100 is perfect.

    Args:
        config: The run.
        folder: Folder of the run, where a picture of what the network does is written each time
            (:mod:`ctnet.training.preview`).

    Raises:
        FileNotFoundError: If the data set is not there.
        ValueError: If it has no split to validate on.
    """
    own = config.rule != S and get_rule(config.rule, config.model.tasks).needs_labels
    rule = config.rule if own else S
    share = max(1, config.validate_images // len(config.model.tasks))
    limit = share if config.validate_images else None
    source = config.open_data(config.splits[1], working_size=False)

    def measure(model: CompositeModel) -> Mapping[str, float]:
        result = evaluate(
            model,
            source,
            rule,
            limit=limit,
            edge_thresholds=EDGE_THRESHOLDS,
            progress=False,
        )
        if folder is not None:
            write_preview(model, source, folder / PREVIEW)
        figures = {task: result.headline(task) for task in result.scores}
        scaled = [_out_of_100(task, figure) for task, figure in figures.items()]
        return {**figures, "score": sum(scaled) / len(scaled)}

    return measure


def _out_of_100(task: str, figure: float) -> float:
    if task == "edges":
        return 100 * figure
    return 100 * (1 - figure / WORST_ANGLE) if get_task(task).kind == "normals" else figure
