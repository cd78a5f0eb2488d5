"""How long a simulated engine takes: a step-time model, the slots with their queue, and the prefix cache.

A prompt costs its uncached tokens divided by the prefill rate. One decode step costs 1 / decode rate while
one request runs, and `batch_slowdown` of that more for every further one. A request runs when a slot is
free and the KV cache holds its prompt and its longest answer; those that wait go in order of arrival, so a
long one at the head holds back all behind it. All of it is pure: ids and numbers in, numbers out.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec

BLOCK_TOKENS = 16
TOKEN_BYTES = 4
"""Bytes of a prompt that count as one token."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in tokens per second; 0 is no wait at all."""

    prefill_rate: float = 5_000.0
    decode_rate: float = 50.0
    batch_slowdown: float = 0.0

    def prefill_s(self, uncached_tokens: int) -> float:
        return uncached_tokens / self.prefill_rate if self.prefill_rate else 0.0

    def step_s(self, running: int) -> float:
        """Time between two tokens of one stream, `running` requests being computed."""
        if not self.decode_rate:
            return 0.0
        return (1 + self.batch_slowdown * max(0, running - 1)) / self.decode_rate


def prompt_tokens(prompt: bytes) -> int:
    """At least 1: the token that begins every text."""
    return 1 + -(-len(prompt) // TOKEN_BYTES)


class Admission:
    """Which requests run and which wait."""

    def __init__(self, slots: int, kv_tokens: int) -> None:
        self.slots = slots
        self.kv_tokens = kv_tokens
        self._running: dict[int, int] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._used: dict[int, int] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_used_tokens(self) -> int:
        """Tokens that the running requests have computed."""
        return sum(self._used.values())

    @property
    def kv_usage(self) -> float:
        return min(1.0, self.kv_used_tokens / self.kv_tokens)

    def arrive(self, request: int, tokens: int) -> list[int]:
        """A request that will hold up to `tokens`; the requests that now begin to run."""
        self._waiting.append((request, min(tokens, self.kv_tokens)))
        return self._admit()

    def computed(self, request: int, tokens: int) -> None:
        """The request now holds `tokens` in the KV cache."""
        self._used[request] = tokens

    def leave(self, request: int) -> list[int]:
        """It is done, or its client has gone, whether it ran or waited; the requests that now begin to run."""
        self._used.pop(request, None)
        if self._running.pop(request, None) is None:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != request)
        return self._admit()

    def _admit(self) -> list[int]:
        begun = []
        reserved = sum(self._running.values())
        while self._waiting and len(self._running) < self.slots and reserved + self._waiting[0][1] <= self.kv_tokens:
            request, tokens = self._waiting.popleft()
            self._running[request] = tokens
            reserved += tokens
            begun.append(request)
        return begun


class PrefixCache:
    """Whole blocks of prompts seen before; the block used longest ago goes first."""

    def __init__(self, kv_tokens: int) -> None:
        self._capacity = max(1, kv_tokens // BLOCK_TOKENS)
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self.queried_tokens = 0
        self.hit_tokens = 0

    def take(self, prompt: bytes) -> int:
        """Tokens of the prompt that need no computing; afterwards all its whole blocks are there."""
        keys = block_keys(prompt)
        matched = 0
        while matched < len(keys) and keys[matched] in self._blocks:
            matched += 1
        self._remember(keys)
        self.queried_tokens += prompt_tokens(prompt)
        self.hit_tokens += matched * BLOCK_TOKENS
        return matched * BLOCK_TOKENS

    def _remember(self, keys: Sequence[bytes]) -> None:
        # From the end, so that a block goes before the one that it continues.
        for key in reversed(keys[: self._capacity]):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


def block_keys(prompt: bytes) -> list[bytes]:
    """One key for each whole block, of that block and all before it."""
    size = BLOCK_TOKENS * TOKEN_BYTES
    chain = hashlib.blake2b(digest_size=16)
    keys = []
    for start in range(0, len(prompt) - size + 1, size):
        chain.update(prompt[start : start + size])
        keys.append(chain.copy().digest())
    return keys
