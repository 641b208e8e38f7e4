"""Checkpoints from a Hub on loopback where processes, permissions and disks are in the way."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_server import Fault
from huggingface_hub import constants
from test_hub import NAME, OLD, REPO, WEIGHTS, read

from ctnet.zoo.download import fetch

COMMAND = [sys.executable, "-m", "ctnet", "download", f"hf-hub:{REPO}"]


@pytest.fixture
def start(hub):
    """Function (words before the command) -> process that downloads into the same cache."""
    started = []
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(hub.cache / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

    def start(*before):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*before, *COMMAND], env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_processes_on_a_cold_cache(hub, start):
    hub.publish(REPO, OLD)
    hub.faults.append(Fault(WEIGHTS, "GET", wait=0.1))
    for process in [start(), start()]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert read(Path(out.split(": ")[1].strip())) == OLD


def test_a_killed_download_leaves_nothing_that_harms(hub, start):
    hub.publish(REPO, OLD)
    stuck = Fault(WEIGHTS, "GET", gate=threading.Event())
    hub.faults.append(stuck)
    process = start()
    assert stuck.reached.wait(300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stuck.gate.set()
    assert list(hub.cache.rglob("*.incomplete"))
    assert read(fetch(NAME)) == OLD


def test_a_cache_that_cannot_be_written_is_read(hub, start):
    before = ()
    if os.geteuid() == 0:
        before = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
        if not shutil.which("setpriv") or subprocess.run([*before, "true"]).returncode:
            pytest.skip("root writes everywhere, and setpriv cannot take that right away here")
    hub.publish(REPO, OLD)
    hub.cache.mkdir()
    hub.cache.chmod(0o500)
    process = start(*before)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err
    assert "cannot be written" in err and "HF_HOME" in err
    hub.cache.chmod(0o700)
    folder = fetch(NAME)
    parts = [hub.cache, *(path for path in hub.cache.rglob("*") if path.is_dir())]
    for path in parts:
        path.chmod(0o500)
    asked = len(hub.requests)
    out, err = (process := start(*before)).communicate(timeout=300)
    for path in parts:
        path.chmod(0o700)
    assert process.returncode == 0, err
    assert out.split(": ")[1].strip() == str(folder)
    assert len(hub.requests) == asked


def test_a_full_disk_is_named_and_room_helps(hub, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk))
        hub.publish(REPO, OLD)
        with (
            pytest.raises(OSError, match=r"disk is full.*HF_HOME"),
            pytest.warns(UserWarning, match="free disk space"),
        ):
            fetch(NAME)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert read(fetch(NAME)) == OLD
    finally:
        subprocess.run(["umount", str(disk)], check=True)
