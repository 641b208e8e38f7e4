"""A network's answers on labeled photographs, at the size of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctnet.blocks.features import Features
from ctnet.data.sample import Sample
from ctnet.labels import Readers, decode
from ctnet.models.base import CompositeModel
from ctnet.palette import Palette
from ctnet.prediction.resampling import enlarge, working_palette
from ctnet.prediction.working_size import network_input, working_shape
from ctnet.rules import Rule
from ctnet.tasks import get_task


@dataclass(frozen=True)
class View:
    """How a network sees photographs, and how its answers are read.

    Attributes:
        model: The network.
        readers: What reads the classes of its tasks.
        long_side: Working size.
    """

    model: CompositeModel
    readers: Readers
    long_side: int

    def answers(
        self, sample: Sample, tasks: Sequence[str], rule: Rule | None
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yields (task, values, where asked) of an image, without a batch dimension."""
        model = self.model
        palettes: dict[str | None, Tensor] = {None: sample.palette}
        if rule is None:
            palettes = {t: torch.full_like(sample.palette, model.tasks.index(t)) for t in tasks}
        size = sample.image.shape[1], sample.image.shape[2]
        large = working_shape(size, self.long_side) != size
        seen = sample.image[None].to(model.device)
        if large:
            pixels = (255 * sample.image).round().to(torch.uint8).permute(1, 2, 0).numpy()
            seen = network_input(model, pixels, self.long_side)
        features = model.encode(seen)
        read = self._enlarged if large else self._at_own_size
        for only, ids in palettes.items():
            for task, values, asked in read(features, ids):
                if task in tasks and only in (None, task):
                    yield task, values, asked

    def _at_own_size(self, features: Features, ids: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        composite = self.model.decode(features, ids).float().cpu()
        found = decode(composite, ids[None], self.model.tasks, self.readers)
        for task, labels in found.items():
            yield task, labels.values[0], labels.valid[0]

    def _enlarged(self, features: Features, ids: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Does what ``model.predict`` does for images larger than the working size."""
        tasks = self.model.tasks
        palette = Palette(ids.to(torch.uint8).numpy(), tasks)
        working = working_palette(palette, features.size)
        composite = self.model.decode(features, working).float().cpu()
        pixels, cells = composite[0].permute(1, 2, 0), working.tensor()
        for task in palette.requested():
            spec, wanted, number = get_task(task), palette.mask(task), tasks.index(task)
            values = enlarge(pixels, cells == number, wanted, spec, self.readers)
            found = torch.from_numpy(values)
            found = found.permute(2, 0, 1) if spec.kind == "normals" else found
            yield task, found, torch.from_numpy(wanted)
