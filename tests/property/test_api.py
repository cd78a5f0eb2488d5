"""Parsers of the vocabulary: two readers of one grammar agree, and nothing crashes them."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.bad_models import edited

from flexinfer.api import admission, codec, documents, sourcegrammar
from flexinfer.api.quantity import Duration, Quantity
from flexinfer.artifacts import source
from flexinfer.errors import InvalidField, InvalidManifest

WORDS = (
    "HF:// hf:// ollama:// pvc:// oci:// file:// file:/// http:// https:// org name / .. . // @ : 8b etc /etc /run"
    " models x.gguf 127.0.0.1 [::1] :8000 %2e library/ $ ü 模 - _ A 0 :: ffff sha256:" + "a" * 64
)
pieces = st.sampled_from([*WORDS.split(), " ", "\n", "\0", "\u202e"])
sources = st.one_of(
    st.lists(pieces, max_size=8).map("".join),
    st.from_regex(re.compile("|".join(form.pattern for form in sourcegrammar.FORMS.values())), fullmatch=True),
    st.text(max_size=20),
)


def parses(text: str) -> bool:
    try:
        source.parse(text)
    except InvalidField:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(text=sources)
@example(text="file:///models/x\n")
@example(text="pvc://" + "c" * 254 + "/x")
@example(text="file:///" + "x" * 2040)
@example(text="file:///" + "x" * 2041)
def test_parse_and_schema_give_one_verdict(text: str) -> None:
    backend = "external" if text.startswith(("http://", "https://")) else "llamacpp"
    errors = admission.admit(edited({"spec.source": text, "spec.backend": backend}))
    assert parses(text) == (errors == []), errors


duration_pieces = st.sampled_from(["1", "0", "90", "87600", ".", "h", "m", "s", "ms", "us", "ns", "-", " "])
durations = st.one_of(
    st.from_regex(r"([0-9]{1,4}(\.[0-9]{1,3})?(ms|s|m|h)){1,3}", fullmatch=True),
    st.lists(duration_pieces, max_size=6).map("".join),
)


def makes(kind: type, text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(text=durations)
def test_duration_and_schema_give_one_verdict(text: str) -> None:
    errors = admission.admit(edited({"spec.serverless.idleTimeout": text}))
    assert makes(Duration, text) == (errors == [])


quantities = st.one_of(
    st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,3})?(Ki|Gi|m|k|G|e[0-9])?", fullmatch=True),
    st.lists(st.sampled_from(["1", "0", "50", ".", "Gi", "G", "m", "e3", "E", "-", "+", " "]), max_size=5).map("".join),
)


@settings(max_examples=200, deadline=None)
@given(text=quantities)
def test_quantity_and_schema_give_one_verdict(text: str) -> None:
    errors = admission.admit(edited({"spec.cache.size": text}))
    assert makes(Quantity, text) == (errors == [])
    if not errors:
        assert Quantity(text).value >= 0


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
trees = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=3),
    max_leaves=12,
)  # fmt: skip
specs = st.fixed_dictionaries(
    {"backend": st.sampled_from(["llamacpp", "vllm", "ollama"]), "source": st.just("file:///models/x.gguf")},
    optional={
        "replicas": st.integers(0, 10),
        "config": st.dictionaries(st.text(max_size=6), trees, max_size=3),
        "gpu": st.fixed_dictionaries({}, optional={"vendor": st.sampled_from(["auto", "amd"]), "count": st.just(2)}),
        "serverless": st.fixed_dictionaries(
            {}, optional={"enabled": st.booleans(), "idleTimeout": st.just("90s"), "minReplicas": st.integers(0, 10)}
        ),
        "litellm": st.fixed_dictionaries({}, optional={"enabled": st.booleans(), "aliases": st.just(["a", "b"])}),
        "resources": st.just({"limits": {"cpu": 2, "memory": "1Gi"}}),
        "kvCache": st.just({"highWatermark": "0.9", "lowWatermark": 0.5}),
        "tolerations": st.just([{"key": "x", "operator": "Exists", "effect": "NoSchedule"}]),
    },
)


@settings(max_examples=150, deadline=None)
@given(spec=specs)
def test_a_model_survives_the_way_to_the_store_and_back(spec: dict[str, Any]) -> None:
    model = codec.decode(edited({"spec": spec}))
    stored = codec.to_object(model)
    assert codec.from_object(stored) == model
    assert admission.admit_stored(stored) == []
    assert codec.from_object(stored) == model


PATHS = (
    *("spec", "spec.gpu", "spec.cache.size", "spec.tolerations", "spec.kvCache.lowWatermark", "metadata"),
    *("metadata.labels", "metadata.annotations", "metadata.generation", "metadata.finalizers"),
    *("metadata.ownerReferences", "metadata.creationTimestamp", "metadata.uid"),
)


@settings(max_examples=400, deadline=None)
@given(value=trees, path=st.sampled_from(PATHS))
def test_no_shape_breaks_the_judge(value: Any, path: str) -> None:
    obj = edited({path: value})
    errors = admission.admit(obj)
    assert all(isinstance(error, InvalidField) for error in errors)
    if not errors:
        codec.from_object(admission.prune(obj))


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="abn01.:-{}[]&*!|>'\"#,? \n\t<~\\", max_size=40))
@example(text="a: &a [*a]")
@example(text="? ? a")
@example(text="&a &b c")
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        found = documents.parse(text, "f")
    except InvalidManifest:
        return
    assert all(isinstance(document.object, dict) for document in found)


@settings(max_examples=150, deadline=None)
@given(tree=st.dictionaries(st.text(max_size=6), trees, max_size=4))
def test_what_is_dumped_is_read(tree: dict[str, Any]) -> None:
    (found,) = documents.parse(yaml.safe_dump(tree, default_style='"'), "f")
    assert found.object == tree
