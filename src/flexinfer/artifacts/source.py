"""`spec.source` -> ModelSource: where a model's bytes are, taken apart.

The grammar is that of the CRD (`api.sourcegrammar`): what `parse` takes, the API server takes.
"""

from __future__ import annotations

import msgspec

from flexinfer.api import sourcegrammar
from flexinfer.api.hosts import literal
from flexinfer.errors import InvalidField


class HuggingFace(msgspec.Struct, frozen=True, tag="hf", tag_field="scheme"):
    """A repository of the Hugging Face Hub; an empty revision is its main branch."""

    org: str
    name: str
    revision: str = ""

    @property
    def repository(self) -> str:
        return f"{self.org}/{self.name}"


class Ollama(msgspec.Struct, frozen=True, tag="ollama", tag_field="scheme"):
    """A model of the Ollama registry."""

    name: str
    tag: str = "latest"
    namespace: str = "library"

    @property
    def model(self) -> str:
        """The name as Ollama's API takes it: `llama3:8b`."""
        prefix = "" if self.namespace == "library" else f"{self.namespace}/"
        return f"{prefix}{self.name}:{self.tag}"


class Claim(msgspec.Struct, frozen=True, tag="pvc", tag_field="scheme"):
    """A path in a PersistentVolumeClaim; `path` has no leading slash."""

    claim: str
    path: str


class OCI(msgspec.Struct, frozen=True, tag="oci", tag_field="scheme"):
    """An artifact of an OCI registry, by tag or by digest; with neither it is the tag `latest`."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""


class File(msgspec.Struct, frozen=True, tag="file", tag_field="scheme"):
    """A file or folder; `path` is absolute and has no slash at its end."""

    path: str


class HTTP(msgspec.Struct, frozen=True, tag="http", tag_field="scheme"):
    """An OpenAI-compatible server that runs elsewhere; an IPv6 host is without brackets."""

    host: str
    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{literal(self.host)}:{self.port}"


ModelSource = HuggingFace | Ollama | Claim | OCI | File | HTTP


def parse(text: str) -> ModelSource:
    """Raises InvalidField for whatever the grammar does not hold."""
    if not sourcegrammar.matches(text):
        raise InvalidField("spec.source", text, sourcegrammar.expected(text))
    rest = text.partition("://")[2]
    match sourcegrammar.form_of(text):
        case "hf":
            return _hugging_face(rest)
        case "ollama":
            return _ollama(rest)
        case "pvc":
            claim, _, path = rest.partition("/")
            return Claim(claim, path.rstrip("/"))
        case "oci":
            return _oci(rest)
        case "file":
            return File(rest.rstrip("/"))
        case "http":
            return _http(rest, tls=text.startswith("https"))
        case _:
            return _hugging_face(text)


def _hugging_face(rest: str) -> HuggingFace:
    repository, _, revision = rest.partition("@")
    org, _, name = repository.partition("/")
    return HuggingFace(org, name, revision)


def _ollama(rest: str) -> Ollama:
    path, _, tag = rest.partition(":")
    namespace, separator, name = path.rpartition("/")
    return Ollama(name, tag or "latest", namespace if separator else "library")


def _oci(rest: str) -> OCI:
    host, _, path = rest.partition("/")
    repository, _, digest = path.partition("@")
    repository, _, tag = repository.partition(":")
    return OCI(host, repository, tag, digest)


def _http(rest: str, *, tls: bool) -> HTTP:
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = rest.partition(":")
    return HTTP(host, int(port) if port else (443 if tls else 80), tls)
