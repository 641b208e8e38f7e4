"""Imports checkpoints of the paper's published code (nikola3794/composite-tasking).

Its network is our CTN with encoder ``resnet34`` and decoder ``paper`` under other names, in two
layouts: v0 (the one behind the paper's figures) and v1 (the same, tidied). Two of its conventions
differ from ours and are kept with the imported network: the classes of eq. 5 lie where PASCAL-MT's
color maps put them, and the codes of saliency and normals come in the other order.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctnet.blocks.encoders import read_weights
from ctnet.blocks.task_representation import task_codes
from ctnet.labels import ClassAnchors, Point
from ctnet.models.base import CompositeModel, build
from ctnet.models.config import ModelConfig
from ctnet.tasks import COLOR_MAP_CLASSES, DEFAULT_TASKS, PART_CLASSES, TASKS, VOC_CLASSES

COLOR_MAPS_FILE = "colourmaps.json"
"""File that the published code writes beside its checkpoints: RGB (0 to 255) by class and task."""

CODE_ORDER = ("seg", "parts", "edges", "normals", "saliency")
"""Tasks by the position of the ones in their code; the ids in palettes are the same as ours."""

Colors = Sequence[tuple[float, ...]]

LIGHTNING_PREFIX = "model."
CODES_PREFIX = "task_z_code_dict."
CODES = "representation.codes"

# Lightning before 1.5 names its callbacks in a checkpoint by their classes. Empty classes of these
# names let such files load; no other class is looked up.
_CALLBACKS: list[Any] = [
    type(name, (), {"__module__": f"pytorch_lightning.callbacks.{module}"})
    for name, module in {
        "ModelCheckpoint": "model_checkpoint",
        "EarlyStopping": "early_stopping",
    }.items()
]


@dataclass(frozen=True)
class _Layout:
    """Where a version of the published network keeps its modules.

    Attributes:
        name: Name of the version.
        encoder: Layers 1 to 5 of the encoder.
        image: Blocks 0 and 1 on the image.
        skips: Skips 1 to 5.
        stages: Stages at strides 16, 8, 4, 2 and 1.
        head: The last convolution.
        mapping: Layers of the mapping from codes to embeddings, at every other index.
        first: Index of the first of them.
        affine: Prefix of the layers for gamma and beta.
    """

    name: str
    encoder: str
    image: str
    skips: str
    stages: tuple[str, str, str, str, str]
    head: str
    mapping: str
    first: int
    affine: str

    def key(self, ours: str) -> str:
        """Returns the published name of a parameter or statistic of our CTN."""
        parts = ours.split(".")
        match parts[:2]:
            case ["encoder", layer]:
                found = self.encoder.format(layer.removeprefix("layer"))
                return ".".join([found, *parts[2:]])
            case ["representation", "mapping"]:
                return ".".join([self.mapping.format(int(parts[2]) + self.first), *parts[3:]])
            case ["decoder", "head"]:
                return ".".join([self.head, *parts[2:]])
            case ["decoder", "image"]:
                block = self.image.format(parts[2])
            case ["decoder", "skips"]:
                block = self.skips.format(int(parts[2]) + 1)
            case _:
                block = self.stages[int(parts[2])]
        inner = {
            "conv": "conv1",
            "norm.norm": "spatial_cond.param_free_norm",
            "norm.shared": "spatial_cond.conv_shared.0",
            "norm.gamma": f"spatial_cond.{self.affine}_gamma",
            "norm.beta": f"spatial_cond.{self.affine}_beta",
        }
        return ".".join([block, inner[".".join(parts[3:-1])], parts[-1]])


_LAYOUTS = (
    _Layout(
        "v1",
        encoder="encoder.layer{}",
        image="decoder.skip_orig_img_{}",
        skips="decoder.skip_{}",
        stages=(
            "decoder.dec_4",
            "decoder.dec_3",
            "decoder.dec_2",
            "decoder.dec_1",
            "decoder.dec_0",
        ),
        head="decoder.last_conv",
        mapping="task_representation_block.mapping.{}",
        first=0,
        affine="affine",
    ),
    _Layout(
        "v0",
        encoder="layer{}",
        image="skip_orig_img_cond_pt{}",
        skips="skip_{}_cond",
        stages=(
            "regular_4_cond",
            "regular_3_cond",
            "regular_2_cond",
            "regular_1_cond",
            "final_cond_0",
        ),
        head="conv_last",
        mapping="fcs.mapping.{}",
        # The normalization of the codes is layer 0.
        first=1,
        affine="transform",
    ),
)


def import_published(path: str | Path) -> CompositeModel:
    """Reads a checkpoint of the paper's published code as a CTN of ours.

    Nothing in the file is run: pickles are read with PyTorch's unpickler for weights alone. Every
    key and shape is checked. The anchors of eq. 5 are the colors of ``colourmaps.json`` where the
    published code left that file beside the checkpoint, the colors of the VOC color map, which
    PASCAL-MT's labels have, otherwise; they travel in ``model.config.anchors``. Normals come in
    the axes of PASCAL-MT's labels.

    Args:
        path: A state dict, or a Lightning checkpoint that holds one, of the published
            CompositeTasking network in its layout v0 or v1 with a ResNet-34: ``.safetensors``, or
            any other suffix for what ``torch.save`` wrote.

    Returns:
        The network in eval mode, in float32 on the CPU;
        :func:`ctnet.models.checkpoint.save_checkpoint` writes it as a checkpoint of ours.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds more than weights, is damaged, or has another layout, a
            missing or unknown key or another shape; or if ``colourmaps.json`` is malformed.

    Example::

        model = import_published("epoch=99-step=49999.ckpt")
        model.predict("photo.jpg", "R2").save("out")
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give a checkpoint of the published code.")
    state = _weights(_read(path), path)
    config = ModelConfig("ctn", "resnet34", "paper", anchors=_anchors(path))
    # Nothing is allocated or drawn for parameters that are about to be replaced.
    with torch.device("meta"):
        model = build(config)
    model.load_state_dict(_convert(state, model, path), strict=True, assign=True)
    return model.eval()


def _read(path: Path) -> Any:
    """Reads a file's tensors without running what else it may hold."""
    try:
        with torch.serialization.safe_globals(_CALLBACKS):
            return read_weights(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|function|class) ([\w.]+)", str(error))
        raise ValueError(
            f"{path} is refused: it is damaged, or holds more than weights"
            f"{f' ({found[1]})' if found else ''}, and reading that would run code of the file. "
            "Whoever made it can save the network's state_dict() alone."
        ) from error
    except OSError:
        raise
    except Exception as error:  # Damage makes unpicklers raise almost anything.
        raise ValueError(f"{path} cannot be read as weights: {error}") from error


def _weights(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Finds the state dict in what a file holds."""
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} holds no weights: expected tensors by name, or a Lightning checkpoint with "
            f"'state_dict'; got {_outline(content)}."
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds more than weights: {key!r} is {_outline(value)}, expected a tensor."
            )
    return content


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {_some(content)}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _convert(state: Mapping[str, Tensor], model: CompositeModel, path: Path) -> dict[str, Tensor]:
    """Checks a published state dict and renames it to that of our CTN."""
    wanted = {key: value for key, value in model.state_dict().items() if key != CODES}
    layout, names = _find_layout(state, wanted, path)
    shapes = {names[key]: _published_shape(key, value) for key, value in wanted.items()}
    # Lightning's checkpoints hold the codes beside the network.
    has_codes = any(key.startswith(CODES_PREFIX) for key in state)
    codes = task_codes(len(CODE_ORDER), model.config.code_length)
    if has_codes:
        shapes |= {CODES_PREFIX + task: tuple(codes[0].shape) for task in CODE_ORDER}
    _check(state, shapes, layout, path)
    found = {
        key: state[names[key]].reshape(value.shape).to(value.dtype).contiguous()
        for key, value in wanted.items()
    }
    by_task = {
        task: state[CODES_PREFIX + task] if has_codes else codes[block].sign()
        for block, task in enumerate(CODE_ORDER)
    }
    found[CODES] = torch.stack([_unit(by_task[task], task, path) for task in DEFAULT_TASKS])
    return found


def _find_layout(
    state: Mapping[str, Tensor], wanted: Iterable[str], path: Path
) -> tuple[_Layout, dict[str, str]]:
    """Finds the layout that shares most keys with a file, and its name of each of our keys."""
    prefix = LIGHTNING_PREFIX if any(key.startswith(LIGHTNING_PREFIX) for key in state) else ""
    found = []
    for layout in _LAYOUTS:
        names = {key: prefix + layout.key(key) for key in wanted}
        found.append((sum(name in state for name in names.values()), layout, names))
    shared, layout, names = max(found, key=lambda entry: entry[0])
    if not shared:
        raise ValueError(
            f"{path} has an unknown layout: expected the published CompositeTasking network, with "
            f"keys such as {' or '.join(layout.head + '.weight' for layout in _LAYOUTS)}, plain or "
            f"after {LIGHTNING_PREFIX!r}; got {_some(state)}."
        )
    return layout, names


def _published_shape(key: str, value: Tensor) -> tuple[int, ...]:
    """Returns a shape there: layers that we apply to tables are 1 x 1 convolutions of maps."""
    table = key.endswith((".shared.weight", ".gamma.weight", ".beta.weight"))
    return (*value.shape, 1, 1) if table else tuple(value.shape)


def _check(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layout: _Layout,
    path: Path,
) -> None:
    missing = [key for key in shapes if key not in state]
    unknown = [key for key in state if key not in shapes]
    if missing or unknown:
        parts = [
            f"{what} {_some(keys)}"
            for what, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        raise ValueError(
            f"{path} is no CompositeTasking network of layout {layout.name} with a ResNet-34 and "
            f"its {len(shapes)} keys; {'; '.join(parts)}."
        )
    for key, shape in shapes.items():
        if tuple(state[key].shape) != shape:
            raise ValueError(
                f"{key} in {path} has the shape {tuple(state[key].shape)}; layout {layout.name} "
                f"with a ResNet-34 has {shape}."
            )


def _unit(code: Tensor, task: str, path: Path) -> Tensor:
    code = code.float()
    length = torch.linalg.vector_norm(code)
    if not bool(length.isfinite()) or not bool(length > 0):
        raise ValueError(f"the code of {task} in {path} has the length {float(length)}.")
    unit: Tensor = code / length
    return unit


def _some(keys: Iterable[Any]) -> str:
    """Names the first few keys."""
    names = [str(key) for key in keys]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _anchors(path: Path) -> tuple[ClassAnchors, ...]:
    """Finds the published anchors, in our order of classes."""
    file = path.with_name(COLOR_MAPS_FILE)
    if file.is_file():
        tables = _read_color_maps(file)
    else:
        colors: Colors = TASKS["seg"].class_colors
        tables = {"seg": colors, "parts": colors[: len(PART_CLASSES)]}
    return tuple(
        ClassAnchors(task, tuple(_scaled(color) for color in rows)) for task, rows in tables.items()
    )


def _scaled(color: tuple[float, ...]) -> Point:
    red, green, blue = (value / 255 for value in color)
    return red, green, blue


def _read_color_maps(file: Path) -> dict[str, Colors]:
    rows = {"seg": COLOR_MAP_CLASSES, "parts": PART_CLASSES}
    try:
        content = json.loads(file.read_text("utf-8"))
        tables = {
            task: [tuple(float(value) for value in color) for color in content[task]]
            for task in rows
        }
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no table of colors by task: {error!r}") from error
    for task, table in tables.items():
        if len(table) != len(rows[task]) or not all(
            len(color) == 3 and all(0 <= value <= 255 for value in color) for color in table
        ):
            raise ValueError(
                f"{file} must hold {len(rows[task])} colors of three numbers from 0 to 255 for "
                f"{task}; got {table}."
            )
    by_name = dict(zip(COLOR_MAP_CLASSES, tables["seg"], strict=True))
    return {"seg": [by_name[name] for name in VOC_CLASSES], "parts": tables["parts"]}
