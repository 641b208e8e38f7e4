"""Checkpoints that were made to do harm: nothing is run, and nothing large is allocated."""

import json
import os
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from fuzzing import EXAMPLES, fuzz, mutated
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ctnet
from ctnet.blocks.decoder_config import DECODERS, MAX_WIDTH, DecoderConfig
from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.models.config import MAX_TASKS, ModelConfig
from ctnet.tasks import TASKS
from ctnet.zoo.files import MAX_BYTES
from ctnet.zoo.tensors import MAX_HEADER, read_tensors

EXPECTED = {
    "head.weight": torch.zeros(2, 3),
    "norm.mean": torch.zeros(4),
    "count": torch.zeros((), dtype=torch.long),
}
HEADER = {
    "__metadata__": {"format": "pt"},
    "count": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    "head.weight": {"dtype": "F16", "shape": [2, 3], "data_offsets": [8, 20]},
    "norm.mean": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]},
}
DATA = struct.pack("<q", 7) + np.arange(6, dtype=np.float16).tobytes() + bytes(16)


def write(path, header=HEADER, data=DATA, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(name, **changes):
    return {**HEADER, name: {**HEADER[name], **changes}}


def test_a_right_file_is_read_into_memory_of_its_own(tmp_path):
    path = write(tmp_path / "x.safetensors")
    found = read_tensors(path, EXPECTED)
    write(path, data=bytes(len(DATA)))
    assert found["count"] == 7 and found["count"].dtype == torch.long
    assert torch.equal(found["head.weight"], torch.arange(6.0).reshape(2, 3))
    assert {value.dtype for value in found.values()} == {torch.float32, torch.long}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (entry("head.weight", shape=[2**40, 2**40]), "no valid safetensors"),
        (entry("head.weight", shape=[2**62, 4]), "no valid safetensors"),
        (entry("head.weight", shape=[-2, -3]), "no valid safetensors"),
        (entry("head.weight", shape=[3, 2]), r"head\.weight is F16 \(3, 2\), expected .*\(2, 3\)"),
        (entry("head.weight", shape=[6]), r"head\.weight is F16 \(6,\)"),
        (entry("head.weight", shape=[1] * 100_000 + [6]), r"head\.weight is F16"),
        (entry("head.weight", data_offsets=[0, 12]), "no valid safetensors"),
        (entry("head.weight", data_offsets=[10, 22]), "no valid safetensors"),
        (entry("head.weight", data_offsets=[20, 8]), "no valid safetensors"),
        (entry("head.weight", data_offsets=[8, 2**63]), "no valid safetensors"),
        (entry("norm.mean", data_offsets=[24, 40]), "no valid safetensors"),
        (entry("head.weight", dtype="I16"), r"head\.weight is I16"),
        (entry("count", dtype="F64"), "count is F64"),
        (entry("head.weight", dtype="PICKLE"), "no valid safetensors"),
        ({k: v for k, v in HEADER.items() if k != "norm.mean"}, "no valid safetensors"),
        (
            HEADER | {"extra": {"dtype": "U8", "shape": [0], "data_offsets": [36, 36]}},
            "unknown ext",
        ),
        ({}, "no valid safetensors"),
        (b"{" * 200_000, "no valid safetensors"),
        (b"\xff\xfe", "no valid safetensors"),
        (b"", "no valid safetensors"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, header, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_tensors(write(tmp_path / "x.safetensors", header), EXPECTED)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, MAX_HEADER + 1, 10**6])
def test_headers_longer_than_the_file_or_the_limit_are_refused(tmp_path, length):
    with pytest.raises(ValueError, match="no safetensors file: its header"):
        read_tensors(write(tmp_path / "x.safetensors", length=length), EXPECTED)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_truncated_files_are_refused(tmp_path, size):
    path = write(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="safetensors file"):
        read_tensors(path, EXPECTED)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_mutated_headers_are_refused_or_give_the_expected_tensors(tmp_path, examples):
    path = tmp_path / "x.safetensors"
    outcomes = set()

    def check(case):
        header, data, cut = case
        write(path, header, data[: len(data) - cut])
        try:
            found = read_tensors(path, EXPECTED)
        except ValueError:
            outcomes.add("refused")
            return
        outcomes.add("read")
        shapes = {name: (value.shape, value.dtype) for name, value in found.items()}
        assert shapes == {name: (value.shape, value.dtype) for name, value in EXPECTED.items()}

    cuts = st.sampled_from([0, 0, 0, 1, 20])
    fuzz(check, st.tuples(mutated(HEADER), st.just(DATA), cuts), examples)
    assert outcomes == {"read", "refused"}


@pytest.fixture(scope="module")
def checkpoint(make_model, tmp_path_factory):
    return save_checkpoint(make_model(), tmp_path_factory.mktemp("tiny"), half=True)


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A checkpoint whose configuration may be rewritten."""
    (tmp_path / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    return tmp_path


def configure(folder, change):
    content = json.loads((folder / "config.json").read_text())
    content["model"] = change(content["model"])
    (folder / "config.json").write_text(json.dumps(content))


def widths(**changes):
    return lambda model: model | {"decoder": model["decoder"] | changes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (widths(stages=[10**9] * 5), f"whole number from 1 to {MAX_WIDTH}; got 1000000000"),
        (widths(stages=[10, 8, 7, 6]), "stages of a decoder are 5 widths"),
        (widths(stages="tiny!"), "stages of a decoder are 5 widths"),
        (widths(skips=[0] * 5), "skips of a decoder must be"),
        (widths(image=[True, True]), "image of a decoder must be"),
        (widths(hidden=[2.5] * 6), "hidden of a decoder must be"),
        (widths(embedding=10**9), "embedding of a decoder must be"),
        (widths(outputs=10**9), "outputs of a decoder must be"),
        (widths(bias="yes"), "bias of a decoder is true or false"),
        (widths(subpixel=1), "subpixel of a decoder is true or false"),
        (widths(subpixel=True), "image of a decoder are 1 widths"),
        (widths(depthwise=[3] * 4), "depthwise of a decoder are 5 sides of"),
        (widths(depthwise=[3, 3, 4, 3, 3]), "depthwise of a decoder are 5 sides of"),
        (widths(depthwise=[10**9] * 5), "depthwise of a decoder are 5 sides of"),
        (widths(depthwise=[False] * 5), "depthwise of a decoder are 5 sides of"),
        (widths(depthwise=3), "depthwise of a decoder are 5 sides of"),
        (lambda m: m | {"code_length": 10**9}, "code_length must be"),
        (lambda m: m | {"code_length": None}, "code_length must be"),
        (lambda m: m | {"added": 0.5}, "added is a whole number"),
        (lambda m: m | {"tasks": ["seg"] * (MAX_TASKS + 1)}, f"up to {MAX_TASKS} names"),
        (lambda m: m | {"tasks": "seg"}, "are lists"),
        (lambda m: m | {"tasks": [["seg"]]}, "names"),
        (lambda m: m | {"encoder": 18}, "encoder is the name"),
        (lambda m: m | {"encoder": "../../resnet18"}, "unknown encoder"),
        (lambda m: m | {"encoder": "timm:hf-hub:evil/x"}, "timm has no network"),
        (lambda m: m | {"encoder": "timm:local-dir:/tmp"}, "timm has no network"),
        (lambda m: m | {"decoder": 7}, "decoder is a name"),
        (lambda m: m | {"system": ["ctn"]}, "unknown system"),
        (lambda m: m | {"task_specs": {"x": 1}}, "are lists"),
        (lambda m: m | {"task_specs": [7]}, "a task is a table"),
        (lambda m: m | {"code": "import os"}, "unknown key 'code'"),
        (lambda m: [], "config is a table"),
        # Allowed, but other than the weights: refused before memory is taken for 600 M parameters.
        (widths(stages=[MAX_WIDTH] * 5), "do not fit"),
        (lambda m: m | {"system": "stn", "encoder": "resnet50"}, "other tensors than the network"),
    ],
)
def test_hostile_configurations_are_refused(folder, change, words):
    configure(folder, change)
    with pytest.raises(ValueError, match=words) as caught:
        ctnet.load(f"local-dir:{folder}")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "7", '"x"', "{}", '{"format": 1}', "NaN"])
def test_what_is_no_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_network(folder)


@pytest.mark.parametrize("name", MAX_BYTES)
def test_files_beyond_their_limit_are_not_read(folder, name):
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(MAX_BYTES[name] + 1)
    with pytest.raises(ValueError, match="at most"):
        load_network(folder)


def test_a_refused_configuration_leaves_no_task_behind(folder):
    spec = {"name": "shadow", "title": "x", "kind": "probability", "color": [1, 2, 3]}
    configure(folder, lambda model: model | {"task_specs": [spec], "encoder": 5})
    with pytest.raises(ValueError, match="encoder is the name"):
        load_network(folder)
    assert "shadow" not in TASKS


@pytest.mark.parametrize("examples", EXAMPLES)
def test_mutated_configurations_are_refused_or_bounded(folder, monkeypatch, examples):
    model = replace(ModelConfig(), decoder=DECODERS["light"]).to_dict()
    known, outcomes = dict(TASKS), set()

    def built(config):
        outcomes.add("built")
        decoder = config.decoder_config
        lists = (decoder.stages, decoder.skips or (), decoder.image or (), decoder.hidden)
        assert all(1 <= width <= MAX_WIDTH for entries in lists for width in entries)
        assert len(decoder.depthwise) == 5 and set(decoder.depthwise) <= {0, 3, 5, 7}
        assert 1 <= len(config.tasks) <= MAX_TASKS and 1 <= config.code_length <= MAX_WIDTH
        raise ValueError("built")

    monkeypatch.setattr("ctnet.models.checkpoint.build_network", built)

    def check(content):
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError) as caught:
            load_network(folder)
        if str(caught.value) != "built":
            outcomes.add("refused")
        for task in TASKS.keys() - known.keys():
            del TASKS[task]

    fuzz(check, mutated({"format": 1, "needs": "0.1.0", "model": model}), examples)
    assert outcomes == {"built", "refused"}


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickles_are_not_run(folder):
    marker = folder / "exploded"
    bomb = pickle.dumps(Bomb(marker))
    (folder / "pytorch_model.bin").write_bytes(bomb)
    (folder / "modeling.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    load_network(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        load_network(folder)
    (folder / "model.safetensors").write_bytes(bomb)
    with pytest.raises(ValueError, match="no safetensors file"):
        load_network(folder)
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists()


def test_loading_is_strict(folder, checkpoint):
    state = load_file(checkpoint / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(state | {"decoder.extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unknown decoder\.extra"):
        load_network(folder)
    del state["decoder.head.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing decoder\.head\.bias"):
        load_network(folder)


def test_widths_are_checked_wherever_a_decoder_is_made():
    with pytest.raises(ValueError, match="whole number from 1 to"):
        DecoderConfig(stages=(10**9, 1, 1, 1, 1))
