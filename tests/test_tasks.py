"""Task ids, class names and colors."""

import pytest

from ctnet.checks import did_you_mean
from ctnet.tasks import DEFAULT_TASKS, PART_CLASSES, TASKS, VOC_CLASSES, Task, get_task

PUBLISHED_VOC = [
    ("background", (0, 0, 0)),
    ("aeroplane", (128, 0, 0)),
    ("bicycle", (0, 128, 0)),
    ("bird", (128, 128, 0)),
    ("boat", (0, 0, 128)),
    ("bottle", (128, 0, 128)),
    ("bus", (0, 128, 128)),
    ("car", (128, 128, 128)),
    ("cat", (64, 0, 0)),
    ("chair", (192, 0, 0)),
    ("cow", (64, 128, 0)),
    ("diningtable", (192, 128, 0)),
    ("dog", (64, 0, 128)),
    ("horse", (192, 0, 128)),
    ("motorbike", (64, 128, 128)),
    ("person", (192, 128, 128)),
    ("pottedplant", (0, 64, 0)),
    ("sheep", (128, 64, 0)),
    ("sofa", (0, 192, 0)),
    ("train", (128, 192, 0)),
    ("tvmonitor", (0, 64, 128)),
]
"""Names and color map of the PASCAL VOC development kit, in the order of its class ids."""


@pytest.mark.parametrize(
    ("name", "value"),
    [("SEG", 0), ("PARTS", 1), ("EDGES", 2), ("SALIENCY", 3), ("NORMALS", 4)],
)
def test_task_ids_are_fixed(name, value):
    assert list(Task).index(Task[name]) == value
    assert DEFAULT_TASKS[value] == name.lower()
    assert list(TASKS)[value] == name.lower()


@pytest.mark.parametrize(("index", "entry"), list(enumerate(PUBLISHED_VOC)))
def test_seg_has_voc_order_and_colors(index, entry):
    seg = get_task("seg")
    assert (seg.classes[index], seg.class_colors[index]) == entry
    assert len(seg.classes) == len(seg.class_colors) == 21
    assert seg.classes == VOC_CLASSES


def test_parts_are_background_and_six():
    parts = get_task("parts")
    assert parts.classes == PART_CLASSES
    assert parts.classes[:3] == ("background", "head", "torso")
    assert len(set(parts.class_colors)) == len(parts.classes) == 7


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("seg", "classes"),
        ("parts", "classes"),
        ("edges", "probability"),
        ("saliency", "probability"),
        ("normals", "normals"),
    ],
)
def test_kinds(name, kind):
    spec = get_task(name)
    assert spec.name == name
    assert spec.kind == kind
    assert bool(spec.classes) == (kind == "classes")


def test_task_colors_differ():
    colors = {spec.color for spec in TASKS.values()}
    assert len(colors) == len(TASKS)
    assert all(0 <= value <= 255 for color in colors for value in color)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("normal", r"unknown task 'normal'; did you mean 'normals'\? Allowed: seg, parts,"),
        ("SEG", r"unknown task 'SEG'; allowed: seg, parts, edges, saliency, normals\."),
        ("", r"unknown task ''; allowed: seg"),
    ],
)
def test_unknown_task_is_explained(name, message):
    with pytest.raises(ValueError, match=message):
        get_task(name)


def test_nearest_without_choice_near():
    assert did_you_mean("qqq", ["ab", "cd"]) == "; allowed: ab, cd."
    assert did_you_mean("abb", iter(["ab", "cd"])) == "; did you mean 'ab'? Allowed: ab, cd."
