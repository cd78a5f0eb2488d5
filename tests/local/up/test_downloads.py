"""Models of the hub: fetched when they are applied, shown, resumed, shared, refused with a reason."""

import json
from pathlib import Path

import pytest
from tests.support import processes, safetensors_bytes, stub_engines
from tests.support.asking import chat
from tests.support.commands import call
from tests.support.processes import loaders
from tests.support.running import running, write
from tests.support.waiting import until

from flexinfer.engine import demo_model
from flexinfer.kube.store import MODELS

SMALL = {"contextSize": 512}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "demo.gguf"
    demo_model.write(path)
    return path.read_bytes()


def said(answer):
    return answer["choices"][0]["message"]["content"].strip()


async def test_a_repository_is_fetched_when_it_is_applied_and_answers(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights, "README.md": b"words"})
    hub.fault("demo.gguf", bytes_per_s=300_000)
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:
        seen = []

        async def moves():
            status = (await up.model("demo")).status
            seen.append((status.phase, status.loading_substage, status.loading_progress, status.tier))
            return status.phase == "Idle"

        await until(moves, 20)
        downloading = [one for one in seen if one[:2] == ("Pending", "Downloading")]
        assert downloading, seen
        assert any(one[2] for one in downloading), seen
        assert {one[3] for one in downloading} == {"cold"}
        assert (await up.model("demo")).status.tier == "cached"
        status, _, answer = await chat(up.url, "demo")
        assert (status, said(answer)) == (200, demo_model.SENTENCE)


async def test_two_models_of_one_repository_share_one_download_and_one_copy(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    models = [manifest(name, source="HF://org/demo", config=SMALL) for name in ("a", "b")]
    async with running(folder, [write(folder / "m.yaml", *models)], env=hub.env(folder)) as up:
        for name in ("a", "b"):
            await up.phase(name, "Idle")
        assert said((await chat(up.url, "b"))[2]) == demo_model.SENTENCE
    assert len(hub.bodies("demo.gguf")) == 1
    listed = await call("models", "list", "--models-dir", folder / "models", folder=folder)
    assert [line.split()[1] for line in listed.stdout.splitlines()] == ["SOURCE", "HF://org/demo"]


async def test_downloads_go_by_the_order_of_the_manifest_and_as_many_at_once_as_told(folder, hub, weights, manifest):
    names = ["z", "m", "a"]
    for name in names:
        hub.add(f"org/{name}", {f"{name}.gguf": weights})
        hub.fault(f"{name}.gguf", bytes_per_s=1_000_000)
    models = [manifest(name, source=f"HF://org/{name}", config=SMALL) for name in names]
    file = write(folder / "m.yaml", *models)
    async with running(folder, [file], "--downloads", "1", env=hub.env(folder)) as up:
        await up.phase("z", "Pending")
        waiting = (await up.model("a")).status
        assert (waiting.phase, waiting.loading_substage, waiting.loading_progress) == ("Pending", "Downloading", None)
        assert "waits for its turn" in waiting.message
        for name in names:
            await up.phase(name, "Idle")
    assert [request.path.split("/")[-1] for request in hub.bodies()] == ["z.gguf", "m.gguf", "a.gguf"]


async def test_a_request_during_the_download_waits_its_budget_and_is_told_how_far_it_is(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    # It lasts until the last command below has begun to wait.
    hub.fault("demo.gguf", bytes_per_s=40_000)
    spec = {"config": SMALL, "serverless": {"coldStartTimeout": "6s"}}
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", **spec))
    async with running(folder, [file], env=hub.env(folder)) as up:
        status, headers, answer = await chat(up.url, "demo")
        assert (status, answer["error"]["code"]) == (503, "model_loading")
        assert "% of" in answer["error"]["message"]
        assert "ready in about" in answer["error"]["message"]
        assert 1 <= int(headers["Retry-After"]) <= 60
        shown = await call("ps", "--state-dir", up.info.state_dir, folder=folder)
        assert "Downloading" in shown.stdout
        assert "%" in shown.stdout
        chatted = await call("chat", "demo", "hi", "--state-dir", up.info.state_dir, folder=folder)
        assert (chatted.returncode, chatted.stdout.strip()) == (0, demo_model.SENTENCE), chatted.stderr
        assert "Downloading" in chatted.stderr


async def test_a_gated_repository_needs_a_token_which_shows_nowhere(folder, hub, weights, manifest):
    secret = "hf_" + "s" * 34
    hub.add("org/demo", {"demo.gguf": weights}, token=secret)
    hub.fault("demo.gguf", bytes_per_s=300_000)
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:
        failed = (await up.phase("demo", "Failed")).status
        assert {c.type: (c.status, c.reason) for c in failed.conditions}["Cached"] == ("False", "Unauthorized")
        assert "HF_TOKEN" in failed.message
        status, _, answer = await chat(up.url, "demo")
        assert (status, answer["error"]["code"]) == (503, "model_failed")
    token = folder / "token"
    token.write_text(f"{secret}\n")
    async with running(folder, [file], "--hf-token-file", str(token), env=hub.env(folder)) as up:
        await until(lambda: downloading(up, "demo"), 20)
        argv, holders = words_and_environments(up.process.pid, secret)
        assert secret not in argv
        assert [words for words in holders if "loader" not in words] == []
        assert holders, "the download has it"
        await up.phase("demo", "Idle")
        assert said((await chat(up.url, "demo"))[2]) == demo_model.SENTENCE
        assert secret not in str(await up.control.store().list(MODELS))
    kept = [path for path in folder.rglob("*") if path.is_file() and path != token and "hf-home" not in path.parts]
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("source", "config", "reason", "named"),
    [
        pytest.param("HF://org/nope", {}, "Unauthorized", "org/nope", id="no such repository"),
        pytest.param("HF://org/two", {}, "FilesNotChosen", "a.gguf", id="several models and no choice"),
        pytest.param("HF://org/two", {"ggufFile": "c.gguf"}, "FilesNotChosen", "c.gguf", id="no such file"),
        pytest.param("HF://org/two@v9", {"ggufFile": "a.gguf"}, "RevisionNotFound", "v9", id="no such revision"),
    ],
)
async def test_what_the_hub_does_not_have_is_told(folder, hub, manifest, source, config, reason, named):
    hub.add("org/two", {"a.gguf": b"a" * 5000, "b.gguf": b"b" * 5000})
    file = write(folder / "m.yaml", manifest("demo", source=source, config=config))
    async with running(folder, [file], env=hub.env(folder)) as up:
        status = (await up.phase("demo", "Failed")).status
        cached = next(c for c in status.conditions if c.type == "Cached")
        assert (cached.status, cached.reason) == ("False", reason)
        assert named in status.message


async def test_pull_of_a_manifest_fetches_what_its_models_need_and_frees_it_again(folder, hub, weights, manifest):
    hub.add("org/a", {"a.gguf": weights})
    hub.add("org/b", {"b.gguf": weights[:-1] + b"x"})
    good = [manifest(name, source=f"HF://org/{name}", config=SMALL) for name in ("a", "b")]
    file = write(folder / "m.yaml", *good, manifest("here"), manifest("twin", source="HF://org/a", config=SMALL))
    where, env = ("--models-dir", folder / "models"), hub.env(folder)
    pulled = await call("models", "pull", file, *where, folder=folder, env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert sorted(request.path.rpartition("/")[2] for request in hub.bodies()) == ["a.gguf", "b.gguf"]
    file = write(folder / "m.yaml", good[0], manifest("nope", source="HF://org/nope", config=SMALL))
    failed = await call("models", "pull", file, *where, folder=folder, env=env)
    assert (failed.returncode, "org/nope" in failed.stdout + failed.stderr) == (1, True)
    assert (await call("models", "rm", "HF://org/a", *where, folder=folder)).returncode == 0
    listed = (await call("models", "list", *where, folder=folder)).stdout
    assert ("HF://org/a" in listed, "HF://org/b" in listed) == (False, True)


async def test_patterns_and_a_revision_choose_what_is_fetched(folder, hub, manifest):
    """The commit before the last one, its safetensors without those in a folder, and one file beyond the usual."""
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors_bytes.whole({"w": ("F32", (64, 64))}),
        "original/model.safetensors": safetensors_bytes.whole({"w": ("F32", (64, 65))}),
        "notes.txt": b"words",
        "more.txt": b"words",
    }
    commit = hub.add("org/name", files)
    hub.add("org/name", {"config.json": b"{}"})
    stub_engines.install(folder / "bin", "vllm")
    patterns = {"hfAllowPatterns": ["*.safetensors", "config.json", "notes.txt"], "hfIgnorePatterns": ["original/*"]}
    spec = manifest("m", "vllm", "HF://org/name", config={**patterns, "hfRevision": commit})
    env = {**hub.env(folder), "PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    async with running(folder, [write(folder / "m.yaml", spec)], env=env) as up:
        await up.phase("m", "Idle")
    fetched = [request.path.partition(f"/resolve/{commit}/")[2] for request in hub.bodies()]
    assert sorted(fetched) == ["config.json", "model.safetensors", "notes.txt"]


async def test_offline_a_copy_that_is_there_serves_and_another_is_said_to_be_missing(folder, hub, weights, manifest):
    """HF_HUB_OFFLINE, huggingface_hub's own setting; a mirror is what HF_ENDPOINT names in every test here."""
    hub.add("org/demo", {"demo.gguf": weights})
    there = manifest("there", source="HF://org/demo", config=SMALL)
    async with running(folder, [write(folder / "m.yaml", there)], env=hub.env(folder)) as up:
        await up.phase("there", "Idle")
    hub.requests.clear()
    file = write(folder / "m.yaml", there, manifest("missing", source="HF://org/other", config=SMALL))
    async with running(folder, [file], env=hub.env(folder, HF_HUB_OFFLINE="1")) as up:
        assert said((await chat(up.url, "there"))[2]) == demo_model.SENTENCE
        assert "offline" in (await up.phase("missing", "Failed")).status.message.lower()
    assert hub.requests == []


async def test_a_cut_download_goes_on_by_itself_where_it_ended(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    hub.fault("demo.gguf", cuts=[len(weights) // 2])
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:
        await up.phase("demo", "Idle")
        assert said((await chat(up.url, "demo"))[2]) == demo_model.SENTENCE
    assert [request.range for request in hub.bodies("demo.gguf")][1:] != [""]


async def test_a_hub_that_limits_is_asked_again_when_it_said(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    hub.fault("api", status=429, times=1, headers={"Retry-After": "61"})
    other = manifest("other", source="HF://org/demo", config=SMALL)
    file = write(folder / "m.yaml", other)
    async with running(folder, [file], env=hub.env(folder)) as up:
        status = (await up.phase("other", "Failed")).status
        assert "tried again by itself in 61 s" in status.message
        assert next(c for c in status.conditions if c.type == "Cached").reason == "RateLimited"


async def test_a_deleted_model_takes_its_download_along_unless_another_needs_it(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    hub.fault("demo.gguf", bytes_per_s=50_000)
    models = [manifest(name, source="HF://org/demo", config=SMALL) for name in ("a", "b")]
    async with running(folder, [], env=hub.env(folder)) as up:
        where = ("--state-dir", up.info.state_dir)
        await call("apply", write(folder / "m.yaml", *models), *where, folder=folder)
        await until(lambda: downloading(up, "a"), 20)
        await call("delete", "a", *where, folder=folder)
        assert loaders(up.process.pid)
        await call("delete", "b", *where, folder=folder)

        async def none():
            return not loaders(up.process.pid)

        await until(none, 20)


async def test_sigkill_of_up_ends_the_download_and_the_next_up_goes_on(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    fault = hub.fault("demo.gguf", bytes_per_s=200_000)
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:

        async def half():
            return ((await up.model("demo")).status.loading_progress or 0) > 0.3

        await until(half, 20)
        children = loaders(up.process.pid)
        assert children
        up.process.kill()
        await up.ended()
        await until(lambda: not processes.live(children), limit_s=1.0)
    fault.bytes_per_s = 0
    hub.requests.clear()
    async with running(folder, [file], env=hub.env(folder)) as up:
        await up.phase("demo", "Idle")
        assert said((await chat(up.url, "demo"))[2]) == demo_model.SENTENCE
    assert all(request.range for request in hub.bodies("demo.gguf")), "it began where the other had ended"


async def test_a_verified_copy_needs_no_hub_and_is_freed_when_no_model_uses_it(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights})
    env = hub.env(folder)
    pulled = await call("models", "pull", "HF://org/demo", "--models-dir", folder / "models", folder=folder, env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert "HF://org/demo" in pulled.stdout
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"}) as up:
        where = ("--state-dir", up.info.state_dir)
        assert said((await chat(up.url, "demo"))[2]) == demo_model.SENTENCE
        refused = await call("models", "rm", "HF://org/demo", *where, folder=folder)
        assert (refused.returncode, "used by demo" in refused.stderr) == (1, True)
        forced = await call("models", "rm", "HF://org/demo", "--force", *where, folder=folder)
        assert (forced.returncode, "in use" in forced.stderr) == (1, True)
        assert (await call("models", "gc", *where, folder=folder)).stdout == "nothing to free\n"
    freed = await call("models", "gc", "--models-dir", folder / "models", folder=folder)
    assert freed.stdout.startswith("freed ")
    assert (await call("models", "list", "--models-dir", folder / "models", folder=folder)).stdout.startswith("no ")


async def test_run_of_a_repository_shows_the_download_and_streams_the_answer(folder, hub, weights):
    hub.add("org/Demo-GGUF", {"demo.gguf": weights})
    hub.fault("demo.gguf", bytes_per_s=300_000)
    where = ("--state-dir", folder / "state")
    env = {**hub.env(folder), "XDG_CACHE_HOME": str(folder)}
    try:
        done = await call("run", "org/Demo-GGUF", "hello", *where, folder=folder, env=env)
        assert (done.returncode, done.stdout.strip()) == (0, demo_model.SENTENCE), done.stderr
        assert "demo-gguf: Pending (Downloading" in done.stderr
    finally:
        await call("down", *where, folder=folder)


async def test_wake_and_stop(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("demo", config=SMALL, serverless={"minReplicas": 1}))
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        await up.phase("demo", "Ready")
        stopped = await call("stop", "demo", *where, folder=tmp_path)
        assert (stopped.returncode, "is stopped" in stopped.stdout) == (0, True), stopped.stderr
        assert await up.control.engines() == []
        assert (await up.model("demo")).status.phase == "Idle"
        woken = await call("wake", "demo", *where, folder=tmp_path)
        assert (woken.returncode, "demo is ready" in woken.stdout) == (0, True), woken.stderr
        await call("stop", "demo", *where, folder=tmp_path)
        assert said((await chat(up.url, "demo"))[2]) == demo_model.SENTENCE
        unknown = await call("wake", "nope", *where, folder=tmp_path)
        assert (unknown.returncode, "no such model: nope" in unknown.stderr) == (1, True)


async def test_a_claim_is_a_folder_where_it_is_mapped_and_files_stay_below_allowed_roots(folder, weights, manifest):
    (folder / "claim").mkdir()
    (folder / "claim" / "demo.gguf").write_bytes(weights)
    (folder / "models" / "link.gguf").symlink_to(folder / "claim" / "demo.gguf")
    file = write(
        folder / "m.yaml",
        manifest("mapped", source="pvc://data/demo.gguf", config=SMALL),
        manifest("unmapped", source="pvc://other/demo.gguf", config=SMALL),
        manifest("outside", source="file:///models/link.gguf", config=SMALL),
    )
    options = ("--pvc", f"data={folder / 'claim'}", "--allow-root", str(folder / "models"))
    async with running(folder, [file], *options) as up:
        assert said((await chat(up.url, "mapped"))[2]) == demo_model.SENTENCE
        assert "--pvc other=DIR" in (await up.phase("unmapped", "Failed")).status.message
        assert "--allow-root" in (await up.phase("outside", "Failed")).status.message


async def downloading(up, name):
    return (await up.model(name)).status.loading_progress is not None


def words_and_environments(pid, secret):
    """The argv of `up` and all below it, and the argv of those whose environment holds the secret."""
    pids = [pid, *processes.tree(pid)]
    found = {one: " ".join(processes.command_line(one)) for one in pids}
    holders = [one for one in pids if secret.encode() in environment_of(one)]
    return " ".join(found.values()), [found[one] for one in holders]


def environment_of(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


async def test_estimate_of_a_repository_reads_its_headers_only(folder, hub, weights):
    hub.add("org/demo", {"demo.gguf": weights})
    where = ("--models-dir", folder / "models")
    done = await call("estimate", "HF://org/demo", *where, folder=folder, env=hub.env(folder))
    assert (done.returncode, "HF://org/demo: llama" in done.stdout) == (0, True), done.stderr
    assert all(request.range for request in hub.bodies())
    assert not list((folder / "models").rglob("*.gguf"))
