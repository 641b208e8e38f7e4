"""The manifest: its JSON schema, its dataclasses, and what either refuses."""

import copy
import json
from dataclasses import fields

import jsonschema
import pytest
from fuzzing import EXAMPLES, fuzz, mutated

from ctnet.zoo.manifest import MANIFEST, SCHEMA, ModelInfo, read_manifest, write_manifest

CONTENT = json.loads(MANIFEST.read_text())
ENTRY = CONTENT["models"][0]


@pytest.fixture(scope="module")
def schema():
    content = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_manifest_follows_its_schema(schema):
    schema.validate(CONTENT)


def test_schema_and_dataclass_have_the_same_keys(schema):
    described = schema.schema["$defs"]["model"]
    assert set(described["properties"]) == {entry.name for entry in fields(ModelInfo)}
    assert set(described["required"]) == set(ENTRY) - {"repo_id", "revision", "card"}


def test_what_is_written_follows_the_schema_and_is_read_again(schema, tmp_path):
    entry = ModelInfo.from_dict(ENTRY | {"repo_id": "org/x", "revision": "0" * 40})
    path = tmp_path / "manifest.json"
    write_manifest({entry.name: entry}, path)
    schema.validate(json.loads(path.read_text()))
    assert read_manifest(path) == {entry.name: entry}


FILE = ENTRY["files"]["config.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../ctn"}, "a model's name"),
        ({"name": "/etc"}, "a model's name"),
        ({"name": ""}, "a model's name"),
        ({"name": "a\n"}, "a model's name"),
        ({"name": 3}, "a model's name"),
        ({"files": {**ENTRY["files"], "../evil": FILE}}, "keys"),
        ({"files": {**ENTRY["files"], "/etc/passwd": FILE}}, "keys"),
        ({"files": {**ENTRY["files"], "pytorch_model.bin": FILE}}, "keys"),
        ({"files": {"config.json": FILE}}, "keys"),
        ({"files": [FILE]}, "files are a table"),
        ({"files": {**ENTRY["files"], "config.json": FILE["sha256"]}}, "is a table; got"),
        ({"files": {**ENTRY["files"], "config.json": {**FILE, "sha256": "0" * 63}}}, "64 hexa"),
        ({"files": {**ENTRY["files"], "config.json": {**FILE, "size": 1 << 60}}}, "size is 0 to"),
        ({"files": {**ENTRY["files"], "config.json": {**FILE, "size": -1}}}, "size is 0 to"),
        ({"files": {**ENTRY["files"], "config.json": {**FILE, "url": "x"}}}, "unknown key 'url'"),
        ({"card": "../README.md"}, "card of a model is"),
        ({"parameters": 0}, "parameters of a model is"),
        ({"parameters": 1.5}, "parameters of a model is"),
        ({"metrics": {"S": {"seg.miou": "43"}}}, "metrics of a model is"),
        ({"summary": None}, "summary of a model is"),
        ({"config": []}, "config of a model is"),
        ({"repo_id": "org/x"}, "both null"),
        ({"revision": "0" * 40}, "both null"),
        ({"repo_id": "org/x", "revision": "main"}, "both null"),
        ({"repo_id": "../x", "revision": "0" * 40}, "ORG/REPO"),
        ({"code": "import os"}, "unknown key 'code'"),
    ],
)
def test_malformed_entries_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ModelInfo.from_dict(ENTRY | change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no manifest"),
        ("[]", "is no manifest"),
        ("{", "is no manifest"),
        ('{"models": {}}', "is no manifest"),
        ('{"models": []}', "has no format"),
        ("[" * 100_000, "is no manifest"),
        (json.dumps({"format": 2, "models": [ENTRY, ENTRY]}), "names a model twice"),
        (json.dumps({"format": 2, "models": [7]}), "an entry|entry is a table"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, words):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_manifest(path)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_mutated_manifests_are_read_or_refused_and_never_looser_than_the_schema(
    schema, tmp_path, examples
):
    path = tmp_path / "manifest.json"
    outcomes = set()

    def check(content):
        path.write_text(json.dumps(content))
        try:
            models = read_manifest(path)
        except ValueError:
            outcomes.add("refused")
            return
        outcomes.add("read")
        schema.validate(content)
        for name, info in models.items():
            assert "/" not in name and ".." not in name
            assert set(info.files) == {"config.json", "model.safetensors"}

    fuzz(check, mutated(copy.deepcopy({"format": 2, "models": [ENTRY]})), examples)
    assert outcomes == {"read", "refused"}
