"""Bytes that are cut, flipped, doubled or never come (F60, F61): what has its final name is right."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.hub import Hub

if TYPE_CHECKING:
    from tests.local.loader.conftest import Loader

Bytes = Callable[[int], bytes]
SIZE = 3_000_000


def test_f60_a_download_cut_at_twenty_random_offsets_ends_whole(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    offsets = random.Random(60).sample(range(SIZE), 20)
    hub.fault("model.gguf", cuts=list(offsets))
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    ranges = [request.range for request in hub.bodies("model.gguf")]
    assert ranges == ["", *(f"bytes={offset}-{SIZE - 1}" for offset in sorted(offsets))]
    assert [event["done"] for event in found.events if event["event"] == "progress"][-1] == SIZE


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"ignore_range": True}, id="200 with the whole body where a range was asked"),
        pytest.param({"wrong_range": True}, id="206 that starts elsewhere"),
        pytest.param({"refuse_range": True}, id="416"),
    ],
)
def test_a_hub_that_cannot_resume_is_asked_from_the_start(
    hub: Hub, loader: Loader, bytes_of: Bytes, fault: dict[str, Any]
):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    hub.fault("model.gguf", cuts=[SIZE // 2], **fault)
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    assert all(event["done"] <= event["total"] == SIZE for event in found.events if event["event"] == "progress")


def test_f61_a_flipped_bit_is_refused_named_and_removed(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(SIZE)})
    hub.fault("model.gguf", flips={1_234_567: 99})
    found = loader()
    assert (found.code, found.reason) == (1, "DigestMismatch")
    assert "model.gguf" in found.last["message"]
    assert "sha256:" in found.last["message"]
    assert (loader.leftovers(), [name for name in loader.stored() if not name.endswith(".part")]) == ([], [])


def test_f61_a_flipped_bit_of_a_small_file_is_refused_too(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(2000)})
    hub.fault("model.gguf", flips={77: 99})
    found = loader()
    assert (found.reason, "git:" in found.last["message"]) == ("DigestMismatch", True)


def test_a_bit_that_flips_once_costs_a_second_download(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    hub.fault("model.gguf", flips={1_234_567: 1})
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    assert len(hub.bodies()) == 2


def test_a_body_that_stops_is_taken_up_again(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    hub.fault("model.gguf", stall_at=1_000_000)
    found = loader(env={"HF_HUB_DOWNLOAD_TIMEOUT": "1"})
    assert (found.code, found.file.read_bytes() == content) == (0, True)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param({"extra": b"x" * 100_000}, "more than the", id="more bytes than announced"),
        pytest.param({"body": b"<html>please log in</html>"}, "where its listing says", id="a log-in page"),
    ],
)
def test_another_body_than_the_listed_one_is_refused(
    hub: Hub, loader: Loader, bytes_of: Bytes, fault: dict[str, Any], says: str
):
    hub.add("org/name", {"model.gguf": bytes_of(SIZE)})
    hub.fault("model.gguf", **fault)
    found = loader()
    assert (found.code, found.reason) == (1, "WrongContent")
    assert says in found.last["message"]


def test_sigterm_ends_a_download_that_the_next_one_resumes(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content})
    hub.fault("model.gguf", bytes_per_s=SIZE // 3)
    child = loader.start()
    assert child.stdout is not None
    for line in child.stdout:
        if '"done":0' not in line:
            break
    child.send_signal(signal.SIGTERM)
    rest, _ = child.communicate(timeout=10)
    assert (child.returncode, '"Interrupted"' in rest) == (1, True)
    hub.faults.clear()
    found = loader()
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    assert hub.bodies()[-1].range.startswith("bytes=")


def test_a_download_whose_listener_has_gone_ends(hub: Hub, loader: Loader, bytes_of: Bytes):
    hub.add("org/name", {"model.gguf": bytes_of(SIZE)})
    hub.fault("model.gguf", bytes_per_s=SIZE // 20)
    child = loader.start()
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    began = time.monotonic()
    assert (child.wait(10), child.stderr.read()) == (1, "")
    child.stderr.close()
    assert time.monotonic() - began < 5


def test_the_library_itself_fetches_where_xet_is_wanted(hub: Hub, loader: Loader, bytes_of: Bytes):
    content = bytes_of(SIZE)
    hub.add("org/name", {"model.gguf": content, "extra.json": b"{}"})
    found = loader("--allow=*", env={"HF_HUB_DISABLE_XET": "0"})
    assert (found.code, found.file.read_bytes() == content) == (0, True)
    assert sorted(path.name for path in found.file.parent.iterdir()) == ["extra.json", "model.gguf"]
