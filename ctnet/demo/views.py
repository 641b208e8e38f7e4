"""The views of the page: pictures, and legends for their colors."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ctnet.checks import did_you_mean
from ctnet.demo.studio import Answer
from ctnet.images import RGB
from ctnet.prediction.colors import NORMAL_EXAMPLES, colorize
from ctnet.prediction.prediction import Label, Prediction
from ctnet.tasks import TaskSpec, get_task

COMPOSITE = "composite"
OVERLAY = "overlay"

RAMP = 9
"""Colors of a ramp in a legend, between which a browser blends."""

PALE = 0.7
"""Share of white where the view of one task shows what the palette does not ask for."""

LEAST_SHARE = 0.002
"""Smallest share of a task's pixels for which a legend shows a class."""


@dataclass(frozen=True)
class Row:
    """A line of a legend: one color or a ramp, ``#rrggbb``, and what it means."""

    colors: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Block:
    """The legend of a task.

    Attributes:
        title: The task's name for people.
        color: Its color in palettes.
        share: Share of the photograph that asks for it, such as ``12 %``.
        rows: Its colors; of classes those that occur, in the order of their ids, so that entries
            keep their places from stroke to stroke.
    """

    title: str
    color: str
    share: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Picture:
    """A picture of a model's answer.

    Attributes:
        model: The model.
        source: PNG at the working size, as a data URI.
        text: What it shows, for those who do not see it.
        times: Time that the network took, in words.
    """

    model: str
    source: str
    text: str
    times: str


def views(tasks: Sequence[str]) -> tuple[str, ...]:
    """Names the views: composite, overlay, and the labels of each task."""
    return (COMPOSITE, OVERLAY, *tasks)


def viewed_task(view: str, tasks: Sequence[str]) -> str | None:
    """Returns the task that a view shows alone, None for a view of all.

    Raises:
        ValueError: If there is no such view.
    """
    known = views(tasks)
    if view not in known:
        raise ValueError(f"unknown view {view!r}{did_you_mean(view, known)}")
    return view if view in tasks else None


def draw(prediction: Prediction, view: str, everywhere: Label | None = None) -> Image.Image:
    """Draws a view at the prediction's size.

    Args:
        prediction: The prediction.
        view: One of :func:`views`.
        everywhere: For the view of one task, its labels at every pixel: they are shown pale where
            the palette does not ask for it.

    Raises:
        ValueError: If there is no such view.
    """
    palette = prediction.palette
    task = viewed_task(view, palette.tasks)
    if task is not None and everywhere is not None:
        drawn = colorize(everywhere, get_task(task)).astype(np.float32)
        asked = palette.mask(task)
        if asked.any():
            drawn[asked] = colorize(prediction.labels[task][asked], get_task(task))
        drawn[~asked] += PALE * (255 - drawn[~asked])
        return Image.fromarray(drawn.round().astype(np.uint8))
    if view == OVERLAY:
        both = prediction.side_by_side()
        return both.crop((both.width // 2, 0, both.width, both.height))
    return prediction.draw()


def picture(answer: Answer, view: str) -> Picture:
    """Draws a view of an answer for a page."""
    asked = ", ".join(get_task(name).title for name in answer.prediction.palette.requested())
    return Picture(
        answer.model,
        data_uri(draw(answer.prediction, view, answer.everywhere)),
        f"{view} of {answer.model}; asked: {asked or 'nothing'}",
        _in_milliseconds(answer),
    )


def legend(answers: Sequence[Answer], view: str) -> list[Block]:
    """Explains the colors of a view, for all models that answered.

    Args:
        answers: Answers to one palette.
        view: One of :func:`views`.
    """
    palette = answers[0].prediction.palette
    shares = palette.shares()
    alone = viewed_task(view, palette.tasks)
    blocks = []
    for name in palette.requested() if alone is None else (alone,):
        labels = [
            answer.prediction.labels[name] if answer.everywhere is None else answer.everywhere
            for answer in answers
        ]
        task, share = get_task(name), _percent(shares.get(name, 0))
        blocks.append(Block(task.title, hexadecimal(task.color), share, _rows(task, labels)))
    return blocks


def _rows(task: TaskSpec, labels: Sequence[Label]) -> tuple[Row, ...]:
    if task.kind == "probability":
        ramp = colorize(np.linspace(0, 1, RAMP, dtype=np.float32), task)
        text = "no edge – edge" if task.name == "edges" else "not salient – salient"
        return (Row(tuple(hexadecimal(color) for color in ramp), text),)
    if task.kind == "normals":
        return tuple(
            Row((hexadecimal(colorize(np.array(normal, np.float32), task)),), text)
            for text, normal in NORMAL_EXAMPLES
        )
    counts = np.zeros(256, int)
    for values in labels:
        counts += np.bincount(values.ravel(), minlength=256)
    counts = counts[: len(task.classes)]
    found = np.flatnonzero(counts > LEAST_SHARE * counts.sum())
    return tuple(Row((hexadecimal(task.class_colors[i]),), task.classes[i]) for i in found)


def hexadecimal(color: Sequence[int] | RGB) -> str:
    """Writes a color as a browser reads it."""
    return "#" + "".join(f"{int(channel):02x}" for channel in color)


def data_uri(image: Image.Image, kind: str = "PNG", quality: int = 85) -> str:
    """Writes a picture as a data URI; PNG is exact."""
    buffer = io.BytesIO()
    options = {"compress_level": 1} if kind == "PNG" else {"quality": quality}
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 or not share else "<1%"


def _in_milliseconds(answer: Answer) -> str:
    full = f"full {1000 * answer.full:.0f} ms"
    return full if answer.edit is None else f"{full}, last edit {1000 * answer.edit:.0f} ms"
