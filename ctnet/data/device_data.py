"""A whole label source in the memory of the device that trains, and batches augmented there.

Every file is decoded once, to 8-bit tensors on the device; a batch is one gather and one
resampling for each kind of label. What a batch is depends on the seed and the step alone, so that
several networks can share it, a resumed run repeats it, and runs on other hardware differ only by
rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ctnet.data.dataset import Sample
from ctnet.data.label_source import LabelSource
from ctnet.data.palette_batches import make_palettes
from ctnet.data.transforms import JITTER
from ctnet.rules import Rule
from ctnet.tasks import IGNORE, get_task

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Crops:
    """Where the crops of a batch lie in their images, and how they are colored.

    Attributes:
        scale: Output pixels for a pixel of the image (N,).
        left: First column of the crop, in pixels of the image (N,).
        top: First row (N,).
        flip: Whether the crop is mirrored (N,).
        color: Factors of brightness, contrast and saturation (N,3).
    """

    scale: Tensor
    left: Tensor
    top: Tensor
    flip: Tensor
    color: Tensor


def draw_crops(
    generator: np.random.Generator,
    sizes: Tensor,
    size: int,
    scale: tuple[float, float],
    focus: Mapping[int, tuple[int, int]] | None = None,
) -> Crops:
    """Draws crops at random.

    Args:
        generator: Source of chance.
        sizes: Height and width of each image (N,2).
        size: Side of the crops in pixels.
        scale: Smallest and largest scale.
        focus: Row and column of a pixel that a crop shall hold, by the crop's number.

    Returns:
        Crops on the CPU; one that is larger than its image has it somewhere inside.
    """
    n = len(sizes)
    factor = generator.uniform(*scale, n)
    room = sizes.numpy() - size / factor[:, None]
    chance = generator.uniform(size=(n, 2))
    corner = chance * room
    for number, pixel in (focus or {}).items():
        side, most = size / factor[number], room[number]
        # Less than a side before the pixel, in the image where that is large enough.
        first = np.clip(np.array(pixel) + 1 - side, np.minimum(0, most), np.maximum(0, most))
        last = np.clip(np.array(pixel), np.minimum(0, most), np.maximum(0, most))
        corner[number] = first + chance[number] * (last - first)
    flip = generator.random(n) < 0.5
    color = generator.uniform(1 - JITTER, 1 + JITTER, (n, 3))
    as_float = [torch.from_numpy(x).float() for x in (factor, corner[:, 1], corner[:, 0], color)]
    return Crops(as_float[0], as_float[1], as_float[2], torch.from_numpy(flip), as_float[3])


class DeviceData:
    """All photographs and labels of a source on a device.

    Args:
        source: Where images and labels come from.
        tasks: Names of the tasks by id.
        device: Where they go.
        threads: Threads that decode files.

    Attributes:
        tasks: As given.
        sizes: Height and width of each image (N,2), on the CPU.
    """

    def __init__(
        self, source: LabelSource, tasks: Sequence[str], device: torch.device, threads: int = 8
    ) -> None:
        self.tasks = tuple(tasks)
        self.device = device
        count = len(source.ids)
        self._stored: dict[str, list[Tensor]] = {}
        self._rows: dict[str, Tensor] = {}
        sizes = []
        with ThreadPoolExecutor(threads) as pool:
            loaded = pool.map(source.load, range(count))
            is_worker = dist.is_available() and dist.is_initialized() and dist.get_rank() > 0
            bar = tqdm(loaded, "decode", count, unit="image", disable=is_worker)
            for index, found in enumerate(bar):
                sizes.append(found["image"].shape[:2])
                for name, array in found.items():
                    if name.removesuffix(".valid") in ("image", *self.tasks, "seg"):
                        self._store(name, index, array, count)
        self.sizes = torch.tensor(sizes)
        side = int(self.sizes.max())
        self._values = {n: _stack(x, side).to(device) for n, x in self._stored.items()}
        self._stored.clear()
        self._rows = {name: rows.to(device) for name, rows in self._rows.items()}
        self._sizes = self.sizes.to(device)

    def _store(self, name: str, index: int, array: np.ndarray, count: int) -> None:
        values = torch.from_numpy(np.ascontiguousarray(array)).to(torch.uint8)
        values = values.permute(2, 0, 1) if values.ndim == 3 else values[None]
        rows = self._rows.setdefault(name, torch.full((count,), -1))
        stored = self._stored.setdefault(name, [])
        rows[index] = len(stored)
        stored.append(values)

    def labeled(self, indices: Tensor) -> Tensor:
        """Returns which tasks have a label (N,K) bool, of images by index (N,) on the device."""
        none = torch.zeros(len(indices), dtype=torch.bool, device=self.device)
        columns = [
            self._rows[task][indices] >= 0 if task in self._rows else none for task in self.tasks
        ]
        return torch.stack(columns, 1)

    def pixel_of(self, index: int, number: int, generator: np.random.Generator) -> tuple[int, int]:
        """Draws a pixel (row, column) of a class that an image has in ``seg``."""
        height, width = self.sizes[index].tolist()
        classes = self._values["seg"][self._rows["seg"][index], 0, :height, :width]
        pixels = (classes == number).nonzero()
        row, column = pixels[int(generator.integers(len(pixels)))].tolist()
        return row, column

    def batch(self, indices: Sequence[int], crops: Crops, size: int) -> Sample:
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
        crops = Crops(*(getattr(crops, name).to(self.device) for name in Crops.__match_args__))
        grid, inside = self._grid(at, crops, size)
        uncolored = self._sample("image", at, grid, "bilinear") / 255
        image, uncolored = (
            torch.where(inside[:, None], x, 127 / 255)
            for x in (_recolor(uncolored, crops.color), uncolored)
        )
        labels = {}
        valid = torch.zeros(
            len(at), len(self.tasks), size, size, dtype=torch.bool, device=at.device
        )
        labeled = self.labeled(at)
        for number, name in enumerate(self.tasks):
            kind = get_task(name).kind
            valid[:, number] = inside & labeled[:, number, None, None]
            if f"{name}.valid" in self._values:
                mask = self._sample(f"{name}.valid", at, grid, "nearest")[:, 0]
                has_mask = self._rows[f"{name}.valid"][at] >= 0
                valid[:, number] &= (mask > 0) | ~has_mask[:, None, None]
            if kind == "classes":
                labels[name] = self._classes(name, at, grid, inside)
                valid[:, number] &= labels[name] != IGNORE
            elif kind == "probability":
                labels[name] = self._sample(name, at, grid, "bilinear")[:, 0] / 255
            else:
                labels[name] = self._normals(name, at, grid, crops.flip)
        palette = torch.full((len(at), size, size), IGNORE, device=at.device)
        if "seg" not in self.tasks:
            labels["seg"] = self._classes("seg", at, grid, inside)
        return Sample(image, palette, labels, valid, uncolored, inside)

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
        known = (
            inside & (self._rows[name][at] >= 0)[:, None, None]
            if name in self._rows
            else inside & False
        )
        return torch.where(known, ids, IGNORE)

    def _normals(self, name: str, at: Tensor, grid: Tensor, flip: Tensor) -> Tensor:
        normals = self._sample(name, at, grid, "bilinear") / 127.5 - 1
        x = torch.where(flip[:, None, None], -normals[:, 0], normals[:, 0])
        return F.normalize(torch.cat([x[:, None], normals[:, 1:]], 1), dim=1, eps=1e-6)


def _stack(images: Sequence[Tensor], side: int) -> Tensor:
    """Puts images (C,h,w) into the top left corners of one tensor (M,C,side,side)."""
    stacked = torch.zeros(len(images), images[0].shape[0], side, side, dtype=torch.uint8)
    for row, image in enumerate(images):
        stacked[row, :, : image.shape[1], : image.shape[2]] = image
    return stacked


def _recolor(image: Tensor, factors: Tensor) -> Tensor:
    """Changes brightness, contrast and saturation of images (N,3,H,W) in [0, 1]."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    image = (image * brightness).clamp(0, 1)
    luma = image.new_tensor(LUMA)[None, :, None, None]
    mean = (image * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    image = torch.lerp(mean.expand_as(image), image, contrast).clamp(0, 1)
    gray = (image * luma).sum(1, keepdim=True)
    return torch.lerp(gray.expand_as(image), image, saturation).clamp(0, 1)


def batch_palettes(
    rule: Rule,
    sample: Sample,
    weights: Tensor,
    generator: np.random.Generator,
    tasks: Sequence[str],
) -> Tensor:
    """Makes the palettes of a batch at once, on its device.

    Args:
        rule: What makes them. Semantic rules read the class map in ``sample.labels``.
        sample: The batch.
        weights: Relative frequency (N,K) of each task in mosaic and random palettes; an image
            whose weights are all zero asks for nothing.
        generator: Source of chance.
        tasks: Names of the tasks by id.

    Returns:
        Task ids (N,H,W), 255 = nothing asked.
    """
    n, height, width = sample.palette.shape
    return make_palettes(
        rule,
        n,
        (height, width),
        generator,
        tasks,
        weights,
        sample.labels.get(rule.reads),
        sample.palette.device,
    )
