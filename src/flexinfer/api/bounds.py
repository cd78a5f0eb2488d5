"""What a field may hold, declared beside it: `Annotated[str, text(...)]`.

From these come the CRD and the verdict of `admission`. msgspec does not enforce them, so that an
object that is stored already can always be read. Patterns are RE2 without look-ahead, since the API
server reads them with Go; they begin with `^`, end with `$` and mean the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_PART = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN = rf"{_DNS_PART}(\.{_DNS_PART})*"
"""An object's name. Only its whole length is bounded (MAX_NAME), not that of its parts."""
_NAME_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
QUALIFIED_NAME = rf"({DNS_SUBDOMAIN}/)?{_NAME_PART}"
IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]*"
FRACTION = r"0(\.[0-9]{1,8})?|1(\.0{1,8})?"
SERVED_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*"

MAX_TEXT = 1024
MAX_MESSAGE = 32768
MAX_NAME = 253
MAX_QUALIFIED_NAME = MAX_NAME + 1 + 63
MAX_ITEMS = 64
MAX_CONFIG_KEYS = 1024


class Rule(NamedTuple):
    """A CEL rule; `self` is what it is attached to. `message` completes "expected …".

    `field` is the field below `self` that the error is about, where it is one.
    """

    rule: str
    message: str
    field: str = ""


class Choice(NamedTuple):
    """At least one of these value schemas must hold: for fields of an object that is too big for CEL."""

    any_of: tuple[Mapping[str, Any], ...]
    field: str
    message: str


class Bounds(NamedTuple):
    pattern: str = ""
    expected: str | Callable[[str], str] = ""
    """Completes "expected …" where the pattern fails; a function is given the value."""
    max_length: int = 0
    max_items: int = 0
    max_properties: int = 0
    list_type: str = ""
    list_map_keys: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


def of(meta: Mapping[str, Any] | None) -> Bounds:
    """The bounds in a field's metadata."""
    found = (meta or {}).get("bounds", Bounds())
    assert isinstance(found, Bounds)
    return found


def _meta(bounds: Bounds, description: str) -> msgspec.Meta:
    return msgspec.Meta(extra={"bounds": bounds}, description=description or None)


def text(
    pattern: str = "",
    expected: str | Callable[[str], str] = "",
    *,
    longest: int = MAX_TEXT,
    rules: tuple[Rule, ...] = (),
    about: str = "",
) -> msgspec.Meta:
    """A string whose whole text matches `pattern`; `about` becomes the field's description."""
    whole = f"^({pattern})$" if pattern else ""
    return _meta(Bounds(pattern=whole, expected=expected, max_length=longest, rules=rules), about)


def optional_text(pattern: str, expected: str, *, longest: int = MAX_TEXT, about: str = "") -> msgspec.Meta:
    """As `text`, or empty."""
    return text(f"({pattern})?", expected, longest=longest, about=about)


def choice(names: tuple[str, ...], *, shown: Iterable[str] = (), about: str = "") -> msgspec.Meta:
    """One of `names`; an error shows those of `shown`, where that is not all of them."""
    expected = f"one of {', '.join(shown)}" if shown else ""
    return _meta(Bounds(enum=names, expected=expected, max_length=MAX_TEXT), about)


def items(most: int = MAX_ITEMS, *, unique: bool = False, keys: tuple[str, ...] = (), about: str = "") -> msgspec.Meta:
    """A list; `unique` refuses the same scalar twice, `keys` tell its objects apart."""
    kind = "map" if keys else "set" if unique else "atomic"
    return _meta(Bounds(max_items=most, list_type=kind, list_map_keys=keys), about)


def entries(most: int = MAX_ITEMS, *, rules: tuple[Rule, ...] = (), about: str = "") -> msgspec.Meta:
    """A map with free keys."""
    return _meta(Bounds(max_properties=most, rules=rules), about)


def ruled(*rules: Rule, about: str = "") -> msgspec.Meta:
    """Rules on a value that its type bounds already (a duration, a quantity)."""
    return _meta(Bounds(rules=rules), about)


def about(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


QUALIFIED_KEYS = Rule(
    f"self.all(key, size(key) <= {MAX_QUALIFIED_NAME} && key.matches('^{QUALIFIED_NAME}$'))".replace("\\", "\\\\"),
    "keys such as example.com/name: letters, digits, '-', '_' and '.', at most 63 of them behind the '/'",
)
LABEL_VALUE = optional_text(
    _NAME_PART, "a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    longest=63,
)  # fmt: skip
LABEL = text(
    _NAME_PART, "a label value: 1 to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    longest=63,
)  # fmt: skip
OBJECT_NAME = text(
    DNS_SUBDOMAIN, "a name of small letters, digits, '-' and '.' (DNS-1123), at most 253 of them", longest=MAX_NAME
)
OPTIONAL_OBJECT_NAME = optional_text(
    DNS_SUBDOMAIN, "a name of small letters, digits, '-' and '.' (DNS-1123), at most 253 of them", longest=MAX_NAME
)
IMAGE_REFERENCE = optional_text(IMAGE, "an image such as ghcr.io/org/name:tag")
CLIENT_NAME = text(
    SERVED_NAME, "a model name of letters, digits and ._:/@+-, beginning with a letter or digit", longest=MAX_NAME
)
OPTIONAL_CLIENT_NAME = optional_text(
    SERVED_NAME, "a model name of letters, digits and ._:/@+-, beginning with a letter or digit", longest=MAX_NAME
)
