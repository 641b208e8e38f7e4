"""Checks any kind of palette and turns it into one kind of tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctnet.palette import Palette
from ctnet.tasks import IGNORE


def palette_tensor(
    palette: Tensor | Palette | npt.NDArray[np.generic],
    tasks: tuple[str, ...],
    shape: tuple[int, int, int],
) -> Tensor:
    """Checks a palette against an image and gives it the image's batch size.

    Args:
        palette: Task ids (N,H,W) or (H,W), a palette, or fractions (N,K,H,W) or (K,H,W); a tensor
            or an array.
        tasks: Names of the tasks by id.
        shape: The image's (N,H,W).

    Returns:
        Task ids (N,H,W) or fractions (N,K,H,W).

    Raises:
        ValueError: If the palette has another size, an unknown id or invalid fractions.
    """
    if isinstance(palette, Palette):
        if palette.tasks != tasks:
            raise ValueError(f"the palette's tasks are {palette.tasks}, ours {tasks}.")
        palette = palette.tensor()
    if isinstance(palette, np.ndarray):
        palette = torch.from_numpy(np.ascontiguousarray(palette))
    if not isinstance(palette, Tensor):
        raise ValueError(
            "a palette is a ctnet.Palette, or a tensor or array of task ids or fractions; got "
            f"{type(palette).__name__}. model.predict takes rules and files too."
        )
    n, height, width = shape
    if palette.is_floating_point():
        return _soft(palette, tasks, shape)
    if palette.dtype == torch.bool:
        raise ValueError("a palette holds task ids (int) or fractions (float); got bool.")
    if palette.ndim == 2:
        palette = palette[None]
    if palette.ndim != 3 or palette.shape[1:] != (height, width) or len(palette) not in (1, n):
        raise ValueError(
            f"the palette is {tuple(palette.shape)}, the image {shape}: both need the same "
            "height and width, and one palette or one for each image."
        )
    palette = palette.long()
    # One of several processes that train together may have no image with a label.
    if not palette.numel():
        return palette
    lowest, highest = int(palette.min()), int(palette.max())
    # Most palettes ask for something everywhere: no need to look at each pixel twice.
    if lowest < 0 or highest >= len(tasks):
        known = (palette >= 0) & (palette < len(tasks)) | (palette == IGNORE)
        if bool(known.all()):
            return palette.expand(n, -1, -1)
        unknown = sorted({int(i) for i in torch.unique(palette[~known])})
        ids = ", ".join(f"{i} = {name}" for i, name in enumerate(tasks))
        raise ValueError(f"unknown task ids {unknown[:5]}; known: {ids}, {IGNORE} = nothing.")
    return palette.expand(n, -1, -1)


def _soft(palette: Tensor, tasks: tuple[str, ...], shape: tuple[int, int, int]) -> Tensor:
    n, height, width = shape
    if palette.ndim == 3:
        palette = palette[None]
    wanted = (len(tasks), height, width)
    if palette.ndim != 4 or palette.shape[1:] != wanted or len(palette) not in (1, n):
        raise ValueError(
            f"a palette of fractions is (N,K,H,W), here {(n, *wanted)}; got {tuple(palette.shape)}."
        )
    sums = palette.detach().sum(1)
    if bool((palette.detach() < 0).any()) or not torch.allclose(
        sums, torch.ones_like(sums), atol=1e-3
    ):
        raise ValueError("a palette of fractions is at least 0 and sums to 1 over the tasks.")
    return palette.expand(n, -1, -1, -1)
