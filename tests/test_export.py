"""Exported files answer as the network does, on every size and kind of palette."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SUBPIXEL, TINY
from PIL import Image

import benchmarks.export
import ctnet
from benchmarks.__main__ import main as measure
from ctnet.cli.main import main
from ctnet.export.portable import portable
from ctnet.export.write import PROPERTIES_FILE, export, properties
from ctnet.models.config import ModelConfig
from ctnet.models.palette_network import PaletteNetwork
from ctnet.tasks import DEFAULT_TASKS

ort = pytest.importorskip("onnxruntime")

SIZES = [(1, 64, 64), (2, 40, 33), (1, 32, 96), (3, 1, 31), (1, 97, 128)]
KINDS = ["single", "mosaic", "random", "partly"]
SCRIPT = Path(__file__).parents[1] / "examples" / "onnx_predict.py"


def picture(size):
    batch, height, width = size
    generator = torch.Generator().manual_seed(height)
    return torch.rand(batch, 3, height, width, generator=generator)


def open_session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options)


def assert_agrees(answer, model, make_ids, sizes=SIZES, kinds=KINDS):
    for size in sizes:
        image = picture(size)
        for kind in kinds:
            palette = make_ids(kind, size, tasks=len(model.tasks))
            with torch.no_grad():
                expected, found = model(image, palette), answer(image, palette)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-4, (size, kind)


def answers_of(session):
    def answer(image, palette):
        inputs = {"image": image.numpy(), "palette": palette.numpy()}
        return torch.from_numpy(session.run(None, inputs)[0])

    return answer


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("ctn")


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("export") / "new" / "tiny.onnx", name="tiny")


class TestGraph:
    """The graph itself, without any other runtime."""

    @pytest.mark.parametrize("decoder", [TINY, SUBPIXEL], ids=["tiny", "subpixel"])
    @pytest.mark.parametrize("kind", [*KINDS, "unrequested", "curved"])
    def test_is_the_same_network(self, make_model, make_ids, kind, decoder):
        model, size = make_model("ctn", decoder=decoder).double(), (2, 40, 33)
        image, palette = picture(size).double(), make_ids(kind, size)
        with torch.no_grad():
            difference = portable(model)(image, palette) - model(image, palette)
        assert difference.abs().max() <= 1e-10

    def test_leaves_the_network_as_it_is(self, model):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        portable(model)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_of_a_network_in_training(self, make_model):
        with pytest.raises(ValueError, match="training mode"):
            portable(make_model("ctn").train())


class TestOnnx:
    def test_agrees_on_all_sizes_and_palettes(self, model, file, make_ids):
        assert_agrees(answers_of(open_session(file)), model, make_ids)

    def test_embedded_model(self, tmp_path, make_ids):
        model = ctnet.load("ctn-r1")
        file = export(model, tmp_path / "ctn-r1.onnx")
        assert_agrees(answers_of(open_session(file)), model, make_ids)

    def test_kernels_in_8_bits(self, model, file, tmp_path, make_ids):
        small = export(model, tmp_path / "int8.onnx", int8=True)
        assert small.stat().st_size < 0.5 * file.stat().st_size
        image, palette = picture((1, 64, 64)), make_ids("mosaic", (1, 64, 64))
        with torch.no_grad():
            expected = model(image, palette)
            rounded = copy.deepcopy(model)
            graph = portable(rounded)
            for conv in (x for x in graph.modules() if isinstance(x, torch.nn.Conv2d)):
                scale = conv.weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30) / 127
                conv.weight.copy_((conv.weight / scale).round() * scale)
            own = graph(image, palette)
        found = answers_of(open_session(small))(image, palette)
        assert (found - own).abs().max() <= 1e-4
        assert 1e-4 < (found - expected).abs().max() < 0.1 * expected.abs().max()

    @pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
    def test_a_subpixel_decoder(self, make_model, make_ids, tmp_path, int8):
        model = make_model("ctn", decoder="light")
        session = open_session(export(model, tmp_path / "light.onnx", int8=int8))
        if not int8:
            assert_agrees(answers_of(session), model, make_ids, SIZES[1:4])
            return
        image, palette = picture((1, 64, 64)), make_ids("mosaic", (1, 64, 64))
        with torch.no_grad():
            expected = model(image, palette)
        found = answers_of(session)(image, palette)
        assert (found - expected).abs().max() < 0.1 * expected.abs().max()

    @pytest.mark.parametrize("base", [TINY, SUBPIXEL], ids=["tiny", "subpixel"])
    @pytest.mark.parametrize("system", ["mhn", "stn"])
    def test_other_systems(self, make_model, make_ids, tmp_path, system, base):
        tasks = ("seg", "normals")
        corners = replace(base, align_corners=True, bias=True, skips=None, image=None)
        model = make_model(system, decoder=corners, tasks=tasks)
        session = open_session(export(model, tmp_path / "model.onnx"))
        assert_agrees(answers_of(session), model, make_ids, SIZES[1:3], ["mosaic", "partly"])

    @pytest.mark.parametrize("decoder", [TINY, SUBPIXEL], ids=["tiny", "subpixel"])
    def test_palette_network(self, tmp_path, decoder):
        config = ModelConfig("palette", decoder=decoder, tasks=("seg", "parts", "edges"))
        network = PaletteNetwork(config).eval()
        session = open_session(export(network, tmp_path / "palette.onnx"))
        assert [x.name for x in session.get_outputs()] == ["scores"]
        image = picture((2, 40, 33))
        with torch.no_grad():
            expected = network(image)
        found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        assert (found - expected).abs().max() <= 1e-4

    def test_names_and_shapes(self, file):
        session = open_session(file)
        shapes = {x.name: x.shape for x in (*session.get_inputs(), *session.get_outputs())}
        assert shapes["image"] == ["batch", 3, "height", "width"]
        assert shapes["palette"] == ["batch", "height", "width"]
        assert [shapes["composite"][axis] for axis in (0, 1)] == ["batch", 3]

    def test_properties(self, model, file):
        found = open_session(file).get_modelmeta().custom_metadata_map
        assert {key: found[key] for key in found if key.startswith("ctnet.")} == properties(
            model, "tiny"
        )
        tasks = json.loads(found["ctnet.tasks"])
        assert [task["name"] for task in tasks] == list(model.tasks)
        assert len(tasks[0]["anchors"]) == len(tasks[0]["classes"]) == 21
        assert tasks[2]["anchors"] == []

    def test_unknown_ids_ask_for_nothing(self, file):
        answer, image = answers_of(open_session(file)), picture((1, 32, 32))
        nothing, unknown = (torch.full((1, 32, 32), number) for number in (255, 77))
        assert torch.equal(answer(image, nothing), answer(image, unknown))


class TestTorch:
    """Files for torch, that need no ctnet."""

    def test_torch_export(self, make_model, tmp_path, make_ids):
        # An encoder of few operators: each takes long to trace.
        model = make_model("ctn", "resnet18")
        file = export(model, tmp_path / "tiny.pt2", "torch-export", "tiny")
        found = {PROPERTIES_FILE: ""}
        graph = torch.export.load(file, extra_files=found).module()
        assert json.loads(found[PROPERTIES_FILE]) == properties(model, "tiny")
        assert_agrees(graph, model, make_ids)

    def test_torchscript(self, model, tmp_path, make_ids):
        file = export(model, tmp_path / "tiny.pt", "torchscript", "tiny")
        found = {PROPERTIES_FILE: ""}
        graph = torch.jit.load(file, _extra_files=found)
        assert json.loads(found[PROPERTIES_FILE]) == properties(model, "tiny")
        assert_agrees(graph, model, make_ids)


class TestCommand:
    @pytest.mark.parametrize("extra", [[], ["--int8"]])
    def test_writes_the_file(self, extra, tmp_path, capsys):
        file = tmp_path / "folder" / "ctn-r1.onnx"
        assert main(["export", "ctn-r1", *extra, "--format", "onnx", "--out", str(file)]) == 0
        assert str(file) in capsys.readouterr().out
        assert [path.name for path in file.parent.iterdir()] == [file.name]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["ctn-r11", "--out", "x.onnx"], "did you mean 'ctn-r1'"),
            (["ctn-r1", "--format", "onx", "--out", "x.onnx"], "did you mean 'onnx'"),
            (["ctn-r1", "--out", "folder"], "is a folder"),
            (["ctn-r1", "--int8", "--format", "torchscript", "--out", "x"], "8 bits are for"),
            (["ctn-r1", "--out", "file/x.onnx"], "file"),
        ],
    )
    def test_errors_are_one_clear_line(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        assert main(["export", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

    def test_missing_extra(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert main(["export", "ctn-r1", "--out", str(tmp_path / "x.onnx")]) == 1
        error = capsys.readouterr().err
        assert "pip install 'ctnet[export]'" in error
        assert len(error.splitlines()) == 1


class TestScript:
    """The example predicts and decodes where there is no torch."""

    def run(self, *arguments):
        program = (
            "import runpy, sys\n"
            "sys.modules |= {'torch': None, 'ctnet': None}\n"
            f"sys.argv = {[str(SCRIPT), *map(str, arguments)]!r}\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    @pytest.mark.parametrize("task", ["seg", "saliency", "normals"])
    def test_labels_are_those_of_ctnet(self, model, file, task, tmp_path):
        photo = tmp_path / "photo.png"
        noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(photo)
        ran = self.run(file, photo, "--palette", f"single:{task}", "--out", tmp_path / "out")
        assert ran.returncode == 0, ran.stderr
        expected = model.predict(photo, f"single:{task}").labels[task]
        label = tmp_path / "out" / f"photo_{task}"
        if task == "normals":
            assert np.abs(np.load(f"{label}.npy") - expected).max() < 1e-3
        elif task == "saliency":
            found = np.array(Image.open(f"{label}.png"))
            assert np.abs(found / 255 - expected).max() < 0.5 / 255 + 1e-4
        else:
            assert (np.array(Image.open(f"{label}.png")) == expected).mean() > 0.999
        assert Image.open(tmp_path / "out" / "photo_overlay.png").size == (60, 40)

    def test_palette_files(self, file, tmp_path):
        photo, palette = tmp_path / "photo.png", tmp_path / "palette.png"
        Image.new("RGB", (60, 40)).save(photo)
        asked = ctnet.Palette.empty((40, 60)).paint_box((0, 0, 20, 40), "seg")
        asked.save(palette)
        ran = self.run(file, photo, "--palette", palette, "--out", tmp_path / "out")
        assert ran.returncode == 0, ran.stderr
        labels = np.array(Image.open(tmp_path / "out" / "photo_seg.png"))
        assert ((labels == 255) == (asked.ids == 255)).all()
        assert sorted(x.name for x in (tmp_path / "out").iterdir()) == [
            "photo_overlay.png", "photo_seg.png",
        ]  # fmt: skip


def test_speed_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.export, "SIDES", {"compact": (256, 512)})
    path, threads = tmp_path / "export.json", str(torch.get_num_threads())
    measure(["export", "--quick", "--rounds", "1", "--threads", threads, "--out", str(path)])
    findings = json.loads(path.read_text())["findings"]
    printed = capsys.readouterr().out
    assert len(findings) == 2 * 3 * 2
    for finding in findings:
        assert finding["question"] in printed
        assert finding["part"] == "export"


def test_accuracy_in_8_bits_is_measured(write_photographs, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    write_photographs(data, splits=("val", "val"))
    measure(["int8", "ctn-r1", "--data", str(data), "--limit", "1", "--out", str(tmp_path)])
    assert "ctn-r1-int8" in capsys.readouterr().out
    assert main(
        ["eval", "ctn-r1", "--data", str(data), "--limit", "1", "--out", str(tmp_path)]
    ) == 0  # fmt: skip
    small, full = (
        json.loads((tmp_path / f"{name}_S.json").read_text()) for name in ("ctn-r1-int8", "ctn-r1")
    )
    assert small["scores"].keys() == full["scores"].keys() == set(DEFAULT_TASKS)
    assert abs(small["scores"]["parts"]["miou"] - full["scores"]["parts"]["miou"]) < 5
