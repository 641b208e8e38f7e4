"""What the page's events do: from what a browser sends to what it shows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from ctnet import defaults
from ctnet.checks import did_you_mean
from ctnet.demo.downloads import labels_file, palette_file, picture_file
from ctnet.demo.files import Limits, in_words, read_palette, read_photo
from ctnet.demo.models import Models
from ctnet.demo.studio import AUTO, Studio, Studios
from ctnet.demo.views import data_uri, hexadecimal, legend, picture, viewed_task
from ctnet.prediction.working_size import MIN_LONG_SIDE
from ctnet.tasks import get_task

SHOWN_SIDE = 1024
"""Longest side of the photograph that is sent to the painter."""

NO_OTHER = "none"
"""Menu entry for no second model."""

Message = dict[str, Any]
"""JSON for a component of the page."""


@dataclass(frozen=True)
class Choices:
    """What is chosen on a page.

    Attributes:
        model: The model.
        other: The model to compare with, or :data:`NO_OTHER`.
        view: What is shown of their answers; see :func:`ctnet.demo.views.views`.
        start: The palette to start from; see :data:`ctnet.demo.studio.STARTS`.
    """

    model: str
    other: str
    view: str
    start: str = AUTO

    @property
    def models(self) -> list[str]:
        """The models to ask, one or two."""
        return [self.model] if self.other in (NO_OTHER, self.model) else [self.model, self.other]


class Handlers:
    """The demo without its page: everything that an event can ask for.

    Args:
        models: Networks by name.
        examples: Photographs by name, to take instead of your own.
        limits: What is taken and kept at most.
        long_side: Longest side in pixels at which networks see a photograph.

    Attributes:
        studios: What is kept for each page.

    Raises:
        ValueError: If ``long_side`` is too small.
    """

    def __init__(
        self,
        models: Models,
        examples: Mapping[str, Path],
        limits: Limits,
        long_side: int = defaults.LONG_SIDE,
    ) -> None:
        if long_side < MIN_LONG_SIDE:
            raise ValueError(f"long_side is at least {MIN_LONG_SIDE} pixels; got {long_side}.")
        self.models = models
        self.examples = examples
        self.limits = limits
        self.studios = Studios(limits.pages)
        self._long_side = long_side
        self._numbers = count(1)

    def open(
        self, page: str | None, path: str | Path, choices: Choices, name: str | None = None
    ) -> tuple[Message, Message]:
        """Takes a photograph and starts a palette on it.

        Args:
            page: Name of the browser page.
            path: The photograph.
            choices: What is chosen there.
            name: Name of the file for people; the path's own where None.

        Returns:
            What the painter and the views show.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be taken, or a choice is unknown.
        """
        photo = read_photo(path, self._long_side, self.limits, name)
        studio = Studio(photo, self.models, next(self._numbers))
        studio.start(choices.start, choices.model)
        views = self._answers(studio, choices)
        self.studios.put(page, studio)
        image = Image.fromarray(photo.pixels)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
        text = f"{photo.name}: {in_words(photo.size)} pixels"
        if photo.kept_size != photo.size:
            text += f"; labels and pictures have {in_words(photo.kept_size)}"
        shown = self._painter(studio, "open", text) | {
            "photo": data_uri(image, "JPEG"),
            "width": photo.working_size[1],
            "height": photo.working_size[0],
        }
        return shown, views

    def open_example(
        self, page: str | None, name: str, choices: Choices
    ) -> tuple[Message, Message]:
        """Takes an example; as :meth:`open`.

        Raises:
            ValueError: If there is no such example, or a choice is unknown.
        """
        if name not in self.examples:
            raise ValueError(f"unknown example {name!r}{did_you_mean(name, self.examples)}")
        path = self.examples[name]
        return self.open(page, path, choices, path.name)

    def start(self, page: str | None, choices: Choices) -> tuple[Message, Message]:
        """Makes the palette again, as chosen; returns what painter and views show.

        Raises:
            ValueError: If there is no photograph, or the start cannot be made.
        """
        studio = self.studios.get(page)
        studio.start(choices.start, choices.model)
        return self._painter(studio, "palette", "new palette"), self._answers(studio, choices)

    def upload_palette(
        self, page: str | None, path: str | Path, choices: Choices
    ) -> tuple[Message, Message]:
        """Takes a palette PNG; returns what painter and views show.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If there is no photograph, or the palette cannot be taken.
        """
        studio = self.studios.get(page)
        tasks = self.models.get(choices.model).tasks
        studio.palette = read_palette(path, studio.photo, tasks, self.limits)
        text = f"palette of {Path(path).name}"
        return self._painter(studio, "palette", text), self._answers(studio, choices)

    def edit(self, page: str | None, message: Any, choices: Choices) -> Message | None:
        """Takes the palette as painted.

        Args:
            page: Name of the browser page.
            message: What the painter sent.
            choices: What is chosen there.

        Returns:
            What the views show; None where the edit was of a photograph that is gone.

        Raises:
            ValueError: If there is no photograph, or the message is none of the painter's.
        """
        studio = self.studios.get(page)
        if not isinstance(message, dict) or not {"serial", "ids"} <= set(message):
            raise ValueError("what the painter sent is no palette; reload the page.")
        if message["serial"] != studio.serial:
            return None
        try:
            ids = base64.b64decode(message["ids"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("the palette that was sent is damaged; reload the page.") from None
        studio.paint(ids)
        return self._answers(studio, choices)

    def point(self, page: str | None, message: Any, choices: Choices) -> Message:
        """Says what the models answered where the pointer is.

        Args:
            page: Name of the browser page.
            message: The pixel ``x``, ``y`` of the working size.
            choices: What is chosen there.

        Returns:
            Texts for the page, one a model; none where nothing is known.
        """
        texts: list[str] = []
        if self.studios.has(page) and isinstance(message, dict):
            studio = self.studios.get(page)
            x, y = message.get("x"), message.get("y")
            task = viewed_task(choices.view, studio.palette.tasks)
            if isinstance(x, int) and isinstance(y, int):
                texts = [studio.read(model, x, y, task) for model in choices.models]
        return {"number": next(self._numbers), "texts": texts}

    def choose(self, page: str | None, choices: Choices) -> tuple[Message | None, Message]:
        """Shows other models or another view.

        Returns:
            What the painter shows, None where it stays as it is; and what the views show.

        Raises:
            ValueError: If there is no photograph, or a choice is unknown.
        """
        studio = self.studios.get(page)
        before = studio.palette
        studio.use_tasks(choices.model)
        try:
            views = self._answers(studio, choices)
        except ValueError:
            studio.palette = before
            raise
        painter = None
        if studio.palette.tasks != before.tasks:
            painter = self._painter(studio, "palette", f"tasks of {choices.model}")
        return painter, views

    def download(self, page: str | None, what: str, choices: Choices) -> Path:
        """Writes a file to download.

        Args:
            page: Name of the browser page.
            what: ``palette``, ``labels`` or ``picture``.
            choices: What is chosen there.

        Raises:
            ValueError: If there is no photograph, or a choice is unknown.
        """
        studio = self.studios.get(page)
        if what == "palette":
            return palette_file(studio)
        if what == "labels":
            return labels_file(studio, choices.models)
        if what == "picture":
            return picture_file(studio, choices.models, choices.view)
        raise ValueError(
            f"unknown file {what!r}{did_you_mean(what, ('palette', 'labels', 'picture'))}"
        )

    def _painter(self, studio: Studio, kind: str, text: str) -> Message:
        tasks = [get_task(name) for name in studio.palette.tasks]
        return {
            "kind": kind,
            "serial": studio.serial,
            # A value that is the same again would not reach the page.
            "number": next(self._numbers),
            "tasks": [
                {"name": task.name, "title": task.title, "color": hexadecimal(task.color)}
                for task in tasks
            ],
            "ids": base64.b64encode(studio.palette.ids.tobytes()).decode(),
            "text": text,
        }

    def _answers(self, studio: Studio, choices: Choices) -> Message:
        task = viewed_task(choices.view, studio.palette.tasks)
        answers = [studio.answer(model, task) for model in choices.models]
        return {
            "number": next(self._numbers),
            "pictures": [asdict(picture(answer, choices.view)) for answer in answers],
            "legend": [asdict(block) for block in legend(answers, choices.view)],
            "hint": "Nothing is asked here yet: paint a task on the photograph.",
        }
