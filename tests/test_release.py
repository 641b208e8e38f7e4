import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import ctnet
from ctnet.evaluation.evaluate import EvalResult
from ctnet.label_tables import table_cells
from ctnet.models.base import build
from ctnet.models.checkpoint import file_info, save_checkpoint
from ctnet.models.config import ModelConfig
from ctnet.models.convert import adapt_weights
from ctnet.models.palette_network import PaletteNetwork
from ctnet.training.config import TrainConfig
from ctnet.training.phases import Phase
from ctnet.zoo.manifest import read_manifest
from tools.__main__ import main
from tools.release import export_run, refresh, register
from tools.run import Run


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    config = TrainConfig("mine", init="somewhere/old-run.safetensors", seed=7)
    facts = {"config": config.to_dict(), "step": 12, "seconds": 34}
    (folder / "run.json").write_text(json.dumps(facts))
    state = {k: v.contiguous() for k, v in ctnet.create("ctn").state_dict().items()}
    save_file(state, folder / "last.safetensors")
    return Run(folder, "two cores", "a note")


def result(folder, name):
    scores = {"seg": {"miou": 12.3456, "images": 2}, "normals": {"mean": 30.0, "images": 1}}
    kinds = {"seg": ("true",), "normals": ("distilled", "true")}
    EvalResult(name, "S", "data", "val", {}, kinds, scores, 0).save(folder)


def test_export_halves_the_weights_and_keeps_the_function(run, tmp_path):
    folder = export_run(run, tmp_path / "mine")
    exact = load_file(run.folder / "last.safetensors")
    stored = load_file(folder / "model.safetensors")
    assert stored["decoder.head.weight"].dtype == torch.float16
    assert stored["representation.codes"].dtype == torch.float32
    for name, value in stored.items():
        assert torch.allclose(value.float(), exact[name].float(), rtol=1e-3, atol=1e-6), name


def test_the_best_weights_win_over_the_last(run):
    name = "decoder.head.bias"
    state = load_file(run.folder / "last.safetensors")
    assert torch.equal(run.weights()[name], state[name])
    save_file(state | {name: state[name] + 1}, run.folder / "best.safetensors")
    assert torch.equal(run.weights()[name], state[name] + 1)


def test_weights_of_parts_are_averaged(run, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(run.folder, earlier)
    state = load_file(run.folder / "last.safetensors")
    other = {k: v * 3 if v.is_floating_point() else v * 0 for k, v in state.items()}
    save_file(other, earlier / "last.safetensors")
    both = Run(run.folder, "two cores", earlier=(earlier,), averaged=(earlier,))
    for name, value in both.weights().items():
        whole = not value.is_floating_point()
        torch.testing.assert_close(value, state[name] if whole else state[name] * 2)
    assert both.training()["weights"] == "mean of the ends of earlier and run"
    thrice = replace(both, averaged=(run.folder, earlier, earlier))
    assert thrice.training()["weights"] == "mean of the ends of 2 × run and 2 × earlier"
    assert "weights" not in run.training()


@pytest.mark.parametrize("system", ["mhn", "stn"])
def test_weights_are_averaged_with_those_of_the_ctn_at_the_start(run, tmp_path, system):
    folder = tmp_path / system
    folder.mkdir()
    config = TrainConfig("mine", ModelConfig(system))
    facts = {"config": config.to_dict(), "step": 1, "seconds": 1}
    (folder / "run.json").write_text(json.dumps(facts))
    torch.manual_seed(1)
    ours = {k: v.contiguous() for k, v in ctnet.create(system).state_dict().items()}
    save_file(ours, folder / "last.safetensors")
    start = adapt_weights(load_file(run.folder / "last.safetensors"), config.model)
    mean = Run(folder, "two cores", averaged=(run.folder,)).weights()
    assert set(mean) == set(ours)
    for name, value in mean.items():
        whole = not value.is_floating_point()
        expected = ours[name] if whole else (ours[name] + start[name]) / 2
        torch.testing.assert_close(value, expected)


def test_register_writes_card_and_manifest(run, tmp_path):
    folder, manifest = export_run(run, tmp_path / "mine"), tmp_path / "manifest.json"
    result(tmp_path / "results", "mine")
    info = register(folder, run, "A sentence.", tmp_path / "results", manifest)
    assert read_manifest(manifest) == {"mine": info}
    assert info.metrics == {"S": {"seg.miou": 12.3456, "normals.mean": 30.0}}
    assert info.files["model.safetensors"] == file_info(folder / "model.safetensors")
    assert info.training["start"] == "old-run"
    assert info.training["steps"] == "12 × 10 crops of 256 px"
    card = (folder / "README.md").read_text()
    for text in ("A sentence.", "12.3", "30.0\\*", "two cores", "a note", "seed: 7"):
        assert text in card
    metadata = ModelCard(card).data
    assert (metadata.library_name, metadata.license) == ("ctnet", "mit")
    assert metadata.pipeline_tag == "image-segmentation" and metadata.model_name == "mine"
    found = {(m.dataset_config, m.metric_name, m.metric_value) for m in metadata.eval_results}
    assert found == {("rule S", "seg miou", 12.3456), ("rule S", "normals mean", 30.0)}


def test_refresh_follows_the_files_and_the_results(run, tmp_path, monkeypatch):
    folder, manifest = export_run(run, tmp_path / "mine"), tmp_path / "manifest.json"
    result(tmp_path / "results", "mine")
    before = register(folder, run, "A sentence.", tmp_path / "results", manifest)
    model = ctnet.load(f"local-dir:{folder}")
    save_checkpoint(model, folder)
    scores = {"seg": {"miou": 23.4567, "images": 2}}
    EvalResult("mine", "S", "data", "val", {}, {"seg": ("true",)}, scores, 0).save(
        tmp_path / "results"
    )
    monkeypatch.setenv("CTNET_WEIGHTS", str(tmp_path))
    refresh("mine", tmp_path / "results", manifest)
    after = read_manifest(manifest)["mine"]
    assert after.files != before.files
    assert after.files["model.safetensors"] == file_info(folder / "model.safetensors")
    assert after.metrics == {"S": {"seg.miou": 23.4567}}
    assert after.training == before.training and after.summary == before.summary
    card = (folder / "README.md").read_text()
    assert "23.5" in card and "label table" not in card
    tabled = build(replace(model.config, label_tables=("seg",)))
    table = torch.full((24, 24, 24, 21), 1 / 21).log().half()
    tabled.load_state_dict(model.state_dict() | {"label_tables.seg": table})
    save_checkpoint(tabled, folder)
    refresh("mine", tmp_path / "results", manifest)
    assert read_manifest(manifest)["mine"].config["label_tables"] == ["seg"]
    assert "Classes of seg are read by label tables" in (folder / "README.md").read_text()


@pytest.mark.parametrize("where", ["own", "earlier", "averaged", "start", "zoo", "nowhere"])
def test_cards_name_the_teacher(run, tmp_path, monkeypatch, where):
    teacher = "DeepLabV3-MobileNetV2, trained on PASCAL VOC, Apache-2.0"

    def write(folder, **changes):
        folder.mkdir(exist_ok=True)
        config = TrainConfig("mine", **changes)
        facts = {"config": config.to_dict(), "step": 1, "seconds": 1}
        (folder / "run.json").write_text(json.dumps(facts))
        return folder

    taught = write(tmp_path / "taught", teacher="missing")
    plain = write(tmp_path / "plain")
    if where == "own":
        write(run.folder, teacher="everywhere")
    elif where == "start":
        middle = write(tmp_path / "middle", init=str(taught))
        write(run.folder, init=str(middle))
    elif where == "zoo":
        entry = ctnet.model_info("ctn-r1")
        models = {"ctn-r1": replace(entry, data=replace(run, folder=taught).data)}
        monkeypatch.setattr("tools.run.read_manifest", lambda *_: models)
        write(run.folder, init="ctn-r1")
    else:
        write(run.folder, init=str(plain))
    run = replace(
        run,
        earlier=(taught if where == "earlier" else plain,),
        averaged=(taught if where == "averaged" else plain,),
    )
    assert (teacher in run.data) == (where != "nowhere")
    assert ("may have seen" in run.data) == (where != "nowhere")
    assert "BSDS500, Caltech-101" in run.data
    if where == "own":
        folder = export_run(replace(run, averaged=()), tmp_path / "mine")
        result(tmp_path / "results", "mine")
        register(folder, run, "A sentence.", tmp_path / "results", tmp_path / "manifest.json")
        assert teacher in (folder / "README.md").read_text()


def test_a_run_in_parts_counts_them_all(run, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    config = TrainConfig("mine", crop_size=192, batch_size=4)
    facts = {"config": config.to_dict(), "step": 100, "seconds": 5}
    (first / "run.json").write_text(json.dumps(facts))
    training = Run(run.folder, "two cores", earlier=(first, first)).training()
    assert training["steps"] == "200 × 4 crops of 192 px, then 12 × 10 crops of 256 px"
    assert training["seconds"] == 44 and training["start"] == "ImageNet encoder"


def test_phases_of_a_run_are_told_apart(run):
    phases = (Phase(5, changes={"aux_loss_weight": 1.0, "coarse_only": True}), Phase(4), Phase(9),
              Phase(50, changes={"crop_size": 288}), Phase(2))  # fmt: skip
    config = TrainConfig("mine", held_out=True, steps=70, phases=phases)
    (run.folder / "run.json").write_text(
        json.dumps({"config": config.to_dict(), "step": 38, "seconds": 5})
    )
    training = run.training()
    assert training["steps"] == (
        "5 × 10 crops of 256 px at stride 4, then 13 × 10 crops of 256 px, then 20 × 10 crops of "
        "288 px"
    )
    assert training["split"] == "train, less the twentieth that chose the weights"


def test_palette_networks_are_published_too(tmp_path):
    folder, name = tmp_path / "run", "palette-mine"
    folder.mkdir()
    config = TrainConfig("mine", ModelConfig("palette"), rule="R2")
    facts = {"config": config.to_dict(), "step": 1, "seconds": 1}
    (folder / "run.json").write_text(json.dumps(facts))
    network = PaletteNetwork(config.model)
    save_file(network.state_dict(), folder / "last.safetensors")
    run = Run(folder, "two cores")
    checkpoint = export_run(run, tmp_path / name)
    scores = {"palette": {"miou": 61.2, "iou": (61.2,), "images": 2}}
    kinds = {"palette": ("true",)}
    EvalResult(name, "R2", "data", "val", {}, kinds, scores, 0).save(tmp_path / "results")
    manifest = tmp_path / "manifest.json"
    info = register(checkpoint, run, "A sentence.", tmp_path / "results", manifest)
    assert info.metrics == {"R2": {"palette.miou": 61.2}} and info.config["system"] == "palette"
    card = (checkpoint / "README.md").read_text()
    assert "61.2" in card and f'ctnet.load("{name}")' in card


def test_register_without_results_is_an_error(run, tmp_path):
    folder = export_run(run, tmp_path / "mine")
    result(tmp_path / "results", "another")
    with pytest.raises(FileNotFoundError, match="ctnet eval"):
        register(folder, run, "A sentence.", tmp_path / "results", tmp_path / "manifest.json")


def test_command_asks_for_hardware_and_summary(run, tmp_path, capsys):
    main(["export", str(run.folder), str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "config.json").exists()
    with pytest.raises(SystemExit):
        main(["register", str(run.folder), str(tmp_path / "mine")])
    assert "--hardware" in capsys.readouterr().err


def test_tables_that_a_run_learned_are_exported_and_averaged(run, tmp_path):
    weights = load_file(run.folder / "last.safetensors")
    cells = table_cells(21)
    folders, wanted = [], 0
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(cells, cells, cells, 21, generator=generator).log_softmax(-1)
        folder = shutil.copytree(run.folder, tmp_path / f"run{seed}")
        save_file(weights | {"label_tables.seg": table.half()}, folder / "best.safetensors")
        folders.append(folder)
        wanted = wanted + table / 2
    one = ctnet.load(export_run(replace(run, folder=folders[0]), tmp_path / "one"))
    assert one.config.label_tables == ("seg",)
    both = replace(run, folder=folders[0], averaged=(folders[1],))
    mean = ctnet.load(export_run(both, tmp_path / "both")).label_tables.reader("seg").table
    torch.testing.assert_close(mean.float(), wanted.log_softmax(-1), atol=0.02, rtol=0)
