import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexinfer.resources import names

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("name", "service"),
    [
        pytest.param("llama3-8b", r"llama3-8b", id="a usual name stands as it is"),
        pytest.param("llama-3.1-8b", r"m-llama-3-1-8b-[0-9a-f]{8}", id="dots become dashes, with a hash"),
        pytest.param("7b", r"m-7b-[0-9a-f]{8}", id="a leading digit gets a letter in front"),
    ],
)
def test_service(name, service):
    assert re.fullmatch(service, names.service(name))


def test_names_that_differ_in_a_dot_do_not_collide():
    assert names.service("llama-3.1-8b") != names.service("llama-3-1-8b")


@settings(max_examples=200)
@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True))
def test_any_object_name_makes_a_service_name(name):
    assert LABEL.fullmatch(names.service(name))


@settings(max_examples=50)
@given(st.text(alphabet="ab", min_size=240, max_size=253), st.text(alphabet="ab", min_size=240, max_size=253))
def test_long_names_keep_their_children_apart(one, other):
    assert len(names.child(one, "cache-prefetch")) <= 253
    assert (names.child(one, "x") == names.child(other, "x")) == (one == other)
