"""Further tasks for a trained network: a new embedding, and no new module (section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from ctnet.checks import did_you_mean
from ctnet.models.base import CompositeModel, build
from ctnet.models.ctn import CTN
from ctnet.tasks import TaskName, TaskSpec, get_task, register_task


def add_task(model: CompositeModel, task: str | TaskSpec, like: str | None = None) -> CTN:
    """Adds a task to a network; its id is the next one.

    The new task has an embedding of its own, a parameter; everything else stays as it was and
    serves all tasks. Trained alone (:func:`freeze_old_tasks`) it changes no other task's output
    by a single bit.

    Args:
        model: A CTN. It is left as it is; the new network has copies of its parameters.
        task: The task: your own, or the name of one that is known.
        like: Task whose embedding the new one starts from; None starts from the mean of all.

    Returns:
        The network, in the mode that ``model`` is in.

    Raises:
        ValueError: If the model is no CTN or does the task already, or a name is unknown.

    Example::

        depth = ctnet.TaskSpec("depth", "depth", "probability", (194, 24, 91))
        model = ctnet.add_task(ctnet.load("ctn-r1"), depth, like="normals")
    """
    if not isinstance(model, CTN):
        raise ValueError(
            f"a task is added to a CTN; a {model.config.system} needs a new decoder for it."
        )
    spec = register_task(task) if isinstance(task, TaskSpec) else get_task(task)
    if spec.name in model.tasks:
        raise ValueError(f"the network does {spec.name!r} already: {', '.join(model.tasks)}.")
    if like is not None and like not in model.tasks:
        raise ValueError(f"the network has no task {like!r}{did_you_mean(like, model.tasks)}")
    tasks = (*model.tasks, TaskName(spec))
    config = replace(model.config, tasks=tasks, added=model.config.added + 1)
    grown = cast(CTN, build(config))
    with torch.no_grad():
        known = model.representation()
        start = known.mean(0) if like is None else known[model.tasks.index(like)]
        added = model.representation.added
        rows = start[None] if added is None else torch.cat([added, start[None]])
    state = model.state_dict() | {"representation.added": rows}
    grown.to(start).load_state_dict(state, strict=True)
    return grown.train(model.training)


def freeze_old_tasks(model: nn.Module) -> nn.Parameter:
    """Freezes a network but for the embeddings of the tasks that were added to it.

    Keep the network in eval mode while these learn: the statistics of norms serve old tasks too.

    Returns:
        The embeddings, the one parameter that still requires gradients.

    Raises:
        ValueError: If no task was added to the network.
    """
    added = model.representation.added if isinstance(model, CTN) else None
    if added is None:
        raise ValueError("no task was added to this network; see ctnet.add_task.")
    model.requires_grad_(False)
    added.requires_grad_()
    return added
