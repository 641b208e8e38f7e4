"""Saving, publishing and loading again, against a Hub on loopback."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hub_server import TOKEN, Fault
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import ctnet
from ctnet.cli.main import main
from ctnet.models.base import CompositeModel
from ctnet.models.checkpoint import save_checkpoint
from ctnet.models.config import ModelConfig
from ctnet.models.ctn import CTN
from ctnet.models.mhn_stn import MHN
from ctnet.models.palette_network import PaletteNetwork
from ctnet.models.publish import push
from ctnet.zoo import locate as places
from ctnet.zoo.hub_names import HubName
from ctnet.zoo.locate import locate, resolve
from ctnet.zoo.manifest import MANIFEST, read_manifest
from ctnet.zoo.upload import record

REPO = "org/mine"


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture(scope="module")
def network(make_model):
    return make_model()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    return save_checkpoint(network, tmp_path_factory.mktemp("checkpoints") / "mine", half=True)


def same(first, second):
    state, other = first.state_dict(), second.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def test_networks_are_saved_and_loaded_by_folder(network, tmp_path):
    folder = network.save_pretrained(tmp_path / "mine")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = CTN.from_pretrained(folder)
    assert same(loaded, network) and not loaded.training
    assert same(CompositeModel.from_pretrained(str(folder)), network)
    with pytest.raises(ValueError, match=r"is a CTN, not a MHN; load it by CTN\.from_pretrained"):
        MHN.from_pretrained(folder)
    (folder / "README.md").write_text("my own")
    network.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my own"


def test_palette_networks_are_saved_and_loaded_by_folder(tiny, tmp_path):
    network = PaletteNetwork(ModelConfig("palette", decoder=tiny)).eval()
    folder = network.save_pretrained(tmp_path / "mine", half=True)
    assert "network = ctnet.load(" in (folder / "README.md").read_text()
    assert load_file(folder / "model.safetensors")["decoder.head.weight"].dtype == torch.float16
    assert PaletteNetwork.from_pretrained(folder).config == network.config
    with pytest.raises(ValueError, match="is a PaletteNetwork"):
        CompositeModel.from_pretrained(folder)


def test_networks_are_published_and_loaded_again(logged_in, network):
    name = network.push_to_hub(REPO)
    assert name == f"hf-hub:{REPO}@{logged_in.branches[REPO, 'main']}"
    assert same(ctnet.load(name), network)
    assert same(CTN.from_pretrained(REPO), network)
    card = ModelCard(logged_in.find(REPO, "main")[1]["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("ctnet", "image-segmentation")
    assert f'ctnet.load("hf-hub:{REPO}")' in card.text
    first = name.split("@")[1]
    with torch.no_grad():
        changed = CTN.from_pretrained(REPO)
        changed.decoder.head.bias.add_(1)
    second = changed.push_to_hub(REPO)
    assert same(ctnet.load(second), changed)
    assert same(CTN.from_pretrained(REPO, revision=first), network)


def test_publishing_needs_a_token_that_may(hub, checkpoint):
    for token in (None, "hf_another"):
        with pytest.raises(PermissionError, match="'hf auth login' or set HF_TOKEN"):
            push(checkpoint, REPO, token=token)
    assert push(checkpoint, REPO, token=TOKEN).repo_id == REPO


def test_a_broken_checkpoint_is_not_published(logged_in, checkpoint, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder)
    state = load_file(folder / "model.safetensors")
    del state["decoder.head.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        push(folder, REPO)
    assert not logged_in.requests


def test_other_bytes_on_the_hub_after_an_upload_are_seen(logged_in, checkpoint):
    wrong = {"X-Linked-ETag": f'"{"0" * 64}"'}
    logged_in.faults.append(Fault("model.safetensors", "HEAD", headers=wrong))
    with pytest.raises(ValueError, match="other weights"):
        push(checkpoint, REPO)
    push(checkpoint, REPO)


@pytest.mark.parametrize("repo", ["mine", "../mine", "a/b/c"])
def test_repositories_have_names_of_two_parts(hub, checkpoint, repo):
    with pytest.raises(ValueError, match="ORG/REPO"):
        push(checkpoint, repo)
    assert not hub.requests


@pytest.fixture
def entry(checkpoint, monkeypatch, tmp_path):
    """A model of the zoo that is nowhere yet: function (entry) enters another one of its name."""
    from ctnet.models.checkpoint import file_info

    files = {name: file_info(checkpoint / name) for name in ("config.json", "model.safetensors")}
    info = replace(ctnet.model_info("ctn-r2"), name="mine", files=files)
    for name in ("EMBEDDED", "CHECKOUT"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(places, name, tmp_path / name)
    known = {"mine": info}

    def enter(changed):
        known["mine"] = changed

    def find(name):
        if name not in known:
            raise ValueError(f"the zoo has no model {name!r}")
        return known[name]

    for module in ("ctnet.zoo.locate", "ctnet.zoo.manifest"):
        monkeypatch.setattr(f"{module}.model_info", find)
        monkeypatch.setattr(f"{module}.list_models", lambda: sorted(known))
    enter.info = info
    return enter


def test_a_model_that_is_nowhere(entry, capsys):
    assert main(["info", entry.info.name]) == 0
    assert capsys.readouterr().out.endswith("a clone of the repository has them\n")
    assert main(["download", entry.info.name]) == 1
    assert "neither installed nor published" in capsys.readouterr().err


def test_places_are_asked_in_order(
    logged_in, entry, checkpoint, network, monkeypatch, tmp_path, caplog, capsys
):
    pushed = push(checkpoint, REPO)
    entry(replace(entry.info, repo_id=REPO, revision=pushed.revision))
    own = tmp_path / "own"
    monkeypatch.setenv("CTNET_WEIGHTS", str(own))
    bases = {"CTNET_WEIGHTS": own, "package": places.EMBEDDED, "checkout": places.CHECKOUT}
    for base in bases.values():
        shutil.copytree(checkpoint, base / "mine")
    caplog.set_level("INFO", "ctnet")
    for source, base in bases.items():
        asked = len(logged_in.requests)
        assert locate("mine") == base / "mine"
        assert f"mine: from {base / 'mine'} ({source})" in caplog.text
        assert main(["info", "mine"]) == 0
        text, _, folder = capsys.readouterr().out.rpartition("files: ")
        shown = json.loads(text)["places"]
        assert next(place["source"] for place in shown if place["found"]) == source
        assert folder.strip() == str(base / "mine")
        assert len(logged_in.requests) == asked
        shutil.rmtree(base / "mine")
    assert main(["info", "mine"]) == 0
    assert capsys.readouterr().out.endswith("files: not here yet; run: ctnet download mine\n")
    assert len(logged_in.requests) == asked
    assert main(["download", "--all"]) == 0
    cached = capsys.readouterr().out.split(": ")[1].strip()
    assert cached.startswith(str(logged_in.cache)) and pushed.revision in cached
    asked = len(logged_in.requests)
    assert main(["info", "mine"]) == 0
    assert '"Hub cache"' in capsys.readouterr().out
    assert str(locate("mine")) == cached and len(logged_in.requests) == asked
    assert ctnet.load("mine").config == network.config


def test_a_folder_of_weights_must_exist_and_hold_the_right_bytes(
    entry, checkpoint, monkeypatch, tmp_path
):
    monkeypatch.setenv("CTNET_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"CTNET_WEIGHTS names .*none"):
        locate("mine")
    monkeypatch.setenv("CTNET_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither installed nor published yet"):
        locate("mine")
    shutil.copytree(checkpoint, tmp_path / "mine")
    locate("mine")
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        locate("mine")


def test_a_maintainer_publishes_by_one_command(logged_in, tmp_path, monkeypatch, capsys):
    """The step of CONTRIBUTING: push and record; from then on the Hub serves the model."""
    manifest = tmp_path / "manifest.json"
    shutil.copy(MANIFEST, manifest)
    before = read_manifest(manifest)
    model, repo = "palette-r2", "org/ctnet-palette-r2"
    assert main(["push", model, "--repo", repo, "--record", str(manifest)]) == 0
    commit = logged_in.branches[repo, "main"]
    assert f"published: hf-hub:{repo}@{commit}" in capsys.readouterr().out
    after = read_manifest(manifest)
    assert after == before | {model: replace(before[model], repo_id=repo, revision=commit)}
    published = logged_in.find(repo, commit)[1]
    assert published["README.md"] == (locate(model) / "README.md").read_bytes()
    for name in ("EMBEDDED", "CHECKOUT"):
        monkeypatch.setattr(places, name, tmp_path / "nothing")
    monkeypatch.setattr(places, "model_info", after.__getitem__)
    assert locate(model).is_relative_to(logged_in.cache)
    with pytest.raises(ValueError, match="has no model 'ctn-r9'"):
        record("ctn-r9", HubName(repo, commit), manifest)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["download"], "give names of models or --all"),
        (["download", "ctn-r2", "--all"], "give names of models or --all"),
        (["download", "ctn-r77"], "did you mean 'ctn-r"),
        (["download", "hf-hub:../../x"], "ORG/REPO"),
        (["push", "ctn-r77", "--repo", "a/b"], "did you mean 'ctn-r"),
        (["push", "local-dir:none", "--repo", "a/b"], "there is no folder none"),
    ],
)
def test_errors_of_the_commands_are_one_clear_line(hub, arguments, words, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not hub.requests


@pytest.mark.parametrize(
    ("name", "revision", "full"),
    [
        ("ctn-r2", None, "ctn-r2"),
        ("org/repo", None, "hf-hub:org/repo"),
        ("org/repo", "v1", "hf-hub:org/repo@v1"),
        ("org/repo@v1", None, "hf-hub:org/repo@v1"),
        ("hf-hub:org/repo", "v1", "hf-hub:org/repo@v1"),
        ("local-dir:some/where", None, "local-dir:some/where"),
        (".", None, "local-dir:."),
    ],
)
def test_names_of_all_kinds_are_understood(name, revision, full):
    assert resolve(name, revision) == full


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("ctn-r77", None, "did you mean 'ctn-r"),
        ("ctn-r2", "v1", "ORG/REPO"),
        (".", "v1", "a folder has no revisions"),
        ("local-dir:x", "v1", "a folder has no revisions"),
        ("org/repo@v1", "v2", "two revisions"),
        ("-x/y", None, "ORG/REPO"),
    ],
)
def test_names_of_no_kind_are_refused(name, revision, words):
    with pytest.raises(ValueError, match=words):
        resolve(name, revision)
