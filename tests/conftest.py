"""Helpers that several test files share."""

import numpy as np
import pytest
import torch

from ctnet.networks.composite import create
from ctnet.networks.decoder import DecoderConfig
from ctnet.tasks import DEFAULT_TASKS

TINY = DecoderConfig(
    stages=(10, 8, 7, 6, 5),
    skips=(4, 5, 6, 7, 8),
    image=(3, 4),
    hidden=(6, 7, 8, 9, 10, 11),
    embedding=12,
)
"""A decoder whose widths all differ, so that none can stand in for another."""


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
