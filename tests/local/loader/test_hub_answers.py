"""What the hub says, told apart; and what it may never make us do: a token that leaks, a name that escapes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.hub import Hub

if TYPE_CHECKING:
    from tests.local.loader.conftest import Loader

TOKEN = "canary-of-the-hub-token"
Bytes = Callable[[int], bytes]


@pytest.mark.parametrize(
    ("repository", "words", "env", "reason", "says"),
    [
        pytest.param({"token": TOKEN}, [], {}, "Unauthorized", "needs a token", id="a private repository, no token"),
        pytest.param(
            {"token": TOKEN}, [], {"HF_TOKEN": "wrong"}, "TokenRefused", "does not accept the token", id="a wrong token"
        ),
        pytest.param({"token": TOKEN, "gated": True}, [], {}, "Gated", "accept its licence at", id="gated, no token"),
        pytest.param(
            {"token": TOKEN, "gated": True},
            [],
            {"HF_TOKEN": TOKEN},
            "Gated",
            "/org/name with the account of the token",
            id="gated, licence not accepted",
        ),
        pytest.param({}, ["--revision", "v9"], {}, "RevisionNotFound", "HF://org/name@v9", id="no such revision"),
        pytest.param({}, ["--gguf-file", "b.gguf"], {}, "FilesNotChosen", "model.gguf (0 MiB)", id="no such file"),
        pytest.param({}, [], {"HF_HUB_OFFLINE": "1"}, "Offline", "HF_HUB_OFFLINE", id="offline mode, nothing here"),
        pytest.param(
            {}, [], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "HubUnreachable", "127.0.0.1:9", id="nobody answers"
        ),
    ],
)
def test_refusals(
    hub: Hub,
    loader: Loader,
    bytes_of: Bytes,
    repository: dict[str, Any],
    words: list[str],
    env: dict[str, str],
    reason: str,
    says: str,
):
    hub.add("org/name", {"model.gguf": bytes_of(9000)}, **repository)
    found = loader(*words, env=env)
    assert (found.code, found.reason) == (1, reason)
    assert says in found.last["message"]
    assert (TOKEN in found.output, "wrong\n" in found.output, "Traceback" in found.output) == (False, False, False)


def test_a_repository_that_is_not_there(hub: Hub, loader: Loader):
    assert loader(env={"HF_TOKEN": TOKEN}).reason == "RepositoryNotFound"


@pytest.mark.parametrize("place", ["api", "model.gguf"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 429, "headers": {"Retry-After": "1"}}, id="429 for a second"),
        pytest.param({"status": 503, "times": 2}, id="503 twice"),
    ],
)
def test_what_passes_is_waited_for(hub: Hub, loader: Loader, bytes_of: Bytes, place: str, fault: dict[str, Any]):
    content = bytes_of(9000)
    hub.add("org/name", {"model.gguf": content})
    hub.fault(place, **fault)
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)


def test_a_long_wait_is_handed_on(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    hub.fault("api", status=429, times=99, headers={"Retry-After": "600"})
    found = loader()
    assert (found.reason, found.last["retryAfterS"], len(hub.requests)) == ("RateLimited", 600.0, 1)


def test_a_log_in_page_instead_of_the_listing(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    hub.fault("api", status=200, times=99, body=b"<html>log in</html>")
    assert loader().reason == "NotAHub"


@pytest.mark.parametrize("way", ["environment", "old environment", "file"])
def test_the_token_reaches_the_hub_and_nothing_else(
    hub: Hub, loader: Loader, bytes_of: Bytes, tmp_path: Path, way: str
):
    content = bytes_of(2_000_000)
    hub.add("org/name", {"model.gguf": content}, token=TOKEN)
    hub.cdn = True
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    env = {"environment": {"HF_TOKEN": TOKEN}, "old environment": {"HUGGING_FACE_HUB_TOKEN": TOKEN}}.get(way, {})
    found = loader(*(["--token-file", str(file)] if way == "file" else []), env=env)
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    assert {request.authorization for request in hub.requests} == {f"Bearer {TOKEN}"}
    # The address that bodies come from is not the hub.
    assert [request.authorization for request in hub.cdn_requests] == [""]
    written = b"".join(path.read_bytes() for path in loader.root.rglob("*") if path.is_file())
    assert (TOKEN in found.output, TOKEN.encode() in written) == (False, False)


def test_the_hub_learns_nothing_about_the_machine(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    assert loader().code == 0
    assert [request.path.split("/")[1] for request in hub.requests] == ["api", "org"]
    version = ".".join(str(part) for part in sys.version_info[:3])
    allowed = {"flexinfer", "hf_hub", "python"}
    for request in hub.requests:
        assert {part.split("/")[0] for part in request.user_agent.split("; ")} == allowed
        assert version in request.user_agent


@pytest.mark.parametrize(
    "name",
    [
        "../model.gguf",
        "a/../../model.gguf",
        "/tmp/model.gguf",
        "a//model.gguf",
        "./model.gguf",
        "..\\model.gguf",
        "a\nb.gguf",
        "a\x00b.gguf",
        "a" * 250 + ".gguf",
        "\u2028.gguf",
    ],
)
def test_a_name_that_is_no_path_is_refused(hub: Hub, loader: Loader, bytes_of: Bytes, tmp_path: Path, name: str):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    hub.repositories["org/name"].raw_names["model.gguf"] = name
    before = set(tmp_path.iterdir())
    found = loader()
    assert (found.code, found.reason) == (1, "FilesNotChosen")
    assert len(found.output.splitlines()) == len(found.events)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "models", tmp_path / "hf-home"}
    assert (hub.bodies(), loader.stored()) == ([], set())


def test_a_split_model_is_fetched_with_all_its_parts(hub: Hub, loader: Loader, bytes_of: Bytes):
    names = [f"Q4/tiny-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    hub.add("org/name", {name: bytes_of(5000 + at) for at, name in enumerate(names)} | {"README.md": b"hello"})
    found = loader()
    assert found.file.name == "tiny-00001-of-00003.gguf"
    assert sorted(path.name for path in found.file.parent.iterdir()) == [name.split("/")[1] for name in names]
    assert sorted({request.path.split("/", 5)[5] for request in hub.bodies()}) == names


def test_a_part_that_the_repository_lacks_is_named(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {f"tiny-0000{part}-of-00003.gguf": bytes_of(5000) for part in (1, 2)})
    found = loader("--gguf-file", "tiny-00001-of-00003.gguf")
    assert "tiny-00003-of-00003.gguf" in found.last["message"]
    assert hub.bodies() == []


def test_a_checkpoint_comes_without_pickles(hub: Hub, loader: Loader, bytes_of: Bytes):
    wanted = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": bytes_of(9000)}
    hub.add("org/name", {**wanted, "pytorch_model.bin": bytes_of(9001), "README.md": b"", "onnx/model.onnx": b"1"})
    found = loader("--reads", "checkpoint")
    folder = Path(found.last["path"])
    assert (found.last["file"], sorted(path.name for path in folder.iterdir())) == ("", sorted(wanted))


def test_a_projector_comes_along(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"m.gguf": bytes_of(9000), "mm/mmproj-m.gguf": bytes_of(5000)})
    found = loader("--mmproj", "mm/mmproj-m.gguf")
    assert (found.file.name, Path(found.last["mmproj"]).read_bytes()) == ("m.gguf", bytes_of(5000))
