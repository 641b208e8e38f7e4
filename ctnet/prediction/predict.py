"""Prediction on any image: any size and format in, labels at the image's own size out.

The network runs at a working size. Its answers come back to the image's own size task by task, by
interpolation among the working cells that were asked for that task alone: no value of a
neighbouring task bleeds over the border of a region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ctnet.images import RGB, SUFFIXES, ImageLike, load_image
from ctnet.labels import Readers, decode, task_values
from ctnet.models.palette_network import PaletteNetwork
from ctnet.palette import Palette
from ctnet.prediction import drawing
from ctnet.prediction.resampling import enlarge, enlarge_probabilities, working_palette
from ctnet.rules import Rule, get_rule
from ctnet.tasks import get_task, nearest

if TYPE_CHECKING:
    from ctnet.blocks.features import Features
    from ctnet.models.base import CompositeModel

__all__ = ["DEFAULT_LONG_SIDE", "ImageLike", "PaletteLike", "Prediction", "predict"]

Label = npt.NDArray[Any]
PaletteLike = Palette | Rule | PaletteNetwork | str | Path

AUTO = "auto"
"""Palette that the zoo's palette network proposes."""

DEFAULT_LONG_SIDE = 320
"""Longest side, in pixels, at which networks see an image."""

MIN_LONG_SIDE = 32
"""Below this a network sees less than one cell of its coarsest level."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gave at its working size.

    Attributes:
        composite: Raw outputs (h,w,3) float32, on the CPU.
        palette: The palette at that size.
        readers: What reads the classes of each task.
    """

    composite: Tensor
    palette: Palette
    readers: Readers


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of an image, at the image's own size.

    Attributes:
        image: The photograph (H,W,3) uint8 RGB.
        palette: What was asked for where.
        labels: By task name, for the tasks asked for: class ids (H,W) uint8, 255 where not asked;
            probabilities (H,W) float32 in [0, 1], 0 where not asked; unit normals (H,W,3) float32
            (x right, y up, z towards the camera), 0 where not asked.
        name: Stem of the files that :meth:`save` writes.
        outputs: What the network gave; :meth:`probabilities` reads it.
    """

    image: RGB
    palette: Palette
    labels: Mapping[str, Label]
    name: str = "image"
    outputs: Outputs | None = None

    def probabilities(self, task: str) -> npt.NDArray[np.float32]:
        """Returns the probability of each class at each pixel.

        They are those of the network's label table, counted on labeled photographs, or, for a task
        without a table, the softmax of the scores of eq. 5, which are no frequencies.

        Args:
            task: Name of a task of kind ``classes`` that the palette asks for.

        Returns:
            Probabilities (H,W,C) float32 that sum to 1 where the task is asked, 0 elsewhere. The
            likeliest class is the label.

        Raises:
            ValueError: If the task is of another kind or was not asked for, or the prediction was
                made without raw outputs.
        """
        spec = get_task(task)
        if spec.kind != "classes":
            raise ValueError(
                f"{task} has no classes; its labels are "
                f"{'probabilities already' if spec.kind == 'probability' else 'unit vectors'}."
            )
        if task not in self.labels:
            raise ValueError(f"the palette does not ask for {task!r}{nearest(task, self.labels)}")
        if self.outputs is None:
            raise ValueError("this prediction was made without the network's raw outputs.")
        pixels, working = self.outputs.composite, self.outputs.palette
        cells = torch.from_numpy(working.mask(task))
        if working.size != self.palette.size:
            wanted = self.palette.mask(task)
            return enlarge_probabilities(pixels, cells, wanted, spec, self.outputs.readers)
        full = torch.zeros(*cells.shape, len(spec.classes))
        full[cells] = task_values(pixels[cells], spec, self.outputs.readers).float()
        found: npt.NDArray[np.float32] = full.numpy()
        return found

    def draw(self) -> Image.Image:
        """Draws the composite; see :func:`ctnet.prediction.drawing.draw_composite`."""
        return drawing.draw_composite(self)

    def overlay(self, alpha: float = drawing.ALPHA) -> Image.Image:
        """Draws the composite over the photograph; see :func:`ctnet.prediction.drawing.overlay`."""
        return drawing.overlay(self, alpha)

    def side_by_side(self, alpha: float = drawing.ALPHA) -> Image.Image:
        """Draws both side by side; see :func:`ctnet.prediction.drawing.side_by_side`."""
        return drawing.side_by_side(self, alpha)

    def save(self, directory: str | Path, name: str | None = None) -> dict[str, Path]:
        """Writes pictures and labels.

        The files are NAME_composite.png, NAME_overlay.png, NAME_palette.png (indexed, task ids)
        and one for each task asked for: classes as an indexed PNG of class ids (255 = not asked),
        probabilities as a 16-bit PNG (0 to 65535), normals as a float32 .npy (H,W,3).

        Args:
            directory: Folder, made if missing; files of the same names are replaced.
            name: Stem of the files, the prediction's own name where None.

        Returns:
            The paths by content: ``composite``, ``overlay``, ``palette`` and task names.

        Raises:
            ValueError: If the name is no plain file name, or the folder is a file.
        """
        name = self.name if name is None else name
        labels = self.save_labels(directory, name)
        paths = {key: Path(directory) / f"{name}_{key}.png" for key in ("overlay", "composite")}
        self.overlay().save(paths["overlay"])
        # Written last: where it is, the others are complete.
        self.draw().save(paths["composite"])
        return {key: paths[key] for key in ("composite", "overlay")} | labels

    def save_labels(self, directory: str | Path, name: str | None = None) -> dict[str, Path]:
        """Writes the palette and the labels, without the pictures, as :meth:`save` does.

        Returns:
            The paths by content: ``palette`` and task names.

        Raises:
            ValueError: If the name is no plain file name, or the folder is a file.
        """
        name = self.name if name is None else name
        if not name or Path(name).name != name:
            raise ValueError(f"name is the stem of files, without a folder; got {name!r}.")
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory} is a file; give a folder to write into.")
        directory.mkdir(parents=True, exist_ok=True)
        paths = {"palette": directory / f"{name}_palette.png"}
        self.palette.save(paths["palette"])
        for task, values in self.labels.items():
            spec = get_task(task)
            suffix = "npy" if spec.kind == "normals" else "png"
            paths[task] = directory / f"{name}_{task}.{suffix}"
            if spec.kind == "normals":
                np.save(paths[task], values)
            elif spec.kind == "probability":
                Image.fromarray(np.rint(values * 65535).astype(np.uint16)).save(paths[task])
            else:
                picture = Image.fromarray(values)
                picture.putpalette(drawing.class_colors(spec).ravel().tolist())
                picture.save(paths[task])
        return paths


@overload
def predict(  # type: ignore[overload-overlap]  # a path of type str is no sequence of images
    model: CompositeModel, image: ImageLike, palette: PaletteLike = ..., long_side: int = ...,
    seed: int = ...,
) -> Prediction: ...  # fmt: skip
@overload
def predict(
    model: CompositeModel, image: Sequence[ImageLike], palette: PaletteLike = ...,
    long_side: int = ..., seed: int = ...,
) -> list[Prediction]: ...  # fmt: skip
def predict(
    model: CompositeModel,
    image: ImageLike | Sequence[ImageLike],
    palette: PaletteLike = "mosaic",
    long_side: int = DEFAULT_LONG_SIDE,
    seed: int = 0,
) -> Prediction | list[Prediction]:
    """Does each task where a palette asks for it, on any image.

    The model runs in eval mode, compiled (see ``model.fuse``), without gradients, on the device it
    is on; its flags are as before afterwards.

    Args:
        model: The network.
        image: What :func:`ctnet.images.load_image` takes; or several: a list or tuple of such
            images, sizes may differ, or a batch in one array (N,H,W,C) or tensor (N,C,H,W).
        palette: What to do where: a palette of the image's own size and the model's tasks, a rule
            or its name (``mosaic``, ``random``, ``single:normals``, ``R2``, a rule file), the path
            of a palette PNG, a palette network, or ``auto`` for the zoo's palette network. Rules
            that map classes to tasks (``R2``, ``R3``, rule files) read the model's own
            segmentation, made first from the same encoding.
        long_side: Longest side in pixels at which the network sees the image, at least 32. Larger
            images are scaled down to it; smaller ones are used at their own size.
        seed: Seed of rules that draw by chance; each image draws as if it came alone.

    Returns:
        The prediction at the image's own size; a list of them for several images.

    Raises:
        FileNotFoundError: If an image, palette or rule file is missing.
        ValueError: If an image cannot be read, the palette has another size or other tasks than
            the image and the model, a rule is unknown or needs a segmentation that the model does
            not do, or the network gives NaN or infinite numbers.
    """
    _check_side(long_side)
    request = resolve_palette(palette, model)
    with evaluating(model), model.inference(), torch.inference_mode():
        if isinstance(image, list | tuple) or (
            isinstance(image, np.ndarray | Tensor) and image.ndim == 4
        ):
            return [
                _predict(model, item, request, long_side, seed, f"image{i}")
                for i, item in enumerate(image)
            ]
        return _predict(model, image, request, long_side, seed, "image")  # type: ignore[arg-type]


def predict_all(
    model: CompositeModel, image: ImageLike, long_side: int = DEFAULT_LONG_SIDE
) -> dict[str, Prediction]:
    """Does every task of a network everywhere on an image.

    What does not depend on the task, the encoder above all, is computed once.

    Args:
        model: The network, used as by :func:`predict`.
        image: What :func:`ctnet.images.load_image` takes.
        long_side: As for :func:`predict`.

    Returns:
        The prediction of each task, by name, as :func:`predict` gives for ``single:TASK``.

    Raises:
        FileNotFoundError: If the image is missing.
        ValueError: If the image cannot be read, or the network gives NaN or infinite numbers.
    """
    _check_side(long_side)
    pixels = load_image(image)
    name = Path(image).stem if isinstance(image, str | Path) else "image"
    size = pixels.shape[0], pixels.shape[1]
    found = {}
    with evaluating(model), model.inference(), torch.inference_mode():
        features = model.encode(network_input(model, pixels, long_side))
        composites = model.decode_all(features)
        for number, task in enumerate(model.tasks):
            palette = Palette.single(task, size, model.tasks)
            working = working_palette(palette, features.size)
            labels, outputs = _labels_of(model, composites[:, number], palette, working)
            found[task] = Prediction(pixels, palette, labels, name, outputs)
    return found


def _check_side(long_side: int) -> None:
    if long_side < MIN_LONG_SIDE:
        raise ValueError(f"long_side is at least {MIN_LONG_SIDE} pixels; got {long_side}.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets eval mode and restores the flag of each module: parts may have been frozen alone."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def resolve_palette(palette: PaletteLike, model: CompositeModel) -> Palette | Rule | PaletteNetwork:
    """Finds what the palette of :func:`predict` stands for and checks it against a model's tasks.

    Many images in turn need this only once, and what is wrong with it shows before the first.

    Raises:
        FileNotFoundError: If a palette or rule file is missing.
        ValueError: If a rule is unknown or needs a segmentation that the model does not do, or a
            palette asks for other tasks than the model's.
    """
    tasks = model.tasks
    if isinstance(palette, str) and palette == AUTO:
        palette = _proposer(model.device)
    elif isinstance(palette, str | Path):
        picture = Path(palette).suffix.lower() in SUFFIXES
        palette = Palette.load(palette, tasks) if picture else get_rule(str(palette), tasks)
    if isinstance(palette, Palette | PaletteNetwork):
        if palette.tasks != tasks:
            raise ValueError(f"the palette's tasks are {palette.tasks}, the model's {tasks}.")
    elif not isinstance(palette, Rule):
        raise ValueError(
            "palette is a Palette, a rule or its name, or the path of a palette PNG; got "
            f"{type(palette).__name__}. Make ids a palette by ctnet.Palette(ids)."
        )
    elif palette.needs_labels and "seg" not in tasks:
        raise ValueError(
            f"rule {palette.name} reads a segmentation, which this model does not do (its tasks: "
            f"{', '.join(tasks)}); give a palette."
        )
    return palette


@lru_cache(maxsize=1)
def _proposer(device: torch.device) -> PaletteNetwork:
    from ctnet.models.pretrained import load_palette_network

    return load_palette_network(device=device)


def _predict(
    model: CompositeModel, source: ImageLike, request: Palette | Rule | PaletteNetwork,
    long_side: int, seed: int, name: str,
) -> Prediction:  # fmt: skip
    image = load_image(source)
    size = image.shape[0], image.shape[1]
    if isinstance(request, Palette) and request.size != size:
        raise ValueError(
            f"the palette is {request.size} (height, width), the image {size}; make it anew, or "
            f"palette.resize({size})."
        )
    features = model.encode(network_input(model, image, long_side))
    if isinstance(request, Palette):
        palette = request
    elif isinstance(request, PaletteNetwork):
        palette = request.predict(image, long_side)
    else:
        classes = None
        if request.needs_labels:
            everywhere = Palette.single("seg", size, model.tasks)
            classes = _labels(model, features, everywhere)[0]["seg"]
        palette = request.palette(size, np.random.default_rng(seed), classes, model.tasks)
    if isinstance(source, str | Path):
        name = Path(source).stem
    labels, outputs = _labels(model, features, palette)
    return Prediction(image, palette, labels, name, outputs)


def network_input(model: nn.Module, image: RGB, long_side: int) -> Tensor:
    """Scales an image down to the working size: (1,3,h,w) in [0, 1] on the model's device."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    first = next(model.parameters())
    pixels = pixels.to(first.device, first.dtype) / 255
    return pixels.contiguous(memory_format=torch.channels_last)


def _labels(
    model: CompositeModel, features: Features, palette: Palette
) -> tuple[dict[str, Label], Outputs]:
    """Does the tasks of a palette on an encoded image, at the palette's size."""
    working = working_palette(palette, features.size)
    return _labels_of(model, model.decode(features, working), palette, working)


def _labels_of(
    model: CompositeModel, composite: Tensor, palette: Palette, working: Palette
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


def label_array(values: Tensor) -> Label:
    """Turns the labels (H,W) or (3,H,W) of an image into an array (H,W) or (H,W,3)."""
    values = values.permute(1, 2, 0) if values.ndim == 3 else values
    return values.contiguous().cpu().numpy()
