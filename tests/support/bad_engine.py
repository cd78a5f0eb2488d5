"""Engines that misbehave, for tests of the keeper: `python bad_engine.py BEHAVIOUR [ARGUMENT]`.

Standard library only, so that it starts quickly.
"""

from __future__ import annotations

import http.server
import os
import signal
import sys
import time
from pathlib import Path

FOREVER_S = 300.0


def say(text: str) -> None:
    print(text, flush=True)


def sleep() -> None:
    time.sleep(FOREVER_S)


def daemonise() -> None:
    """Double fork and setsid; the daemon clears its environment by executing another program."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", str(int(FOREVER_S))], {})
        os._exit(0)
    os.wait()


def family() -> None:
    """Fork a worker in a session of its own and daemonise another process."""
    if os.fork() == 0:
        os.setsid()
        sleep()
    daemonise()
    say("family complete")
    sleep()


def stubborn() -> None:
    """Ignore SIGTERM, and so does a child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.fork()
    say("ignoring SIGTERM")
    sleep()


def polite() -> None:
    def leave(_number: int, _frame: object) -> None:
        say("goodbye")
        sys.exit(3)

    signal.signal(signal.SIGTERM, leave)
    say("at your service")
    sleep()


def flood() -> None:
    line = b"x" * 99 + b"\n"
    for number in range(int(sys.argv[2]) // 10_000):
        os.write(1, b"%08d" % number + (line * 100)[8:])
    say("last line of the flood")


def abandon() -> None:
    """End at once and leave a daemon."""
    daemonise()
    say("leaving a daemon behind")
    sys.exit(7)


def runaway() -> None:
    """A process that is replaced by its child all the time, each in a session of its own."""
    if os.fork() == 0:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if os.fork() != 0:
                os._exit(0)
            os.setsid()
        os._exit(0)
    say("running away")
    sleep()


def crash() -> None:
    say("loading")
    print("\x1b[31merror: tensor 'output.weight' not found\x1b[0m", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    sleep()


def report() -> None:
    """Say what an engine finds itself in."""
    own = Path("/proc/self")
    fields = dict(line.split(":", 1) for line in (own / "status").read_text().splitlines())
    # Python itself ignores SIGPIPE and SIGXFSZ; what the C library keeps for itself nobody can set back.
    settable = sum(1 << number - 1 for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ})
    ignored = int(fields["SigIgn"], 16) & settable
    say(f"session {os.getsid(0) == os.getpid()} group {os.getpgid(0) == os.getpid()}")
    say(f"stdin {(own / 'fd/0').readlink()}")
    say(f"descriptors {sorted(entry.name for entry in (own / 'fd').iterdir() if entry.exists())}")
    say(f"ignored {ignored:x} blocked {int(fields['SigBlk'], 16):x}")
    say(f"oom {(own / 'oom_score_adj').read_text().strip()}")
    say(f"cwd {Path.cwd()}")
    say("environment " + " ".join(sorted(os.environ)))


def serve() -> None:
    """Serve /health on a port: 503 until the weights are loaded (ARGUMENT: port[,seconds of loading])."""
    port, _, load_s = sys.argv[2].partition(",")
    ready_at = time.monotonic() + float(load_s or 0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            loaded = time.monotonic() >= ready_at
            if loaded:
                say("load_tensors: offloaded 33/33 layers to GPU")
            self.send_response(200 if loaded else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    say("Loading safetensors checkpoint shards:  50% Completed | 1/2")
    http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


BEHAVIOURS = (family, runaway, stubborn, polite, flood, abandon, crash, report, serve, sleep)

if __name__ == "__main__":
    {behaviour.__name__: behaviour for behaviour in BEHAVIOURS}[sys.argv[1]]()
