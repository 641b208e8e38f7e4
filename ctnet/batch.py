"""Predict on batches of rows, as distributed engines hand them out: Ray Data, Spark and others.

A :class:`Predictor` maps a dict of arrays to a dict of arrays and imports no engine::

    import ray
    from ctnet.batch import Predictor

    photographs = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    found = photographs.map_batches(
        Predictor, fn_constructor_args=("ctn-r2", "R2"), concurrency=8, num_cpus=1, batch_size=16
    )
    found.write_parquet("s3://bucket/found")

With Spark the same class works in ``mapInPandas``, on ``{name: frame[name].to_numpy() for name in
frame}``.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ctnet import defaults
from ctnet.models.base import CompositeModel
from ctnet.models.device import pick_device
from ctnet.models.pretrained import load
from ctnet.prediction.predict import PaletteLike
from ctnet.prediction.prediction import Prediction
from ctnet.prediction.result_files import Files, result_paths

Batch = Mapping[str, npt.NDArray[Any]]

INPUTS = ("bytes", "image", "path")
"""Columns that are searched for photographs, in this order."""

ERROR = "error"
"""Column with the error of a photograph; empty if there is none."""

ERRORS = (ValueError, OSError, RuntimeError, MemoryError)


class Predictor:
    """Predicts on the rows of a batch, on one processor core unless told otherwise.

    Args:
        model: The network, or its name in the zoo (or any other that :func:`ctnet.load` takes).
        palette: What to do where, as ``model.predict`` takes it.
        long_side: Longest side in pixels at which the network sees a photograph.
        seed: Seed of rules that draw by chance.
        files: Which files a row gets: ``labels``, ``pictures`` or ``all``.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        threads: Threads of torch; engines start a process for each core.
    """

    def __init__(
        self,
        model: str | CompositeModel = defaults.MODEL,
        palette: PaletteLike = defaults.PALETTE,
        long_side: int = defaults.LONG_SIDE,
        seed: int = 0,
        files: Files = "all",
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        torch.set_num_threads(threads)
        network = load(model) if isinstance(model, str) else model
        if not isinstance(network, CompositeModel):
            raise ValueError(f"{model} makes palettes; give a network that does tasks.")
        self.model = network.to(pick_device(device)).eval()
        self.request = self.model.resolve_palette(palette)
        self.long_side, self.seed, self.files = long_side, seed, files

    def columns(self) -> tuple[str, ...]:
        """Returns the columns that a batch gains: files by content and ending, and ``error``.

        The files are those that ``ctnet predict`` writes (:meth:`ctnet.Prediction.save`), such as
        ``composite.png``, ``seg.png`` and ``normals.npy``.
        """
        kinds = result_paths("", "x", self.model.tasks, self.files).values()
        return (*(path.name.removeprefix("x_") for path in kinds), ERROR)

    def __call__(self, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        """Predicts.

        Args:
            batch: Rows with one of these columns: ``bytes`` (image files), ``image`` (arrays
                (H,W,3) uint8; sizes may differ) or ``path`` (local files). Other columns stay.

        Returns:
            The batch, less ``bytes`` and ``image``, with the content of each file as bytes, empty
            where its task is not asked for, and ``error``: a photograph that cannot be used costs
            its own row only.

        Raises:
            ValueError: If the batch has none of these columns.
        """
        given = next((name for name in INPUTS if name in batch), None)
        if given is None:
            raise ValueError(
                f"a batch has one of the columns {', '.join(INPUTS)}; got {', '.join(batch)}."
            )
        names = self.columns()
        found: dict[str, list[Any]] = {name: [] for name in names}
        for value in batch[given]:
            row: dict[str, Any] = dict.fromkeys(names, b"") | {ERROR: ""}
            try:
                row |= self._files_of(self._predict(given, value))
            except ERRORS as error:
                row[ERROR] = " ".join(str(error).split()) or type(error).__name__
            for name in names:
                found[name].append(row[name])
        kept = {name: values for name, values in batch.items() if name not in INPUTS[:2]}
        return kept | {name: _column(values) for name, values in found.items()}

    def _predict(self, given: str, value: Any) -> Prediction:
        image = value
        if given == "bytes":
            try:
                image = Image.open(io.BytesIO(value))
                image.load()
            except Exception as error:  # Whatever damaged files make a decoder raise.
                raise ValueError(f"is damaged or no picture ({error}).") from None
        return self.model.predict(
            str(value) if given == "path" else image, self.request, self.long_side, self.seed
        )

    def _files_of(self, prediction: Prediction) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            written = prediction.save(folder, "x", self.files).values()
            return {path.name.removeprefix("x_"): path.read_bytes() for path in written}


def write_row(row: Mapping[str, Any], folder: Path, name: str) -> list[str]:
    """Writes the files of a row, each whole or not at all.

    Args:
        row: A row that a :class:`Predictor` gave.
        folder: Where they go.
        name: Their stem.

    Returns:
        Names of the files.
    """
    written = []
    for kind, content in row.items():
        if not isinstance(content, bytes) or not content or "." not in kind:
            continue
        path = folder / f"{name}_{kind}"
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)
        written.append(path.name)
    return written


def _column(values: list[Any]) -> npt.NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = values
    return column
