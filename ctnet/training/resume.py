"""Whether a run may go on by another configuration."""

from __future__ import annotations

from ctnet.training.config import TrainConfig

FREE = (
    "steps", "lr_decay_fraction", "device", "workers", "validate_every", "validate_images", "cache",
    "phases", "rule", "data", "init", "encoder_weights",
)  # fmt: skip
"""Fields that may differ when a run resumes; of the phases, those that have not begun. The last
four are compared by content (:mod:`ctnet.training.content`)."""


def differences(ours: TrainConfig, theirs: TrainConfig, step: int) -> list[str]:
    """Finds what keeps a run from going on by another configuration.

    Args:
        ours: The configuration to go on by.
        theirs: That of the run.
        step: Steps that the run has done.

    Returns:
        Names of the fields that differ in a phase that has begun, but for :data:`FREE`.
    """
    differ: list[str] = []
    begun = [span for span in theirs.spans if span.start < step]
    for span in begun:
        own = ours.span_at(span.start)
        if own.start != span.start:
            return ["phases"]
        mine, other = own.config.to_dict(), span.config.to_dict()
        differ += [k for k in mine if k not in FREE and mine[k] != other[k] and k not in differ]
    if ours.span_at(step - 1).start != begun[-1].start:
        return ["phases"]
    return differ
