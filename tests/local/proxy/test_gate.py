"""Who may ask: keys, web pages, and the routes of engines that nobody may reach through the proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.proxy import CHAT, answers, code_of, get, hangs, json_answer, post

from flexinfer.proxy.gate import Gate
from flexinfer.proxy.keys import KeyRing
from flexinfer.proxy.origins import Origins

KEY = "a-key-that-is-long-enough"
BEARER = f"Authorization: Bearer {KEY}"
PAGE = "https://chat.example.org"
FOREIGN = "https://evil.test"


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "keys"
    file.write_text(f"alice:{KEY}\n")
    return {"gate": Gate(KeyRing(file, 0.0), Origins([PAGE]))}


async def status_of(setup, raw: bytes) -> tuple[int, str]:
    client = await setup.client()
    client.send(raw)
    answer = await client.answer(head_request=raw.startswith(b"HEAD"))
    return answer.status, code_of(answer) if answer.body.startswith(b'{"error"') else ""


REFUSED = (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        pytest.param([BEARER], True, id="the key"),
        pytest.param([f"authorization: bearer {KEY}"], True, id="names and schemes in any case"),
        pytest.param([f"AUTHORIZATION: BEARER {KEY}"], True, id="all capitals"),
        pytest.param([f"Authorization: Bearer   {KEY}"], True, id="several spaces after the scheme"),
        pytest.param([], False, id="none"),
        pytest.param(["Authorization:"], False, id="an empty one"),
        pytest.param(["Authorization: Bearer"], False, id="only the scheme"),
        pytest.param([f"Authorization: {KEY}"], False, id="only the key"),
        pytest.param([f"Authorization: Basic {KEY}"], False, id="another scheme"),
        pytest.param([f"Authorization: Bearer {KEY}x"], False, id="a longer key"),
        pytest.param([f"Authorization: Bearer {KEY[:-1]}"], False, id="a prefix of it"),
        pytest.param([f"Authorization: Bearer {KEY.upper()}"], False, id="in another case"),
        pytest.param([f"Authorization: Bearer {KEY}, Bearer {KEY}"], False, id="a list"),
        pytest.param([f"Authorization: Bearer {KEY}\xa0"], False, id="a no-break space behind it"),
        pytest.param([f"Authorization: Bearer\t{KEY}"], False, id="a tab after the scheme"),
        pytest.param([BEARER, BEARER], False, id="two fields, both right"),
        pytest.param(["Authorization: Bearer wrong-key-wrong-key", BEARER], False, id="two fields, the last one right"),
        pytest.param(["Authorization: Bearer ' OR '1'='1"], False, id="SQL"),
        pytest.param(["Authorization: Bearer \xc3\xa4\xc3\xb6"], False, id="letters beyond ASCII"),
        pytest.param([f"X-Api-Key: {KEY}"], False, id="in another field"),
        pytest.param([f"Proxy-Authorization: Bearer {KEY}"], False, id="for a proxy"),
        pytest.param([f"Cookie: Authorization={KEY}"], False, id="in a cookie"),
        pytest.param([BEARER, "Connection: Authorization"], True, id="named by Connection, and read all the same"),
    ],
)
async def test_what_is_a_key(start, guarded, lines, passes):
    setup = await start(answers(json_answer()), server=guarded)
    raw = post(CHAT).replace(b"Host:", "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"Host:", 1)
    assert await status_of(setup, raw) == ((200, "") if passes else REFUSED)
    assert len(setup.engine.requests) == passes
    for request in setup.engine.requests:
        assert KEY.encode() not in request.head + request.body


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(get("/v1/models"), id="the list"),
        pytest.param(get("/v1/models/m1"), id="one model"),
        pytest.param(get("/"), id="what is served"),
        pytest.param(get("/metrics"), id="metrics"),
        pytest.param(get("/"), id="the root"),
        pytest.param(get("/nothing-here"), id="a path that is not served"),
        pytest.param(get("/healthz/"), id="health with a slash"),
        pytest.param(get("/healthz?x"), id="health with a query"),
        pytest.param(get("//healthz"), id="health with two slashes"),
        pytest.param(get("/HEALTHZ"), id="health in capitals"),
        pytest.param(get("/healthz%2f..%2fv1/models"), id="health and a climb, encoded"),
        pytest.param(get("/healthz/../v1/models"), id="health and a climb"),
        pytest.param(get("/healthz;/v1/models"), id="health with a parameter"),
        pytest.param(get("/v1/models", "Host: x", method="HEAD").replace(b"Host: proxy.test\r\n", b""), id="HEAD"),
        pytest.param(get("http://proxy.test/v1/models"), id="an absolute target"),
        pytest.param(get("http://proxy.test/healthz/../v1/models"), id="an absolute target that climbs"),
        pytest.param(get("/v1/models", method="OPTIONS"), id="OPTIONS that is no preflight"),
        pytest.param(get("/v1/models", f"Origin: {PAGE}", method="OPTIONS"), id="OPTIONS of a page, no preflight"),
        pytest.param(post(CHAT), id="a chat"),
        pytest.param(post(b"junk"), id="a chat that is no JSON"),
        pytest.param(post(CHAT, "/v1/load_lora_adapter"), id="a route of an engine"),
    ],
)
async def test_everything_but_health_needs_a_key(start, guarded, raw):
    setup = await start(answers(json_answer()), server=guarded)
    assert (await status_of(setup, raw))[0] == 401
    assert setup.engine.requests == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_needs_none(start, guarded, path, method):
    setup = await start(answers(json_answer()), server=guarded)
    assert await status_of(setup, get(path, method=method)) == (200, "")


async def test_a_refusal_names_the_scheme_and_comes_before_the_body_is_read(start, guarded):
    setup = await start(hangs, server=guarded)
    client = await setup.client()
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{")
    answer = await client.answer()
    assert (answer.status, code_of(answer), answer.header("www-authenticate")) == (*REFUSED, ["Bearer"])
    # Nor does a stranger learn what is too large.
    client = await setup.client()
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n")
    assert (await client.answer()).status == 401


async def test_each_request_of_a_connection_shows_its_key(start, guarded):
    setup = await start(answers(json_answer()), server=guarded)
    client = await setup.client()
    client.send(get("/v1/models", BEARER) + get("/v1/models") + get("/v1/models", BEARER))
    assert [(await client.answer()).status for _ in range(3)] == [200, 401, 200]


async def test_a_key_that_is_taken_out_of_the_file_stops_working(start, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"alice:{KEY}\n")
    keys = KeyRing(file, 0.0)
    setup = await start(answers(json_answer()), server={"gate": Gate(keys)})
    assert await status_of(setup, get("/v1/models", BEARER)) == (200, "")
    file.write_text("bob:another-key-that-is-long\n")
    keys.reload()
    assert await status_of(setup, get("/v1/models", BEARER)) == REFUSED
    file.write_text("not a key file at all\n")
    keys.reload()
    assert await status_of(setup, get("/v1/models", "Authorization: Bearer another-key-that-is-long")) == (200, "")


# web pages

ASKING = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,x-stainless-os")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/embeddings", "/nothing-here", "/healthz"])
@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:80"])
async def test_a_preflight_of_an_allowed_page_needs_no_key_and_tells_nothing(start, guarded, path, origin):
    setup = await start(answers(json_answer()), server=guarded)
    client = await setup.client()
    client.send(get(path, f"Origin: {origin}", *ASKING, method="OPTIONS"))
    answer = await client.answer()
    assert (answer.status, answer.body, answer.header("content-length")) == (204, b"", [])
    assert answer.header("access-control-allow-origin") == [origin]
    assert answer.header("access-control-allow-methods") == ["GET, POST, OPTIONS"]
    assert answer.header("access-control-allow-headers") == ["authorization,x-stainless-os"]
    assert answer.header("access-control-allow-credentials") == []
    assert answer.header("vary") == ["Origin"]
    assert setup.engine.connections == 0
    client.send(get("/healthz"))
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(get("/v1/chat/completions", f"Origin: {FOREIGN}", *ASKING, method="OPTIONS"), id="a preflight"),
        pytest.param(post(CHAT, "/v1/chat/completions", f"Origin: {FOREIGN}"), id="a chat"),
        pytest.param(post(CHAT, "/v1/chat/completions", f"Origin: {FOREIGN}", BEARER), id="a chat with a key"),
        pytest.param(post(CHAT, "/v1/chat/completions", "Origin: null", BEARER), id="a sandboxed page"),
        pytest.param(post(CHAT, "/v1/chat/completions", "Origin:", BEARER), id="an origin without a name"),
        pytest.param(post(CHAT, "/v1/chat/completions", f"Origin: {PAGE}.evil.test", BEARER), id="a longer name"),
        pytest.param(get("/v1/models", f"Origin: {FOREIGN}", BEARER), id="the list"),
        pytest.param(get("/healthz", f"Origin: {FOREIGN}"), id="health"),
    ],
)
async def test_a_page_that_is_not_allowed_is_refused_and_reads_nothing(start, guarded, raw):
    setup = await start(answers(json_answer()), server=guarded)
    client = await setup.client()
    client.send(raw)
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (403, "origin_not_allowed")
    assert answer.header("access-control-allow-origin") == []
    assert setup.engine.connections == 0


async def test_without_keys_a_foreign_page_is_refused_too(start):
    setup = await start(answers(json_answer()))
    raw = post(CHAT, "/v1/chat/completions", f"Origin: {FOREIGN}").replace(b"application/json", b"text/plain")
    assert await status_of(setup, raw) == (403, "origin_not_allowed")
    assert await status_of(setup, raw.replace(FOREIGN.encode(), b"http://localhost")) == (415, "unsupported_media_type")
    assert await status_of(setup, post(CHAT)) == (200, "")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(post(CHAT, "/v1/chat/completions", f"Origin: {PAGE}", BEARER), 200, id="an answer of the engine"),
        pytest.param(post(CHAT, "/v1/chat/completions", f"Origin: {PAGE}"), 401, id="no key"),
        pytest.param(post(b'{"model":"x"}', "/v1/chat/completions", f"Origin: {PAGE}", BEARER), 404, id="no model"),
        pytest.param(get("/nothing-here", f"Origin: {PAGE}", BEARER), 404, id="no such path"),
        pytest.param(get("/v1/models", f"Origin: {PAGE}", BEARER), 200, id="an answer of our own"),
        pytest.param(post(b"{", "/v1/chat/completions", f"Origin: {PAGE}", BEARER), 400, id="no JSON"),
    ],
)
async def test_an_allowed_page_can_read_every_answer(start, guarded, raw, status):
    open_to_all = json_answer().replace(b"Content-Type", b"Access-Control-Allow-Origin: *\r\nContent-Type")
    setup = await start(answers(open_to_all), server=guarded)
    client = await setup.client()
    client.send(raw)
    answer = await client.answer()
    assert (answer.status, answer.header("access-control-allow-origin")) == (status, [PAGE])
    assert answer.header("vary") == ["Origin"]


async def test_an_engine_does_not_say_which_page_may_read(start):
    cors = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nContent-Type"
    setup = await start(answers(json_answer().replace(b"Content-Type", cors)))
    client = await setup.client()
    client.send(post(CHAT))
    assert b"access-control" not in (await client.answer()).head.lower()


# routes of engines

ADMIN = """
/v1/load_lora_adapter /v1/unload_lora_adapter /sleep /wake_up /is_sleeping /reset_prefix_cache /collective_rpc
/server_info /start_profile /stop_profile /scale_elastic_ep /invocations /tokenize /detokenize /pause /resume
/api/pull /api/push /api/delete /api/create /api/copy /api/generate /api/chat /api/tags /api/show /api/ps /api/blobs/x
/completion /completions /infill /slots /slots/0?action=erase /props /lora-adapters /models/load /models/unload
/apply-template /embedding /rerank /chat/completions /generate /flush_cache /update_weights /release_memory_occupation
/get_server_info /abort_request /info /model/download /v1/audio/speech /docs /openapi.json /version /load /ping
""".split()  # noqa: SIM905


@pytest.mark.parametrize("path", ADMIN)
async def test_routes_of_engines_are_closed(start, path):
    setup = await start(answers(json_answer()))
    assert await status_of(setup, post(CHAT, path)) == (404, "not_found")
    assert await status_of(setup, get(path)) == (404, "not_found")
    assert setup.engine.connections == 0
