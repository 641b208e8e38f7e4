"""Older formats of checkpoints are migrated, newer ones refused with what they need."""

import json

import pytest

import ctnet
from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.zoo import migrations
from ctnet.zoo.manifest import read_manifest


@pytest.fixture
def folder(make_model, tmp_path):
    return save_checkpoint(make_model(), tmp_path / "mine")


def rewrite(folder, change):
    path = folder / "config.json"
    content = change(json.loads(path.read_text()))
    path.write_text(json.dumps(content))


def test_a_checkpoint_says_which_format_it_has_and_needs(folder):
    content = json.loads((folder / "config.json").read_text())
    assert (content["format"], content["needs"]) == (migrations.FORMAT, migrations.NEEDS)
    load_network(folder)


def test_older_formats_are_migrated_step_by_step(folder, monkeypatch):
    """A made-up past: format 0 called the encoder otherwise, format 1 kept tasks elsewhere."""
    before, seen = load_network(folder).config, []

    def from_0(content):
        seen.append(0)
        model = dict(content["model"])
        model["encoder"] = model.pop("backbone")
        return {**content, "model": model}

    def from_1(content):
        seen.append(1)
        assert content["format"] == 1 and "backbone" not in content["model"]
        return {**content, "model": {**content["model"], "tasks": content["jobs"]}}

    monkeypatch.setattr(migrations, "FORMAT", 2)
    monkeypatch.setitem(migrations.MIGRATIONS, 0, from_0)
    monkeypatch.setitem(migrations.MIGRATIONS, 1, from_1)

    def age(content):
        model = content["model"]
        model["backbone"] = model.pop("encoder")
        return {"format": 0, "jobs": model.pop("tasks"), "model": model}

    rewrite(folder, age)
    assert load_network(folder).config == before
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 3, "needs": "0.9.0"}, r"format 3, .* reads up to 2: it needs ctnet >= 0\.9\.0"),
        ({"format": 99}, "needs a newer ctnet"),
        ({"format": 3, "needs": "1; rm -rf /"}, "needs a newer ctnet"),
        ({"format": 3, "needs": ["0.9"]}, "needs a newer ctnet"),
        ({"format": 0}, "format 0, which no released ctnet wrote"),
        ({"format": -1}, "has no format"),
        ({"format": True}, "has no format"),
        ({"format": "1"}, "has no format"),
        ({"format": None}, "has no format"),
    ],
)
def test_other_formats_are_refused(folder, tmp_path, change, words):
    rewrite(folder, lambda content: {"model": content["model"], **change})
    with pytest.raises(ValueError, match=words) as caught:
        ctnet.load(f"local-dir:{folder}")
    assert "rm -rf" not in str(caught.value)
    if change.get("format") != 0:
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({"models": [], **change}))
        with pytest.raises(ValueError, match=words):
            read_manifest(path)
