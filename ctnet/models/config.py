"""The configuration of a network, saved with its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from ctnet.blocks.decoder_config import DECODERS, DecoderConfig, check_width, get_decoder_config
from ctnet.checks import check_keys, did_you_mean
from ctnet.labels import ClassAnchors, Point
from ctnet.tasks import DEFAULT_TASKS, TaskName, TaskSpec, check_task, get_task

System = Literal["ctn", "mhn", "stn", "palette"]

MAX_TASKS = 64
"""Largest number of tasks of a network: each adds a decoder to an MHN and a network to an STN."""

LATER = ("depthwise", "subpixel")
"""Fields of a decoder's configuration that older files lack."""


def _as_list(values: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(
            f"tasks, task_specs, anchors and label_tables are lists; got {values!r:.200}."
        )
    return values


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a network; it travels with the weights.

    Attributes:
        system: ``ctn``, ``mhn``, ``stn``, or ``palette`` for a palette network.
        encoder: Name of the encoder.
        decoder: Name of a decoder, or its configuration.
        tasks: Names of the tasks by id; those that are not the paper's know what they are
            (:class:`ctnet.tasks.TaskName`).
        code_length: Length of the task codes of a CTN.
        added: How many of the tasks, the last ones, :func:`ctnet.add_task` brought to a CTN.
        anchors: Class anchors of tasks whose anchors are not those of
            :func:`ctnet.labels.class_anchors`.
        label_tables: Tasks whose classes are read by a label table (:mod:`ctnet.label_tables`).
    """

    system: System = "ctn"
    encoder: str = "efficientnet_lite0"
    decoder: str | DecoderConfig = "compact"
    tasks: tuple[str, ...] = DEFAULT_TASKS
    code_length: int = 100
    added: int = 0
    anchors: tuple[ClassAnchors, ...] = ()
    label_tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.system not in get_args(System):
            allowed = get_args(System)
            raise ValueError(
                f"unknown system {self.system!r}{did_you_mean(str(self.system), allowed)}"
            )
        self._check_types()
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be one or more different names; got {self.tasks}.")
        own = (t if t in DEFAULT_TASKS else TaskName.of(t) for t in self.tasks)
        object.__setattr__(self, "tasks", tuple(own))
        if not 0 <= self.added < len(self.tasks) or (self.added and self.system != "ctn"):
            raise ValueError(
                f"added counts some of a CTN's tasks; got {self.added} of {len(self.tasks)} in a "
                f"{self.system}."
            )
        if isinstance(self.decoder, str):
            get_decoder_config(self.decoder)
        self._check_anchors()
        self._check_label_tables()

    def _check_types(self) -> None:
        """Configurations come with downloads: no value is taken on trust."""
        if not isinstance(self.encoder, str):
            raise ValueError(f"encoder is the name of one; got {self.encoder!r}.")
        if not isinstance(self.decoder, str | DecoderConfig):
            raise ValueError(f"decoder is a name or a decoder's config; got {self.decoder!r}.")
        if (
            not isinstance(self.tasks, tuple)
            or not all(isinstance(task, str) for task in self.tasks)
            or len(self.tasks) > MAX_TASKS
        ):
            raise ValueError(
                f"tasks are up to {MAX_TASKS} names; got {len(self.tasks)}: {self.tasks!r:.200}."
            )
        check_width("code_length", self.code_length)
        if not isinstance(self.added, int) or isinstance(self.added, bool):
            raise ValueError(f"added is a whole number; got {self.added!r}.")

    def _check_anchors(self) -> None:
        coded = {task: len(get_task(task).classes) for task in self.tasks if get_task(task).classes}
        named = [entry.task for entry in self.anchors]
        if len(set(named)) != len(named) or not {*named} <= {*coded}:
            raise ValueError(
                f"anchors are for tasks with classes, each once; got {named}, allowed: "
                f"{', '.join(coded)}."
            )
        for entry in self.anchors:
            if len(entry.points) != coded[entry.task] or not all(
                len(point) == 3 and all(0 <= x <= 1 for x in point) for point in entry.points
            ):
                raise ValueError(
                    f"the anchors of {entry.task} are {coded[entry.task]} points of three numbers "
                    f"in [0, 1]; got {entry.points}."
                )

    def _check_label_tables(self) -> None:
        coded = [task for task in self.tasks if get_task(task).classes]
        named = self.label_tables
        if (
            not isinstance(named, tuple)
            or not all(isinstance(task, str) for task in named)
            or len(set(named)) != len(named)
            or not {*named} <= {*coded}
            or (named and self.system == "palette")
        ):
            raise ValueError(
                f"label_tables names tasks with classes, each once; got {named!r:.200}, allowed: "
                f"{', '.join(coded) if self.system != 'palette' else 'none in a palette network'}."
            )

    @property
    def decoder_config(self) -> DecoderConfig:
        """The decoder's widths."""
        return DECODERS[self.decoder] if isinstance(self.decoder, str) else self.decoder

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON types, with what tasks beyond the paper's are."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for name in ("anchors", "label_tables"):
            if not plain[name]:
                del plain[name]
        if isinstance(self.decoder, DecoderConfig):
            # Left out where unused: a run from before is of the same configuration still.
            for entry in fields(DecoderConfig):
                if entry.name in LATER and getattr(self.decoder, entry.name) == entry.default:
                    del plain["decoder"][entry.name]
        specs = [asdict(get_task(task)) for task in self.tasks if task not in DEFAULT_TASKS]
        return plain | ({"task_specs": json.loads(json.dumps(specs))} if specs else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Reads a configuration from JSON types, with the tasks that it brings along.

        Raises:
            ValueError: If a key is unknown or missing, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a model's config is a table; got {values!r:.200}.")
        values = dict(values)
        brought = _as_list(values.pop("task_specs", []))
        specs = [check_task(TaskSpec.from_dict(spec)) for spec in brought]
        return cls._from_values(values, {spec.name: TaskName(spec) for spec in specs})

    @classmethod
    def _from_values(cls, values: dict[str, Any], own: Mapping[str, TaskName]) -> ModelConfig:
        check_keys(values, cls, "a model's config")
        decoder = values.get("decoder")
        if isinstance(decoder, dict):
            check_keys(decoder, DecoderConfig, "a decoder's config")
            lists: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in decoder.items()
            }
            values["decoder"] = DecoderConfig(**lists)
        for name in ("tasks", "label_tables"):
            if name in values:
                listed = _as_list(values[name])
                values[name] = tuple(own.get(x, x) if isinstance(x, str) else x for x in listed)
        anchors = []
        for entry in _as_list(values.pop("anchors", [])):
            check_keys(entry, ClassAnchors, "a model's anchors")
            points = tuple(tuple(point) for point in entry["points"])
            anchors.append(ClassAnchors(entry["task"], cast(tuple[Point, ...], points)))
        return cls(**values, anchors=tuple(anchors))
