import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import ctnet
from ctnet.models.checkpoint import (
    file_info,
    load_network,
    parameter_count,
    save_checkpoint,
)
from ctnet.models.config import ModelConfig
from ctnet.models.convert import TABLES
from ctnet.models.palette_network import PaletteNetwork
from ctnet.models.registry import build_network
from ctnet.zoo.locate import EMBEDDED, locate
from ctnet.zoo.manifest import MANIFEST, ModelInfo, read_manifest

NAMES = ctnet.list_models()


def palette(size, seed=0):
    return ctnet.Palette.mosaic(size, np.random.default_rng(seed))


def test_the_zoo_has_the_models_of_the_readme():
    assert {"ctn-r1", "ctn-r2", "palette-r2"} <= set(NAMES)


@pytest.fixture(scope="module", params=NAMES)
def entry(request):
    return ctnet.model_info(request.param)


@pytest.fixture(scope="module")
def model(entry):
    return load_network(locate(entry.name))


def test_one_loader_takes_every_kind(entry):
    own, other = ctnet.CompositeModel, PaletteNetwork
    if entry.config["system"] == "palette":
        own, other = other, own
    assert isinstance(ctnet.load(entry.name), own)
    with pytest.raises(ValueError, match=f"not a {other.__name__}; load it by"):
        other.from_pretrained(entry.name)


def test_manifest_tells_the_truth_about_the_network(entry, model):
    assert parameter_count(model) == entry.parameters
    assert model.config == ModelConfig.from_dict(entry.config)
    assert not model.training


def test_manifest_tells_the_truth_about_the_files(entry):
    folder = locate(entry.name)
    for name, info in entry.files.items():
        assert file_info(folder / name) == info
    assert (folder / "README.md").read_text().count(f'("{entry.name}")') == 1


def test_stored_weights_are_half_precision_and_finite(entry):
    state = load_file(locate(entry.name) / "model.safetensors")
    parameters = dict(build_network(ModelConfig.from_dict(entry.config)).named_parameters())
    for name, value in state.items():
        assert torch.isfinite(value).all(), name
        half = name in parameters or name.startswith(TABLES)
        assert (value.dtype == torch.float16) == half, name


@pytest.mark.parametrize("size", [(64, 96), (50, 33)])
def test_predictions_are_deterministic_and_follow_the_palette(model, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    if isinstance(model, PaletteNetwork):
        with torch.no_grad():
            assert torch.equal(model(image), model(image))
        return
    asked = palette(size)
    with torch.no_grad():
        first, again = model(image, asked), model(image, asked)
        other = model(image, ctnet.Palette.single("normals", size))
    assert first.shape == (1, 3, *size)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_metrics_equal_the_results(entry):
    results = MANIFEST.parents[2] / "results"
    if not results.is_dir():
        pytest.skip("an installed package has no results folder")
    for rule, figures in entry.metrics.items():
        result = json.loads((results / f"{entry.name}_{rule}.json").read_text())
        for key, value in figures.items():
            task, metric = key.split(".")
            assert result["scores"][task][metric] == pytest.approx(value, abs=1e-4)


def test_cards_are_complete(entry):
    """The Hub's metadata and the text say what the manifest says."""
    card = ModelCard.load(locate(entry.name) / "README.md")
    data = card.data
    assert (data.model_name, data.license) == (entry.name, entry.license.lower())
    assert (data.library_name, data.pipeline_tag) == ("ctnet", "image-segmentation")
    found = {(m.dataset_config, m.metric_name): m.metric_value for m in data.eval_results}
    assert found == {
        (f"rule {rule}", key.replace(".", " ")): value
        for rule, figures in entry.metrics.items()
        for key, value in figures.items()
    }
    for text in (entry.summary, entry.data, *(str(fact) for fact in entry.training.values())):
        assert text in card.text


def test_embedded_weights_are_small_enough_for_a_wheel():
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < 27e6


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    return save_checkpoint(ctnet.create("ctn"), tmp_path / "mine")


def test_checkpoints_survive_a_round_trip(tmp_path):
    torch.manual_seed(0)
    network = ctnet.create("ctn").eval()
    loaded = ctnet.load(f"local-dir:{save_checkpoint(network, tmp_path)}")
    image = torch.rand(3, 32, 32)
    assert torch.equal(loaded(image, palette((32, 32))), network(image, palette((32, 32))))


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'ctn-r7'.*did you mean 'ctn-r.*local-dir"):
        ctnet.load("ctn-r7")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        ctnet.load(f"local-dir:{tmp_path}")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: change_weights(d, lambda s: s.pop("decoder.head.bias")), "do not fit"),
        (lambda d: change_weights(d, lambda s: s.update(extra=torch.zeros(1))), "do not fit"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x00" * 100), "do not fit"),
        (lambda d: (d / "config.json").write_text("{"), "no configuration"),
        (lambda d: (d / "config.json").write_text('{"format": 1}'), "no configuration"),
        (lambda d: (d / "config.json").write_text('{"format": 99, "model": {}}'), "newer ctnet"),
        (
            lambda d: (d / "config.json").write_text('{"format": 1, "model": {"enkoder": "x"}}'),
            "did you mean 'encoder'",
        ),
    ],
)
def test_damaged_checkpoints_are_refused(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(ValueError, match=message):
        load_network(checkpoint)


def test_changed_bytes_of_a_zoo_model_are_refused(tmp_path, monkeypatch):
    shutil.copytree(EMBEDDED / "ctn-r2", tmp_path / "ctn-r2")
    file = tmp_path / "ctn-r2" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr("ctnet.zoo.locate.EMBEDDED", tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        ctnet.load("ctn-r2")


def test_manifest_of_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"format": 99, "models": []}')
    with pytest.raises(ValueError, match="format 99"):
        read_manifest(path)


def test_malformed_manifest_entries_are_refused():
    with pytest.raises(ValueError, match="lacks the key 'summary'"):
        ModelInfo.from_dict({"name": "x"})


def run(code, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd
    ).stdout


def test_zoo_inference_needs_no_torchvision_and_no_network():
    code = """
import socket, sys
def refuse(*a, **k): raise OSError("no network in this test")
socket.socket.connect = refuse
import ctnet, numpy as np
for name in ctnet.list_models("[!p]*"):
    for palette in ("mosaic", "auto"):
        ctnet.load(name).predict(np.zeros((40, 50, 3), np.uint8), palette)
print("torchvision" in sys.modules, "huggingface_hub" in sys.modules)
"""
    assert run(code).split() == ["False", "False"]


def test_import_is_light():
    assert run("import sys, ctnet; print('torch' in sys.modules)").strip() == "False"


def test_loading_imports_neither_a_compiler_nor_the_client_of_the_hub():
    code = """
import sys, ctnet
ctnet.load("ctn-r2")
ctnet.CompositeModel.from_pretrained("ctn-r2")
print([name for name in ("sympy", "torch._dynamo", "huggingface_hub") if name in sys.modules])
"""
    assert run(code).splitlines()[-1] == "[]"


def test_commands_about_files_load_neither_torch_nor_the_client_of_the_hub():
    code = """
import sys
from ctnet.cli.main import main
main(["list"]); main(["info", "ctn-r2"]); main(["download", "ctn-r2"])
print([name for name in ("torch", "huggingface_hub") if name in sys.modules])
"""
    assert run(code).splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What torch.hub needs of this repository, in a folder of its own."""
    checkout = MANIFEST.parents[2]
    if not (checkout / "hubconf.py").exists():
        pytest.skip("an installed package has no hubconf.py")
    folder = tmp_path_factory.mktemp("clone")
    shutil.copy(checkout / "hubconf.py", folder)
    shutil.copytree(
        checkout / "ctnet", folder / "ctnet", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "weights").symlink_to(checkout / "weights")
    return folder


@pytest.mark.parametrize(
    "name", ["ctn-r1", *(name for name in NAMES if not (EMBEDDED / name).exists())]
)
def test_torch_hub_loads_from_a_fresh_clone(clone, name, tmp_path):
    """Code and weights come from the clone, wherever else a ctnet may be installed."""
    code = f"""
import logging, os, sys, torch
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
os.environ.pop("CTNET_WEIGHTS", None)
sys.path = [p for p in sys.path if p not in ("", {str(MANIFEST.parents[2])!r})]
name = {name.replace("-", "_")!r}
model = torch.hub.load({str(clone)!r}, name, source="local", trust_repo=True)
print(sys.modules["ctnet"].__file__)
print(tuple(model(torch.rand(3, 40, 50), torch.zeros(40, 50, dtype=torch.long)).shape))
"""
    *logged, file, shape = run(code, tmp_path).strip().splitlines()
    assert file == str(clone / "ctnet/__init__.py")
    assert shape == "(3, 40, 50)"
    assert any(str(clone) in line for line in logged)


def test_torch_hub_lists_and_explains_every_model(tmp_path, monkeypatch):
    """``list`` and ``help`` take repositories alone: this one, as it would lie in their cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/owner_ctnet_main").symlink_to(MANIFEST.parents[2])
    repository, known = "owner/ctnet:main", {"skip_validation": True, "trust_repo": True}
    found = torch.hub.list(repository, **known)
    assert sorted(found) == sorted([name.replace("-", "_") for name in NAMES] + ["from_pretrained"])
    for name in NAMES:
        words = torch.hub.help(repository, name.replace("-", "_"), **known)
        assert ctnet.model_info(name).summary in words


def test_a_fine_tuned_checkpoint_loads_through_torch_hub(make_model, tmp_path):
    network = make_model()
    folder = save_checkpoint(network, tmp_path / "runs/pets/checkpoint")
    checkout = str(MANIFEST.parents[2])
    known = {"source": "local", "trust_repo": True}
    for name in (str(folder), f"local-dir:{folder}"):
        loaded = torch.hub.load(checkout, "from_pretrained", name, **known)
        assert loaded.config == network.config
        assert torch.equal(loaded.decoder.head.weight, network.decoder.head.weight)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        torch.hub.load(checkout, "from_pretrained", str(tmp_path / "none"), **known)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_loads_by_its_entry_point(name):
    spec = importlib.util.spec_from_file_location("hubconf", MANIFEST.parents[2] / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    network = getattr(hubconf, name.replace("-", "_"))()
    assert parameter_count(network) == ctnet.model_info(name).parameters


class TestFolders:
    """What looks like a path is one; the Hub is not asked for it."""

    def test_a_missing_folder_is_named(self, tmp_path, make_model):
        save_checkpoint(make_model(), tmp_path / "runs" / "pets")
        for name in (tmp_path / "runs" / "pet", str(tmp_path / "runs" / "pet")):
            with pytest.raises(FileNotFoundError, match=r"no folder .*pet; did you mean .*pets\?"):
                ctnet.CompositeModel.from_pretrained(name)

    def test_a_relative_path_beside_folders_that_exist(self, tmp_path, monkeypatch):
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match="hf-hub:runs/typo"):
            ctnet.CompositeModel.from_pretrained("runs/typo")

    def test_home(self, tmp_path, monkeypatch, make_model):
        monkeypatch.setenv("HOME", str(tmp_path))
        save_checkpoint(make_model(), tmp_path / "mine")
        assert ctnet.load("~/mine").config.system == "ctn"
        assert ctnet.load(Path("~/mine")).config.system == "ctn"

    def test_a_path_that_is_a_name_of_the_zoo(self):
        assert ctnet.load(Path("ctn-r1")).config == ctnet.load("ctn-r1").config
