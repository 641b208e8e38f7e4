"""Fine-tuning a trained network: from Python and from the command line."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import ctnet
from ctnet.cli.main import main
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import TASKS
from ctnet.training.finetune import compare, finetune

EXAMPLES = Path(__file__).parent.parent / "examples"

RULE = 'name = "pets"\n[classes]\n' + "".join(
    f'{name} = "{task}"\n'
    for name, task in {"background": "edges", "cat": "normals", "person": "seg"}.items()
)
SMALL = {
    "crop_size": 32, "scale_range": (0.5, 1.0), "batch_size": 2, "device": "cpu", "workers": 0,
    "validate_images": 5, "class_weight_power": 0.0,
}  # fmt: skip


@pytest.fixture
def photographs(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return write_photographs(root, splits=("train", "train", "val"))


@pytest.fixture
def rule(tmp_path):
    path = tmp_path / "pets.toml"
    path.write_text(RULE)
    return str(path)


@pytest.fixture
def checkpoint(make_model, tmp_path):
    return f"local-dir:{save_checkpoint(make_model(), tmp_path / 'start')}"


@pytest.mark.parametrize("given", ["name", "network"])
def test_finetune_writes_a_network_that_loads(checkpoint, photographs, rule, tmp_path, given):
    start = ctnet.load(checkpoint)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    model = start if given == "network" else checkpoint
    tuned = finetune(model, photographs, tmp_path / "run", rule, steps=2, **SMALL)
    loaded = ctnet.load(f"local-dir:{tmp_path / 'run/checkpoint'}")
    after = loaded.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in tuned.state_dict().items())
    assert not torch.equal(before["decoder.head.weight"], after["decoder.head.weight"])
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in before.items())
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["step"] == 2
    assert run["config"]["init"] == (checkpoint if given == "name" else None)


def test_compare_measures_under_the_rule(checkpoint, photographs, rule, tmp_path):
    model = ctnet.load(checkpoint)
    (tmp_path / "run.json").write_text(
        json.dumps({"config": {"name": "run", "data": str(photographs)}})
    )
    before, after = compare(model, model, rule, tmp_path)
    assert (before.model, after.model) == ("before", "after") and before.rule == "pets"
    assert set(before.scores) <= {"edges", "normals", "seg"}
    assert all(before.headline(task) == after.headline(task) for task in before.scores)


def test_command_line(checkpoint, photographs, rule, tmp_path, capsys):
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "crop_size = 32\nscale_range = [0.5, 1.0]\nbatch_size = 2\nsteps = 2\nworkers = 0\n"
        "validate_images = 5\n"
    )
    out = tmp_path / "run"
    words = ["--data", str(photographs), "--out", str(out), "--device", "cpu"]
    words += ["--recipe", str(recipe)]
    assert main(["finetune", checkpoint, "--rule", rule, *words]) == 0
    said = capsys.readouterr().out
    assert "before" in said and "after" in said
    assert {path.name for path in out.glob("*_pets.json")} == {
        "before_pets.json", "after_pets.json",
    }  # fmt: skip

    words[3] = str(tmp_path / "task")
    recipe.write_text(recipe.read_text() + "only_added = true\n")
    added = ["--add-task", "foreground", "--like", "saliency"]
    assert main(["finetune", checkpoint, "--rule", "single:foreground", *added, *words]) == 0
    model = ctnet.load(f"local-dir:{tmp_path / 'task/checkpoint'}")
    assert model.tasks[-1] == "foreground"
    old, new = ctnet.load(checkpoint).state_dict(), model.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    TASKS.pop("foreground")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--like", "seg"], "go with --add-task"),
        (["--all"], "go with --add-task"),
        (["--add-task", "depht"], "unknown task 'depht'"),
        (["--add-task", "normals"], "does 'normals' already"),
    ],
)
def test_errors_of_the_command_line(checkpoint, photographs, tmp_path, capsys, words, message):
    out = ["--data", str(photographs), "--out", str(tmp_path / "run")]
    assert main(["finetune", checkpoint, "--rule", "R1", *out, *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("example", ["new_rule", "new_task"])
def test_worked_examples(example, checkpoint, photographs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "crop_size = 32\nscale_range = [0.5, 1.0]\nbatch_size = 2\nworkers = 0\n"
        "validate_images = 5\n"
        f"only_added = {'true' if example == 'new_task' else 'false'}\n"
    )
    page = tmp_path / "page.md"
    shutil.copy(EXAMPLES.parent / "docs/adapting.md", page)
    paths = {"--data": photographs, "--out": tmp_path / "run", "--recipe": recipe, "--page": page,
             "--results": tmp_path}  # fmt: skip
    words = [str(word) for pair in paths.items() for word in pair]
    importlib.import_module(example).main(["--model", checkpoint, "--steps", "2", *words])
    mark = example.replace("_", "-")
    table = page.read_text().split(f"<!-- {mark}: begin -->")[1].split(f"<!-- {mark}: end -->")[0]
    assert "2 steps in" in table and "|---|" in table
    assert (example == "new_rule") == ("Delta_m" in table)
    assert len(list(tmp_path.glob("*_*.json"))) == 2
    TASKS.pop("foreground", None)
