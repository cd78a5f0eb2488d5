"""A process that does what `flexinfer up` does with engines: `python up_like.py STATE_DIR BEHAVIOUR [ARGUMENT]`.

Locks the state directory, starts the keeper and one engine of tests/support/bad_engine.py, prints one JSON
line {"keeper": pid, "engine": pid}, and waits.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvloop

from flexinfer import logs
from flexinfer.local.process import EngineSpec, Keeper
from flexinfer.local.state import State


async def main() -> None:
    state = State(sys.argv[1])
    state.prepare()
    with state.locked():
        async with asyncio.TaskGroup() as group:
            keeper = Keeper(state.mark)
            group.create_task(keeper.run())
            argv = (sys.executable, "-I", "-S", str(Path(__file__).with_name("bad_engine.py")), *sys.argv[2:])
            spec = EngineSpec(argv=argv, env=dict(os.environ), cwd="/", log_path=state.new_log("engine"))
            engine = await keeper.start(spec)
            print(json.dumps({"keeper": keeper.pid, "engine": engine.pid}), flush=True)
            await engine.wait()


if __name__ == "__main__":
    logs.configure()
    uvloop.run(main())
