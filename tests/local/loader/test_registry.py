"""`ollama://` by our own loader (F60, F61, F65, F66): Ollama's layout, whole and verified, or the reason why not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.local.loader.conftest import outcome
from tests.support.registry import Registry

if TYPE_CHECKING:
    from tests.local.loader.conftest import Outcome

Pull = Callable[..., "Outcome"]
WEIGHTS = bytes(range(256)) * 400
TEMPLATE = b"{{ .Prompt }}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as one:
        yield one


@pytest.fixture
def pull(registry: Registry, tmp_path: Path) -> Pull:
    def run(source: str = "ollama://llama3:8b", *words: str, **more: str) -> Outcome:
        env = {**os.environ, "FLEXINFER_OLLAMA_REGISTRY": registry.url, **more}
        argv = (sys.executable, "-m", "flexinfer", "loader", "fetch", source, "--root", str(tmp_path / "models"))
        done = subprocess.run([*argv, *words], env=env, capture_output=True, text=True, timeout=60)
        return outcome(done.returncode, done.stdout, done.stderr)

    return run


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_tag_lies_as_ollama_lays_it_out_and_a_second_pull_asks_nothing(registry: Registry, pull: Pull):
    manifest = registry.add("library/llama3", "8b", [WEIGHTS, TEMPLATE])
    found = pull()
    folder = Path(found.last["path"])
    assert (found.code, found.last["event"], found.last["file"]) == (0, "done", "")
    assert (folder / "manifests/registry.ollama.ai/library/llama3/8b").read_bytes() == manifest
    blobs = {path.name: path.read_bytes() for path in (folder / "blobs").iterdir()}
    assert blobs == {digest.replace(":", "-"): content for digest, content in registry.blobs.items()}
    assert found.last["bytes"] == len(manifest) + sum(map(len, blobs.values()))
    registry.requests.clear()
    again = pull()
    assert (again.last["path"], registry.requests) == (found.last["path"], [])


@pytest.mark.parametrize(
    ("source", "repository", "tag"),
    [
        pytest.param("ollama://llama3", "library/llama3", "latest", id="without a tag it is latest"),
        pytest.param("ollama://library/llama3:8b", "library/llama3", "8b", id="library is Ollama's own namespace"),
        pytest.param("ollama://someone/tuned:q4_K_M", "someone/tuned", "q4_K_M", id="a user's model"),
    ],
)
def test_names_and_tags(registry: Registry, pull: Pull, source: str, repository: str, tag: str):
    registry.add(repository, tag, [WEIGHTS])
    found = pull(source)
    assert (Path(found.last["path"]) / "manifests/registry.ollama.ai" / repository / tag).is_file()


def test_f60_a_blob_that_is_cut_goes_on_where_it_stopped(registry: Registry, pull: Pull):
    registry.add("library/llama3", "8b", [WEIGHTS])
    registry.cuts = [30_000, 70_000]
    assert pull().last["event"] == "done"
    ranges = [request.rpartition("bytes=")[2] for request in registry.bodies() if "bytes=" in request]
    assert ranges == [f"30000-{len(WEIGHTS) - 1}", f"70000-{len(WEIGHTS) - 1}"]


@pytest.mark.parametrize(
    ("times", "event"),
    [
        pytest.param(1, "done", id="once: it is fetched again"),
        pytest.param(99, "failed", id="always: nothing is left of it"),
    ],
)
def test_f61_a_flipped_bit_is_refused(registry: Registry, pull: Pull, tmp_path: Path, times: int, event: str):
    registry.add("library/llama3", "8b", [WEIGHTS])
    registry.flips = {5000: times}
    found = pull()
    assert found.last["event"] == event
    if event == "failed":
        assert found.reason == "DigestMismatch"
        assert not [path for path in (tmp_path / "models").rglob("*") if path.name.endswith(sha(WEIGHTS))]


def test_f65_a_registry_that_wants_a_token_is_asked_for_an_anonymous_one(registry: Registry, pull: Pull):
    registry.add("library/llama3", "8b", [WEIGHTS, TEMPLATE])
    registry.token_needed = True
    assert (pull().last["event"], registry.tokens_given) == ("done", 1)


def test_f65_a_token_that_ends_in_the_middle_is_asked_for_again(registry: Registry, pull: Pull):
    registry.add("library/llama3", "8b", [WEIGHTS, TEMPLATE])
    registry.token_needed, registry.token_uses = True, 2
    found = pull()
    assert (found.last["event"], registry.tokens_given) == ("done", 2)
    assert "anonymous-" not in found.output


def test_f65_a_registry_that_refuses_for_ever_is_asked_once_more_and_no_longer(registry: Registry, pull: Pull):
    registry.add("library/llama3", "8b", [WEIGHTS])
    registry.token_needed = registry.refuse_for_ever = True
    found = pull()
    assert (found.reason, found.last["retryAfterS"], registry.tokens_given) == ("Unauthorized", None, 1)
    assert len(registry.requests) == 3


def test_a_tag_that_is_not_there(registry: Registry, pull: Pull):
    registry.add("library/llama3", "8b", [WEIGHTS])
    found = pull("ollama://llama3:70b")
    assert (found.reason, found.last["retryAfterS"]) == ("ModelNotFound", None)
    assert f"ollama://llama3:70b is not in the registry at 127.0.0.1:{registry.port}" in found.last["message"]


@pytest.mark.parametrize(
    ("answers", "event", "reason"),
    [
        pytest.param(
            [web.Response(status=503), web.Response(status=429, headers={"Retry-After": "0"})],
            "done", "", id="503 and 429 once each: tried again",
        ),
        pytest.param(
            [web.Response(status=429, headers={"Retry-After": "900"})],
            "failed", "RateLimited", id="a long pause is for whoever runs the download",
        ),
        pytest.param([web.Response(text="<html>log in</html>")], "failed", "NotAHub", id="a log-in page"),
        pytest.param([web.json_response({"manifests": []})], "failed", "NotAHub", id="an index of images"),
        pytest.param(
            [web.json_response({"config": {"digest": "sha256:../../x", "size": 1}, "layers": []})],
            "failed", "NotAHub", id="a digest that is a path",
        ),
    ],
)  # fmt: skip
def test_f66_answers_that_are_no_manifest(
    registry: Registry, pull: Pull, answers: list[web.Response], event: str, reason: str
):
    registry.add("library/llama3", "8b", [WEIGHTS])
    registry.answers = answers
    found = pull()
    assert (found.last["event"], found.reason) == (event, reason)


def test_a_registry_that_is_not_there(registry: Registry, pull: Pull):
    found = pull(FLEXINFER_OLLAMA_REGISTRY="ftp://nowhere")
    assert (found.reason, found.code) == ("BadRegistry", 1)
