"""Small tables of what the code itself knows: rules and losses."""

from __future__ import annotations

from ctnet.rules import R2, R3
from ctnet.tasks import DEFAULT_TASKS, get_task
from ctnet.training.losses import PAPER_WEIGHTS

LOSSES = {
    "classes": "focal cross-entropy of the class scores",
    "probability": "balanced binary cross-entropy of each of the three numbers",
    "normals": "1 − cosine",
}


def rules() -> str:
    """Builds a Markdown table of the classes that each semantic rule maps to a task."""
    lines = ["| task | " + " | ".join(rule.name for rule in (R2, R3)) + " |", "|---|---|---|"]
    for task in DEFAULT_TASKS:
        classes = [
            ", ".join(cls for cls, asked in rule.mapping if asked == task) or "–"
            for rule in (R2, R3)
        ]
        lines.append(f"| {get_task(task).title} | {' | '.join(classes)} |")
    return "\n".join(lines)


def losses() -> str:
    """Builds a Markdown table of the paper's losses and their weights."""
    lines = ["| task | loss $L_k$ | $\\lambda_k$ |", "|---|---|---|"]
    for task in map(get_task, DEFAULT_TASKS):
        lines.append(f"| {task.title} | {LOSSES[task.kind]} | {PAPER_WEIGHTS[task.name]:g} |")
    return "\n".join(lines)
