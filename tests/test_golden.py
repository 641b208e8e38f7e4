"""Released models give what they gave when they were released."""

import json

import pytest
import torch
from golden import GOLDEN, classes, key_file, keys, outputs, palette, picture

import ctnet
from ctnet.models.checkpoint import load_network
from ctnet.zoo.locate import locate

NAMES = ctnet.list_models()
TOLERANCE = {"rtol": 1e-3, "atol": 2e-3}


def recorded(name):
    return torch.tensor(json.loads((GOLDEN / f"{name}.json").read_text())["outputs"])


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_release(name):
    found = outputs(load_network(locate(name)))
    torch.testing.assert_close(found.flatten(1), recorded(name), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_read_as_in_the_release(name):
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    found = classes(load_network(locate(name)))
    assert set(found) == set(content["classes"])
    for task, ids in found.items():
        same = ids.flatten() == torch.tensor(content["classes"][task])
        # An output on the border of two classes may be rounded over it.
        assert same.float().mean() >= 0.98, task


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_frozen(name):
    config = load_network(locate(name)).config
    assert keys(name) == key_file(config).read_text().splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_a_small_change_of_the_weights_is_seen(name):
    network = load_network(locate(name))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.02)
    assert not torch.allclose(outputs(network).flatten(1), recorded(name), **TOLERANCE)


def test_the_picture_asks_for_everything():
    assert sorted(palette().unique().tolist()) == [0, 1, 2, 3, 4, 255]
    assert picture().shape[2:] == palette().shape


def test_no_file_is_left_of_a_model_that_is_gone():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(NAMES)
