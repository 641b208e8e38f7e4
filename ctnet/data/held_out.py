"""A fixed twentieth of the photographs that a network learns from, to choose checkpoints by.

A checkpoint that is chosen on ``val`` is a little better there than anywhere else. So a run may
keep a part of ``train`` for the choice: the photographs whose names hash to it, which are the same
on every machine, in every layout, and however many photographs are added.
"""

from __future__ import annotations

import hashlib

from ctnet.data.label_source import LabelSource
from ctnet.data.wrapped import SubsetSource

SPLITS = ("held-in", "held-out")
"""The two parts of ``train``."""

PARTS = 20
"""One in this many photographs is held out."""


def is_held_out(name: str) -> bool:
    """Tells whether the photograph of that name is in the part that is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % PARTS == 0


def split_train(source: LabelSource, split: str) -> SubsetSource:
    """Takes a part of the train split.

    Args:
        source: The train split.
        split: ``held-in`` or ``held-out``.

    Raises:
        ValueError: If that part has no photograph, as may be where there are few.
    """
    wanted = split == "held-out"
    indices = [i for i, name in enumerate(source.ids) if is_held_out(name) == wanted]
    if not indices:
        raise ValueError(
            f"none of the {len(source.ids)} photographs of {source.name} is {split}: too few for "
            "held_out = true."
        )
    return SubsetSource(source, indices, split)
