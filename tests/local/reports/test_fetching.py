"""Reports on downloads: locks left behind, halves taken for wholes, full disks hidden, parts forgotten."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.support import gguf_bytes, safetensors_bytes, stub_engines
from tests.support.asking import ask, chat, client
from tests.support.processes import loaders
from tests.support.running import running, write
from tests.support.waiting import until

from flexinfer.engine import demo_model

SMALL = {"contextSize": 512}
DEAD = "http://127.0.0.1:9"


async def test_fr_018_a_killed_download_goes_on_whoever_has_its_pid_now(folder, hub, manifest):
    """SIGKILL half way; the pids that its files name are those of a process that lives and is somebody else's."""
    demo_model.write(folder / "demo.gguf")
    data = (folder / "demo.gguf").read_bytes()
    hub.add("org/demo", {"demo.gguf": data})
    fault = hub.fault("demo.gguf", stall_at=len(data) // 2, stall=True)
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:

        async def well_under_way() -> bool:
            return ((await up.model("demo")).status.loading_progress or 0) >= 0.4

        await until(well_under_way, 40, every_s=0.05)
        up.process.kill()
        await up.ended()
    (folder / "state" / "up.lock").write_text("1\n")
    for lock in (folder / "models").rglob("*lock*"):
        if lock.is_file():
            lock.write_text("1\n")
    fault.stall_at = -1
    hub.requests.clear()
    async with running(folder, [file], env=hub.env(folder)) as up:
        await up.phase("demo", "Idle", limit_s=5)
        assert (await chat(up.url, "demo"))[0] == 200
    assert [request.range != "" for request in hub.bodies("demo.gguf")] == [True]


SHARDS = {
    f"model-0000{number}-of-00004.safetensors": safetensors_bytes.whole({f"w{number}": ("F32", (64, 32))})
    for number in (1, 2, 3, 4)
}
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
CHECKPOINT = {
    **SHARDS,
    "model.safetensors.index.json": b'{"weight_map":{}}',
    "config.json": json.dumps(CONFIG).encode(),
}


async def test_fr_019_half_a_snapshot_is_not_taken_for_a_whole(folder, hub, manifest):
    """SIGINT after two of four shards; then without the hub, then with it."""
    third = "model-00003-of-00004.safetensors"
    hub.add("org/name", CHECKPOINT)
    hub.fault(third, stall_at=0, stall=True)
    stub_engines.install(folder / "bin", "vllm")
    env = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    file = write(folder / "m.yaml", manifest("m", "vllm", "HF://org/name"))
    async with running(folder, [file], env={**hub.env(folder, HF_HUB_DOWNLOAD_TIMEOUT="60"), **env}) as up:

        async def stalled() -> bool:
            return len(hub.bodies(third)) > 0

        await until(stalled, 20)
        up.process.send_signal(signal.SIGINT)
        await up.ended()
    async with running(folder, [file], env={**hub.env(folder), **env, "HF_ENDPOINT": DEAD}) as up:
        model = await up.phase("m", "Failed")
        cached = model.condition("Cached")
        assert cached.status == "False"
        missing = ("model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors")
        assert all(name in cached.message for name in missing), cached.message
        status, _, body = await chat(up.url, "m")
        assert (status, body["error"]["code"]) == (503, "model_failed")
        assert missing[0] in body["error"]["message"]
        assert await up.control.engines() == []
    hub.faults.clear()
    before = len(hub.bodies())
    async with running(folder, [file], env={**hub.env(folder), **env}) as up:
        assert (await chat(up.url, "m"))[0] == 200
    fetched = {request.path.rpartition("/")[2] for request in hub.bodies()[before:]}
    assert fetched == set(missing)


async def test_fr_020_a_full_disk_is_said_with_its_numbers_and_harms_no_other_model(folder, hub, manifest):
    """A disk that is too small from the start, and one that somebody else fills in the middle."""
    hub.add("org/big", {"big.gguf": b"GGUF" + bytes(12 << 20)})
    hub.add("org/half", {"half.gguf": b"GGUF" + bytes(6 << 20)})
    hub.fault("half.gguf", bytes_per_s=4 << 20)
    disk = folder / "models"
    file = write(
        folder / "m.yaml",
        manifest("other", "simulator", serverless={"minReplicas": 1}),
        manifest("big", source="HF://org/big"),
        manifest("half", source="HF://org/half"),
    )
    mounts = f"mount -t tmpfs -o size=10m tmpfs {disk}"
    async with running(folder, [file], env=hub.env(folder), mounts=mounts) as up, client() as session:
        inside = Path(f"/proc/{up.process.pid}/root{disk}")
        await up.phase("other", "Ready")
        big = await up.phase("big", "Failed")
        assert f"needs {(12 << 20) + 4} bytes more in {disk}" in big.status.message
        assert big.condition("Cached").reason == "DiskFull"
        assert hub.bodies("big.gguf") == []

        async def half_way() -> bool:
            return ((await up.model("half")).status.loading_progress or 0) > 0.2

        await until(half_way, 20)
        with pytest.raises(OSError, match="No space left"):
            (inside / "somebody-elses").write_bytes(bytes(10 << 20))
        half = await up.phase("half", "Failed")
        assert half.condition("Cached").reason == "DiskFull"
        assert "tried again by itself" in half.status.message
        assert left_in(inside) == []
        assert len(hub.bodies("half.gguf")) == 1
        assert not loaders(up.process.pid)
        assert (await ask(session, up.url, "other")).served


def left_in(disk: Path) -> list[str]:
    return [
        str(path)
        for path in (disk / ".flexinfer").glob("*.part/**/*")
        if path.is_file() and path.name != "manifest.json"
    ]


PART = gguf_bytes.llama({"block_count": 1}, [("token_embd.weight", (32, 4), 0, 512)])


async def test_fr_021_all_parts_of_a_split_model_are_fetched_or_the_missing_one_is_named(folder, hub, manifest):
    names = [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    hub.add("org/tiny", dict.fromkeys(names, PART))
    hub.add("org/torn", dict.fromkeys(names[:2], PART))
    file = write(
        folder / "m.yaml",
        manifest("named", source="HF://org/tiny", config={"ggufFile": names[0]}),
        manifest("found", source="HF://org/tiny"),
        manifest("torn", source="HF://org/torn", config={"ggufFile": names[0]}),
    )
    async with running(folder, [file], env=hub.env(folder)) as up:
        for name in ("named", "found"):
            model = await up.phase(name, "Idle")
            assert model.condition("Cached").status == "True"
        torn = await up.phase("torn", "Failed")
        assert names[2] in torn.status.message
    assert sorted(path.name for path in (folder / "models" / ".flexinfer").rglob("*.gguf")) == names
    assert sorted(request.path.rpartition("/")[2] for request in hub.bodies()) == names
