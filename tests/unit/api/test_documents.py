"""YAML and JSON as kubectl reads them, and what is refused although kubectl lets it pass."""

from __future__ import annotations

import pytest

from flexinfer.api import documents
from flexinfer.errors import InvalidManifest


def read(text: str | bytes) -> list[object]:
    return [document.object for document in documents.parse(text, "models.yaml")]


def refusal(text: str | bytes) -> tuple[str, object, str]:
    with pytest.raises(InvalidManifest) as caught:
        documents.parse(text, "models.yaml")
    (error,) = caught.value.errors
    assert error.file == "models.yaml"
    return error.path, error.value, error.expected


# Each value is what `kubectl label --local -o json` (client 1.32) prints for it.
@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        pytest.param("no", False, id="no is false"),
        pytest.param("y", True, id="y is true"),
        pytest.param("off", False, id="off is false"),
        pytest.param("oFF", "oFF", id="oFF is text"),
        pytest.param("1e3", 1000, id="1e3 is a number"),
        pytest.param("1.0", 1, id="1.0 is whole"),
        pytest.param("12:30", "12:30", id="no numbers in base 60"),
        pytest.param("017", 15, id="octal as C writes it"),
        pytest.param("0o17", 15, id="octal with an o"),
        pytest.param("018", 18, id="no octal digit, so a decimal number"),
        pytest.param("0o8", "0o8", id="no octal number, so text"),
        pytest.param("-017", -15, id="a negative octal number"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("0b11", 3, id="binary"),
        pytest.param("0b12", "0b12", id="not binary"),
        pytest.param("1_000", 1000, id="digits may be grouped"),
        pytest.param("1__0", 10, id="digits may be grouped oddly"),
        pytest.param("_1", "_1", id="a group does not begin a number"),
        pytest.param(".5_0", 0.5, id="grouped behind the point"),
        pytest.param("2024-01-01", "2024-01-01", id="a date is text"),
        pytest.param("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00", id="a time is text"),
        pytest.param("~", None, id="a tilde is null"),
        pytest.param("", None, id="nothing is null"),
        pytest.param(".5", 0.5, id="no digit before the point"),
        pytest.param("1.", 1, id="no digit behind the point"),
        pytest.param("+3", 3, id="a plus"),
        pytest.param("-0", 0, id="no negative zero"),
        pytest.param("1e400", "1e400", id="a number that no float holds is text"),
        pytest.param("9223372036854775807", 2**63 - 1, id="the greatest int"),
        pytest.param("9223372036854775808", 9.223372036854775808e18, id="one more is a float"),
        pytest.param("=", "=", id="an equals sign is text"),
        pytest.param('"no"', "no", id="in quotes it is text"),
        pytest.param("!!str 5", "5", id="a tag that makes it text"),
        pytest.param("! 5", "5", id="the bare tag makes it text"),
        pytest.param("!!float 5", 5, id="a tag that agrees"),
        pytest.param('!!int "5"', 5, id="a tag that makes it a number"),
        pytest.param("!!bool yes", True, id="a tag that makes it a flag"),
    ],
)
def test_scalar(scalar, value):
    (found,) = read(f"a: {scalar}\n")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        pytest.param("no", "false", id="a flag"),
        pytest.param("0x10", "16", id="a number"),
        pytest.param("1.50", "1.5", id="a fraction"),
        pytest.param("1e3", "1000", id="a whole number with an exponent"),
        pytest.param("1e30", "1e+30", id="a great number"),
        pytest.param("1e-7", "1e-07", id="a small number"),
        pytest.param("'no'", "no", id="text"),
    ],
)
def test_a_key_becomes_text(key, text):
    assert read(f"{key}: x") == [{text: "x"}]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        pytest.param("", [], id="an empty file"),
        pytest.param("# nothing\n---\n---\n", [], id="empty documents"),
        pytest.param("a: 1\n---\nb: 2\n...\n---\nc: 3", [{"a": 1}, {"b": 2}, {"c": 3}], id="several documents"),
        pytest.param("%YAML 1.1\n---\na: 1", [{"a": 1}], id="a directive"),
        pytest.param("\ufeffa: 1", [{"a": 1}], id="a byte order mark"),
        pytest.param("a: ä".encode(), [{"a": "ä"}], id="bytes"),
        pytest.param('{"a": 1.0, "b": [1e3, null]}', [{"a": 1, "b": [1000, None]}], id="JSON"),
        pytest.param('{"a": 1} {"b": 2}\n{"c": 3}', [{"a": 1}, {"b": 2}, {"c": 3}], id="JSON objects in a row"),
        pytest.param('{"a": "\\ud83d\\ude00"}', [{"a": "😀"}], id="JSON with a pair of surrogates"),
        pytest.param("{a: b}", [{"a": "b"}], id="YAML that begins like JSON"),
        pytest.param("apiVersion: v1\nkind: List\nitems: [{a: 1}, {b: 2}]", [{"a": 1}, {"b": 2}], id="a List"),
        pytest.param("a: &x [1]\nb: *x", [{"a": [1], "b": [1]}], id="an alias"),
        pytest.param("a: &x {p: 1, q: 2}\nb: {<<: *x, p: 3}", [{"a": {"p": 1, "q": 2}, "b": {"p": 3, "q": 2}}],
                     id="a merge"),
        pytest.param("a: {<<: [{p: 1}, {p: 2, q: 3}]}", [{"a": {"p": 1, "q": 3}}], id="a merge of several"),
        pytest.param("'<<': 1", [{"<<": 1}], id="a key that looks like a merge"),
        pytest.param("a: |\n  x\n  y\n", [{"a": "x\ny\n"}], id="a block of text"),
    ],
)  # fmt: skip
def test_read(text, objects):
    assert read(text) == objects


def test_an_alias_is_a_copy():
    (found,) = read("a: &x {p: 1}\nb: *x")
    found["b"]["p"] = 2
    assert found["a"] == {"p": 1}


def test_a_document_knows_where_it_begins():
    found = documents.parse("---\na: 1\n---\n# c\nb: 2\n", "f")
    assert [(document.file, document.line) for document in found] == [("f", 1), ("f", 3)]


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param("a: 1\nb: 2\na: 3", ("line 3", "a", "a key that is not there twice"), id="a key twice"),
        pytest.param("1: x\n0x1: y", ("line 2", "1", "a key that is not there twice"), id="a key twice, as numbers"),
        pytest.param('{"a": {"b": 1, "b": 2}}', ("line 1", "b", "a key that is not there twice"), id="twice in JSON"),
        pytest.param("kind: A\nspec: {}\nkind: B",
                     ("line 3", "kind", "a key that is not there twice; a line --- begins another object"),
                     id="a --- forgotten"),
        pytest.param("metadata: {spec: 1, spec: 2}", ("line 1", "spec", "a key that is not there twice"),
                     id="a key twice further down"),
        pytest.param(b"GGUF\x03\0\0\0\xff", ("(file)", "a GGUF file",
                                               "a manifest; `flexinfer run FILE` serves a model without one"),
                     id="a model instead of a manifest"),
        pytest.param(BOMB, ("line 5", "*a3", "aliases that do not multiply"), id="an alias bomb of ten levels"),
        pytest.param("a: &a\n  b: *a", ("line 2", "*a", "an alias of an anchor that ended before it"),
                     id="a value in itself"),
        pytest.param("a: *b", ("line 1", "*b", "an alias of an anchor that ended before it"), id="an alias of nothing"),
        pytest.param("a: !!python/object/apply:os.system [id]",
                     ("line 1", "tag:yaml.org,2002:python/object/apply:os.system", "a value without a tag"),
                     id="a tag that would run something"),
        pytest.param("a: !!python/name:os.system x",
                     ("line 1", "tag:yaml.org,2002:python/name:os.system", "a value without a tag"),
                     id="a tag on a scalar"),
        pytest.param("a: !Ref x", ("line 1", "!Ref", "a value without a tag"), id="a tag of another tool"),
        pytest.param("a: !!binary aGk=", ("line 1", "tag:yaml.org,2002:binary", "a value without a tag"), id="binary"),
        pytest.param("a: !!set {x}", ("line 1", "tag:yaml.org,2002:set", "a value without a tag"), id="a set"),
        pytest.param("a: !!int x", ("line 1", "x", "a value of the type that its tag !!int names"), id="a false tag"),
        pytest.param("a: .nan", ("line 1", ".nan", "a number that JSON can hold"), id="not a number"),
        pytest.param("a: -.inf", ("line 1", "-.inf", "a number that JSON can hold"), id="infinity"),
        pytest.param('{"a": NaN}', ("line 1", "", "numbers that JSON can hold"), id="not a number in JSON"),
        pytest.param('{"a": 1e999}', ("line 1", "", "numbers that JSON can hold"), id="infinity in JSON"),
        pytest.param("~: x", ("line 1", "~", "a key that is text"), id="a null as key"),
        pytest.param("? {a: b}\n: c", ("line 1", "{}", "a key that is text"), id="a mapping as key"),
        pytest.param("? [a]\n: c", ("line 1", "[]", "a key that is text"), id="a list as key"),
        pytest.param("a: &x {p: 1}\nb: {p: 3, <<: *x}",
                     ("line 2", "p", "a merge that comes before the keys that overrule it"),
                     id="a merge that kubectl would let win"),
        pytest.param("a: {<<: 1}", ("line 1", "1", "a mapping, or a list of mappings, to merge"), id="a merge of text"),
        pytest.param("b: {<<: {p: 1}, <<: {q: 1}}", ("line 1", "<<", "one merge key in a mapping; give it a list"),
                     id="two merges"),
        pytest.param("a: b: c", ("line 1", "mapping values are not allowed in this context", "YAML or JSON"),
                     id="not YAML"),
        pytest.param("a: \x01", ("(file)", "control characters are not allowed",
                                 "YAML or JSON without control characters"), id="a control character"),
        pytest.param(b"a: \xff", ("line 1", b"\xff", "UTF-8 text"), id="not UTF-8"),
        pytest.param('{"a": "\\ud800"}', ("(file)", "", "text without half of a surrogate pair"), id="half a pair"),
        pytest.param("[1, 2]", ("line 1", "[1, 2]", "an object with apiVersion, kind, metadata and spec"), id="a list"),
        pytest.param("hello", ("line 1", "hello", "an object with apiVersion, kind, metadata and spec"), id="text"),
        pytest.param("a: " + "9" * 5000, ("line 1", "9" * 57 + "...", "a number that JSON can hold"),
                     id="a number of 5000 digits"),
        pytest.param("- " * 100_000, ("line 1", "[...]", "at most 64 levels of nesting"), id="deep block lists"),
        pytest.param("a: " + "[{a: " * 50_000, ("line 1", "[...]", "at most 64 levels of nesting"), id="deep flow"),
        pytest.param('{"a": ' * 500_000, ("(file)", "[...]", "at most 64 levels of nesting"), id="deep JSON"),
        pytest.param("x" * (documents.MAX_BYTES + 1),
                     ("(file)", "3145729 bytes", "at most 3145728 bytes"), id="a file that is too long"),
        pytest.param("ä" * 2_000_000, ("(file)", "4000000 bytes", "at most 3145728 bytes"), id="bytes are what counts"),
    ],
)  # fmt: skip
def test_refused(text, error):
    assert refusal(text) == error


def test_deep_aliases_are_refused_by_their_whole_depth():
    text = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40
    assert refusal(text) == ("line 2", "*a", "at most 64 levels of nesting")
