"""Photographs at the size at which networks see them, labels with them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ctnet import defaults
from ctnet.data.wrapped import WrappedSource
from ctnet.prediction.working_size import working_shape
from ctnet.tasks import get_task


class WorkingSizeSource(WrappedSource):
    """A label source whose larger photographs are scaled down to the working size.

    ``predict`` shows a network no larger ones, so that it shall learn from no larger ones either.
    Class maps and masks take the nearest pixel, edges the strongest, so that lines do not fade;
    anything else is averaged.
    """

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels."""
        found = super().load(index)
        size = found["image"].shape[0], found["image"].shape[1]
        wanted = working_shape(size, defaults.LONG_SIDE)
        if wanted == size:
            return found
        return {name: _scaled(name, values, wanted) for name, values in found.items()}


def _scaled(name: str, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if name == "edges":
        strongest = F.adaptive_max_pool2d(torch.from_numpy(values)[None].float(), size)
        return strongest[0].numpy().astype(values.dtype)
    if name.endswith(".valid") or (name != "image" and get_task(name).kind == "classes"):
        picture = Image.fromarray(values.astype(np.uint8))
        scaled = np.array(picture.resize((width, height), Image.Resampling.NEAREST))
        return scaled.astype(values.dtype)
    way = Image.Resampling.LANCZOS if name == "image" else Image.Resampling.BOX
    return np.array(Image.fromarray(values).resize((width, height), way))
