"""What kernels in 8 bits do to accuracy: an exported file measured as a network is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import onnxruntime
import torch
from torch import Tensor

import ctnet
from ctnet.data.dataset import open_source
from ctnet.evaluation.evaluate import EvalResult, evaluate
from ctnet.export.write import export
from ctnet.label_tables import LabelTables
from ctnet.labels import ClassReader
from ctnet.models.base import CompositeModel
from ctnet.rules import S


@dataclass(frozen=True)
class ExportedModel:
    """An exported network with the part of a network's methods that measuring it needs.

    Attributes:
        session: What runs the file.
        model: The network, which says how its outputs are read.
    """

    session: onnxruntime.InferenceSession
    model: CompositeModel
    device = torch.device("cpu")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks by id."""
        return self.model.tasks

    @property
    def readers(self) -> Mapping[str, ClassReader]:
        """What reads the classes of its tasks."""
        return self.model.readers

    @property
    def label_tables(self) -> LabelTables:
        """Its label tables."""
        return self.model.label_tables

    def encode(self, image: Tensor) -> Tensor:
        """Returns the image: a file has encoder and decoder in one."""
        return image

    def decode(self, image: Tensor, palette: Tensor) -> Tensor:
        """Maps an image (1,3,H,W) and task ids (H,W) to raw outputs (1,3,H,W)."""
        inputs: dict[str, Any] = {"image": image.numpy(), "palette": palette[None].numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0])


def measure_int8(name: str, data: Path, limit: int | None) -> EvalResult:
    """Measures a model of the zoo with kernels in 8 bits on val, each task everywhere.

    Args:
        name: The model.
        data: Folder of CompositeMT-mini.
        limit: Most photographs a task, None for all.
    """
    model = ctnet.load(name)
    with TemporaryDirectory() as folder:
        file = export(model, Path(folder) / "model.onnx", int8=True)
        session = onnxruntime.InferenceSession(
            file.read_bytes(), providers=["CPUExecutionProvider"]
        )
    source = open_source("compositemt", data, "val", model.tasks)
    exported = cast(CompositeModel, ExportedModel(session, model))
    return evaluate(exported, source, S, f"{name}-int8", limit)
