"""Photographs and their labels, decoded on a device, and crops cut out of them there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ctnet.data.crops import Crops, recolor
from ctnet.data.label_source import LabelSource
from ctnet.data.sample import Sample
from ctnet.tasks import IGNORE, get_task


class PhotographStack:
    """Decoded photographs and labels, as 8-bit tensors on a device.

    A batch of crops is one gather and one resampling for each kind of label.

    Args:
        loaded: Images and labels, as :meth:`.LabelSource.load` gives them.
        tasks: Names of the tasks by id.
        device: Where they go.
        class_maps: Class maps to keep beside those of the tasks.

    Attributes:
        tasks: As given.
        sizes: Height and width of each image (N,2), on the CPU.
    """

    def __init__(
        self,
        loaded: Iterable[dict[str, np.ndarray]],
        tasks: Sequence[str],
        device: torch.device,
        class_maps: Sequence[str] = ("seg",),
    ) -> None:
        self.tasks = tuple(tasks)
        self.device = device
        self._class_maps = [name for name in class_maps if name not in self.tasks]
        kept = {"image", *self.tasks, *self._class_maps}
        stored: dict[str, list[Tensor]] = {}
        places: dict[str, list[int]] = {}
        sizes = []
        for index, found in enumerate(loaded):
            sizes.append(found["image"].shape[:2])
            for name, array in found.items():
                if name.removesuffix(".valid") in kept:
                    stored.setdefault(name, []).append(_as_stored(array))
                    places.setdefault(name, []).append(index)
        self.sizes = torch.tensor(sizes)
        side = int(self.sizes.max())
        self._values = {name: _stack(images, side).to(device) for name, images in stored.items()}
        self._rows: dict[str, Tensor] = {}
        for name, indices in places.items():
            rows = torch.full((len(sizes),), -1)
            rows[indices] = torch.arange(len(indices))
            self._rows[name] = rows.to(device)
        self._sizes = self.sizes.to(device)

    @classmethod
    def load(
        cls,
        source: LabelSource,
        tasks: Sequence[str],
        device: torch.device,
        class_maps: Sequence[str] = ("seg",),
        threads: int = 8,
    ) -> PhotographStack:
        """Decodes a whole source.

        Args:
            source: Where images and labels come from.
            tasks: Names of the tasks by id.
            device: Where they go.
            class_maps: Class maps to keep beside those of the tasks.
            threads: Threads that decode files.
        """
        count = len(source.ids)
        is_worker = dist.is_available() and dist.is_initialized() and dist.get_rank() > 0
        with ThreadPoolExecutor(threads) as pool:
            loaded = pool.map(source.load, range(count))
            bar = tqdm(loaded, "decode", count, unit="image", disable=is_worker)
            return cls(bar, tasks, device, class_maps)

    def pixel_of(self, index: int, number: int, chance: float) -> tuple[int, int]:
        """Chooses a pixel (row, column) of a class in ``seg`` by a random number in [0, 1)."""
        height, width = self.sizes[index].tolist()
        classes = self._values["seg"][self._rows["seg"][index], 0, :height, :width]
        pixels = (classes == number).nonzero()
        row, column = pixels[int(chance * len(pixels))].tolist()
        return row, column

    def cut(self, indices: Sequence[int], crops: Crops, size: int) -> Sample:
        """Cuts crops out of images and their labels.

        Args:
            indices: Images by index (N,).
            crops: Where to cut, as :func:`draw_crops` gives it.
            size: Side of the crops in pixels.

        Returns:
            A batch that asks for nothing yet. Class maps hold 255 and nothing is valid where the
            crop reaches past the image.
        """
        at = torch.tensor(indices, device=self.device)
        crops = crops.to(self.device)
        grid, inside = self._grid(at, crops, size)
        uncolored = self._sample("image", at, grid, "bilinear") / 255
        image, uncolored = (
            torch.where(inside[:, None], x, 127 / 255)
            for x in (recolor(uncolored, crops.color), uncolored)
        )
        labels = {}
        valid = torch.zeros(
            len(at), len(self.tasks), size, size, dtype=torch.bool, device=at.device
        )
        for number, name in enumerate(self.tasks):
            kind = get_task(name).kind
            valid[:, number] = inside & self._labeled(name, at)[:, None, None]
            if f"{name}.valid" in self._values:
                mask = self._sample(f"{name}.valid", at, grid, "nearest")[:, 0]
                has_mask = self._labeled(f"{name}.valid", at)
                valid[:, number] &= (mask > 0) | ~has_mask[:, None, None]
            if kind == "classes":
                labels[name] = self._classes(name, at, grid, inside)
                valid[:, number] &= labels[name] != IGNORE
            elif kind == "probability":
                labels[name] = self._sample(name, at, grid, "bilinear")[:, 0] / 255
            else:
                labels[name] = self._normals(name, at, grid, crops.flip)
        palette = torch.full((len(at), size, size), IGNORE, device=at.device)
        for name in self._class_maps:
            labels[name] = self._classes(name, at, grid, inside)
        return Sample(image, palette, labels, valid, uncolored, inside)

    def _labeled(self, name: str, at: Tensor) -> Tensor:
        """Returns which images (N,) have a label (N,) bool."""
        if name not in self._rows:
            return torch.zeros_like(at, dtype=torch.bool)
        return self._rows[name][at] >= 0

    def _grid(self, at: Tensor, crops: Crops, size: int) -> tuple[Tensor, Tensor]:
        """Finds the sampling points (N,size,size,2) of crops, and which lie in the image."""
        steps = torch.arange(size, device=self.device) + 0.5
        side = self._values["image"].shape[-1]
        height, width = self._sizes[at].float().unbind(1)
        across = torch.where(crops.flip[:, None], size - steps, steps)
        x = crops.left[:, None] + across / crops.scale[:, None]
        y = crops.top[:, None] + steps / crops.scale[:, None]
        inside = ((x >= 0) & (x < width[:, None]))[:, None, :]
        inside = inside & ((y >= 0) & (y < height[:, None]))[:, :, None]
        # Half a pixel from the border bilinear sampling would mix in what pads the image.
        x = torch.minimum(x.clamp(min=0.5), width[:, None] - 0.5)
        y = torch.minimum(y.clamp(min=0.5), height[:, None] - 0.5)
        rows, columns = (y * 2 / side - 1)[:, :, None], (x * 2 / side - 1)[:, None, :]
        shape = (len(at), size, size)
        return torch.stack([columns.expand(shape), rows.expand(shape)], 3), inside

    def _sample(self, name: str, at: Tensor, grid: Tensor, mode: str) -> Tensor:
        """Resamples what is stored (N,C,size,size) float; images without it give whatever."""
        if name not in self._values:
            channels = 3 if name in self.tasks and get_task(name).kind == "normals" else 1
            return torch.zeros(len(at), channels, *grid.shape[1:3], device=self.device)
        rows = self._rows[name][at].clamp(min=0)
        values = self._values[name][rows].float()
        return F.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)

    def _classes(self, name: str, at: Tensor, grid: Tensor, inside: Tensor) -> Tensor:
        ids = self._sample(name, at, grid, "nearest")[:, 0].round().long()
        return torch.where(inside & self._labeled(name, at)[:, None, None], ids, IGNORE)

    def _normals(self, name: str, at: Tensor, grid: Tensor, flip: Tensor) -> Tensor:
        normals = self._sample(name, at, grid, "bilinear") / 127.5 - 1
        x = torch.where(flip[:, None, None], -normals[:, 0], normals[:, 0])
        return F.normalize(torch.cat([x[:, None], normals[:, 1:]], 1), dim=1, eps=1e-6)


def _as_stored(array: np.ndarray) -> Tensor:
    """Turns what a file held, (H,W) or (H,W,C), into (C,H,W) uint8."""
    values = torch.from_numpy(np.ascontiguousarray(array)).to(torch.uint8)
    return values.permute(2, 0, 1) if values.ndim == 3 else values[None]


def _stack(images: Sequence[Tensor], side: int) -> Tensor:
    """Puts images (C,h,w) into the top left corners of one tensor (M,C,side,side)."""
    stacked = torch.zeros(len(images), images[0].shape[0], side, side, dtype=torch.uint8)
    for row, image in enumerate(images):
        stacked[row, :, : image.shape[1], : image.shape[2]] = image
    return stacked
