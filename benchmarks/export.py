"""How fast an exported network is in ONNX Runtime, beside PyTorch on as many threads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch

from benchmarks.speed import Bench, Finding
from ctnet.export.write import export
from ctnet.profiling.measure import Run

SIDES = {"light": (256, 320, 512), "paper": (256,)}
"""Sides of the images by size of the network."""

LIMIT = 1.05
"""Most time that ONNX Runtime may take, as a multiple of PyTorch's."""


@torch.inference_mode()
def exported(bench: Bench) -> list[Finding]:
    """Compares ONNX Runtime with PyTorch, fused and not, for each kind of palette."""
    found = []
    for size, sides in SIDES.items():
        session = _session(bench, size, torch.get_num_threads())
        for side in map(bench.side, sides):
            image, plain, fused = bench.image(1, side), bench.model(size), bench.model(size)
            fused.fuse()
            for kind, palette in bench.palettes(1, side).items():
                inputs = {"image": image.contiguous().numpy(), "palette": palette.numpy()}
                run: Run = partial(session.run, None, inputs)
                where = f"{kind}, {size} size, {side} x {side}, batch 1"
                references: Mapping[str, Run] = {
                    "PyTorch": partial(plain, image, palette),
                    "fused PyTorch": partial(fused, image, palette),
                }
                for name, reference in references.items():
                    question = f"{{}} / {name}, {where}"
                    runs = {name: reference, "ONNX Runtime": run}
                    found += bench.compare(question, runs, {"ONNX Runtime": LIMIT})
    return found


def _session(bench: Bench, size: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait in a loop would slow down the run that comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with TemporaryDirectory() as folder:
        file = export(bench.model(size), Path(folder) / "model.onnx")
        return onnxruntime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
