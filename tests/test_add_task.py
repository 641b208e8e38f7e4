"""Tasks that are added to a trained network, and tasks of your own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import ctnet
from ctnet.data.dataset import CompositeDataset, open_source
from ctnet.data.derived import DERIVATIONS, DerivedLabels
from ctnet.models.add_task import freeze_old_tasks
from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.models.config import ModelConfig
from ctnet.rules import load_rule
from ctnet.tasks import DEFAULT_TASKS, TASKS, get_task, register_task
from ctnet.training.config import TrainConfig
from ctnet.training.trainer import Trainer

DEPTH = ctnet.TaskSpec("depth", "depth", "probability", (0, 150, 136))
MATERIAL = ctnet.TaskSpec(
    "material", "material", "classes", (9, 9, 9), ("wood", "stone"), ((1, 2, 3), (4, 5, 6))
)
FOREGROUND = DERIVATIONS["foreground"].task


@pytest.fixture
def image(rng):
    return torch.from_numpy(rng.random((2, 3, 64, 96), np.float32))


def old_outputs(model, image, make_ids):
    """Composites of palettes that ask for old tasks alone."""
    kinds = ("single", "mosaic", "random", "partly")
    with torch.inference_mode():
        return [model(image, make_ids(kind, (2, 64, 96))) for kind in kinds]


def test_old_tasks_answer_as_before(make_model, make_ids, image):
    model = make_model()
    grown = ctnet.add_task(model, DEPTH)
    assert grown.tasks == (*DEFAULT_TASKS, "depth") and not grown.training
    for was, now in zip(
        old_outputs(model, image, make_ids), old_outputs(grown, image, make_ids), strict=True
    ):
        torch.testing.assert_close(now, was, rtol=0, atol=1e-6)


def test_the_network_that_was_given_stays_as_it_is(make_model):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grown = ctnet.add_task(model, DEPTH)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1)
    assert model.tasks == DEFAULT_TASKS
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("like", ["normals", "seg"])
def test_a_new_task_starts_as_the_one_that_it_is_like(make_model, image, like):
    model = make_model()
    grown = ctnet.add_task(model, DEPTH, like)
    with torch.inference_mode():
        old = grown(image, torch.full((64, 96), DEFAULT_TASKS.index(like)))
        new = grown(image, torch.full((64, 96), 5))
    torch.testing.assert_close(new, old)


def test_a_new_task_has_a_start_of_its_own(make_model, image):
    grown = ctnet.add_task(make_model(), DEPTH)
    embeddings = grown.representation()
    assert embeddings.shape[0] == 6
    torch.testing.assert_close(embeddings[5], embeddings[:5].mean(0))


def test_several_tasks_can_be_added(make_model, image):
    grown = ctnet.add_task(ctnet.add_task(make_model(), DEPTH, "seg"), MATERIAL, like="depth")
    assert grown.tasks[5:] == ("depth", "material") and grown.config.added == 2
    embeddings = grown.representation()
    torch.testing.assert_close(embeddings[[5, 6]], embeddings[[0, 0]])
    palette = torch.full((64, 96), 6)
    labels = ctnet.to_labels(grown(image, palette), palette, grown)
    assert set(labels) == {"material"} and set(labels["material"].values.unique().tolist()) <= {
        0,
        1,
    }


def test_a_checkpoint_carries_its_tasks(make_model, tmp_path, image):
    grown = ctnet.add_task(make_model(), MATERIAL, "parts")
    save_checkpoint(grown, tmp_path)
    del TASKS["material"]
    loaded = load_network(tmp_path)
    assert "material" not in TASKS and get_task(loaded.tasks[-1]) == MATERIAL
    assert loaded.config == grown.config
    palette = torch.full((64, 96), 5)
    assert torch.equal(loaded(image, palette), grown(image, palette))
    prediction = loaded.predict(np.zeros((50, 70, 3), np.uint8), "single:material")
    assert prediction.labels["material"].shape == (50, 70)
    assert prediction.overlay().mode == "RGB"


def test_checkpoints_whose_tasks_of_one_name_differ(make_model, tmp_path):
    other = replace(
        MATERIAL, title="matter", classes=("wood", "stone", "glass"), class_colors=((9, 9, 9),) * 3
    )
    for folder, spec in (("first", MATERIAL), ("second", other)):
        TASKS.pop("material", None)
        save_checkpoint(ctnet.add_task(make_model(), spec), tmp_path / folder)
    del TASKS["material"]
    first, second = (load_network(tmp_path / folder) for folder in ("first", "second"))
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    for model, spec in ((first, MATERIAL), (second, other), (copy.deepcopy(second), other)):
        palette = ctnet.Palette.single("material", (50, 70), (*DEFAULT_TASKS, "material"))
        prediction = model.predict(picture, palette)
        assert get_task(model.tasks[5]) == spec
        assert prediction.probabilities("material").shape == (50, 70, len(spec.classes))
        assert prediction.labels["material"].max() < len(spec.classes)
        assert spec.title in str([get_task(name).title for name in prediction.palette.tasks])
        save_checkpoint(model, tmp_path / "again")
        assert get_task(load_network(tmp_path / "again").tasks[5]) == spec
    rule = tmp_path / "matter.toml"
    rule.write_text('reads = "material"\n[classes]\nglass = "seg"\n')
    assert load_rule(rule, second.tasks).classes == other.classes
    with pytest.raises(ValueError, match="glass"):
        load_rule(rule, first.tasks)


@pytest.mark.parametrize("system", ["mhn", "stn"])
def test_only_a_ctn_takes_further_tasks(make_model, system):
    with pytest.raises(ValueError, match=f"a {system} needs a new decoder"):
        ctnet.add_task(make_model(system), DEPTH)


@pytest.mark.parametrize(
    ("task", "like", "message"),
    [
        ("normals", None, "does 'normals' already"),
        ("dpeth", None, "unknown task 'dpeth'"),
        (DEPTH, "normal", "did you mean 'normals'"),
    ],
)
def test_errors_of_add_task(make_model, task, like, message):
    with pytest.raises(ValueError, match=message):
        ctnet.add_task(make_model(), task, like)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "two words"}, "letters, digits"),
        ({"name": "normals"}, "another task has the name"),
        ({"kind": "depth"}, "unknown kind of task"),
        ({"kind": "classes"}, "two classes or more"),
        ({"classes": ("a", "b"), "class_colors": ((1, 1, 1),) * 2}, "two classes or more"),
        ({"kind": "classes", "classes": ("a", "b")}, "2 classes and 0 colors"),
    ],
)
def test_errors_of_tasks_of_ones_own(change, message):
    with pytest.raises(ValueError, match=message):
        register_task(replace(DEPTH, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"added": 6}, "added counts some"),
        ({"added": -1}, "added counts some"),
        ({"system": "mhn", "added": 1}, "added counts some"),
        ({"task_specs": [{"name": "depth"}]}, "a task lacks the key 'title'"),
        (
            {"task_specs": [{"name": "d", "title": "", "kind": "normals", "color": [1, 2, 300]}]},
            "a color is three whole numbers",
        ),
    ],
)
def test_errors_of_configs(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(ModelConfig().to_dict() | change)


def test_only_added_needs_an_added_task():
    with pytest.raises(ValueError, match="aux_loss_weight must be 0"):
        TrainConfig("x", only_added=True, aux_loss_weight=1.0)
    with pytest.raises(ValueError, match="no task was added"):
        freeze_old_tasks(ctnet.create())


@pytest.fixture
def photographs(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return write_photographs(root, splits=("train", "train", "val"))


def test_training_a_new_task_changes_no_bit_of_the_others(
    make_model, make_ids, image, photographs, tmp_path
):
    grown = ctnet.add_task(make_model(), FOREGROUND, "saliency")
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    outputs = old_outputs(grown, image, make_ids)
    new = torch.full((64, 96), 5)
    with torch.inference_mode():
        answer = grown(image, new)
    config = TrainConfig.load(
        "new-task", name="x", model=grown.config, rule="single:foreground", data=str(photographs),
        crop_size=32, scale_range=(0.5, 1.0), batch_size=2, steps=3, device="cpu", workers=0,
        warmup_steps=0,
    )  # fmt: skip
    trained = Trainer(config, tmp_path / "run", weights=grown.state_dict()).train()
    after = trained.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"representation.added"}
    for was, now in zip(outputs, old_outputs(trained, image, make_ids), strict=True):
        assert torch.equal(now, was)
    with torch.inference_mode():
        assert not torch.allclose(trained(image, new), answer, atol=1e-3)


def test_with_everything_trained_the_others_change_too(make_model, photographs, tmp_path):
    grown = ctnet.add_task(make_model(), FOREGROUND)
    config = TrainConfig.load(
        "finetune", name="x", model=grown.config, rule="single:foreground", data=str(photographs),
        crop_size=32, scale_range=(0.5, 1.0), batch_size=2, steps=2, device="cpu", workers=0,
        frozen_stages=0,
    )  # fmt: skip
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    after = Trainer(config, tmp_path / "run", weights=before).train().state_dict()
    unchanged = {n for n in before if torch.equal(before[n], after[n])}
    assert "decoder.head.weight" not in unchanged and "representation.added" not in unchanged


def test_foreground_is_where_an_object_is(photographs):
    source = open_source("compositemt", photographs, "train", (*DEFAULT_TASKS, "foreground"))
    assert isinstance(source, DerivedLabels) and source.split == "train"
    found = source.load(0)
    known = found["seg"] != 255
    assert np.array_equal(found["foreground.valid"], known)
    assert np.array_equal(found["foreground"][known] == 255, found["seg"][known] > 0)
    assert source.kind(0, "foreground") == source.kind(0, "seg") == "true"
    assert source.measured_on("foreground", False) == source.measured_on("seg", False)

    tasks = (*DEFAULT_TASKS, "foreground")
    sample = CompositeDataset(source, ctnet.get_rule("single:foreground", tasks), tasks)[0]
    assert np.array_equal(sample.labels["foreground"].numpy() > 0.5, found["foreground"] == 255)
    assert np.array_equal(sample.valid[5].numpy(), known)


def test_foreground_is_missing_where_its_origin_is(photographs):
    for file in photographs.glob("*.seg.png"):
        file.unlink()
    index = photographs / "index.csv"
    rows = [line.split(",") for line in index.read_text().splitlines()]
    column = rows[0].index("seg")
    rows[1:] = [[*row[:column], "", *row[column + 1 :]] for row in rows[1:]]
    index.write_text("\n".join(",".join(row) for row in rows))
    source = open_source("compositemt", photographs, "train", ("foreground",))
    assert "foreground" not in source.load(0) and source.kind(0, "foreground") == ""
