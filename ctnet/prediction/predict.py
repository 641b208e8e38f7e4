"""Predicts on any image: any size and format in, labels at the image's own size out.

The network runs at a working size. Its answers come back to the image's own size task by task, by
interpolation among the working cells that were asked for that task alone: no value of a
neighboring task bleeds over the border of a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ctnet import defaults
from ctnet.blocks.features import Features
from ctnet.images import SUFFIXES, ImageLike, load_image
from ctnet.labels import Reads, decode
from ctnet.palette import Palette
from ctnet.prediction.prediction import Label, Outputs, Prediction, label_array
from ctnet.prediction.resampling import enlarge, working_palette
from ctnet.prediction.working_size import Module, check_long_side, network_input
from ctnet.rules import Rule, get_rule
from ctnet.tasks import get_task


@runtime_checkable
class Proposer(Protocol):
    """A network that proposes palettes."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks by id."""
        ...

    def fractions(self, image: Tensor) -> Tensor:
        """Returns a soft palette (N,K,H,W)."""
        ...

    def predict(self, image: ImageLike, long_side: int = ...) -> Palette:
        """Proposes a palette for any image."""
        ...


Request = Palette | Rule | Proposer
"""What to do where, or what decides that."""

PaletteLike = Request | str | Path


class Composite(Module, Reads, Protocol):
    """A network, as far as prediction needs it."""

    def encode(self, image: Tensor) -> Features:
        """Computes what does not depend on the palette."""
        ...

    def decode(self, features: Features, palette: Tensor | Palette) -> Tensor:
        """Does the requested tasks on an encoded image."""
        ...

    def decode_all(self, features: Features) -> Tensor:
        """Does every task everywhere."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Uses the fused network within."""
        ...

    def resolve_palette(self, palette: PaletteLike) -> Request:
        """Finds what a palette stands for."""
        ...


class PredictMixin:
    """Adds ``predict`` and ``predict_all`` to a network."""

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path of type str is no sequence of images
        self: Composite,
        image: ImageLike,
        palette: PaletteLike = ...,
        long_side: int = ...,
        seed: int = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self: Composite,
        image: Sequence[ImageLike],
        palette: PaletteLike = ...,
        long_side: int = ...,
        seed: int = ...,
    ) -> list[Prediction]: ...
    def predict(
        self: Composite,
        image: ImageLike | Sequence[ImageLike],
        palette: PaletteLike = defaults.PALETTE,
        long_side: int = defaults.LONG_SIDE,
        seed: int = 0,
    ) -> Prediction | list[Prediction]:
        """Does each task where a palette asks for it, on any image.

        The network runs as in eval mode, fused (see ``model.fuse``), without gradients or autocast,
        on the device it is on. Its flags stay as they are; several threads may predict at once.

        Args:
            image: What :func:`ctnet.images.load_image` takes; or several: a list or tuple of such
                images, sizes may differ, or a batch in one array (N,H,W,C) or tensor (N,C,H,W).
            palette: What to do where: a palette of the image's own size and the network's tasks, a
                rule or its name (``mosaic``, ``random``, ``single:normals``, ``R2``, a rule file),
                the path of a palette PNG, a palette network, or ``auto`` for the zoo's palette
                network. Rules that map classes to tasks (``R2``, ``R3``, rule files) read the
                network's own segmentation, made first from the same encoding.
            long_side: Longest side in pixels at which the network sees the image, at least 32.
                Larger images are scaled down to it; smaller ones are used at their own size.
            seed: Seed of rules that draw by chance; each image draws as if it came alone.

        Returns:
            The prediction at the image's own size; a list of them for several images.

        Raises:
            FileNotFoundError: If an image, palette or rule file is missing.
            ValueError: If an image cannot be read, the palette has another size or other tasks
                than the image and the network, a rule is unknown or needs a segmentation that the
                network does not do, or the network gives NaN or infinite numbers.
        """
        check_long_side(long_side)
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed is a whole number of at least 0; got {seed!r}.")
        request = self.resolve_palette(palette)
        with self.inference(), torch.inference_mode():
            if isinstance(image, list | tuple) or (
                isinstance(image, np.ndarray | Tensor) and image.ndim == 4
            ):
                return [
                    _predict(self, item, request, long_side, seed, f"image{i}")
                    for i, item in enumerate(image)
                ]
            return _predict(self, image, request, long_side, seed, "image")  # type: ignore[arg-type]

    def predict_all(
        self: Composite, image: ImageLike, long_side: int = defaults.LONG_SIDE
    ) -> dict[str, Prediction]:
        """Does every task of the network everywhere on an image.

        What does not depend on the task, the encoder above all, is computed once.

        Args:
            image: What :func:`ctnet.images.load_image` takes.
            long_side: As for :meth:`predict`.

        Returns:
            The prediction of each task, by name, as :meth:`predict` gives for ``single:TASK``.

        Raises:
            FileNotFoundError: If the image is missing.
            ValueError: If the image cannot be read, or the network gives NaN or infinite numbers.
        """
        check_long_side(long_side)
        pixels = load_image(image)
        name = Path(image).stem if isinstance(image, str | Path) else "image"
        size = pixels.shape[0], pixels.shape[1]
        found = {}
        with self.inference(), torch.inference_mode():
            features = self.encode(network_input(self, pixels, long_side))
            composites = self.decode_all(features)
            for number, task in enumerate(self.tasks):
                palette = Palette.single(task, size, self.tasks)
                working = working_palette(palette, features.size)
                labels, outputs = _labels_of(self, composites[:, number], palette, working)
                found[task] = Prediction(pixels, palette, labels, name, outputs)
        return found

    def resolve_palette(self: Reads, palette: PaletteLike) -> Request:
        """Finds what the palette of :meth:`predict` stands for, and checks its tasks.

        Many images in turn need this only once, and what is wrong with it shows before the first.

        Raises:
            FileNotFoundError: If a palette or rule file is missing.
            ValueError: If a rule is unknown or needs a segmentation that the network does not do,
                or a palette asks for other tasks than the network's.
        """
        tasks = self.tasks
        if isinstance(palette, str | Path):
            picture = Path(palette).suffix.lower() in SUFFIXES
            palette = Palette.load(palette, tasks) if picture else get_rule(str(palette), tasks)
        if isinstance(palette, Rule):
            if palette.needs_labels and palette.reads not in tasks:
                raise ValueError(
                    f"rule {palette.name} reads the class map of {palette.reads}, which this model "
                    f"does not make (its tasks: {', '.join(tasks)}); give a palette."
                )
        elif not isinstance(palette, Palette | Proposer):
            raise ValueError(
                "palette is a Palette, a rule or its name, or the path of a palette PNG; got "
                f"{type(palette).__name__}. Turn ids into a palette by ctnet.Palette(ids)."
            )
        elif palette.tasks != tasks:
            raise ValueError(f"the palette's tasks are {palette.tasks}, the model's {tasks}.")
        # Names of the network's know what its tasks are.
        return Palette(palette.ids, tasks) if isinstance(palette, Palette) else palette


def _predict(
    model: Composite, source: ImageLike, request: Request, long_side: int, seed: int, name: str
) -> Prediction:
    image = load_image(source)
    size = image.shape[0], image.shape[1]
    if isinstance(request, Palette) and request.size != size:
        raise ValueError(
            f"the palette is {request.size} (height, width), the image {size}; make a new one, or "
            f"palette.resize({size})."
        )
    features = model.encode(network_input(model, image, long_side))
    if isinstance(request, Palette):
        palette = request
    elif isinstance(request, Rule):
        classes = None
        if request.needs_labels:
            everywhere = Palette.single(request.reads, size, model.tasks)
            classes = _labels(model, features, everywhere)[0][request.reads]
        palette = request.palette(size, np.random.default_rng(seed), classes, model.tasks)
    else:
        palette = request.predict(image, long_side)
    if isinstance(source, str | Path):
        name = Path(source).stem
    working = working_palette(palette, features.size)
    composite = model.decode(features, working)
    del features  # which take more memory than anything else, on large photographs
    labels, outputs = _labels_of(model, composite, palette, working)
    return Prediction(image, palette, labels, name, outputs)


def _labels(
    model: Composite, features: Features, palette: Palette
) -> tuple[dict[str, Label], Outputs]:
    """Does the tasks of a palette on an encoded image, at the palette's size."""
    working = working_palette(palette, features.size)
    return _labels_of(model, model.decode(features, working), palette, working)


def _labels_of(
    model: Reads, composite: Tensor, palette: Palette, working: Palette
) -> tuple[dict[str, Label], Outputs]:
    """Reads the labels out of a composite (1,3,h,w) of the working palette."""
    composite = composite.float()
    if not bool(composite.isfinite().all()):
        raise ValueError(
            "the network gave NaN or infinite numbers: its weights are broken, or overflow in half "
            "precision; load it again, or in float32."
        )
    ids = working.tensor()[None].to(composite.device)
    pixels, readers = composite[0].permute(1, 2, 0), model.readers
    outputs = Outputs(pixels.cpu(), working, readers)
    if working.size == palette.size:
        found = decode(composite, ids, model.tasks, readers)
        return {name: label_array(labels.values[0]) for name, labels in found.items()}, outputs
    return {
        name: enlarge(
            pixels, ids[0] == palette.task_id(name), palette.mask(name), get_task(name), readers
        )
        for name in palette.requested()
    }, outputs
