"""Secrets and foreign text that are planted everywhere and looked for everywhere: they are nowhere they do not belong.

What an engine prints is its own: its log may hold it. Ours (simulator, llama.cpp) print no prompt, so that their
logs are searched too.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.support.asking import Answer, ask, client
from tests.support.commands import call
from tests.support.processes import command_line, tree
from tests.support.proxy import ANSWER, Engine, get, json_answer, post
from tests.support.running import Running, running, spawn, write
from tests.support.waiting import until

from flexinfer.engine import demo_model
from flexinfer.errors import FlexInferError
from flexinfer.kube import store

KEY = "canary-of-the-key-file"
BROKEN_KEY = "canary of a broken line"
TOKEN = "hf_canaryOfTheHub" + "x" * 20
UPSTREAM_KEY = "canary-of-the-upstream"
WRONG_KEY = "canary-of-a-wrong-key"
PROMPT = "canary-of-the-prompt"
SAID = "canary-of-the-answer"
ASKED_MODEL = "canary-of-a-model-name"
HEADER = "canary-of-a-header"
PATH = "canary-of-a-path"
CANARIES = (KEY, BROKEN_KEY, TOKEN, UPSTREAM_KEY, WRONG_KEY, PROMPT, SAID, ASKED_MODEL, HEADER, PATH)
BEARER = f"Authorization: Bearer {KEY}"
FORGED = '{"component":"access","event":"forged"}'
CHAT = json.dumps({"model": "far", "messages": [{"role": "user", "content": PROMPT}]}).encode()
LISTED = CHAT.replace(b'"far"', b'["%b"]' % ASKED_MODEL.encode())
FAILING, BREAKING = (CHAT.replace(PROMPT.encode(), f"{PROMPT} {how}".encode()) for how in ("fails", "breaks"))

HOSTILE = {
    "a wrong key": (post(CHAT, "/v1/chat/completions", f"Authorization: Bearer {WRONG_KEY}"), 401),
    "a password": (post(CHAT, "/v1/chat/completions", f"Authorization: Basic {WRONG_KEY}"), 401),
    "two keys": (post(CHAT, "/v1/chat/completions", BEARER, f"Authorization: Bearer {WRONG_KEY}"), 401),
    "an unknown model": (post(CHAT.replace(b"far", ASKED_MODEL.encode()), "/v1/chat/completions", BEARER), 404),
    "a model that is looked up": (get(f"/v1/models/{ASKED_MODEL}", BEARER), 404),
    "an unknown path": (get(f"/v1/{PATH}", BEARER), 404),
    "a key in a query": (get(f"/v1/models?api_key={PATH}&key={KEY}", BEARER), 200),
    "broken JSON": (post(CHAT[:-3], "/v1/chat/completions", BEARER), 400),
    "a model that is no text": (post(LISTED, "/v1/chat/completions", BEARER), 400),
    "an id with a line end": (get("/v1/models", BEARER, f"X-Request-ID: {HEADER}%0d%0a{FORGED}"), 200),
    "a bare CR in a value": (get("/v1/models", BEARER, f"X-Junk: {HEADER}\r{FORGED}"), 400),
    "a bare LF in a value": (get("/v1/models", BEARER, f"X-Request-ID: a\n{HEADER} {FORGED}"), 400),
    "a folded line": (get("/v1/models", BEARER, f"X-Junk: a\r\n {HEADER}"), 400),
    "a NUL": (get("/v1/models", BEARER, f"X-Junk: {HEADER}\0"), 400),
    "a terminal's escape": (get("/v1/models", BEARER, f"X-Junk: {HEADER}\x1b[2J"), 400),
    "a method of its own": (get("/v1/models", BEARER, method=HEADER.upper()), 400),
    "an origin": (post(CHAT, "/v1/chat/completions", BEARER, f"Origin: https://{HEADER}.example"), 403),
    "an engine that fails with the prompt": (post(FAILING, "/v1/chat/completions", BEARER), 500),
    "an engine that answers the prompt alone": (post(BREAKING, "/v1/chat/completions", BEARER), 502),
}  # fmt: skip


async def status_of(url: str, raw: bytes) -> int:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
    writer.close()
    return int(head[9:12])


def holders(pids: list[int], secret: str) -> list[str]:
    """What runs with the secret among its words or in its environment."""
    found = []
    for pid in pids:
        words = " ".join(command_line(pid))
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if secret in words or secret.encode() in environment:
            found.append(words)
    return found


async def shown(up: Running, folder: Path) -> dict[str, str]:
    """Everything that a running `up` tells of itself, by where it tells it."""
    where = ("--state-dir", up.info.state_dir)
    texts = {}
    of_models = [(word, model) for word in ("explain", "logs") for model in ("far", "frail", "tiny", "locked")]
    for words in (("ps",), ("ps", "-o", "json"), *of_models):
        ended = await call(*words, *where, folder=folder)
        texts[" ".join(words)] = ended.stdout + ended.stderr
    listed = await call("models", "list", "--models-dir", folder / "models", folder=folder)
    texts["models list"] = listed.stdout + listed.stderr
    bearer = {"Authorization": f"Bearer {KEY}"}
    async with client() as session, session.get(f"{up.url}/metrics", headers=bearer) as page:
        assert page.status == 200
        texts["/metrics"] = await page.text()
    resources = [found for found in vars(store).values() if isinstance(found, store.Resource)]
    for resource in resources:
        try:
            texts[resource.plural] = str(await up.control.store().list(resource))
        except FlexInferError as error:
            texts[resource.plural] = str(error)
    texts["control"] = f"{await up.control.info()} {await up.control.engines()} {await up.control.uses()}"
    return texts


def canaries_in(texts: dict[str, str]) -> list[tuple[str, str]]:
    return [(place, canary) for place, text in texts.items() for canary in CANARIES if canary.lower() in text.lower()]


def files_below(folder: Path, *but: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path not in but]
    return {str(path.relative_to(folder)): path.read_bytes().decode("latin-1") for path in found}


async def test_canaries_in_keys_tokens_prompts_and_requests_are_found_nowhere(folder, hub, scripted, manifest):
    hub.add("org/tiny", {"tiny.gguf": demo_model_bytes(folder)}, token=TOKEN, gated=False)
    hub.add("org/locked", {"tiny.gguf": b"x" * 5000}, token="another", gated=True)
    hub.fault("tiny.gguf", bytes_per_s=300_000)
    far = await scripted(answered)
    keys, upstream_key = folder / "keys", folder / "upstream-key"
    keys.write_text(f"alice:{KEY}\n")
    upstream_key.write_text(f"{UPSTREAM_KEY}\n")
    file = write(
        folder / "m.yaml",
        manifest("far", "external", f"http://127.0.0.1:{far.port}", config={"apiKeyFile": str(upstream_key)}),
        manifest("frail", "simulator", config={"extraArgs": ["--break-after", "2", "--break-how", "kill"]}),
        manifest("tiny", source="HF://org/tiny", config={"contextSize": 512}),
        manifest("locked", source="HF://org/locked", config={"contextSize": 512}),
    )
    words = ("--api-key-file", str(keys), "--access-log")
    async with running(folder, [file], *words, env=hub.env(folder, HF_TOKEN=TOKEN)) as up:

        async def loads() -> bool:
            return (await up.model("tiny")).status.loading_progress is not None

        await until(loads, 40)
        family = tree(up.process.pid)
        assert {"loader" in one for one in holders(family, TOKEN)} == {True}
        assert holders(family, KEY) == holders(family, UPSTREAM_KEY) == []
        await up.phase("tiny", "Idle", limit_s=40)
        await up.phase("locked", "Failed", limit_s=40)

        statuses = {name: await status_of(up.url, raw) for name, (raw, _) in HOSTILE.items()}
        assert statuses == {name: status for name, (_, status) in HOSTILE.items()}
        served = {name: await asked(up.url, name) for name in ("far", "tiny", "frail")}
        assert [served[name].served for name in ("far", "tiny", "frail")] == [True, True, False]
        assert SAID.encode() in served["far"].body
        assert far.requests[-1].header("authorization") == [f"Bearer {UPSTREAM_KEY}"]
        assert PROMPT.encode() in far.requests[-1].body

        family = tree(up.process.pid)
        assert [one for canary in CANARIES for one in holders(family, canary)] == []
        assert not [canary for canary in CANARIES if canary in " ".join(command_line(up.process.pid))]
        keys.write_text(f"alice:{KEY}\n{BROKEN_KEY}\n")

        async def complains() -> bool:
            assert (await status_of(up.url, get("/v1/models", BEARER))) == 200
            return "key file not taken over" in up.log.read_text()

        await until(complains, 40, every_s=0.2)
        texts = await shown(up, folder)
        assert [
            place for place in ("ps", "ps -o json", "/metrics", "models", "control") if "frail" not in texts[place]
        ] == []
        assert canaries_in(texts) == []
        assert await up.end(40) == 0
    lines = [json.loads(line) for line in up.log.read_text().splitlines() if line.startswith("{")]
    assert len([line for line in lines if line.get("component") == "access"]) >= len(HOSTILE) + 3
    assert [line for line in lines if line.get("event") == "forged"] == []
    files = files_below(folder, keys, upstream_key)
    assert {"frail", "tiny"} <= {Path(name).parent.name for name in files if name.endswith(".log")}
    assert canaries_in(files) == []


def test_a_key_file_that_cannot_be_used_is_refused_without_a_word_of_it(tmp_path, manifest):
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{KEY}\n{BROKEN_KEY}\n")
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    process, _, log = spawn(tmp_path, [file], "--api-key-file", str(keys))
    assert process.wait(40) == 1
    assert "line 2" in log.read_text()
    assert canaries_in(files_below(tmp_path, keys)) == []


def demo_model_bytes(folder: Path) -> bytes:
    path = folder / "demo.gguf"
    demo_model.write(path)
    content = path.read_bytes()
    path.unlink()
    return content


async def answered(engine: Engine, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine of somebody else, which repeats what it is asked when it fails."""
    body = engine.requests[-1].body
    if body == FAILING:
        writer.write(json_answer(b'{"error":{"message":"cannot answer %b"}}' % PROMPT.encode(), "500 " + PROMPT))
    elif body == BREAKING:
        writer.write(f"{PROMPT}\r\n\r\n".encode())
        writer.close()
    else:
        writer.write(json_answer(ANSWER.replace(b"hello", SAID.encode())))


async def asked(url: str, model: str) -> Answer:
    """What comes of the prompt, as a client with the key sends it."""
    async with client() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        return await ask(session, url, model, stream=model == "frail", messages=[{"role": "user", "content": PROMPT}])
