"""Which bytes a Model asks for: the fetch that brings them, and the key by which Models share them."""

from __future__ import annotations

from flexinfer import backends
from flexinfer.api import defaults
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import source, tasks
from flexinfer.artifacts.tasks import Fetch
from flexinfer.errors import FlexInferError
from flexinfer.resources import names

SHARED_STRATEGIES = frozenset({"SharedPVC", "Memory"})
MOST_KNOWN = 20_000
_KNOWN: dict[tuple[str, str, tuple[tuple[str, str], ...]], str] = {}
"""Contents by what they follow from: each plan asks for that of every Model that could share something."""


class Refused(FlexInferError):
    """The bytes cannot come that way. `reason` is one CamelCase word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = message
        super().__init__(message)


def strategy(model: Model) -> str:
    return defaults.cache_strategy(model.spec)


def fetch_of(model: Model, root: str) -> Fetch:
    """Raises Refused for a source that nothing fetches for this backend, InvalidField for contradicting settings."""
    backend = backends.get(model.spec.backend)
    match source.parse(model.spec.source):
        case source.HuggingFace() as parsed if backend.reads in ("gguf", "checkpoint"):
            assert backend.reads in ("gguf", "checkpoint")
            return tasks.fetch(parsed, backend.reads, model.spec.config, root)
        case source.Ollama() as parsed if backend.reads == "registry":
            return tasks.fetch_tag(parsed, root)
        case source.OCI():
            raise Refused("SourceUnavailable", f"{model.spec.source}: artifacts of OCI registries are not fetched yet")
    wants = "ollama://" if backend.reads == "registry" else "HF://, pvc:// and file://"
    raise Refused("SourceUnavailable", f"{backend.name} takes {wants} sources, not {model.spec.source}")


def content_of(model: Model) -> str:
    """What Models that share a copy have in common; empty for one that has no copy on a claim of ours. Never raises."""
    if strategy(model) not in SHARED_STRATEGIES:
        return ""
    config = model.spec.config
    choice = tuple((key, repr(config[key])) for key in tasks.CONFIG_KEYS if key in config)
    known = _KNOWN.get(asked := (model.spec.backend, model.spec.source, choice))
    if known is None:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        known = _KNOWN[asked] = _content(model)
    return known


def _content(model: Model) -> str:
    try:
        if backends.get(model.spec.backend).reads == "nothing":
            return ""
        if isinstance(source.parse(model.spec.source), source.Claim | source.File | source.HTTP):
            return ""
        return fetch_of(model, "/").request
    except FlexInferError:
        return ""


def usual_claim(model: Model) -> str:
    """The name of the claim that is made for it, where it says no other and it is free."""
    return model.spec.cache.pvc_name or names.child(model.metadata.name, "cache")


def spare_claim(model: Model) -> str:
    """The same where the usual name has another's bytes."""
    return names.child(model.metadata.name, f"cache-{content_of(model)[:8]}")
