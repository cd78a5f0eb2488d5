"""Cases of exact bytes from `tests/data/http`; how its files are written stands in its README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DATA = Path(__file__).parents[1] / "data" / "http"
_PIECE = re.compile("⟨([^⟨⟩×]+)(?:×([0-9]+))?⟩")
_NAMED = re.compile("[a-z][a-z-]+")


class Case(NamedTuple):
    id: str
    row: int
    """Of the hardening list."""
    send: bytes
    gets: str
    more: dict[str, Any]
    """Whatever else the case says."""

    @property
    def body(self) -> bytes:
        """What is passed on: to the engine where the verdict is `forwarded`, to the client for an answer."""
        default = "⟨chat⟩" if "chat" in self.more["pieces"] else "⟨body⟩"
        return expand(self.more.get("body", default), self.more["pieces"])

    def lines(self, key: str) -> list[bytes] | None:
        texts = self.more.get(key)
        if isinstance(texts, str):
            texts = [texts]
        return None if texts is None else [expand(text, self.more["pieces"]) for text in texts]


def expand(text: str, pieces: dict[str, str]) -> bytes:
    def piece(match: re.Match[str]) -> str:
        name, times = match[1], int(match[2] or 1)
        found = pieces.get(name) if _NAMED.fullmatch(name) else None
        if found is None:
            assert match[2], f"no piece {name!r}"
            return name * times
        return _PIECE.sub(piece, found) * times

    return _PIECE.sub(piece, text).encode("latin-1")


def load(name: str) -> list[Case]:
    document = yaml.load((DATA / name).read_text("utf-8"), _Strict)
    pieces = document["pieces"]
    cases: list[Case] = []
    for group in document["groups"]:
        templates = group.get("send", "⟨case⟩")
        if isinstance(templates, str):
            templates = {"": templates}
        for title, told in group["cases"].items():
            case = told if isinstance(told, dict) else {"send": told}
            for suffix, template in templates.items():
                more = {**group, **case, "pieces": {**pieces, "case": case["send"]}}
                sent = expand(template, more["pieces"])
                cases.append(Case(str(title) + suffix, group["row"], sent, more["gets"], more))
    titles = [case.id for case in cases]
    twice = {title for title in titles if titles.count(title) > 1}
    assert not twice, f"two cases with one id: {twice}"
    return cases


class _Strict(yaml.SafeLoader):
    """A key that stands twice would hide a case."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice, at {node.start_mark}"
        return super().construct_mapping(node, deep=deep)


_Strict.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: loader.construct_mapping(node, deep=True)
)
