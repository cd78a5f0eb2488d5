"""The grammar of `spec.source`, written once: the CRD's pattern and rules, and what `artifacts.source` parses by.

One form per scheme, each an RE2 pattern for the whole text. What a pattern without look-ahead cannot
say (no folder of the system, the length of a claim's name) are RULES.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from flexinfer.api.bounds import DNS_SUBDOMAIN, MAX_NAME, Rule

MAX_LENGTH = 2048

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_OLLAMA_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}"
_OLLAMA_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"

# Letters of other scripts, without spaces, controls and marks that turn the direction of writing.
_LETTERS = "\u00c0-\u05ff\u0620-\u06dc\u0710-\u167f\u1e00-\u1fff\u3041-\ud7ff"
_NOT_DOT = rf"A-Za-z0-9_@+,=:{_LETTERS}-"
SEGMENT = rf"\.*[{_NOT_DOT}][.{_NOT_DOT}]*"
"""One part of a path: no shell character, and never only dots."""
ABSOLUTE_PATH = rf"(/{SEGMENT})+"

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_H = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    (
        rf"({_H}:){{7}}{_H}",
        rf"({_H}:){{1,7}}:",
        *(rf"({_H}:){{1,{7 - after}}}(:{_H}){{1,{after}}}" for after in range(1, 7)),
        rf":(:{_H}){{1,7}}",
        "::",
        rf"::([fF]{{4}}:)?{_IPV4}",
        rf"({_H}:){{1,4}}:{_IPV4}",
    )
)
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The last label begins with a letter, so that no number (127.1, 0x7f000001) passes for a name.
_HOST_NAME = rf"({_LABEL}\.)*[A-Za-z]([A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?"
_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9][0-9]|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"

_REPOSITORY_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"


class Form(NamedTuple):
    pattern: str
    expected: str


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "hf": Form(
            rf"(HF|hf)://{_PART}/{_PART}(@{_PART})?",
            "HF://org/name or HF://org/name@revision, each part 1 to 96 of letters, digits, '.', '_' and '-'",
        ),
        "ollama": Form(
            rf"ollama://({_OLLAMA_NAMESPACE}/)?{_OLLAMA_NAME}(:{_OLLAMA_NAME})?",
            "ollama://name or ollama://name:tag, without a host",
        ),
        "pvc": Form(
            rf"pvc://{DNS_SUBDOMAIN}(/{SEGMENT})+/?",
            "pvc://claim/path with a claim name of small letters, digits, '-' and '.', and no '..' in the path",
        ),
        "oci": Form(
            rf"oci://({_IPV4}|{_HOST_NAME})(:{_PORT})?/{_REPOSITORY_PART}(/{_REPOSITORY_PART})*"
            r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[a-f0-9]{64})?",
            "oci://host/repository, with :tag or @sha256:digest",
        ),
        "file": Form(
            rf"file://{ABSOLUTE_PATH}/?",
            "file:///absolute/path without host, '..', '.', '//', '%', spaces or shell characters,"
            " and not below /etc, /proc, /sys, /dev, /run or /var/run",
        ),
        "http": Form(
            rf"https?://({_IPV4}|\[({_IPV6})\]|{_HOST_NAME})(:{_PORT})?",
            "http://host:port or https://host:port, without user, path, query or fragment",
        ),
        "plain": Form(rf"{_PART}/{_PART}", "org/name, the name of a repository on Hugging Face"),
    }
)
PATTERN = "|".join(form.pattern for form in FORMS.values())

_SYSTEM = r"/(etc|proc|sys|dev|run|var/run)(/|$)"
NOT_BELOW_SYSTEM = Rule(f"!self.matches('^file://{_SYSTEM}')", FORMS["file"].expected)
CLAIM_LENGTH = Rule(
    f"!self.startsWith('pvc://') || self.matches('^pvc://[^/]{{1,{MAX_NAME}}}/')", FORMS["pvc"].expected
)
RULES = (NOT_BELOW_SYSTEM, CLAIM_LENGTH)
PATH_NOT_BELOW_SYSTEM = Rule(
    f"!self.matches('^{_SYSTEM}')", "a path that is not below /etc, /proc, /sys, /dev, /run or /var/run"
)
_BELOW_SYSTEM = re.compile(rf"file://{_SYSTEM}")
_CLAIM = re.compile(r"pvc://([^/]*)/")
_WHOLE = {name: re.compile(form.pattern) for name, form in FORMS.items()}
_SCHEMES = {"HF": "hf", "https": "http"}


def form_of(source: str) -> str:
    """The form that a source is meant to have, by its scheme: a key of FORMS, empty where there is none."""
    scheme, separator, _ = source.partition("://")
    if not separator:
        return "plain"
    name = _SCHEMES.get(scheme, scheme)
    return name if name in FORMS and name != "plain" else ""


def matches(source: str) -> bool:
    """The verdict of the whole grammar."""
    name = form_of(source)
    if not name or len(source) > MAX_LENGTH or _WHOLE[name].fullmatch(source) is None:
        return False
    claim = _CLAIM.match(source)
    return _BELOW_SYSTEM.match(source) is None and (claim is None or len(claim.group(1)) <= MAX_NAME)


def expected(source: str) -> str:
    """What would have been right, as near as can be told from what was written."""
    if len(source) > MAX_LENGTH:
        return f"at most {MAX_LENGTH} characters"
    name = form_of(source)
    if name == "plain" and (source.startswith(("/", "./", "../", "~")) or source.lower().endswith(".gguf")):
        near = f"; did you mean 'file://{source}'?" if source.startswith("/") else ""
        return f"a file as file:///absolute/path{near}"
    if name and (name != "plain" or "/" in source):
        return FORMS[name].expected
    return (
        "a source: file:///path, HF://org/name, ollama://name:tag, pvc://claim/path, oci://host/repository,"
        " http(s)://host:port (backend external) or org/name"
    )
