"""Series of one proxy for the Models of many namespaces: the label `model` is split into the two parts of its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from flexinfer.metrics.family import Family, Labelled, Series


class Source(Protocol):
    def collect(self) -> Iterable[Series]: ...


class Namespaced:
    """A collector; `source` names its Models `namespace/name`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._families: dict[str, Family] = {}

    def collect(self) -> Iterator[Series]:
        for family, values in self._source.collect():
            if family.labels[:1] == ("model",):
                yield self._with_namespace(family), map(_split, values)
            else:
                yield family, values

    def _with_namespace(self, family: Family) -> Family:
        found = self._families.get(family.name)
        if found is None:
            labels = ("model", "namespace", *family.labels[1:])
            found = self._families[family.name] = msgspec.structs.replace(family, labels=labels)
        return found


def _split(labelled: Labelled) -> Labelled:
    (model, *others), value = labelled
    namespace, _, name = model.partition("/")
    return (name, namespace, *others), value
