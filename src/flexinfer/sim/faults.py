"""The ways in which a simulated engine can be made to fail, each seen on a real one.

The same names are options of `flexinfer sim` (with `-` for `_`) and fields of `POST /sim/faults`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Break = Literal["close", "end", "reset", "truncate", "error", "abort", "silent", "stall", "drip", "exit", "kill"]
Hang = Literal["", "before-head", "after-head"]

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with requests. The default is: nothing."""

    break_after: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """Break a stream off after so many tokens; -1 never."""
    break_how: Break = "close"
    drip_seconds: Seconds = 1.0
    """Time between two bytes of a stream that drips."""
    hang: Hang = ""
    """Take a request and never answer: not at all, or after the head of the answer."""
    error_status: Annotated[int, msgspec.Meta(ge=0, le=599)] = 0
    """Answer every request for tokens with this status, while /health says 200."""
    unhealthy: bool = False
    """/health answers 500, while requests are served."""
    ping_seconds: Seconds = 0.0
    """Send a comment line so often while a stream has nothing else to say."""
    pull_error: str = ""
    """What a pull (Ollama) fails with."""
    times: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """How many requests go wrong before all is well again; -1 without end."""


BREAKS: dict[Break, str] = {
    "close": "end of file within the answer, no `[DONE]`",
    "end": "a proper end of the body, no `[DONE]`",
    "reset": "the connection is reset",
    "truncate": "half an event, then end of file",
    "error": "an error event, then `[DONE]`",
    "abort": '`finish_reason: "abort"`, then `[DONE]`',
    "silent": "nothing more, the connection stays open",
    "stall": "half an event, then nothing more",
    "drip": "one byte every `--drip-seconds` from there on",
    "exit": "the process exits with `--exit-code`",
    "kill": "the process is killed (SIGKILL)",
}
