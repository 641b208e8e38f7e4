"""Rules: which task is asked for where."""

import sys

import numpy as np
import pytest

from ctnet.palette import Palette
from ctnet.rules import R1, R2, R3, RRND, RULES, Rule, get_rule, load_rule, read_mapping, single
from ctnet.tasks import DEFAULT_TASKS, VOC_CLASSES

PAPER = {
    # class: (R2, R3), the paper's table row by row; "-" where a rule has no entry.
    "background": ("edges", "edges"),
    "aeroplane": ("saliency", "saliency"),
    "bicycle": ("saliency", "normals"),
    "bird": ("seg", "saliency"),
    "boat": ("saliency", "saliency"),
    "bottle": ("normals", "saliency"),
    "bus": ("saliency", "normals"),
    "car": ("saliency", "normals"),
    "cat": ("seg", "saliency"),
    "chair": ("normals", "normals"),
    "cow": ("seg", "saliency"),
    "diningtable": ("normals", "normals"),
    "dog": ("seg", "saliency"),
    "horse": ("seg", "saliency"),
    "motorbike": ("saliency", "normals"),
    "person": ("parts", "parts"),
    "pottedplant": ("normals", "saliency"),
    "sheep": ("seg", "saliency"),
    "sofa": ("normals", "normals"),
    "train": ("saliency", "normals"),
    "tvmonitor": ("normals", "saliency"),
}

TOML = """
name = "pets"
[classes]
cat = "seg"
dog = "seg"
person = "parts"
"""
YAML = """
name: pets
classes:
  cat: seg
  dog: seg
  person: parts
"""


class TestPaper:
    @pytest.mark.parametrize("name", VOC_CLASSES)
    @pytest.mark.parametrize(("rule", "column"), [(R2, 0), (R3, 1)], ids=["R2", "R3"])
    def test_table(self, rule, column, name):
        expected = DEFAULT_TASKS.index(PAPER[name][column])
        assert rule.table()[VOC_CLASSES.index(name)] == expected

    @pytest.mark.parametrize("rule", [R2, R3], ids=["R2", "R3"])
    def test_other_values_ask_for_nothing(self, rule):
        table = rule.table()
        assert table.shape == (256,)
        assert table.dtype == np.uint8
        assert (table[len(VOC_CLASSES) :] == 255).all()

    def test_r3_never_asks_for_seg(self):
        assert DEFAULT_TASKS.index("seg") not in R3.table()

    @pytest.mark.parametrize(("rule", "column"), [(R2, 0), (R3, 1)], ids=["R2", "R3"])
    def test_palette_of_a_label_map(self, rule, column, rng):
        labels = np.append(np.arange(21), 255)[rng.integers(22, size=(20, 30))]
        palette = rule.palette((20, 30), labels=labels)
        for label, asked in zip(labels.ravel(), palette.ids.ravel(), strict=True):
            if label == 255:
                assert asked == 255
            else:
                assert DEFAULT_TASKS[asked] == PAPER[VOC_CLASSES[label]][column]


class TestPalettes:
    @pytest.mark.parametrize("task", DEFAULT_TASKS)
    def test_single(self, task):
        rule = single(task)
        assert rule.name == f"single:{task}"
        assert not rule.needs_labels
        assert rule.palette((3, 4)) == Palette.single(task, (3, 4))

    @pytest.mark.parametrize(("rule", "build"), [(R1, Palette.mosaic), (RRND, Palette.random)])
    def test_drawn(self, rule, build):
        palette = rule.palette((30, 40), np.random.default_rng(7), among=("seg", "edges"))
        assert palette == build((30, 40), np.random.default_rng(7), among=("seg", "edges"))
        assert not rule.needs_labels

    @pytest.mark.parametrize("rule", [R1, RRND])
    def test_without_a_generator_draws_differ(self, rule):
        drawn = [rule.palette((30, 40)) for _ in range(4)]
        assert any(palette != drawn[0] for palette in drawn)

    @pytest.mark.parametrize(("rule", "kind"), [(R1, "mosaic"), (RRND, "random")])
    def test_kinds_of_the_paper(self, rule, kind):
        assert rule.kind == kind

    def test_ids_are_those_of_the_tasks(self):
        labels = np.array([[15, 8, 0, 255]])
        palette = R2.palette((1, 4), labels=labels, tasks=DEFAULT_TASKS[::-1])
        assert palette.tasks == DEFAULT_TASKS[::-1]
        assert palette.ids.tolist() == [[3, 4, 2, 255]]

    def test_class_that_is_left_out_asks_for_nothing(self):
        rule = Rule("cats", "semantic", mapping=(("cat", "seg"),))
        assert rule.palette((1, 3), labels=np.array([[8, 12, 0]])).ids.tolist() == [[0, 255, 255]]

    def test_classes_of_ones_own(self):
        rule = Rule("own", "semantic", mapping=(("roof", "normals"),), classes=("wall", "roof"))
        assert rule.needs_labels
        assert rule.palette((1, 3), labels=np.array([[1, 0, 255]])).ids.tolist() == [[4, 255, 255]]
        with pytest.raises(ValueError, match=r"unknown class ids \[2\]; known: 0 to 1, 255"):
            rule.palette((1, 1), labels=np.array([[2]]))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (None, "rule R2 maps classes to tasks and needs a class map"),
            (np.zeros((4, 3), int), r"the class map is \(4, 3\), the image \(3, 4\)"),
            (np.zeros((1, 3, 4), int), "the class map is"),
            (np.full((3, 4), 21), r"unknown class ids \[21\]; known: 0 to 20, 255"),
            (np.full((3, 4), -1), r"unknown class ids \[-1\]"),
            (np.zeros((3, 4)), "class ids are whole numbers; got float64"),
            (np.zeros((3, 4), bool), "class ids are whole numbers; got bool"),
        ],
    )
    def test_bad_labels(self, labels, message):
        with pytest.raises(ValueError, match=message):
            R2.palette((3, 4), labels=labels)

    def test_task_that_the_model_lacks(self):
        labels = np.zeros((2, 2), int)
        with pytest.raises(ValueError, match="rule 'R2' asks for the unknown task 'parts'"):
            R2.palette((2, 2), labels=labels, tasks=("seg", "edges"))
        with pytest.raises(ValueError, match="unknown task 'normals'; allowed: seg"):
            single("normals").palette((2, 2), tasks=("seg", "edges"))


class TestChecks:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kind": "mosaik"}, "unknown kind of rule 'mosaik'; did you mean 'mosaic'"),
            ({"kind": "single"}, "a single rule, and no other, names its task"),
            ({"kind": "random", "task": "seg"}, "a single rule, and no other, names its task"),
            ({"kind": "mosaic", "mapping": (("cat", "seg"),)}, "only a semantic rule maps"),
            (
                {"kind": "semantic", "mapping": (("kat", "seg"),)},
                "rule 'mine' names the unknown class 'kat'; did you mean 'cat'",
            ),
        ],
    )
    def test_bad_rule(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Rule("mine", **arguments)

    def test_single_of_an_unknown_task(self):
        with pytest.raises(ValueError, match="unknown task 'normal'; did you mean 'normals'"):
            single("normal")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "rule"),
        [("R1", R1), ("mosaic", R1), ("R2", R2), ("R3", R3), ("Rrnd", RRND), ("random", RRND)],
    )
    def test_known(self, name, rule):
        assert get_rule(name) is rule

    def test_rules_know_their_names(self):
        assert list(RULES) == ["R1", "R2", "R3", "Rrnd"]
        assert all(rule.name == name for name, rule in RULES.items())

    @pytest.mark.parametrize("task", DEFAULT_TASKS)
    def test_single(self, task):
        assert get_rule(f"single:{task}") == single(task)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mosaics", "unknown rule 'mosaics'; did you mean 'mosaic'"),
            ("rndom", "did you mean 'random'"),
            ("R4", "unknown rule 'R4'; allowed: R1, R2, R3"),
            ("", "unknown rule ''; allowed: R1, R2, R3, Rrnd, mosaic, random, single:TASK"),
            ("single:egdes", "unknown task 'egdes'; did you mean 'edges'"),
            ("single:", "unknown task ''"),
        ],
    )
    def test_unknown(self, name, message):
        with pytest.raises(ValueError, match=message):
            get_rule(name)

    def test_single_is_of_the_models_tasks(self):
        with pytest.raises(ValueError, match="unknown task 'seg'; allowed: edges"):
            get_rule("single:seg", ("edges",))


class TestFiles:
    @pytest.mark.parametrize(
        ("suffix", "content"), [("toml", TOML), ("yaml", YAML), ("yml", YAML), ("TOML", TOML)]
    )
    def test_read(self, tmp_path, suffix, content):
        path = tmp_path / f"rule.{suffix}"
        path.write_text(content)
        rule = get_rule(str(path))
        assert rule == load_rule(path)
        assert rule.name == "pets"
        assert rule.needs_labels
        palette = rule.palette((1, 5), labels=np.array([[8, 12, 15, 0, 255]]))
        assert palette.ids.tolist() == [[0, 0, 1, 255, 255]]

    @pytest.mark.parametrize(
        ("suffix", "content"),
        [("toml", '[classes]\ncat = "seg"'), ("yaml", "classes: {cat: seg}")],
    )
    def test_name_is_the_files_where_it_has_none(self, tmp_path, suffix, content):
        path = tmp_path / f"my cats.{suffix}"
        path.write_text(content)
        assert load_rule(path).name == "my cats"

    @pytest.mark.parametrize("name", ["absent.toml", "absent.yaml", "absent.yml"])
    def test_missing(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match=f"no rule file at .*{name}"):
            get_rule(str(tmp_path / name))

    def test_folder(self, tmp_path):
        (tmp_path / "folder.toml").mkdir()
        with pytest.raises(FileNotFoundError, match="no rule file at"):
            load_rule(tmp_path / "folder.toml")

    @pytest.mark.parametrize(
        ("suffix", "content", "message"),
        [
            ("toml", b"classes = [", "is not valid"),
            ("toml", b"\xff\xfe", "is not valid"),
            ("toml", b"", "needs a table 'classes'"),
            ("toml", b"name = 'x'", "needs a table 'classes'"),
            ("toml", b"[classes]", "needs a table 'classes'"),
            ("toml", b"classes = 'cat'", "needs a table 'classes'"),
            ("toml", b"[classes]\nkat = 'seg'", "unknown class 'kat'; did you mean 'cat'"),
            ("toml", b"[classes]\ncat = 'segg'", "unknown task 'segg'; did you mean 'seg'"),
            ("toml", b"[classes]\ncat = 0", "unknown task '0'"),
            ("yaml", b"classes: {cat: seg", "is not valid YAML"),
            ("yaml", b"\xff\xfe\x00", "is not valid"),
            ("yaml", b"", "must hold a table at its top level"),
            ("yaml", b"- cat\n- dog", "must hold a table at its top level"),
            ("yaml", b"classes: [cat]", "needs a table 'classes'"),
            ("yaml", b"classes: {cat: }", "unknown task 'None'"),
            ("yaml", b"classes: {kat: seg}", "unknown class 'kat'; did you mean 'cat'"),
            ("yaml", b"!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ],
    )
    def test_bad(self, tmp_path, suffix, content, message):
        path = tmp_path / f"rule.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_rule(path)

    def test_tasks_of_the_model_count(self, tmp_path):
        path = tmp_path / "rule.toml"
        path.write_text(TOML)
        with pytest.raises(ValueError, match="rule 'pets' asks for the unknown task 'parts'"):
            load_rule(path, ("seg", "edges"))

    def test_yaml_without_pyyaml(self, tmp_path, monkeypatch):
        path = tmp_path / "rule.yaml"
        path.write_text(YAML)
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(ModuleNotFoundError, match="pip install pyyaml, or write it as TOML"):
            load_rule(path)

    def test_mapping_keeps_other_keys(self, tmp_path):
        path = tmp_path / "any.toml"
        path.write_text('a = 1\n[b]\nc = "d"')
        assert read_mapping(path) == {"a": 1, "b": {"c": "d"}}


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("R1", DEFAULT_TASKS),
        ("Rrnd", DEFAULT_TASKS),
        ("R2", DEFAULT_TASKS),
        ("R3", ("parts", "edges", "saliency", "normals")),
        ("single:normals", ("normals",)),
    ],
)
def test_rules_tell_what_they_can_ask_for(name, requested):
    assert get_rule(name).requested() == requested
