"""Helpers that several test files share."""

import csv
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_server import TOKEN, Hub
from PIL import Image

from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.fused.precision import set_precision
from ctnet.models.base import create
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import DEFAULT_TASKS, TASKS

# Figures compare with each other whatever the processor can; tests/test_precision.py has the rest.
os.environ["CTNET_PRECISION"] = "float32"
set_precision("float32")

TINY = DecoderConfig(
    stages=(10, 8, 7, 6, 5),
    skips=(4, 5, 6, 7, 8),
    image=(3, 4),
    hidden=(6, 7, 8, 9, 10, 11),
    embedding=12,
)
"""A decoder whose widths all differ, so that none can stand in for another."""

SUBPIXEL = replace(TINY, image=(3,), depthwise=(3, 5, 0, 3, 0), subpixel=True)
"""One whose stages are separable, whose last one works at stride 2."""


def draw_ids(kind, size, generator, tasks=5):
    """Task ids (H,W): one of the spatial layouts that the networks must cope with."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    if kind == "single":
        return np.full(size, 3 % tasks)
    if kind == "unrequested":
        return np.full(size, 255)
    if kind == "mosaic":
        row, column = height // 3, width // 2 + 3
        return ((y >= row) * 2 + (x >= column)) % tasks
    if kind == "curved":
        disc = (y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.3 * height) ** 2
        wave = y > height * (0.7 + 0.1 * np.sin(x / 5))
        return np.where(disc, 1, np.where(wave, 2, 4)) % tasks
    if kind == "random":
        return generator.integers(tasks, size=size)
    if kind == "partly":
        # Random requests, a hole larger than the coarsest cell, and holes in single pixels.
        ids = generator.integers(tasks, size=size)
        ids[generator.random(size) < 0.3] = 255
        ids[:32, : width // 2] = 255
        return ids
    raise AssertionError(kind)


def pytest_configure():
    """Gives each of the processes that run tests, and those that they start, one thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def known_tasks():
    """Forgets the tasks that a test registers."""
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


@pytest.fixture
def rng():
    return np.random.default_rng(2021)


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def make_ids():
    """Function (kind, (n, height, width), seed) -> batch of palettes, int64."""

    def make(kind, shape, seed=0, tasks=5):
        generator = np.random.default_rng(seed)
        layers = [draw_ids(kind, shape[1:], generator, tasks) for _ in range(shape[0])]
        return torch.from_numpy(np.stack(layers).astype(np.int64))

    return make


@pytest.fixture(scope="session")
def make_model():
    """Function -> network in eval mode whose running statistics are not those of its birth."""

    def make(system="ctn", encoder="efficientnet_lite0", decoder=TINY, tasks=DEFAULT_TASKS, seed=0):
        torch.manual_seed(seed)
        model = create(system, encoder, decoder, tasks)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Name by which the command line finds a CTN with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    return f"local-dir:{save_checkpoint(create('ctn'), folder)}"


@pytest.fixture
def photo(tmp_path):
    """File of a photograph of noise, 40 x 60."""
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def _write_photographs(root, classes=(0, 21), splits=("train",) * 4, size=(40, 48)):
    """Writes samples in the layout of CompositeMT-mini, ``seg`` in a range; returns the folder."""
    generator = np.random.default_rng(0)
    cells = size[0] // 8, size[1] // 8

    def coarse(top, *depth, bottom=0):
        small = generator.integers(bottom, top, (*cells, *depth), dtype=np.uint8)
        return small.repeat(8, 0).repeat(8, 1)

    with (root / "index.csv").open("w", newline="") as file:
        columns = ["id", "split", "source", "annotators", *DEFAULT_TASKS]
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for number, split in enumerate(splits):
            row = {"id": f"voc_{number}", "split": split, "source": "voc"}
            writer.writerow(row | dict.fromkeys(DEFAULT_TASKS, "true"))
    for number in range(len(splits)):
        for name, array in {
            "image.jpg": coarse(256, 3),
            "seg.png": coarse(classes[1], bottom=classes[0]),
            "parts.png": coarse(7),
            "edges.png": coarse(2) * np.uint8(255),
            "saliency.jpg": coarse(256),
            "normals.jpg": coarse(256, 3),
        }.items():
            Image.fromarray(array).save(root / f"voc_{number}.{name}")
    return root


@pytest.fixture(scope="session")
def write_photographs():
    """Function (root, classes, splits, size) -> root, which writes a small data set there."""
    return _write_photographs


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback that the client of this process uses, with an empty cache; no token."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # Xet is a protocol of its own; a Hub without it is asked for plain files.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("CTNET_WEIGHTS", raising=False)
    # The client waits seconds before it tries again.
    waits = []
    quick = SimpleNamespace(**vars(time) | {"sleep": waits.append})
    monkeypatch.setattr("huggingface_hub.file_download.time", quick)
    monkeypatch.setattr("huggingface_hub.utils._http.time", quick)
    server.cache, server.waits, server.token = tmp_path / "cache", waits, TOKEN
    close_session()
    yield server
    close_session()
    server.close()
