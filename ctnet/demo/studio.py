"""What the server keeps of a browser page: photograph, palette and the networks' answers."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from ctnet.checks import did_you_mean
from ctnet.demo.files import Photo
from ctnet.demo.models import Models
from ctnet.fused.session import Session
from ctnet.labels import Readers, decode, task_values
from ctnet.models.base import CompositeModel
from ctnet.palette import Palette, Size
from ctnet.prediction.prediction import Label, Prediction, label_array
from ctnet.prediction.working_size import network_input
from ctnet.rules import RULES, get_rule
from ctnet.tasks import DEFAULT_TASKS, IGNORE, TaskSpec, get_task

AUTO = "auto"
"""Menu entry for the proposal of the palette network."""

EMPTY = "empty"
"""Menu entry for an empty palette."""

ENCODED = 3
"""Models whose encoding of the photograph a page keeps."""


@dataclass(frozen=True)
class Start:
    """A palette to start from.

    Attributes:
        name: ``auto``, ``empty``, or the name of a rule.
        title: Name for people.
    """

    name: str
    title: str


STARTS = (
    Start(AUTO, "Proposal of the palette network"),
    *(
        Start(name, f"Rule {name}: {what}")
        for name, what in (
            ("R1", "a mosaic of four tasks"),
            ("R2", "tasks by what is seen there"),
            ("R3", "tasks by what is seen there, another choice"),
            ("Rrnd", "a task drawn for each pixel"),
        )
        if name in RULES
    ),
    *(Start(f"single:{name}", f"Only {get_task(name).title}") for name in DEFAULT_TASKS),
    Start(EMPTY, "Nothing: an empty palette"),
)


@dataclass(frozen=True, eq=False)
class Answer:
    """The prediction of a model for the photograph and palette.

    Attributes:
        model: The model's name.
        prediction: At the working size.
        everywhere: Labels of the task that is viewed at every pixel, asked there or not: (H,W), or
            (H,W,3) for normals; None where all tasks are viewed.
        full: Seconds that encoding the photograph and a whole palette took.
        edit: Seconds that the last edit took, which computes only what it reaches; None before
            there was one.
    """

    model: str
    prediction: Prediction
    everywhere: Label | None
    full: float
    edit: float | None


class _Asked:
    """A network that is asked about a photograph, and the time that it takes.

    Attributes:
        composite: Raw outputs (1,3,H,W) for the last palette; None before there was one.
        full: Seconds of encoding and of the last whole palette.
        edit: Seconds of the last edit, None before there was one.
    """

    def __init__(self, network: CompositeModel, pixels: Tensor) -> None:
        begin = time.perf_counter()
        self._session = Session(network, pixels)
        self._encoding = time.perf_counter() - begin
        self.full = self._encoding
        self.edit: float | None = None
        self.composite: Tensor | None = None
        self._network = network
        self._everywhere: dict[str, Tensor] = {}

    def decode(self, palette: Palette) -> Tensor:
        """Does the tasks of a palette; one that is as before computes nothing, and no time."""
        begin = time.perf_counter()
        composite = self._session.decode(palette)
        seconds = time.perf_counter() - begin
        computed, whole = self._session.computed, composite.shape[-2:]
        if computed is not None and computed.size[0] >= whole[0] and computed.size[1] >= whole[1]:
            self.full = self._encoding + seconds
        elif computed is not None:
            self.edit = seconds
        self.composite = composite.float()
        return self.composite

    def everywhere(self, task: str) -> Tensor:
        """Returns the raw outputs (1,3,H,W) of one task at every pixel, computed once."""
        if task not in self._everywhere:
            features = self._session.features
            palette = Palette.single(task, features.size, self._network.tasks)
            with torch.no_grad(), self._network.inference():
                self._everywhere[task] = self._network.decode(features, palette).float()
        return self._everywhere[task]


class Studio:
    """A photograph on which tasks are painted.

    Each model encodes the photograph once. The palette is painted at the size at which networks
    see the photograph; an edit costs only what it reaches.

    Args:
        photo: The photograph.
        models: Networks by name.
        serial: Number that tells this photograph's edits from those of another on the same page.

    Attributes:
        photo: As given.
        serial: As given.
        palette: What is asked for where, at the photograph's working size.
    """

    def __init__(self, photo: Photo, models: Models, serial: int = 0) -> None:
        self.photo = photo
        self.serial = serial
        self.palette = Palette.empty(photo.working_size)
        self._models = models
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._folder = TemporaryDirectory(prefix="ctnet-demo-", ignore_cleanup_errors=True)

    @property
    def folder(self) -> Path:
        """Folder for files to download, which goes when the studio does."""
        return Path(self._folder.name)

    def use_tasks(self, model: str) -> None:
        """Reads the palette as one of a model's tasks; what the model does not do is not asked."""
        tasks = self._models.get(model).tasks
        before = self.palette
        if before.tasks == tasks:
            return
        table = np.full(256, IGNORE, np.uint8)
        for i, name in enumerate(before.tasks):
            if name in tasks:
                table[i] = tasks.index(name)
        self.palette = Palette(table[before.ids], tasks)

    def start(self, name: str, model: str) -> None:
        """Makes the palette again.

        Args:
            name: One of :data:`STARTS`. Rules that draw by chance draw again each time.
            model: Model whose segmentation rules read that map classes to tasks.

        Raises:
            ValueError: If there is no such start, or the model cannot do what it needs.
        """
        names = [start.name for start in STARTS]
        if name not in names:
            raise ValueError(f"unknown start {name!r}{did_you_mean(name, names)}")
        tasks, size = self._models.get(model).tasks, self.photo.working_size
        if name == EMPTY:
            self.palette = Palette.empty(size, tasks)
        elif name == AUTO:
            self.palette = self._proposed(tasks)
        else:
            rule = get_rule(name, tasks)
            classes = None
            if rule.needs_labels:
                if rule.reads not in tasks:
                    raise ValueError(
                        f"{name} reads the class map of {rule.reads}, which {model} does not make."
                    )
                everywhere = Palette.single(rule.reads, size, tasks)
                classes = self._predicted(model, everywhere).labels[rule.reads]
            self.palette = rule.palette(size, None, classes, tasks)

    def paint(self, ids: bytes) -> None:
        """Takes the palette as a browser has painted it.

        Args:
            ids: Task ids, a byte a pixel, line by line, at the working size.

        Raises:
            ValueError: If their number is not that of the pixels, or one is unknown.
        """
        height, width = self.photo.working_size
        if len(ids) != height * width:
            raise ValueError(
                f"the palette that was sent has {len(ids)} pixels, the photograph {width} × "
                f"{height} = {width * height}; reload the page."
            )
        painted = np.frombuffer(ids, np.uint8).reshape(height, width)
        self.palette = Palette(painted, self.palette.tasks)

    def answer(self, model: str, task: str | None = None) -> Answer:
        """Does the tasks of the palette, again only where an edit reaches.

        Args:
            model: The model.
            task: Task to do everywhere too, None for none.

        Raises:
            ValueError: If the model is not offered, or does other tasks than the palette's.
        """
        tasks = self._models.get(model).tasks
        if tasks != self.palette.tasks:
            raise ValueError(
                f"{model} does the tasks {', '.join(tasks)}, the palette asks for "
                f"{', '.join(self.palette.tasks)}; compare models of the same tasks."
            )
        prediction = self._predicted(model, self.palette)
        asked = self._asked[model]
        everywhere = None
        if task is not None:
            single = Palette.single(task, self.palette.size, tasks)
            everywhere = self._labels(model, asked.everywhere(task), single)[task]
        return Answer(model, prediction, everywhere, asked.full, asked.edit)

    def read(self, model: str, x: int, y: int, task: str | None = None) -> str:
        """Says what a model answered at a pixel of the working size.

        Args:
            model: A model that has answered.
            x: Column.
            y: Row.
            task: The task, the palette's at that pixel where None.

        Returns:
            The task and its value there; empty where nothing is asked or known.
        """
        height, width = self.palette.size
        asked = self._asked.get(model)
        if asked is None or asked.composite is None or not (0 <= x < width and 0 <= y < height):
            return ""
        network, number = self._models.get(model), int(self.palette.ids[y, x])
        here = None if number == IGNORE else self.palette.tasks[number]
        task = here if task is None else task
        if task is None or task not in network.tasks:
            return ""
        outputs = asked.composite if task == here else asked.everywhere(task)
        return describe_value(outputs[0, :, y, x], get_task(task), network.readers)

    def whole(self, model: str, task: str | None = None) -> Prediction:
        """Does the tasks of the palette, or one everywhere, at the size of the photograph kept."""
        photo = self.photo
        palette = self.sized_palette(photo.kept_size)
        if task is not None:
            palette = Palette.single(task, palette.size, palette.tasks)
        long_side = max(32, *photo.working_size)
        network = self._models.get(model)
        found = network.predict(photo.pixels, palette, long_side)
        return Prediction(found.image, palette, found.labels, photo.name)

    def sized_palette(self, size: Size | None = None) -> Palette:
        """Returns the palette at another size, the photograph's own where None."""
        return self.palette.resize(self.photo.size if size is None else size)

    def _predicted(self, name: str, palette: Palette) -> Prediction:
        labels = self._labels(name, self._session(name).decode(palette), palette)
        return Prediction(self.photo.working, palette, labels, self.photo.name)

    def _labels(self, name: str, composite: Tensor, palette: Palette) -> dict[str, Label]:
        network = self._models.get(name)
        ids = palette.tensor()[None].to(composite.device)
        found = decode(composite, ids, network.tasks, network.readers)
        return {task: label_array(labels.values[0]) for task, labels in found.items()}

    def _session(self, name: str) -> _Asked:
        if name not in self._asked:
            network = self._models.get(name)
            pixels = network_input(network, self.photo.working, max(self.photo.working_size))
            self._asked[name] = _Asked(network, pixels)
        self._asked.move_to_end(name)
        while len(self._asked) > ENCODED:
            self._asked.popitem(last=False)
        return self._asked[name]

    def _proposed(self, tasks: tuple[str, ...]) -> Palette:
        network = self._models.proposer()
        if network.tasks != tasks:
            raise ValueError(
                "the palette network proposes palettes of the tasks "
                f"{', '.join(network.tasks)}; start from a rule, or choose a model of these."
            )
        photo = self.photo
        return network.predict(photo.working, max(32, *photo.working_size))


def describe_value(outputs: Tensor, task: TaskSpec, readers: Readers) -> str:
    """Says in words what the raw outputs (3,) of a task at a pixel mean."""
    values = task_values(outputs, task, readers)
    if task.kind == "classes":
        share, number = values.max(-1)
        text = f"{task.classes[int(number)]}, {float(share):.0%}"
    elif task.kind == "probability":
        text = f"{float(values):.2f}"
    else:
        text = ", ".join(f"{name} {x:.2f}" for name, x in zip("xyz", values.tolist(), strict=True))
    return f"{task.title}: {text}"


class Studios:
    """The studios of all pages, limited in number; the least recently used one is dropped.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._studios: OrderedDict[str, Studio] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._studios)

    def has(self, page: str | None) -> bool:
        """Whether a page has a studio."""
        return (page or "") in self._studios

    def get(self, page: str | None) -> Studio:
        """Returns the studio of a page.

        Raises:
            ValueError: If it has none, or has none any more.
        """
        with self._lock:
            studio = self._studios.get(page or "")
            if studio is None:
                raise ValueError(
                    "there is no photograph yet, or it was put away for others: choose one first."
                )
            self._studios.move_to_end(page or "")
            return studio

    def put(self, page: str | None, studio: Studio) -> None:
        """Replaces the studio of a page."""
        with self._lock:
            self._studios[page or ""] = studio
            self._studios.move_to_end(page or "")
            while len(self._studios) > self._most:
                self._studios.popitem(last=False)

    def drop(self, page: str | None) -> None:
        """Forgets what belongs to a page that has gone."""
        with self._lock:
            self._studios.pop(page or "", None)
