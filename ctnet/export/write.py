"""Export: a trained network as one file for other runtimes, with all that decoding needs.

The file answers an image (N,3,H,W), RGB in [0, 1], and a palette (N,H,W) of task ids, int64, with
the composite's raw outputs (N,3,H,W), for any N, H and W; one of a palette network takes the image
alone and answers with scores (N,K,H,W). What the numbers mean travels along as text properties.
"""

from __future__ import annotations

import base64
import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as tracing

from ctnet.checks import did_you_mean
from ctnet.export.portable import portable
from ctnet.label_tables import LabelTables
from ctnet.labels import task_anchors
from ctnet.models.base import CompositeModel
from ctnet.models.palette_network import PaletteNetwork
from ctnet.tasks import get_task
from ctnet.version import __version__
from ctnet.zoo.files import replacing

FORMATS = ("onnx", "torchscript", "torch-export")
"""Export formats; the last two need torch, but not ctnet."""

PROPERTIES = 1
"""Version of the properties of exported files."""

PROPERTIES_FILE = "ctnet.json"
"""Name of the properties within a file for torch."""

OPSET = 18
"""Version of ONNX's operators: ONNX Runtime has it since 1.14."""


def export(
    network: CompositeModel | PaletteNetwork, path: str | Path, format: str = "onnx",
    name: str = "model", int8: bool = False,
) -> Path:  # fmt: skip
    """Writes a network as one graph, fused for inference (norms folded away).

    Args:
        network: The network, in eval mode, on a CPU.
        path: The file; folders are made, a file of that name is replaced.
        format: ``onnx``; ``torchscript`` for :func:`torch.jit.load`, or ``torch-export`` for
            :func:`torch.export.load`, which takes longest to write.
        name: Name of the model, for the properties.
        int8: Store kernels of the format ``onnx`` in 8 bits, a quarter of the size; what they
            multiply stays float32.

    Returns:
        The path.

    Raises:
        ValueError: If the format is unknown or has no 8 bits, the path is a folder, or the network
            is in training mode.
        OSError: If the file cannot be written.
        ModuleNotFoundError: If the format is ``onnx`` and the extra ``[export]`` is missing.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file to write, such as {path}/model.onnx.")
    if format == "onnx":
        _need_onnx()
    elif int8:
        raise ValueError(f"8 bits are for the format 'onnx', not {format!r}.")
    found, extra = properties(network, name), {}
    if format != "onnx":
        extra[PROPERTIES_FILE] = json.dumps(found)
    # Before the graph is made, which can take longer than to find that it cannot be written.
    with replacing(path) as (file,), _quiet():
        if format == "onnx":
            _write_onnx(network, file, found, int8)
        elif format == "torchscript":
            jit: Any = torch.jit
            script = jit.trace(portable(network), _example(network), check_trace=False)
            jit.save(script, file, _extra_files=extra)
        else:
            torch.export.save(trace(network), file, extra_files=extra)
    return path


def properties(network: CompositeModel | PaletteNetwork, name: str = "model") -> dict[str, str]:
    """Returns what decoding needs to know of a network, as text.

    The keys are ``ctnet.format``, ``ctnet.version``, ``ctnet.model``, ``ctnet.system`` and
    ``ctnet.tasks``: JSON, a list by task id of what :class:`ctnet.TaskSpec` holds, with the
    ``anchors`` of tasks of kind ``classes`` and, where the network has a label table for one, the
    likeliest class of each of its cells as ``table``: ``cells`` along each side of the cube of
    sigmoid outputs, and ``classes``, a byte a cell in base64, the first channel outermost.
    """
    tasks = []
    tables = network.label_tables if isinstance(network, CompositeModel) else LabelTables({})
    for task in map(get_task, network.tasks):
        found: dict[str, Any] = asdict(task)
        found["anchors"] = task_anchors(task, network.config.anchors) if task.classes else ()
        if task.name in tables.tasks:
            best = tables.reader(task.name).best().cpu().numpy()
            text = base64.b64encode(best.tobytes()).decode("ascii")
            found["table"] = {"cells": len(best), "classes": text}
        tasks.append(found)
    return {
        "ctnet.format": str(PROPERTIES),
        "ctnet.version": __version__,
        "ctnet.model": name,
        "ctnet.system": network.config.system,
        "ctnet.tasks": json.dumps(tasks),
    }


def trace(network: CompositeModel | PaletteNetwork) -> ExportedProgram:
    """Traces a network by :func:`torch.export.export`, with any batch, height and width.

    Raises:
        ValueError: If it is in training mode.
    """
    batch, height, width = Dim("batch", min=1), Dim("height", min=1), Dim("width", min=1)
    shapes: tuple[dict[int, Any], ...] = (
        {0: batch, 2: height, 3: width},
        {0: batch, 1: height, 2: width},
    )
    example = _example(network)
    settings: Any = tracing
    # Sides of one cell are sides like any other.
    with settings.patch(backed_size_oblivious=True), torch.no_grad():
        return torch.export.export(
            portable(network), example, dynamic_shapes=shapes[: len(example)]
        )


def _example(network: CompositeModel | PaletteNetwork) -> tuple[Tensor, ...]:
    """Creates inputs for tracing, in which no two sizes are equal."""
    first = next(network.parameters())
    image = torch.zeros(2, 3, 72, 104, dtype=first.dtype, device=first.device)
    if isinstance(network, PaletteNetwork):
        return (image,)
    return image, torch.zeros(2, 72, 104, dtype=torch.int64, device=first.device)


def _need_onnx() -> None:
    try:
        importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the format onnx needs the package onnx: pip install 'ctnet[export]'"
        ) from error


def _write_onnx(
    network: CompositeModel | PaletteNetwork, file: Path, found: dict[str, str], int8: bool
) -> None:
    import onnx

    output = "scores" if isinstance(network, PaletteNetwork) else "composite"
    axes = {0: "batch", 2: "height", 3: "width"}
    example = _example(network)
    # By TorchScript: a second, where by torch.export it is a minute for the same graph.
    torch.onnx.export(
        portable(network),
        example,
        file,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image", "palette"][: len(example)],
        output_names=[output],
        dynamic_axes={
            "image": axes,
            "palette": {0: "batch", 1: "height", 2: "width"},
            output: axes,
        },
    )
    made = onnx.load(file)
    onnx.helper.set_model_props(made, found)
    if int8:
        _store_int8(made)
    onnx.save(made, file)


def _store_int8(made: Any) -> None:
    """Stores kernels (O,I,h,w) as whole numbers of up to 127, with a scale for each output."""
    from onnx import helper, numpy_helper

    graph = made.graph
    for tensor in [x for x in graph.initializer if len(x.dims) == 4]:
        kernel = numpy_helper.to_array(tensor)
        scale = np.abs(kernel).max((1, 2, 3), keepdims=True) / 127
        scale[scale == 0] = 1
        whole, cast, by = (f"{tensor.name}.{part}" for part in ("int8", "cast", "scale"))
        rounded = np.rint(kernel / scale).astype(np.int8)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(rounded, whole))
        graph.initializer.append(numpy_helper.from_array(scale, by))
        # Not DequantizeLinear: runtimes compute these two once, when they read the file.
        graph.node.insert(0, helper.make_node("Mul", [cast, by], [tensor.name]))
        graph.node.insert(0, helper.make_node("Cast", [whole], [cast], to=tensor.data_type))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings of torch about tracing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
