"""Rules: ways to decide which task is asked for where (section 4 of the paper).

``S`` or ``single:TASK`` asks for one task everywhere, ``R1`` for a mosaic of four rectangles,
``Rrnd`` for a task drawn at every pixel; ``R2`` and ``R3`` map VOC classes to tasks, as does a
file of your own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ctnet.checks import did_you_mean
from ctnet.palette import Palette, Size, unknown_ids
from ctnet.tasks import DEFAULT_TASKS, IGNORE, NOTHING, VOC_CLASSES, known_tasks

S = "S"
"""Name of the setting S: one task everywhere, for each task in turn."""

RuleKind = Literal["single", "mosaic", "random", "semantic"]


@dataclass(frozen=True)
class Rule:
    """A way to make palettes.

    Attributes:
        name: Name in results and on the command line.
        kind: How tasks are assigned.
        task: The task of a ``single`` rule.
        mapping: Class name to task name, for a ``semantic`` rule; a class that is left out asks
            for nothing.
        reads: Task whose class map a ``semantic`` rule reads.
        classes: Names of that task's classes by id.

    Raises:
        ValueError: If the kind is unknown, a ``single`` rule names no task (or another rule does),
            or a rule that is not ``semantic`` maps classes, or one maps an unknown class.
    """

    name: str
    kind: RuleKind
    task: str | None = None
    mapping: tuple[tuple[str, str], ...] = ()
    reads: str = "seg"
    classes: tuple[str, ...] = VOC_CLASSES

    def __post_init__(self) -> None:
        kinds = get_args(RuleKind)
        if self.kind not in kinds:
            raise ValueError(f"unknown kind of rule {self.kind!r}{did_you_mean(self.kind, kinds)}")
        if (self.kind == "single") != (self.task is not None):
            raise ValueError(f"rule {self.name!r}: a single rule, and no other, names its task.")
        if self.mapping and self.kind != "semantic":
            raise ValueError(f"rule {self.name!r}: only a semantic rule maps classes to tasks.")
        for cls, _ in self.mapping:
            if cls not in self.classes:
                raise ValueError(
                    f"rule {self.name!r} names the unknown class {cls!r}"
                    f"{did_you_mean(cls, self.classes)}"
                )

    @property
    def needs_labels(self) -> bool:
        """Whether palettes depend on a class map of the image."""
        return self.kind == "semantic"

    def requested(self, tasks: Sequence[str] = DEFAULT_TASKS) -> tuple[str, ...]:
        """Returns the tasks, of those given, that the rule can ask for."""
        if self.kind in ("mosaic", "random"):
            return tuple(tasks)
        wanted = {self.task, *(task for _, task in self.mapping)}
        return tuple(task for task in tasks if task in wanted)

    def table(self, tasks: Sequence[str] = DEFAULT_TASKS) -> npt.NDArray[np.uint8]:
        """Returns the task id of each class id (256,), 255 where nothing is asked.

        Raises:
            ValueError: If the rule names a task that is not among ``tasks``.
        """
        table = np.full(256, IGNORE, np.uint8)
        for cls, task in self.mapping:
            if task == NOTHING:
                continue
            if task not in tasks:
                raise ValueError(
                    f"rule {self.name!r} asks for the unknown task {task!r}"
                    f"{did_you_mean(task, tasks)}"
                )
            table[self.classes.index(cls)] = tuple(tasks).index(task)
        return table

    def palette(
        self, size: Size, generator: np.random.Generator | None = None,
        labels: npt.NDArray[np.integer] | None = None, tasks: Sequence[str] = DEFAULT_TASKS,
        among: Sequence[str] | None = None,
    ) -> Palette:  # fmt: skip
        """Makes a palette.

        Args:
            size: Height and width in pixels.
            generator: Source of chance, for mosaic and random rules; a fresh one where None.
            labels: Class ids (H,W), 255 = not labeled, for semantic rules.
            tasks: Names by id.
            among: Tasks that a mosaic or random rule draws from, all where None.

        Raises:
            ValueError: If a semantic rule gets no labels, or labels that are of another size, no
                whole numbers, or unknown classes.
        """
        if self.task is not None:
            return Palette.single(self.task, size, tasks)
        if self.kind in ("mosaic", "random"):
            generator = generator or np.random.default_rng()
            build = Palette.mosaic if self.kind == "mosaic" else Palette.random
            return build(size, generator, tasks, among)
        if labels is None:
            raise ValueError(
                f"rule {self.name} maps classes to tasks and needs a class map of the image; give "
                "labels, or let a model propose the palette."
            )
        labels = np.asarray(labels)
        if labels.shape != tuple(size):
            raise ValueError(f"the class map is {labels.shape}, the image {tuple(size)}.")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"class ids are whole numbers; got {labels.dtype}.")
        unknown = unknown_ids(labels, len(self.classes))
        if unknown:
            raise ValueError(
                f"unknown class ids {unknown}; known: 0 to {len(self.classes) - 1}, {IGNORE}."
            )
        return Palette(self.table(tasks)[labels], tuple(tasks))


def _semantic(name: str, groups: Mapping[str, str]) -> Rule:
    pairs = tuple((cls, task) for task, names in groups.items() for cls in names.split())
    return Rule(name, "semantic", mapping=pairs)


R1 = Rule("R1", "mosaic")
RRND = Rule("Rrnd", "random")
R2 = _semantic(
    "R2",
    {
        "parts": "person",
        "seg": "bird horse cow cat dog sheep",
        "normals": "bottle chair diningtable pottedplant sofa tvmonitor",
        "saliency": "aeroplane bicycle boat bus car motorbike train",
        "edges": "background",
    },
)
R3 = _semantic(
    "R3",
    {
        "parts": "person",
        "normals": "chair diningtable sofa bicycle bus car motorbike train",
        "saliency": "aeroplane boat bird horse cow cat dog sheep bottle pottedplant tvmonitor",
        "edges": "background",
    },
)
RULES = {rule.name: rule for rule in (R1, R2, R3, RRND)}
ALIASES = {"mosaic": R1, "random": RRND}


def single(task: str, tasks: Sequence[str] = DEFAULT_TASKS) -> Rule:
    """Returns the rule that asks for one task everywhere.

    Raises:
        ValueError: If the task is unknown.
    """
    if task not in tasks:
        raise ValueError(f"unknown task {task!r}{did_you_mean(task, tasks)}")
    return Rule(f"single:{task}", "single", task=task)


def get_rule(name: str, tasks: Sequence[str] = DEFAULT_TASKS) -> Rule:
    """Finds a rule by name or reads it from a file.

    Args:
        name: ``R1`` (or ``mosaic``), ``R2``, ``R3``, ``Rrnd`` (or ``random``), ``single:TASK``, or
            a ``.toml``, ``.yaml`` or ``.yml`` file.
        tasks: Names of the tasks that a rule may ask for.

    Raises:
        ValueError: If there is no such rule; the message names the nearest.
        FileNotFoundError: If a file is named that does not exist.
    """
    if name.startswith("single:"):
        return single(name.removeprefix("single:"), tasks)
    if Path(name).suffix.lower() in (".toml", ".yaml", ".yml"):
        return load_rule(name, tasks)
    known = {**RULES, **ALIASES}
    if name not in known:
        raise ValueError(f"unknown rule {name!r}{did_you_mean(name, [*known, 'single:TASK'])}")
    return known[name]


def load_rule(path: str | Path, tasks: Sequence[str] = DEFAULT_TASKS) -> Rule:
    """Reads a rule file: an optional ``name`` and a table ``classes`` of class = task.

    A class that is left out, or whose task is ``none``, asks for nothing. The classes are those of
    ``seg``, or of the task that ``reads`` names, which may be one of your own.

    Example (TOML)::

        name = "pets"
        [classes]
        cat = "seg"
        dog = "seg"
        person = "parts"

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be parsed or names an unknown class or task.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no rule file at {path}.")
    content = read_mapping(path)
    classes = content.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise ValueError(f"{path} needs a table 'classes' of class = task.")
    pairs = tuple((str(cls), str(task)) for cls, task in classes.items())
    reads = str(content.get("reads", "seg"))
    specs = known_tasks(tasks)
    if reads not in specs or not specs[reads].classes:
        known = [name for name, task in specs.items() if task.classes]
        raise ValueError(f"{path} reads the class map of {reads!r}{did_you_mean(reads, known)}")
    name = str(content.get("name", path.stem))
    rule = Rule(name, "semantic", mapping=pairs, reads=reads, classes=specs[reads].classes)
    rule.table(tasks)
    return rule


def read_mapping(path: Path) -> dict[str, object]:
    """Reads a TOML or YAML file whose top level is a table.

    Raises:
        ValueError: If it cannot be parsed or is no table.
        ModuleNotFoundError: If it is YAML and PyYAML is missing.
    """
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(path.read_text("utf-8-sig"))
        try:
            import yaml
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path} is YAML, which needs PyYAML: pip install pyyaml, or write it as TOML"
            ) from error
        try:
            content = yaml.safe_load(path.read_text("utf-8-sig"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a table at its top level.")
    return content
