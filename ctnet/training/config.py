"""The configuration of a training run: one frozen dataclass, read from TOML or YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ctnet.checks import check_keys, did_you_mean
from ctnet.data.dataset import open_source
from ctnet.data.folder import VAL_SHARE
from ctnet.data.label_source import LabelSource
from ctnet.data.teacher import Teacher
from ctnet.models.config import ModelConfig
from ctnet.rules import S, read_mapping
from ctnet.tasks import known_tasks
from ctnet.training.consistency import ConsistencyConfig
from ctnet.training.losses import PAPER_WEIGHTS, NormalsLoss
from ctnet.training.phases import Phase, check_renamed, stretch
from ctnet.training.toml_writer import to_toml

RECIPES = Path(__file__).parent / "recipes"

Layout = Literal["auto", "folder", "compositemt", "pascal-mt"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
LEAST = {
    "crop_size": 1,
    "batch_size": 1,
    "steps": 1,
    "validate_every": 1,
    "validate_images": 0,
    "frozen_stages": 0,
    "warmup_steps": 0,
    "workers": 0,
    "seed": 0,
    "focal_gamma": 0,
    "logit_scale": 0,
    "aux_loss_weight": 0,
    "encoder_aux_loss_weight": 0,
    "reader_width": 0,
}


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        name: Name of the run and of its folder.
        model: The network.
        rule: Rule that makes the palettes: ``R1``, ``R2``, ``R3``, ``Rrnd``, ``single:TASK``, a
            rule file, or ``S``: every task everywhere, one after the other.
        data: Folder of the data set.
        layout: Layout of that folder: ``folder`` (:mod:`ctnet.data.folder`), ``compositemt``,
            ``pascal-mt``, or ``auto``, which finds out.
        val_share: Share of the photographs to validate on, where a folder has no ``val.txt``; 0
            for none.
        skip: Names of photographs to leave out.
        held_out: Keep a fixed twentieth of ``train`` for validation
            (:mod:`ctnet.data.held_out`), so that ``val`` is left for measuring.
        teacher: Where a teacher's class maps stand in for ``seg`` in training: ``none``,
            ``missing`` (photographs without a class map), or ``everywhere`` (also the unlabeled
            pixels of the others); see :class:`ctnet.data.teacher.TeacherSource`. Only
            ``compositemt`` has them.
        init: Weights to start from: a zoo name, a safetensors file, or the folder of a run, which
            has auxiliary heads too; None trains from scratch.
        pretrained_encoder: Start the encoder from ImageNet weights.
        encoder_weights: File that holds them, as :func:`ctnet.blocks.encoders.create_encoder`
            takes it, for machines that cannot download them.
        frozen_stages: Encoder stages, from the image on, whose weights stay as they are.
        frozen_statistics: Keep the encoder's batch norm statistics.
        only_added: Train nothing but the embeddings of tasks that :func:`ctnet.add_task` brought,
            so that no other task's output changes.
        only_tasks: Train nothing but the scales and shifts that a CTN's decoder gives to these
            tasks, so that no other task's output changes (:mod:`ctnet.training.only_tasks`); none
            trains everything.
        crop_size: Side of the training crops in pixels.
        scale_range: Smallest and largest scale of the photographs.
        batch_size: Images a step.
        steps: Steps of the run; with phases, of all of them.
        learning_rate: Of everything but the encoder.
        encoder_lr_scale: The encoder's learning rate over ``learning_rate``; 0.01 in the paper.
        weight_decay: Of AdamW.
        warmup_steps: Steps of linear warm-up.
        lr_decay_fraction: Fraction of the steps, at the end, over which the learning rate falls
            linearly to zero.
        grad_clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the exponential moving average of the weights; 0 turns it off.
        loss_weights: lambda of each task in eq. 4.
        focal_gamma: Focusing exponent of the class losses.
        logit_scale: Scale of smooth class scores that replace those of eq. 5, with the same best
            class (:func:`ctnet.training.losses.smooth_class_scores`); 0 keeps eq. 5.
        self_distillation_weight: Fraction of the class losses that takes the best class of the
            auxiliary heads as its target instead of the label, so that the composite decides where
            they are sure enough.
        reader_width: Width of the hidden layers of small networks that learn to read classes off
            the three channels, instead of anchors (:mod:`ctnet.training.readers`); 0 for none.
            The checkpoint holds what they learned as label tables.
        normals_loss: ``cosine`` (1 - cosine) or ``angular`` (the angle, which the metric measures).
        aux_loss_weight: Weight of the coarse heads of :mod:`ctnet.training.auxiliary`, 0 for none.
        encoder_aux_loss_weight: Weight of heads on the encoder that do every task everywhere
            (:mod:`ctnet.training.encoder_heads`), 0 for none; for networks with one encoder.
        coarse_only: Run and train the decoder only up to those heads. The network has no full
            output then, so there is no validation.
        class_weight_power: Classes weigh by their share of pixels to the power of minus this.
        class_balanced_fraction: Fraction of samples that are drawn for a class: first a class, all
            but the background equally often, then a photograph that has it, then a crop that holds
            some of it (:mod:`ctnet.data.sampling`).
        source_weights: Relative frequency of a source's images, by its name; 1 where none is
            given.
        task_shares: Relative frequency of tasks in mosaic and random palettes, whole numbers; 1
            where none is given.
        mosaic_fraction: Fraction of samples whose palette is a mosaic (R1) whatever the rule, so
            that a network of a semantic rule can still do any task anywhere.
        consistency: What pixels learn from whose task is asked for and not labeled
            (:mod:`ctnet.training.consistency`); its ``weight`` is 0 by default, which is off.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast; ``auto``: bf16 on a GPU.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        workers: Processes that load data.
        cache: Keep decoded files in memory, up to a quarter of it in each process.
        device_data: Decode the whole data set into the memory of the device and cut crops there,
            for a GPU; otherwise ``workers`` decode and cut on the CPU. The crops are the same.
        validate_every: Steps between validations and checkpoints.
        validate_images: Images of each validation, taken evenly from the split; 0 takes all.
        seed: Of initialization, order, augmentation and palettes.
        phases: Parts of the run, one after the other, that differ in some of these fields; none
            makes one part of it all.
    """

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    rule: str = "R1"
    data: str = "~/data/compositemt"
    layout: Layout = "auto"
    val_share: float = VAL_SHARE
    skip: tuple[str, ...] = ()
    held_out: bool = False
    teacher: Teacher = "none"
    init: str | None = None
    pretrained_encoder: bool = True
    encoder_weights: str | None = None
    frozen_stages: int = 0
    frozen_statistics: bool = False
    only_added: bool = False
    only_tasks: tuple[str, ...] = ()
    crop_size: int = 256
    scale_range: tuple[float, float] = (0.6, 1.3)
    batch_size: int = 10
    steps: int = 50_000
    learning_rate: float = 1e-3
    encoder_lr_scale: float = 0.01
    weight_decay: float = 1e-5
    warmup_steps: int = 200
    lr_decay_fraction: float = 0.4
    grad_clip_norm: float = 5.0
    ema_decay: float = 0.0
    loss_weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    focal_gamma: float = 2.0
    logit_scale: float = 0.0
    self_distillation_weight: float = 0.0
    reader_width: int = 0
    normals_loss: NormalsLoss = "cosine"
    aux_loss_weight: float = 0.0
    encoder_aux_loss_weight: float = 0.0
    coarse_only: bool = False
    class_weight_power: float = 0.0
    class_balanced_fraction: float = 0.0
    source_weights: Mapping[str, float] = field(default_factory=dict)
    task_shares: Mapping[str, int] = field(default_factory=dict)
    mosaic_fraction: float = 0.0
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    precision: Precision = "auto"
    device: str = "auto"
    workers: int = 2
    cache: bool = True
    device_data: bool = False
    validate_every: int = 1000
    validate_images: int = 200
    seed: int = 0
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, wanted = getattr(self, entry.name), type(entry.default)
            allowed = (float, int) if wanted is float else (wanted,)
            if wanted in TYPES and type(value) not in allowed:
                raise ValueError(f"{entry.name} must be {TYPES[wanted]}; got {value!r}.")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        for name, allowed_type in (
            ("layout", Layout), ("teacher", Teacher), ("precision", Precision),
            ("normals_loss", NormalsLoss),
        ):  # fmt: skip
            choices = get_args(allowed_type)
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}"
                    f"{did_you_mean(getattr(self, name), choices)}"
                )
        for task, share in self.task_shares.items():
            if type(share) is not int or share < 0:
                raise ValueError(f"task_shares are whole numbers; got {share!r} for {task}.")
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share must be at least 0 and below 1; got {self.val_share}.")
        for name in ("lr_decay_fraction", "self_distillation_weight", "class_balanced_fraction",
                     "mosaic_fraction"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and below 1; got {self.ema_decay}.")
        low_high = self.scale_range
        pair = isinstance(low_high, tuple) and len(low_high) == 2
        if not (pair and 0 < low_high[0] <= low_high[1]):
            raise ValueError(f"scale_range is a smallest and a largest scale; got {low_high}.")
        if not isinstance(self.consistency, ConsistencyConfig):
            raise ValueError(
                f"consistency must be a table ([consistency]); got {self.consistency!r:.200}."
            )
        self._check_tasks()
        if self.consistency.weight:
            if self.rule == S or self.model.system == "palette":
                raise ValueError(
                    "consistency is for palettes of several tasks: neither for S nor "
                    "for palette networks."
                )
            if not self.ema_decay:
                raise ValueError("consistency needs a moving average of the weights (ema_decay).")
        if self.crop_size % 32:
            raise ValueError(f"crop_size must be a multiple of 32; got {self.crop_size}.")
        if self.phases:
            self._check_phases()
        else:
            self._check_auxiliary()

    def _check_tasks(self) -> None:
        known = known_tasks(self.model.tasks)
        for table, values in (
            ("loss_weights", self.loss_weights),
            ("task_shares", self.task_shares),
            ("consistency.task_shares", self.consistency.task_shares),
            ("only_tasks", self.only_tasks),
        ):
            for task in values:
                if task not in known:
                    raise ValueError(f"unknown task {task!r} in {table}{did_you_mean(task, known)}")

    def _check_auxiliary(self) -> None:
        for name in ("coarse_only", "self_distillation_weight", "encoder_aux_loss_weight"):
            if getattr(self, name) and not self.aux_loss_weight:
                raise ValueError(f"{name} needs an aux_loss_weight above 0.")
        if self.only_added and self.aux_loss_weight:
            raise ValueError("only_added trains embeddings alone: aux_loss_weight must be 0.")
        if self.only_tasks and (self.only_added or self.aux_loss_weight):
            raise ValueError(
                "only_tasks trains scales and shifts alone: only_added must be false and "
                "aux_loss_weight 0."
            )

    def _check_phases(self) -> None:
        whole = sum(phase.steps for phase in self.phases)
        if self.steps != whole:
            raise ValueError(f"the phases have {whole} steps in all; got steps = {self.steps}.")
        # Making the configuration of each phase checks what it changes.
        _ = self.spans

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The phases with the configuration that holds in each; a run without any is one."""
        if not self.phases:
            return (Span(0, self.name, 0, self),)
        spans: list[Span] = []
        for number, phase in enumerate(self.phases):
            name = phase.name or f"phase {number + 1}"
            try:
                changes = _from_plain(phase.changes)
                flat = replace(self, **changes, steps=phase.steps, phases=())
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            spans.append(Span(number, name, spans[-1].end if spans else 0, flat))
        return tuple(spans)

    def span_at(self, step: int) -> Span:
        """Returns the phase that a step of the run belongs to, the last one after the end."""
        return next((span for span in self.spans if step < span.end), self.spans[-1])

    @property
    def splits(self) -> tuple[str, str]:
        """The splits to train and to validate on."""
        return ("held-in", "held-out") if self.held_out else ("train", "val")

    def open_data(self, split: str | None = None, working_size: bool = True) -> LabelSource:
        """Opens the data of the run.

        Args:
            split: ``train``, ``val``, or a part of ``train``; None for what the run learns from.
            working_size: Scale larger photographs down, as training does.

        Raises:
            FileNotFoundError: If the folder does not hold that data set.
            ValueError: If nothing is left of the split.
        """
        trains = split is None
        return open_source(
            self.layout,
            self.data,
            split or self.splits[0],
            self.model.tasks,
            self.teacher if trains else "none",
            working_size,
            self.val_share,
            self.skip,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON types."""
        plain: dict[str, Any] = asdict(self) | {"model": self.model.to_dict()}
        plain["phases"] = [phase.to_dict() for phase in self.phases]
        found: dict[str, Any] = json.loads(json.dumps(plain))
        return found

    def to_toml(self) -> str:
        """Returns the whole configuration as TOML that :meth:`load` reads back."""
        return to_toml(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Reads a configuration from plain types.

        Raises:
            ValueError: If a key is unknown or a value is not allowed.
        """
        for key in values:
            check_renamed(key)
        check_keys(values, cls, "a training config")
        values = _from_plain(values)
        phases = values.pop("phases", ())
        if not isinstance(phases, list | tuple):
            raise ValueError(f"phases are tables ([[phases]]); got {phases!r:.200}.")
        if phases:
            phases = tuple(Phase.from_dict(phase) for phase in phases)
            whole = sum(phase.steps for phase in phases)
            steps = values.setdefault("steps", whole)
            if type(steps) is int and steps != whole:
                phases = stretch(phases, steps)
            values["phases"] = phases
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> TrainConfig:
        """Reads a TOML or YAML file, or a recipe of the package by name.

        Args:
            path: A file, or the name of a recipe such as ``ctn-r1`` or ``zoo/mhn-r2``. A file
                may name one beside it that it ``extends``.
            **overrides: Values that replace those of the file. Other ``steps`` than the phases
                have in all make them longer or shorter in proportion.

        Raises:
            FileNotFoundError: If there is neither such a file nor such a recipe.
            ValueError: If the content is not a training configuration.
        """
        file = Path(path)
        if not file.suffix:
            file = RECIPES / f"{path}.toml"
        if not file.is_file():
            found = (p.relative_to(RECIPES).with_suffix("") for p in RECIPES.rglob("*.toml"))
            recipes = ", ".join(sorted(str(p) for p in found if p.name != "base"))
            raise FileNotFoundError(f"no config at {path}; recipes of the package: {recipes}.")
        return cls.from_dict({"name": file.stem, **_read(file), **overrides})


def _read(file: Path) -> dict[str, object]:
    """Reads a file, and first the one beside it that it extends."""
    content = read_mapping(file)
    base = content.pop("extends", None)
    return content if base is None else _read(file.with_name(str(base))) | content


def _from_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns plain types into those of the fields."""
    values = dict(values)
    if isinstance(values.get("model"), Mapping):
        values["model"] = ModelConfig.from_dict(values["model"])
    if isinstance(values.get("consistency"), Mapping):
        values["consistency"] = ConsistencyConfig.from_dict(values["consistency"])
    for name in ("skip", "only_tasks"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if isinstance(values.get("scale_range"), list):
        values["scale_range"] = tuple(float(edge) for edge in values["scale_range"])
    return values


@dataclass(frozen=True)
class Span:
    """A phase in its place in the run.

    Attributes:
        number: Which one it is, from 0.
        name: What the log calls it.
        start: The run's first step in it.
        config: What holds in it, a run without phases that has the phase's steps.
    """

    number: int
    name: str
    start: int
    config: TrainConfig

    @property
    def end(self) -> int:
        """The run's first step after it."""
        return self.start + self.config.steps
