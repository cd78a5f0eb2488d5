"""HttpStore against servers that page, throttle, lie or fall silent."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from aiohttp import web

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound, StoreError
from flexinfer.kube import config
from flexinfer.kube.store import CONFIG_MAPS, MODELS, PODS, Deletion, Selection

KEY = ObjectKey("default", "a")
PATH = "/api/v1/namespaces/default/configmaps/a"


def app(*routes):
    built = web.Application()
    for method, path, handler in routes:
        built.router.add_route(method, path, handler)
    return built


def answering(*answers):
    """A handler that gives one answer after the other, and the requests it saw."""
    seen = []
    left = list(answers)

    async def handler(request):
        seen.append((dict(request.query), await request.read()))
        status, body, headers = left.pop(0)
        return web.Response(status=status, body=body, headers=headers, content_type="application/json")

    return handler, seen


def status(code, reason, message="why"):
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message}).encode()


@pytest.mark.parametrize(
    ("code", "body", "error", "message"),
    [
        pytest.param(404, status(404, "NotFound"), NotFound, "why", id="not found"),
        pytest.param(409, status(409, "AlreadyExists"), AlreadyExists, "why", id="already there"),
        pytest.param(409, status(409, "Conflict"), Conflict, "why", id="conflict"),
        pytest.param(410, status(410, "Expired"), Gone, "why", id="gone"),
        pytest.param(422, status(422, "Invalid"), Invalid, "why", id="invalid"),
        pytest.param(400, status(400, "BadRequest"), Invalid, "why", id="a bad request"),
        pytest.param(403, status(403, "Forbidden"), StoreError, "why", id="forbidden"),
        pytest.param(500, b"<html>oops</html>", StoreError, "oops", id="an error page of something in between"),
        pytest.param(500, b'{"message":"\xff"}', StoreError, "message", id="an error that is no UTF-8"),
        pytest.param(503, b"", StoreError, "HTTP status 503", id="nothing but a status"),
        pytest.param(302, b"", StoreError, "HTTP status 302", id="a redirect is not followed"),
        pytest.param(429, status(429, "TooManyRequests"), StoreError, "why", id="throttled without a time"),
    ],
)
async def test_refusals_become_the_errors_of_the_store(serve, code, body, error, message):
    handler, _ = answering((code, body, {}))
    store = await serve(app(("GET", PATH, handler)))
    with pytest.raises(StoreError, match=message) as raised:
        await store.get(CONFIG_MAPS, KEY)
    assert (type(raised.value), raised.value.status) == (error, code)


async def test_throttling_is_waited_out_as_told(serve):
    """F06."""
    handler, seen = answering(
        (429, b"{}", {"Retry-After": "7"}), (503, b"{}", {"Retry-After": "3"}), (200, b'{"x": 1}', {})
    )
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    store = await serve(app(("GET", PATH, handler)), sleep=sleep)
    assert await store.get(CONFIG_MAPS, KEY) == {"x": 1}
    assert len(seen) == 3
    assert [asked <= waited <= asked * 1.1 for asked, waited in zip((7, 3), slept, strict=True)] == [True, True]


async def test_throttling_without_end_is_an_error(serve):
    handler, seen = answering(*[(429, status(429, "TooManyRequests"), {"Retry-After": "0"})] * 10)
    store = await serve(app(("GET", PATH, handler)))
    with pytest.raises(StoreError, match="why"):
        await store.get(CONFIG_MAPS, KEY)
    assert len(seen) == 5


async def test_list_reads_every_page_and_says_what_items_are(serve):
    def page(names, token):
        meta = {"resourceVersion": "7", **({"continue": token} if token else {})}
        return json.dumps({"metadata": meta, "items": [{"metadata": {"name": name}} for name in names]}).encode()

    handler, seen = answering((200, page("ab", "next"), {}), (200, page("c", ""), {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    found = await store.list(CONFIG_MAPS, Selection(labels={"app": "x", "tier": "1"}))
    assert [(obj["apiVersion"], obj["kind"], obj["metadata"]["name"]) for obj in found.items] == [
        ("v1", "ConfigMap", name) for name in "abc"
    ]
    assert found.resource_version == "7"
    assert [query for query, _ in seen] == [
        {"limit": "500", "labelSelector": "app=x,tier=1"},
        {"limit": "500", "labelSelector": "app=x,tier=1", "continue": "next"},
    ]


async def test_a_list_whose_version_was_forgotten_half_way_is_gone(serve):
    first = json.dumps({"metadata": {"resourceVersion": "7", "continue": "n"}, "items": []}).encode()
    handler, _ = answering((200, first, {}), (410, status(410, "Expired"), {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    with pytest.raises(Gone):
        await store.list(CONFIG_MAPS)


async def test_delete_asks_for_dependents_to_go_and_sends_preconditions(serve):
    handler, seen = answering((200, b"{}", {}))
    store = await serve(app(("DELETE", PATH, handler)))
    await store.delete(CONFIG_MAPS, KEY, uid="u", resource_version="5")
    assert json.loads(seen[0][1]) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "u", "resourceVersion": "5"},
    }


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ObjectKey("default", ""), id="no name"),
        pytest.param(ObjectKey("", "a"), id="no namespace"),
        pytest.param(ObjectKey("default", ".."), id="a parent folder"),
        pytest.param(ObjectKey("default", "a/status"), id="a slash"),
        pytest.param(ObjectKey("default", "a%2fb"), id="a percent sign"),
        pytest.param(ObjectKey("a?x=y", "b"), id="a query"),
    ],
)
async def test_keys_that_would_change_the_path_are_refused(serve, key):
    store = await serve(app())
    for refused in (store.get(MODELS, key), store.delete(MODELS, key)):
        with pytest.raises(Invalid):
            await refused


async def test_a_server_that_is_not_there_is_an_oserror(tmp_path):
    async with config.unix_socket(tmp_path / "none") as store:
        with pytest.raises(OSError, match="none"):
            await store.get(CONFIG_MAPS, KEY)
        with pytest.raises(OSError, match="none"):
            async for _ in store.watch(CONFIG_MAPS, "1"):
                pass


async def test_a_call_that_is_not_answered_times_out(serve):
    """F02."""

    async def silent(_request):
        await asyncio.sleep(5)
        return web.Response()

    store = await serve(app(("GET", PATH, silent)), timeout_s=0.1)
    with pytest.raises(TimeoutError):
        await store.get(CONFIG_MAPS, KEY)


async def test_an_answer_that_is_no_object_is_an_oserror(serve):
    handler, _ = answering((200, b"[]", {}))
    store = await serve(app(("GET", PATH, handler)))
    with pytest.raises(OSError, match="not a JSON object"):
        await store.get(CONFIG_MAPS, KEY)


def streaming(*chunks, then="end"):
    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.01)
        if then == "silence":
            await asyncio.sleep(5)
        elif then == "abort":
            request.transport.abort()
        return response

    return app(("GET", "/api/v1/configmaps", handler))


def line(type_, name, version="1"):
    event = {"type": type_, "object": {"metadata": {"name": name, "resourceVersion": version}}}
    return json.dumps(event).encode() + b"\n"


async def seen(store):
    async with aclosing(store.watch(CONFIG_MAPS, "1")) as events:
        return [(event.type, event.object["metadata"]["name"]) async for event in events]


async def test_events_may_come_in_pieces_and_in_heaps(serve):
    data = line("ADDED", "a") + b"\n" + line("MODIFIED", "b" * 300_000) + line("DELETED", "c")
    chunks = [data[:10], data[10:40], data[40:200_000], data[200_000:]]
    store = await serve(streaming(*chunks))
    assert await seen(store) == [("ADDED", "a"), ("MODIFIED", "b" * 300_000), ("DELETED", "c")]


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        pytest.param(
            json.dumps({"type": "ERROR", "object": json.loads(status(410, "Expired"))}).encode() + b"\n",
            Gone,
            id="410 in the stream",
        ),
        pytest.param(
            json.dumps({"type": "ERROR", "object": json.loads(status(500, "InternalError"))}).encode() + b"\n",
            StoreError,
            id="500 in the stream",
        ),
        pytest.param(b"junk\n", ConnectionError, id="a line that is not JSON"),
        pytest.param(b'{"type":"ADDED"}\n', ConnectionError, id="an event without its object"),
    ],
)
async def test_errors_in_the_stream(serve, chunk, error):
    store = await serve(streaming(chunk))
    with pytest.raises(error):
        await seen(store)


async def test_410_as_the_answer_to_a_watch(serve):
    handler, _ = answering((410, status(410, "Expired"), {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    with pytest.raises(Gone):
        await seen(store)


async def test_a_connection_that_breaks_is_an_oserror(serve):
    store = await serve(streaming(line("ADDED", "a"), then="abort"))
    with pytest.raises(OSError, match="configmaps"):
        await seen(store)


async def test_a_watch_that_falls_silent_ends_at_its_deadline(serve):
    """F04: the server neither sends nor ends; the client's own deadline does."""
    store = await serve(streaming(line("ADDED", "a"), then="silence"), watch_timeout_s=0.1, watch_grace_s=-0.8)
    with pytest.raises(TimeoutError):
        await seen(store)


async def test_a_watch_says_how_long_it_wants_to_last_and_takes_bookmarks(serve):
    handler, requests = answering((200, b"", {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)), watch_timeout_s=100)
    assert await seen(store) == []
    query = requests[0][0]
    assert 90 <= int(query.pop("timeoutSeconds")) <= 110
    assert query == {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "1"}


REFUSED = status(422, "Invalid", "sendInitialEvents: Forbidden")
OLD_ETCD_STATUS = status(500, "InternalError", "the required storage feature RequestWatchProgress is disabled")
OLD_ETCD = json.dumps({"type": "ERROR", "object": json.loads(OLD_ETCD_STATUS)}).encode() + b"\n"
PAGE = json.dumps({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}).encode()
INITIAL_END = {"k8s.io/initial-events-end": "true"}


async def listed(store, resource=CONFIG_MAPS):
    async with aclosing(store.watch_list(resource)) as events:
        return [(event.type, event.object["metadata"].get("name", ""), event.is_initial_end) async for event in events]


async def test_a_streaming_list_asks_for_its_objects_first(serve):
    end = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7", "annotations": INITIAL_END}}}
    data = line("ADDED", "a") + json.dumps(end).encode() + b"\n" + line("MODIFIED", "a", "8")
    handler, requests = answering((200, data, {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    assert await listed(store) == [("ADDED", "a", False), ("BOOKMARK", "", True), ("MODIFIED", "a", False)]
    query = requests[0][0]
    query.pop("timeoutSeconds")
    assert query == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
    }


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param((422, REFUSED, {}), id="a gate that is closed"),
        pytest.param((400, status(400, "BadRequest"), {}), id="a server that does not know it"),
        pytest.param((200, OLD_ETCD, {}), id="a server over an etcd that is too old"),
    ],
)
async def test_without_streaming_lists_there_is_a_list_and_a_watch(serve, refusal):
    """The server that refused is not asked again, for this kind."""
    handler, requests = answering(
        refusal, (200, PAGE, {}), (200, line("DELETED", "a"), {}), (200, PAGE, {}), (200, b"", {})
    )
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    assert await listed(store) == [("ADDED", "a", False), ("BOOKMARK", "", True), ("DELETED", "a", False)]
    assert await listed(store) == [("ADDED", "a", False), ("BOOKMARK", "", True)]
    asked = [
        [name for name in ("sendInitialEvents", "limit", "resourceVersion") if name in query] for query, _ in requests
    ]
    assert asked == [["sendInitialEvents"], ["limit"], ["resourceVersion"], ["limit"], ["resourceVersion"]]
    assert requests[2][0]["resourceVersion"] == "7"


async def test_a_streaming_list_that_fails_otherwise_is_asked_again(serve):
    handler, requests = answering((500, status(500, "InternalError"), {}), (200, b"", {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    with pytest.raises(StoreError, match="why"):
        await listed(store)
    assert await listed(store) == []
    assert ["sendInitialEvents" in query for query, _ in requests] == [True, True]


async def test_a_watch_that_is_sent_away_comes_back_as_told(serve):
    """F06."""
    handler, requests = answering((429, b"{}", {"Retry-After": "0"}), (200, line("ADDED", "a"), {}))
    store = await serve(app(("GET", "/api/v1/configmaps", handler)))
    assert await seen(store) == [("ADDED", "a")]
    assert len(requests) == 2


async def test_an_eviction_that_a_budget_forbids_is_not_waited_out(serve):
    handler, requests = answering((429, status(429, "TooManyRequests"), {"Retry-After": "10"}))
    store = await serve(app(("POST", "/api/v1/namespaces/default/pods/a/eviction", handler)))
    with pytest.raises(StoreError, match="why"):
        await store.post(PODS, KEY, "eviction", {})
    assert len(requests) == 1


async def test_what_cannot_be_read_of_a_stream_is_not_shown(serve):
    store = await serve(streaming(b'{"type":"ADDED","object":"s3cr3t"}\n'))
    with pytest.raises(ConnectionError, match=r"watch of configmaps: an event of 34 bytes cannot be read"):
        await seen(store)


async def test_a_patch_says_of_which_kind_it_is(serve):
    kinds = []

    async def handler(request):
        kinds.append(request.content_type)
        return web.json_response({})

    store = await serve(app(("PATCH", PATH, handler)))
    for patch in ({"data": None}, [{"op": "remove", "path": "/data"}]):
        await store.patch(CONFIG_MAPS, KEY, patch)
    assert kinds == ["application/merge-patch+json", "application/json-patch+json"]


@pytest.mark.parametrize(
    ("patch", "message", "error"),
    [
        pytest.param({"metadata": {"uid": "u"}}, "metadata.uid: field is immutable", Conflict, id="another uid"),
        pytest.param({"metadata": {"uid": "u"}}, "spec.x: wrong", Invalid, id="a field that is wrong"),
        pytest.param({"spec": None}, "metadata.uid: field is immutable", Invalid, id="no uid was given"),
    ],
)
async def test_a_patch_for_another_uid_is_a_conflict(serve, patch, message, error):
    handler, _ = answering((422, status(422, "Invalid", message), {}))
    store = await serve(app(("PATCH", PATH, handler)))
    with pytest.raises(error):
        await store.patch(CONFIG_MAPS, KEY, patch)


async def test_a_deletion_says_how(serve):
    handler, seen = answering((200, b"{}", {}))
    store = await serve(app(("DELETE", PATH, handler)))
    await store.delete(CONFIG_MAPS, KEY, how=Deletion("Orphan", 0))
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan", "gracePeriodSeconds": 0}
    assert json.loads(seen[0][1]) == options


async def test_watches_leave_room_for_calls(tmp_path, serve):
    handler, _ = answering((200, b'{"x": 1}', {}))

    async def open_ended(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(5)
        return response

    await serve(app(("GET", PATH, handler), ("GET", "/api/v1/configmaps", open_ended)))
    store = config.unix_socket(tmp_path / "api.sock")
    watches = [asyncio.create_task(seen(store)) for _ in range(120)]
    await asyncio.sleep(0.1)
    assert await store.get(CONFIG_MAPS, KEY) == {"x": 1}
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    await store.close()
