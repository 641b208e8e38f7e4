"""Phases: parts of one training run that differ in crop size, rates, sampling or loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ctnet.checks import did_you_mean

PHASE_FIELDS = (
    "crop_size", "scale_range", "batch_size", "learning_rate", "encoder_lr_scale", "weight_decay",
    "warmup_steps", "lr_decay_fraction", "grad_clip_norm", "ema_decay", "frozen_stages",
    "frozen_statistics", "only_tasks", "coarse_only", "loss_weights", "focal_gamma", "logit_scale",
    "self_distillation_weight", "normals_loss", "aux_loss_weight", "encoder_aux_loss_weight",
    "class_weight_power", "class_balanced_fraction", "source_weights", "task_shares",
    "mosaic_fraction", "consistency", "validate_every",
)  # fmt: skip
"""Fields of :class:`~.config.TrainConfig` that a phase may change."""


RENAMED = {
    "size": "crop_size",
    "scale": "scale_range",
    "encoder_rate": "encoder_lr_scale",
    "warmup": "warmup_steps",
    "decay": "lr_decay_fraction",
    "clip": "grad_clip_norm",
    "average": "ema_decay",
    "sharpness": "logit_scale",
    "guidance": "self_distillation_weight",
    "angular": "normals_loss",
    "auxiliary": "aux_loss_weight",
    "encoder_auxiliary": "encoder_aux_loss_weight",
    "coarse": "coarse_only",
    "class_power": "class_weight_power",
    "class_balance": "class_balanced_fraction",
    "mosaic_share": "mosaic_fraction",
}
"""Keys of older recipes and runs, and what they are called now."""


def check_renamed(key: str) -> None:
    """Refuses a key that has another name now.

    Raises:
        ValueError: If it has; the message says the new name.
    """
    if key in RENAMED:
        hint = ' ("cosine" or "angular")' if key == "angular" else ""
        raise ValueError(f"{key!r} is called {RENAMED[key]!r}{hint} now: rename it.")


@dataclass(frozen=True)
class Phase:
    """Part of a training run.

    Attributes:
        steps: Its length.
        name: What the log calls it.
        changes: Fields of the run that differ in it, among :data:`PHASE_FIELDS`. A table such as
            ``loss_weights`` replaces the run's whole table.
    """

    steps: int
    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps of a phase are a whole number above 0; got {self.steps!r}.")
        if not isinstance(self.name, str):
            raise ValueError(f"name of a phase must be text; got {self.name!r}.")
        for key in self.changes:
            check_renamed(key)
            if key not in PHASE_FIELDS:
                allowed = did_you_mean(key, ("steps", "name", *PHASE_FIELDS))
                raise ValueError(f"a phase cannot change {key!r}{allowed}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the phase as one table, the way a recipe writes it."""
        name = {"name": self.name} if self.name else {}
        return {"steps": self.steps, **name, **self.changes}

    @classmethod
    def from_dict(cls, values: Any) -> Phase:
        """Reads a phase from one table.

        Raises:
            ValueError: If it is no table, has no ``steps``, or changes what a phase cannot change.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"phases are tables ([[phases]]); got {values!r:.200}.")
        if "steps" not in values:
            raise ValueError("every phase needs its steps.")
        changes = {key: value for key, value in values.items() if key not in ("steps", "name")}
        return cls(values["steps"], values.get("name", ""), changes)


def stretch(phases: Sequence[Phase], steps: int) -> tuple[Phase, ...]:
    """Scales phases in proportion to a total number of steps.

    Raises:
        ValueError: If there are fewer steps than phases.
    """
    if steps < len(phases):
        raise ValueError(f"{steps} steps are too few for {len(phases)} phases.")
    whole = sum(phase.steps for phase in phases)
    ends = [round(steps * end / whole) for end in accumulate(phase.steps for phase in phases)]
    found: list[Phase] = []
    start = 0
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True), start=1):
        # Each has a step at least, and leaves one for each that follows.
        end = min(max(end, start + 1), steps - len(phases) + number)
        found.append(Phase(end - start, phase.name, phase.changes))
        start = end
    return tuple(found)
