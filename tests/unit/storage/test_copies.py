"""Copies of models: listed, held, freed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from flexinfer.artifacts import layout
from flexinfer.errors import ArtifactError
from flexinfer.storage import copies
from flexinfer.storage.copies import Copy, CopyInUse, FileRecord, Manifest, Ready, Request

KEY, OTHER, REQUEST = "a" * 32, "b" * 32, "c" * 32
CONTENT = b"0123456789"


def put(root: Path, key: str, *, part: bool = False) -> Path:
    folder = Path((layout.partial_folder if part else layout.folder)(str(root), key))
    (folder / "files").mkdir(parents=True)
    file = folder / "files" / "m.gguf"
    file.write_bytes(CONTENT)
    digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    record = FileRecord(name="m.gguf", size=10, digest=digest, mtime_ns=file.stat().st_mtime_ns)
    manifest = Manifest(key=key, source="HF://org/name", revision="main", commit="1" * 40, files=[record])
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    os.utime(folder / "manifest.json", (5, 5))
    return folder


def ask(root: Path, key: str = KEY, main: str = "m.gguf") -> None:
    path = Path(layout.request_path(str(root), REQUEST))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(Request(key=key, main=main)))


def test_a_root_without_copies(tmp_path: Path):
    assert (copies.copies(tmp_path), copies.lookup(tmp_path, REQUEST), copies.gc(tmp_path)) == ((), None, ())


def test_copies_are_listed(tmp_path: Path):
    folder = put(tmp_path, KEY)
    put(tmp_path, OTHER, part=True)
    (tmp_path / ".flexinfer" / "something-else").mkdir()
    found = copies.copies(tmp_path)
    stored = 10 + (folder / "manifest.json").stat().st_size
    assert found[0] == Copy(
        key=KEY,
        source="HF://org/name",
        revision="main",
        commit="1" * 40,
        files=("m.gguf",),
        size_bytes=10,
        stored_bytes=stored,
        complete=True,
        in_use=False,
        last_used_s=5.0,
        path=str(folder / "files"),
    )
    assert [(copy.key, copy.complete) for copy in found] == [(KEY, True), (OTHER, False)]


def test_a_request_leads_to_its_copy(tmp_path: Path):
    folder = put(tmp_path, KEY) / "files"
    ask(tmp_path)
    assert copies.lookup(tmp_path, REQUEST) == Ready(KEY, folder, folder / "m.gguf", None, 10, "1" * 40)


@pytest.mark.parametrize("damage", ["touched", "cut", "gone", "linked", "no manifest", "no JSON", "another file"])
def test_a_copy_that_was_changed_is_not_trusted(tmp_path: Path, damage: str):
    folder = put(tmp_path, KEY)
    ask(tmp_path, main="x.gguf" if damage == "another file" else "m.gguf")
    file = folder / "files" / "m.gguf"
    match damage:
        case "touched":
            os.utime(file, (1, 1))
        case "cut":
            file.write_bytes(CONTENT[:-1])
        case "gone":
            file.unlink()
        case "linked":
            file.rename(folder / "m")
            file.symlink_to(folder / "m")
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "no JSON":
            (folder / "manifest.json").write_bytes(b'{"key": "\xff')
    assert copies.lookup(tmp_path, REQUEST) is None


def test_a_copy_in_use_stays_until_its_last_user_is_gone(tmp_path: Path):
    put(tmp_path, KEY)
    first, second = copies.hold(tmp_path, KEY), copies.hold(tmp_path, KEY)
    assert first is not None
    assert second is not None
    first.release()
    assert copies.copies(tmp_path)[0].in_use
    with pytest.raises(CopyInUse):
        copies.remove(tmp_path, KEY)
    second.release()
    assert copies.remove(tmp_path, KEY) > 10
    assert copies.copies(tmp_path) == ()


def test_a_copy_that_is_being_fetched_stays(tmp_path: Path):
    put(tmp_path, KEY, part=True)
    with copies.fetch_lock(tmp_path, KEY) as lock:
        assert lock.acquire()
        assert copies.gc(tmp_path) == ()
    assert [copy.key for copy in copies.gc(tmp_path)] == [KEY]


def test_gc_keeps_what_it_is_told_and_forgets_requests_of_what_it_frees(tmp_path: Path):
    put(tmp_path, KEY)
    put(tmp_path, OTHER)
    ask(tmp_path, OTHER)
    trash = tmp_path / ".flexinfer" / f"{'d' * 32}.trash"
    trash.mkdir()
    assert [copy.key for copy in copies.gc(tmp_path, keep={KEY})] == [OTHER]
    assert [copy.key for copy in copies.copies(tmp_path)] == [KEY]
    assert (copies.read_request(tmp_path, REQUEST), trash.exists()) == (None, False)


@pytest.mark.parametrize("key", ["", "..", "a/b", KEY.upper(), OTHER])
def test_only_a_copy_is_removed(tmp_path: Path, key: str):
    put(tmp_path, KEY)
    with pytest.raises(ArtifactError):
        copies.remove(tmp_path, key)
    assert len(copies.copies(tmp_path)) == 1
