"""Checkpoints from a Hub on loopback, through the Hub's own client, with all that goes wrong."""

import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hub_server import TOKEN, Fault
from huggingface_hub import constants

from ctnet.zoo.download import fetch, find_cached
from ctnet.zoo.files import FileInfo
from ctnet.zoo.hub_names import HubName, HubOptions

CONFIG, WEIGHTS = "config.json", "model.safetensors"
REPO = "org/tiny"
NAME = HubName(REPO)
OLD = {CONFIG: b'{"format": 1}\n', WEIGHTS: hashlib.shake_256(b"old").digest(200_000)}
NEW = {CONFIG: b'{"format": 1, "new": 1}\n', WEIGHTS: hashlib.shake_256(b"new").digest(200_000)}
MANIFEST = {
    file: FileInfo(hashlib.sha256(content).hexdigest(), len(content))
    for file, content in OLD.items()
}


def read(folder):
    return {file: (folder / file).read_bytes() for file in OLD}


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture
def forbid_network(monkeypatch):
    def forbid():
        def refuse(*args, **kwargs):
            raise AssertionError("the network was touched")

        for name in ("connect", "connect_ex", "sendto"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return forbid


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("expected", [None, MANIFEST])
def test_cold_then_warm_without_network(hub, forbid_network, pinned, expected):
    commit = hub.publish(REPO, OLD)
    name = HubName(REPO, commit) if pinned else NAME
    assert find_cached(name) is None
    cold = fetch(name, expected)
    assert read(cold) == OLD and cold.name == commit
    assert cold.is_relative_to(hub.cache)
    asked = len(hub.requests)
    forbid_network()
    assert fetch(name, expected) == cold == find_cached(name)
    assert len(hub.requests) == asked


def test_revisions_are_pinned_and_branches_move_on_request_alone(hub):
    first = hub.publish(REPO, OLD)
    assert read(fetch(NAME)) == OLD
    second = hub.publish(REPO, NEW)
    hub.branches[REPO, "v1"] = first
    assert fetch(NAME).name == first
    assert fetch(NAME, refresh=True).name == second
    assert fetch(NAME).name == second
    assert read(fetch(HubName(REPO, "v1"))) == OLD
    assert read(fetch(HubName(REPO, first))) == OLD
    assert read(fetch(HubName(REPO, second))) == NEW


def test_a_commit_in_between_does_not_mix_files(hub):
    def publish_and_pass(content):
        hub.publish(REPO, NEW)
        return content

    hub.publish(REPO, OLD)
    hub.faults.append(Fault(CONFIG, "GET", body=publish_and_pass))
    assert read(fetch(NAME)) == OLD
    assert read(fetch(NAME, refresh=True)) == NEW


def test_the_token_goes_to_the_hub_and_not_to_its_store(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.publish(REPO, OLD)
    fetch(NAME)
    assert {(request.store, request.token) for request in hub.requests} == {
        (False, True),
        (True, False),
    }


def test_the_terms_of_the_hubs_own_client(hub, tmp_path, forbid_network):
    hub.publish(REPO, OLD)
    own = HubOptions(token=TOKEN, cache_dir=tmp_path / "own")
    folder = fetch(NAME, options=own)
    assert folder.is_relative_to(tmp_path / "own") and find_cached(NAME) is None
    assert any(request.token for request in hub.requests)
    asked = len(hub.requests)
    assert fetch(NAME, options=own) == folder and len(hub.requests) == asked
    assert fetch(NAME, options=replace(own, force_download=True)) == folder
    assert len(hub.requests) > asked
    forbid_network()
    assert fetch(NAME, options=replace(own, local_files_only=True)) == folder
    with pytest.raises(FileNotFoundError, match="local_files_only"):
        fetch(NAME, options=HubOptions(local_files_only=True))


def test_no_other_file_of_a_repository_is_fetched(hub):
    hub.publish(REPO, {**OLD, "modeling.py": b"boom", "pytorch_model.bin": b"boom"})
    assert sorted(path.name for path in fetch(NAME).iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WEIGHTS, "HEAD", status=503),
        Fault(WEIGHTS, "HEAD", status=500, times=3),
        Fault(CONFIG, "HEAD", status=429, headers={"Retry-After": "7"}),
        Fault(WEIGHTS, "GET", status=429),
        Fault(WEIGHTS, "GET", wait=0.01),
        Fault(WEIGHTS, "GET", cut=1000),
        Fault(WEIGHTS, "GET", cut=0, times=3),
        Fault(CONFIG, "GET", cut=3),
        Fault(WEIGHTS, "GET", body=flip),
        Fault(CONFIG, "GET", body=flip),
        Fault(CONFIG, "HEAD", 2, 307, {"Location": "/org/renamed/resolve/main/config.json"}),
    ],
    ids=lambda fault: f"{fault.method}-{fault.file}-{fault.status or fault.cut}-{fault.times}",
)
def test_what_passes_by_is_survived(hub, fault):
    hub.publish(REPO, OLD)
    hub.publish("org/renamed", OLD)
    hub.faults.append(Fault(**vars(fault)))
    assert read(fetch(NAME)) == OLD
    assert hub.faults[0].times == 0


def test_a_wait_that_the_hub_asks_for_is_kept(hub):
    hub.publish(REPO, OLD)
    busy = Fault(CONFIG, "HEAD", times=2, status=429, headers={"Retry-After": "7"})
    hub.faults.append(busy)
    fetch(NAME)
    assert hub.waits == [8.0]


def test_a_cut_transfer_goes_on_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.publish(REPO, OLD)
    hub.faults.append(Fault(WEIGHTS, "GET", cut=150_000))
    assert read(fetch(NAME)) == OLD
    (resumed,) = [request.range for request in hub.requests if request.range]
    assert resumed == "bytes=150000-"


GATED = {"X-Error-Code": "GatedRepo"}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(WEIGHTS, "GET", 2, body=flip), ValueError, "other bytes.*damaged.*Call again"),
        (Fault(CONFIG, "GET", 2, body=flip), ValueError, r"config\.json is damaged"),
        (Fault(WEIGHTS, "GET", body=lambda b: b[:9]), ConnectionError, "incomplete; try again"),
        (Fault(WEIGHTS, "GET", body=lambda b: b + b"x"), ConnectionError, "incomplete; try again"),
        (Fault(WEIGHTS, "GET", 99, cut=5), ConnectionError, "cannot reach.*check the connection"),
        (Fault(WEIGHTS, "GET", status=503), ConnectionError, r"fails.*\(status 503\).*later"),
        (Fault(WEIGHTS, "HEAD", 99, 500), ConnectionError, r"fails.*\(status 500\).*later"),
        (Fault(CONFIG, "HEAD", 99, 429), ConnectionError, "come back later.*wait some minutes"),
        (Fault(CONFIG, "HEAD", status=401), PermissionError, "log in by 'hf auth login'"),
        (Fault(CONFIG, "HEAD", status=403), PermissionError, "token lacks the right"),
        (Fault(CONFIG, "HEAD", 1, 403, GATED), PermissionError, "gated: ask for access"),
        (Fault(WEIGHTS, "HEAD", status=404), FileNotFoundError, "check the name"),
        (
            Fault(WEIGHTS, "HEAD", headers={"X-Linked-Size": "77"}, times=2),
            ConnectionError,
            "incomplete",
        ),
        (
            Fault(WEIGHTS, "HEAD", headers={"X-Linked-Size": str(1 << 50)}),
            ValueError,
            "1125899906842624 bytes, at most",
        ),
        (Fault(CONFIG, "HEAD", headers={"Content-Length": "9999999"}), ValueError, "at most"),
        (Fault(CONFIG, "HEAD", headers={"X-Repo-Commit": ""}), ConnectionError, "no Hub's"),
        (Fault(CONFIG, "HEAD", headers={"X-Repo-Commit": "../../x"}), ConnectionError, "no Hub's"),
        (Fault(CONFIG, "HEAD", headers={"ETag": '"../../../x"'}), ConnectionError, "no Hub's"),
    ],
)
def test_errors_name_cause_and_remedy_and_the_next_call_works(hub, fault, kind, words):
    hub.publish(REPO, OLD)
    hub.faults.append(Fault(**vars(fault)))
    with pytest.raises(kind, match=words) as caught:
        fetch(NAME)
    assert REPO in str(caught.value)
    assert find_cached(NAME) is None or fault.body is flip
    hub.faults.clear()
    assert read(fetch(NAME)) == OLD
    assert not list(hub.cache.rglob("*.incomplete"))
    assert {path.name for path in hub.cache.parent.iterdir()} == {"cache"}


@pytest.mark.parametrize(
    ("published", "name", "kind", "words"),
    [
        ({}, "org/none", PermissionError, "no such repository, or it is private"),
        ({CONFIG: b"{}"}, REPO, FileNotFoundError, "no model.safetensors of org/tiny"),
        ({WEIGHTS: b""}, REPO, FileNotFoundError, "no config.json of org/tiny"),
        (OLD, f"{REPO}@v9", FileNotFoundError, "no revision 'v9'"),
        (OLD, f"{REPO}@{'0' * 40}", FileNotFoundError, "no revision '0000"),
    ],
)
def test_what_is_not_there_is_named(hub, published, name, kind, words):
    hub.publish(REPO, published)
    with pytest.raises(kind, match=words):
        fetch(HubName.parse(name))
    hub.publish(REPO, OLD)
    assert read(fetch(NAME)) == OLD


@pytest.mark.parametrize("content", [NEW, {**OLD, WEIGHTS: OLD[WEIGHTS][:-1]}])
def test_other_files_than_the_manifest_names_are_not_even_fetched(hub, content):
    hub.publish(REPO, content)
    with pytest.raises(ValueError, match="not what the manifest names"):
        fetch(NAME, MANIFEST)
    assert not any(request.store for request in hub.requests)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("expected", [None, MANIFEST])
@pytest.mark.parametrize("damage", [flip, lambda content: content[:-7], lambda content: b""])
def test_a_damaged_cache_is_repaired(hub, file, expected, damage):
    hub.publish(REPO, OLD)
    path = fetch(NAME) / file
    path.write_bytes(damage(path.read_bytes()))
    assert read(fetch(NAME, expected)) == OLD


def test_a_damaged_cache_without_network_is_an_error_until_there_is_one(hub):
    hub.publish(REPO, OLD)
    path = fetch(NAME) / WEIGHTS
    path.write_bytes(flip(path.read_bytes()))
    hub.faults.append(Fault(CONFIG, "HEAD", 99, status=503))
    with pytest.raises(ConnectionError, match="status 503"):
        fetch(NAME)
    hub.faults.clear()
    assert read(fetch(NAME)) == OLD


def test_links_out_of_the_cache_are_refused(hub, tmp_path):
    hub.publish(REPO, OLD)
    path = fetch(NAME) / CONFIG
    path.unlink()
    secret = tmp_path / "secret.json"
    secret.write_bytes(OLD[CONFIG])
    path.symlink_to(secret)
    with pytest.raises(ValueError, match="points out of the Hub's cache"):
        fetch(NAME)
    path.unlink()
    assert read(fetch(NAME)) == OLD


def test_without_network_an_error_comes_at_once(hub):
    hub.close()
    with pytest.raises(ConnectionError, match=r"cannot reach.*CTNET_WEIGHTS"):
        fetch(NAME)
    assert hub.waits == []


def test_offline_mode_is_named(hub, monkeypatch):
    hub.publish(REPO, OLD)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE forbids"):
        fetch(NAME)
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(NAME) == folder


def test_eight_threads_on_a_cold_cache(hub):
    hub.publish(REPO, OLD)
    hub.faults.append(Fault(WEIGHTS, "GET", wait=0.02))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: fetch(NAME, MANIFEST), range(8)))
    (folder,) = folders
    assert read(folder) == OLD


@pytest.mark.parametrize(
    "text",
    [
        "tiny", "a/b/c", "../b", "a/..", "a/b..c", "/etc/passwd", "a/", "/b", "", "a//b", "a/b.git",
        "a/b--c", "a\\b/c", "a/b\0", "a/b\n", "ä/b", "a/.b", f"a/{'b' * 96}", "a/b@", "a/b@../x",
        "a/b@/x", "a/b@x/../../y", "a/b@x//y", "a/b@x y", "a/b@-x", "a/b@x.lock", "a/b@x\n",
        f"a/b@{'x' * 201}", "http://a/b", "a/b?x", "a/b#x", "a/b%2e",
    ],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_refused(text):
    with pytest.raises(ValueError, match="got "):
        HubName.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/repo", HubName("org/repo")),
        ("hf-hub:org/repo@v1.0", HubName("org/repo", "v1.0")),
        ("Org-1/re_po.x@refs/pr/1", HubName("Org-1/re_po.x", "refs/pr/1")),
    ],
)
def test_names_are_read_and_written(text, name):
    assert HubName.parse(text) == name
    assert str(name) == text.removeprefix("hf-hub:")
