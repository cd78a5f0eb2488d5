"""The label `model` of a proxy for many namespaces."""

from __future__ import annotations

from collections.abc import Iterator

from flexinfer.metrics.family import Family, Series
from flexinfer.metrics.namespaced import Namespaced
from flexinfer.metrics.registry import Registry


class Source:
    def collect(self) -> Iterator[Series]:
        yield Family(name="a", type="gauge", help="A.", labels=("model", "node")), [(("team/m", "n"), 1)]
        yield Family(name="b", type="gauge", help="B.", labels=("result",)), [(("x/y",), 2)]
        yield Family(name="c", type="gauge", help="C."), [((), 3)]


def test_the_model_s_namespace_is_a_label_of_its_own():
    lines = [line for line in Registry(Namespaced(Source())).render().decode().splitlines() if line[0] != "#"]
    assert lines == ['a{model="m",namespace="team",node="n"} 1', 'b{result="x/y"} 2', "c 3"]
