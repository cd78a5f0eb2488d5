"""Full disks, several processes, kills and damage (F62 to F64): a copy is whole, or it is not there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.hub import Hub

from flexinfer.artifacts import files, layout
from flexinfer.storage import copies

if TYPE_CHECKING:
    from tests.local.loader.conftest import Loader

Bytes = Callable[[int], bytes]
REQUEST = layout.request_key("org/name", "", files.Choice())
SIZE = 2_000_000


def test_f62_a_disk_that_cannot_hold_the_model_is_said_before_a_byte_is_fetched(
    hub: Hub, loader: Loader, bytes_of: Bytes
):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    hub.repositories["org/name"].sizes["model.gguf"] = 2**60
    found = loader()
    assert (found.reason, found.last["retryAfterS"], hub.bodies()) == ("DiskFull", 15.0, [])
    assert f"needs {2**60} bytes more in {loader.root}" in found.last["message"]


def test_f62_a_disk_that_fills_up_in_the_middle(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    found = loader(most_bytes=SIZE // 2)
    assert (found.code, found.reason, loader.stored()) == (1, "DiskFull", set())
    assert "File too large" in found.last["message"]
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)


def test_f62_another_process_fills_a_small_disk(hub: Hub, loader: Loader, bytes_of: Bytes, tmp_path: Path):
    """In a mount namespace of its own: 6 MB of disk, 4 MB of model, and 4 MB that somebody else writes meanwhile."""
    content = bytes_of(4_000_000)
    hub.add("org/name", {"model.gguf": content, "other.gguf": bytes_of(9000)})
    hub.fault("model.gguf", bytes_per_s=3_000_000)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=6m tmpfs {disk}
        "$@" --gguf-file other.gguf >&2 || exit 90
        "$@" --gguf-file model.gguf & child=$!
        until [ -n "$(find {disk}/.flexinfer -path '*/incoming/*' -size +1k)" ]; do sleep 0.05; done
        head -c 4000000 /dev/zero > {disk}/somebody-elses
        wait $child && exit 91
        find {disk}/.flexinfer -name '*.part' | grep . && exit 92
        rm {disk}/somebody-elses
        "$@" --gguf-file model.gguf || exit 93
        find {disk}/.flexinfer -name '*.gguf' | wc -l
    """
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *loader.argv(root=disk)]
    run = subprocess.run(argv, env=loader.env(), capture_output=True, text=True, timeout=60)
    lines = run.stdout.splitlines()
    assert (run.returncode, lines[-1]) == (0, "2"), run.stdout + run.stderr
    refused = [line for line in lines if '"failed"' in line]
    assert len(refused) == 1
    assert '"DiskFull"' in refused[0]
    assert "No space left on device" in refused[0]


def _together(hub: Hub, loader: Loader, bytes_of: Bytes, seed: int) -> None:
    chance = random.Random(seed)
    content = bytes_of(300_000 + seed)
    hub.add("org/name", {"model.gguf": content})
    hub.fault("model.gguf", bytes_per_s=chance.choice([0, 1_000_000]), cuts=chance.sample(range(300_000), 2))
    children = [loader.start() for _ in range(2)]
    for child in children:
        out, err = child.communicate(timeout=30)
        assert (child.returncode, err) == (0, ""), out
    ready = copies.lookup(loader.root, REQUEST)
    assert ready is not None
    assert ready.main is not None
    assert ready.main.read_bytes() == content
    assert loader.stored() == {ready.key}
    shutil.rmtree(loader.root)


def test_f63_two_processes_that_fetch_the_same_share_it(hub: Hub, loader: Loader, bytes_of: Bytes):
    for seed in range(2):
        before = len(hub.bodies())
        _together(hub, loader, bytes_of, seed)
        # One of them fetched: the body, and two more for the cuts.
        assert len(hub.bodies()) - before == 3


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_f63_fifty_rounds(hub: Hub, loader: Loader, bytes_of: Bytes):
    for seed in range(50):
        _together(hub, loader, bytes_of, seed)


def _killed(hub: Hub, loader: Loader, seed: int, contents: dict[str, bytes]) -> None:
    """SIGKILL at a random moment: nothing stands under the final name, or all of it, and the next run ends well."""
    hub.add("org/name", contents)
    child = loader.start("--allow=*", "--gguf-file=model.gguf")
    try:
        child.wait(random.Random(seed).uniform(0.25, 0.9))
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    child.communicate()
    for name in loader.stored():
        if not name.endswith(".part"):
            folder = loader.root / ".flexinfer" / name / "files"
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    found = loader("--allow=*", "--gguf-file=model.gguf")
    assert found.code == 0, found.output
    assert {path.name: path.read_bytes() for path in Path(found.last["path"]).iterdir()} == contents
    assert len(loader.stored()) == 1
    shutil.rmtree(loader.root)


def _contents(bytes_of: Bytes) -> dict[str, bytes]:
    return {"model.gguf": bytes_of(400_000), "a.json": b"{}", "b.json": b"[]", "c.txt": bytes_of(8000)}


def test_f64_killed_at_random_moments(hub: Hub, loader: Loader, bytes_of: Bytes):
    for seed in range(5):
        _killed(hub, loader, seed, _contents(bytes_of))


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_f64_two_hundred_kills(hub: Hub, loader: Loader, bytes_of: Bytes):
    for seed in range(200):
        _killed(hub, loader, seed, _contents(bytes_of))


def test_a_verified_copy_needs_no_hub(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    assert loader().code == 0
    asked = len(hub.requests)
    again = loader(env={"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (again.code, again.file.read_bytes(), len(hub.requests)) == (0, bytes_of(9000), asked)
    # Copied to another disk, times and all changed: read once, still without the hub.
    os.utime(again.file, (1, 1))
    assert copies.lookup(loader.root, REQUEST) is None
    again = loader(env={"HF_HUB_OFFLINE": "1"})
    assert (again.code, [event["event"] for event in again.events]) == (0, ["verifying", "done"])


def test_without_the_hub_what_is_missing_is_named(hub: Hub, loader: Loader, bytes_of: Bytes):
    shards = {f"model-0000{part}-of-00004.safetensors": bytes_of(100_000 + part) for part in (1, 2, 3, 4)}
    hub.add("org/name", {**shards, "model.safetensors.index.json": b"{}", "config.json": b"{}"})
    hub.fault("model-00003-of-00004.safetensors", stall_at=0, stall=True)
    child = loader.start("--reads", "checkpoint", env={"HF_HUB_DOWNLOAD_TIMEOUT": "60"})
    while len(hub.bodies()) < 5:
        time.sleep(0.02)
    child.kill()
    child.communicate(timeout=30)
    hub.faults.clear()
    offline = loader("--reads", "checkpoint", env={"HF_HUB_OFFLINE": "1"})
    assert (offline.code, offline.reason) == (1, "Offline")
    assert offline.last["message"].endswith(
        "2 files are missing here: model-00003-of-00004.safetensors, model-00004-of-00004.safetensors"
    )
    before = len(hub.bodies())
    assert loader("--reads", "checkpoint").code == 0
    assert sorted(request.path.rpartition("/")[2] for request in hub.bodies()[before:]) == sorted(shards)[2:]


def test_a_damaged_copy_is_repaired_file_by_file(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000), "a.json": b"{}"})
    found = loader("--allow=*")
    found.file.write_bytes(b"\0" * 9000)
    before = len(hub.bodies())
    found = loader("--allow=*")
    assert (found.code, found.file.read_bytes()) == (0, bytes_of(9000))
    assert [request.path.rpartition("/")[2] for request in hub.bodies()[before:]] == ["model.gguf"]


def test_a_branch_that_moved_is_followed_when_asked(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    first = loader()
    commit = hub.add("org/name", {"model.gguf": bytes_of(9001)})
    assert loader().last == first.last
    moved = loader("--refresh")
    assert (moved.file.read_bytes(), moved.last["commit"]) == (bytes_of(9001), commit)
    # What an engine may have open stays; the words lead to the new copy.
    assert (first.file.read_bytes(), loader().last) == (bytes_of(9000), moved.last)


def test_words_that_mean_the_same_files_share_one_copy(hub: Hub, loader: Loader, bytes_of: Bytes):
    commit = hub.add("org/name", {"model.gguf": bytes_of(9000)})
    paths = {loader(*words).last["path"] for words in ([], ["--gguf-file=model.gguf"], [f"--revision={commit}"])}
    assert (len(paths), len(hub.bodies())) == (1, 1)
