"""Validation during training: a quick measure whose ``score`` picks the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ctnet.data.dataset import open_source
from ctnet.evaluation.evaluate import evaluate
from ctnet.models.base import CompositeModel
from ctnet.rules import S, get_rule
from ctnet.tasks import get_task
from ctnet.training.config import TrainConfig

EDGE_THRESHOLDS = 7
WORST_ANGLE = 90.0


def validator(config: TrainConfig) -> Callable[[CompositeModel], Mapping[str, float]]:
    """Builds the measure of a run.

    Rules that map classes are validated on themselves, the others on S. ``score`` is the mean of
    the tasks' figures, each on a scale where 100 is perfect.

    Raises:
        FileNotFoundError: If the data set is not there.
        ValueError: If it has no split to validate on.
    """
    own = config.rule != S and get_rule(config.rule, config.model.tasks).needs_labels
    rule = config.rule if own else S
    share = max(1, config.validate_images // len(config.model.tasks))
    limit = share if config.validate_images else None
    source = open_source(config.layout, config.data, config.splits[1], config.model.tasks)

    def measure(model: CompositeModel) -> Mapping[str, float]:
        result = evaluate(
            model,
            source,
            rule,
            limit=limit,
            edge_thresholds=EDGE_THRESHOLDS,
            progress=False,
        )
        figures = {task: result.headline(task) for task in result.scores}
        scaled = [_out_of_100(task, figure) for task, figure in figures.items()]
        return {**figures, "score": sum(scaled) / len(scaled)}

    return measure


def _out_of_100(task: str, figure: float) -> float:
    if task == "edges":
        return 100 * figure
    return 100 * (1 - figure / WORST_ANGLE) if get_task(task).kind == "normals" else figure
