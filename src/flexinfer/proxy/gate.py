"""The gate: who may ask at all. Decided on the head alone, before routing and before a body is read.

Without a key pass only `/healthz` and `/readyz`, compared as they came, and the preflights of browsers,
which reach no engine and tell nothing. A page on an origin that is not allowed gets nowhere.
"""

from __future__ import annotations

from flexinfer.openai.errors import refuse
from flexinfer.proxy.keys import KeyRing
from flexinfer.proxy.origins import Origins, is_preflight
from flexinfer.proxy.requesthead import RequestHead

OPEN_TARGETS = frozenset({b"/healthz", b"/readyz"})


class Gate:
    __slots__ = ("_keys", "_origins", "guarded")

    def __init__(self, keys: KeyRing | None = None, origins: Origins | None = None) -> None:
        self._keys = keys
        self._origins = origins or Origins()
        self.guarded = keys is not None
        """A request needs a key. Otherwise only one that names an origin has to come to the gate."""

    def enter(self, head: RequestHead, now: float) -> None:
        """Notes on the head whose key it carries and what its page may see. Raises RequestError 401 or 403."""
        origin = head.origin
        if origin and not head.cors:
            if not self._origins.allows(origin):
                shown = origin[:100].decode("ascii", "replace")
                raise refuse("origin_not_allowed", f"pages of {shown} may not call; --cors-origin allows an origin")
            head.cors = self._origins.answer_lines(origin)
        if self._keys is None or head.key_name or head.target in OPEN_TARGETS:
            return
        if origin and is_preflight(head.method, head.fields):
            return
        head.key_name = self._keys.name_of(head.authorization, now)
