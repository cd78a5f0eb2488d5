"""The REST front as another client sees it: bytes, paths, statuses."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp import web

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import SystemClock
from flexinfer.errors import Gone
from flexinfer.kube.apiserver import build_app
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, MODELS, Resource

NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
MAPS = "/api/v1/namespaces/default/configmaps"
MODEL = "/apis/ai.flexinfer/v1alpha2/namespaces/default/models/m"
APPLY = {"Content-Type": "application/apply-patch+yaml"}
MERGE = {"Content-Type": "application/merge-patch+json"}


class WatchCountingStore(MemoryStore):
    open_watches = 0

    async def watch(self, *args, **options):
        self.open_watches += 1
        try:
            async with aclosing(super().watch(*args, **options)) as events:
                async for event in events:
                    yield event
        finally:
            self.open_watches -= 1


@pytest.fixture
def store():
    return WatchCountingStore(SystemClock(), history=16)


@pytest.fixture
async def http(store, tmp_path):
    runner = web.AppRunner(build_app(store, (CONFIG_MAPS, MODELS, NODES)))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    connector = aiohttp.UnixConnector(path=str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        session.server = runner
        yield session
    await runner.cleanup()


async def call(http, method, path, body=None, **options):
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    data = io.BytesIO(data) if data else None
    async with http.request(method, path, data=data, **options) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def create(store, name, resource=CONFIG_MAPS, **fields):
    return await store.create(resource, {"metadata": {"name": name, "namespace": "default"}, **fields})


async def test_create_get_list_delete_have_the_paths_and_statuses_of_kubernetes(http):
    code, created = await call(http, "POST", MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}})
    assert (code, created["metadata"]["namespace"]) == (201, "default")
    assert await call(http, "GET", f"{MAPS}/a") == (200, created)
    code, listed = await call(http, "GET", "/api/v1/configmaps")
    assert (code, listed["kind"], listed["apiVersion"], listed["items"]) == (200, "ConfigMapList", "v1", [created])
    assert listed["metadata"] == {"resourceVersion": created["metadata"]["resourceVersion"]}
    code, status = await call(http, "DELETE", f"{MAPS}/a")
    assert (code, status["kind"], status["status"]) == (200, "Status", "Success")


async def test_cluster_scoped_kinds_have_no_namespace_in_their_path(http):
    code, created = await call(http, "POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
    assert code == 201
    assert await call(http, "GET", "/api/v1/nodes/n") == (200, created)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code", "reason"),
    [
        pytest.param("GET", f"{MAPS}/none", None, {}, 404, "NotFound", id="no such object"),
        pytest.param("GET", "/api/v1/namespaces/default/pods", None, {}, 404, "NotFound", id="no such kind"),
        pytest.param("GET", f"{MAPS}/a/scale", None, {}, 404, "NotFound", id="no such subresource"),
        pytest.param("POST", f"{MAPS}/a", {}, {}, 405, "MethodNotAllowed", id="a verb that is not there"),
        pytest.param("DELETE", MAPS, None, {}, 405, "MethodNotAllowed", id="deleting a collection"),
        pytest.param("POST", MAPS, {"metadata": {"name": "a"}}, {}, 409, "AlreadyExists", id="a name that is taken"),
        pytest.param(
            "PUT",
            f"{MAPS}/a",
            {"metadata": {"name": "a", "resourceVersion": "1"}},
            {},
            409,
            "Conflict",
            id="a stale version",
        ),
        pytest.param("POST", MAPS, {"metadata": {"name": "A_"}}, {}, 422, "Invalid", id="a bad name"),
        pytest.param("POST", MAPS, b"{", {}, 400, "BadRequest", id="a body that is not JSON"),
        pytest.param("POST", MAPS, b'{"a":"\xff"}', {}, 400, "BadRequest", id="a body that is not UTF-8"),
        pytest.param("POST", MAPS, b"[" * 100_000, {}, 400, "BadRequest", id="a body nested too deep"),
        pytest.param("POST", MAPS, b"[]", {}, 400, "BadRequest", id="a body that is no object"),
        pytest.param("POST", MAPS, {"metadata": 5}, {}, 400, "BadRequest", id="metadata that is no object"),
        pytest.param("POST", MAPS, b" " * 4_000_000, {}, 413, "RequestEntityTooLarge", id="a body too large"),
        pytest.param(
            "POST",
            MAPS,
            {"metadata": {"name": "b", "namespace": "other"}},
            {},
            400,
            "BadRequest",
            id="another namespace than the path",
        ),
        pytest.param(
            "PUT", f"{MAPS}/a", {"metadata": {"name": "b"}}, {}, 400, "BadRequest", id="another name than the path"
        ),
        pytest.param("POST", f"{MAPS}?dryRun=All", {}, {}, 400, "BadRequest", id="a dry run"),
        pytest.param("PATCH", f"{MAPS}/a", {}, APPLY, 400, "BadRequest", id="an apply without a manager"),
        pytest.param(
            "PATCH",
            f"{MAPS}/a",
            {},
            {"Content-Type": "application/strategic-merge-patch+json"},
            415,
            "UnsupportedMediaType",
            id="a strategic merge patch",
        ),
        pytest.param("PATCH", f"{MAPS}/a", [], MERGE, 400, "BadRequest", id="operations as a merge patch"),
        pytest.param(
            "PATCH",
            f"{MAPS}/a",
            [{"op": "test", "path": "/data", "value": {"x": "1"}}],
            {"Content-Type": "application/json-patch+json"},
            422,
            "Invalid",
            id="a JSON patch whose test fails",
        ),
        pytest.param("GET", f"{MAPS}?labelSelector=a+in+(b)", None, {}, 400, "BadRequest", id="a set-based selector"),
        pytest.param(
            "GET", f"{MAPS}?fieldSelector=a%3Db", None, {}, 422, "Invalid", id="a field that cannot be selected by"
        ),
        pytest.param("GET", f"{MAPS}?watch=1&resourceVersion=x", None, {}, 400, "BadRequest", id="a bad version"),
        pytest.param(
            "GET", f"{MAPS}?watch=1&sendInitialEvents=true", None, {}, 422, "Invalid", id="half a streaming list"
        ),
        pytest.param("GET", f"{MAPS}?watch=1&timeoutSeconds=-1", None, {}, 400, "BadRequest", id="a bad time limit"),
        pytest.param(
            "GET", f"{MAPS}?watch=1&labelSelector=a", None, {}, 400, "BadRequest", id="a watch by a set-based selector"
        ),
    ],
)
async def test_errors_are_status_objects(http, store, method, path, body, headers, code, reason):
    await create(store, "a")
    found, status = await call(http, method, path, body, headers=headers)
    assert (found, status["kind"], status["status"], status["reason"], status["code"]) == (
        code,
        "Status",
        "Failure",
        reason,
        code,
    )
    assert status["message"]


async def test_list_selects_by_labels(http, store):
    for name, tier in (("a", "1"), ("b", "2")):
        labels = {"app": "x", "tier": tier}
        await store.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "default", "labels": labels}})
    _, listed = await call(http, "GET", f"{MAPS}?labelSelector=app%3Dx,tier%3D%3D2")
    assert [obj["metadata"]["name"] for obj in listed["items"]] == ["b"]


async def test_apply_takes_yaml_and_force(http, store):
    await create(store, "a", data={"x": "1"})
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: '2'\n"
    code, _ = await call(http, "PATCH", f"{MAPS}/a?fieldManager=me", body, headers=APPLY)
    assert code == 409
    code, stored = await call(http, "PATCH", f"{MAPS}/a?fieldManager=me&force=true", body, headers=APPLY)
    assert (code, stored["data"]) == (200, {"x": "2"})
    code, _ = await call(http, "PATCH", f"{MAPS}/a?fieldManager=me", b"a: &a [*a]", headers=APPLY)
    assert code == 400


async def test_status_is_written_at_its_own_path(http, store):
    await create(store, "m", MODELS, spec={})
    code, stored = await call(http, "PATCH", f"{MODEL}/status", {"status": {"phase": "Idle"}}, headers=MERGE)
    assert (code, stored["status"]) == (200, {"phase": "Idle"})
    assert await call(http, "GET", f"{MODEL}/status") == (200, stored)


async def test_the_manager_of_a_write_is_the_user_agent_unless_it_says(http):
    agent = {"User-Agent": "kubectl/v1.36 (linux)"}
    _, one = await call(http, "POST", MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}}, headers=agent)
    _, two = await call(http, "POST", f"{MAPS}?fieldManager=me", {"metadata": {"name": "b"}, "data": {"x": "1"}})
    assert [obj["metadata"]["managedFields"][0]["manager"] for obj in (one, two)] == ["kubectl", "me"]


async def test_delete_honours_preconditions(http, store):
    created = await create(store, "a")
    code, _ = await call(http, "DELETE", f"{MAPS}/a", {"preconditions": {"uid": "another"}})
    assert code == 409
    code, _ = await call(http, "DELETE", f"{MAPS}/a", {"preconditions": {"uid": created["metadata"]["uid"]}})
    assert code == 200


async def test_discovery_names_groups_and_kinds(http):
    assert (await call(http, "GET", "/api"))[1]["versions"] == ["v1"]
    groups = (await call(http, "GET", "/apis"))[1]["groups"]
    assert [(group["name"], group["preferredVersion"]["groupVersion"]) for group in groups] == [
        ("ai.flexinfer", "ai.flexinfer/v1alpha2")
    ]
    listed = (await call(http, "GET", "/api/v1"))[1]["resources"]
    assert [(kind["name"], kind["kind"], kind["namespaced"]) for kind in listed] == [
        ("configmaps", "ConfigMap", True),
        ("nodes", "Node", False),
    ]


async def watch(http, query, count=None):
    lines = []
    async with http.get(f"{MAPS}?watch=1&{query}") as response:
        assert response.status == 200
        async for line in response.content:
            lines.append(json.loads(line))
            if len(lines) == count:
                break
    return [(line["type"], line["object"]["metadata"].get("name")) for line in lines], lines


async def test_watch_writes_one_line_for_each_event(http, store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    await create(store, "a")
    await store.delete(CONFIG_MAPS, ObjectKey("default", "a"))
    events, _ = await watch(http, f"resourceVersion={start}", 2)
    assert events == [("ADDED", "a"), ("DELETED", "a")]


async def test_watch_ends_in_time_with_a_bookmark_of_what_was_seen(http, store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    created = await create(store, "a")
    events, lines = await watch(http, f"resourceVersion={start}&timeoutSeconds=1&allowWatchBookmarks=true")
    assert events == [("ADDED", "a"), ("BOOKMARK", None)]
    version = created["metadata"]["resourceVersion"]
    assert lines[1]["object"] == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"resourceVersion": version},
    }


async def test_watch_from_a_forgotten_version_is_an_error_event(http, store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    for number in range(20):
        await create(store, f"n{number}")
    events, lines = await watch(http, f"resourceVersion={start}")
    assert events == [("ERROR", None)]
    assert {name: lines[0]["object"][name] for name in ("kind", "status", "reason", "code")} == {
        "kind": "Status",
        "status": "Failure",
        "reason": "Expired",
        "code": 410,
    }


async def test_open_watches_do_not_delay_the_end_of_the_server(http, store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    async with http.get(f"{MAPS}?watch=1&resourceVersion={start}") as response:
        async with asyncio.timeout(5):
            await http.server.cleanup()
        assert await response.content.read() == b""


async def test_a_watcher_that_leaves_is_forgotten(http, store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    response = await http.get(f"{MAPS}?watch=1&resourceVersion={start}")
    async with asyncio.timeout(10):
        while not store.open_watches:
            await asyncio.sleep(0.02)
        response.close()
        while store.open_watches:
            await asyncio.sleep(0.02)


async def test_a_watcher_that_left_before_its_first_line_is_no_error(store, tmp_path, caplog):
    @web.middleware
    async def hang_up(request, handler):
        request.transport.abort()
        return await handler(request)

    app = build_app(store, (CONFIG_MAPS,))
    app.middlewares.append(hang_up)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(tmp_path / "s"))) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.get(f"http://localhost{MAPS}?watch=1")
    await runner.cleanup()
    assert (caplog.messages, store.open_watches) == ([], 0)


async def test_a_watcher_that_does_not_read_is_told_gone_in_the_end(store, serve):
    client = await serve(build_app(store, (CONFIG_MAPS,)))
    start = (await store.list(CONFIG_MAPS)).resource_version
    await create(store, "first")
    async with aclosing(client.watch(CONFIG_MAPS, start)) as events:
        await anext(events)
        # More than the sockets' buffers hold, far more than the history keeps.
        for number in range(60):
            await create(store, f"n{number}", data={"x": "y" * 200_000})
            await asyncio.sleep(0)
        with pytest.raises(Gone):
            async for _ in events:
                pass
