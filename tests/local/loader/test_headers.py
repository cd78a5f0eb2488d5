"""What a model on the hub needs, from its header alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support import gguf_bytes, safetensors_bytes
from tests.support.hub import Hub

if TYPE_CHECKING:
    from tests.local.loader.conftest import Loader

PROGRAM = """
import json, sys
from flexinfer.artifacts import files
from flexinfer.loader import headers
from flexinfer.loader.fetch import Wanted
try:
    found = headers.read(Wanted("org/name", "", files.Choice(reads=sys.argv[1])))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
names = [tensor.name for tensor in found.facts.tensors]
print(json.dumps([names, found.facts.tensor_bytes, found.facts.file_bytes, found.config.decode()]))
"""


def headers(loader: Loader, reads: str) -> Any:
    argv = [sys.executable, "-c", PROGRAM, reads]
    run = subprocess.run(argv, env=loader.env(), capture_output=True, text=True, timeout=30)
    return json.loads(run.stdout) if run.returncode == 0 else run.stderr.strip()


def test_a_gguf_is_known_from_its_first_megabytes(hub: Hub, loader: Loader):
    whole = gguf_bytes.llama({"block_count": 1}, [("a.weight", (1 << 20, 6), 0, 24 << 20)])
    hub.add("org/name", {"m.gguf": whole})
    hub.fault("m.gguf", cuts=[1000])
    assert headers(loader, "gguf") == [["a.weight"], 24 << 20, len(whole), ""]
    assert {request.range for request in hub.bodies()} == {f"bytes=0-{(4 << 20) - 1}"}


def test_a_checkpoint_is_known_from_the_headers_of_its_files(hub: Hub, loader: Loader):
    shards = {
        f"model-0000{part}-of-00002.safetensors": safetensors_bytes.whole({f"t{part}": ("F16", [512, 512])})
        for part in (1, 2)
    }
    hub.add("org/name", {**shards, "config.json": b'{"hidden_size": 512}'})
    size = sum(map(len, shards.values()))
    assert headers(loader, "checkpoint") == [["t1", "t2"], 2 * 512 * 512 * 2, size, '{"hidden_size": 512}']


def test_a_log_in_page_is_named(hub: Hub, loader: Loader):
    hub.add("org/name", {"m.gguf": b"<html>" + b" " * 9000})
    assert headers(loader, "gguf").startswith("NotGGUF: an HTML page")
