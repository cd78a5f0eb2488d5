"""What files say, brought to the store."""

from __future__ import annotations

import pytest
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import InvalidField, InvalidManifest
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import MODELS, Object
from flexinfer.local.manifestfiles import ManifestFiles


def model(name: str, **config: object) -> Object:
    return {
        "apiVersion": MODELS.api_version,
        "kind": "Model",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"backend": "simulator", "source": "file:///models/m.gguf", "config": config},
    }


class Files:
    """What stands in them; an error is raised."""

    def __init__(self) -> None:
        self.says: list[Object] | InvalidManifest = []

    def read(self) -> list[Object]:
        if isinstance(self.says, InvalidManifest):
            raise self.says
        return self.says


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(ManualClock())


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def following(store: MemoryStore, files: Files) -> ManifestFiles:
    return ManifestFiles(store, files.read)


async def stored(store: MemoryStore) -> dict[str, dict]:
    return {item["metadata"]["name"]: item["spec"]["config"] for item in (await store.list(MODELS)).items}


async def test_the_store_has_what_the_files_say(store, files, following):
    for says in (
        [model("a", x=1), model("b")],
        [model("b", y=2), model("c")],
        [model("b")],
        [],
    ):
        files.says = says
        await following.reload()
        assert await stored(store) == {obj["metadata"]["name"]: obj["spec"]["config"] for obj in says}


async def test_nothing_is_written_when_nothing_changed(store, files, following):
    files.says = [model("a", x=1)]
    await following.reload()
    before = (await store.list(MODELS)).resource_version
    await following.reload()
    assert (await store.list(MODELS)).resource_version == before


async def test_what_is_wrong_changes_nothing(store, files, following):
    files.says = [model("a"), model("b")]
    await following.reload()
    files.says = InvalidManifest((InvalidField("spec.backend", "nope", "a backend", "m.yaml"),))
    await following.reload()
    assert await stored(store) == {"a": {}, "b": {}}
    files.says = [model("b")]
    await following.reload()
    assert await stored(store) == {"b": {}}


async def test_models_that_others_made_stay(store, files, following):
    await store.create(MODELS, model("theirs"))
    files.says = [model("a")]
    await following.reload()
    files.says = []
    await following.reload()
    assert await stored(store) == {"theirs": {}}


async def test_one_that_is_still_going_is_created_when_it_has_gone(store, files, following):
    files.says = [model("a", x=1)]
    await following.reload()
    key = ObjectKey("default", "a")
    await store.patch(MODELS, key, {"metadata": {"finalizers": ["flexinfer.ai/test"]}})
    files.says = []
    await following.reload()
    files.says = [model("a", x=2)]
    await following.reload()
    going = await store.get(MODELS, key)
    assert (going["spec"]["config"], "deletionTimestamp" in going["metadata"]) == ({"x": 1}, True)
    await store.patch(MODELS, key, {"metadata": {"finalizers": []}})
    await following.reload()
    anew = await store.get(MODELS, key)
    assert (anew["spec"]["config"], anew["metadata"]["uid"] != going["metadata"]["uid"]) == ({"x": 2}, True)


async def test_what_others_set_on_a_model_stays(store, files, following):
    files.says = [model("a")]
    await following.reload()
    key = ObjectKey("default", "a")
    await store.patch(MODELS, key, {"metadata": {"annotations": {"flexinfer.ai/stopped-at": "now"}}})
    files.says = [model("a", x=1)]
    await following.reload()
    assert (await store.get(MODELS, key))["metadata"]["annotations"] == {"flexinfer.ai/stopped-at": "now"}
