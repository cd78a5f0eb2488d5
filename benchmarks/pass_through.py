"""A proxy that only forwards, aiohttp on both sides: what a straightforward Python proxy costs.

Usage: python -m benchmarks.pass_through PORT UPSTREAM_PORT
"""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web


async def application(upstream: int) -> web.Application:
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(
        connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    )

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": request.content_type}
        url = f"http://127.0.0.1:{upstream}{request.path_qs}"
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            length = answer.content_length
            if length is not None and length <= 65536:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


def main() -> None:
    uvloop.install()
    web.run_app(application(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
