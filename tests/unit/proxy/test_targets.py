"""Which Model a name leads to, over one namespace and over several."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.backends.base import Serving
from flexinfer.lifecycle.modelfacts import ModelFacts
from flexinfer.lifecycle.modelqueue import ModelQueue
from flexinfer.proxy.targets import ModelTarget, Targets


class World:
    """Models as `namespace/name`, put one after the other."""

    def __init__(self, *models: str | tuple[str, dict[str, Any]], qualified: bool = True) -> None:
        self.targets = Targets(qualified=qualified)
        for one in models:
            self.put(*(one if isinstance(one, tuple) else (one, {})))

    def put(self, key: str, spec: dict[str, Any]) -> None:
        namespace, _, name = key.partition("/")
        found = model(name, **spec)
        found.metadata.namespace = namespace
        own = self.targets.name_of(found.key)
        target = self.targets.by_model.get(own) or ModelTarget(found, ModelQueue(own, ModelFacts()))
        self.targets.put(target, found, Serving(slots=1))

    def drop(self, key: str) -> None:
        self.targets.drop(self.targets.by_model[key])

    def leads(self, name: str) -> str | None:
        target = self.targets.called.get(name)
        return str(target.key) if target is not None else None


def named(*aliases: str, enabled: bool = True) -> dict[str, Any]:
    return {"litellm": {"enabled": enabled, "aliases": list(aliases)}}


@pytest.mark.parametrize(
    ("models", "ids"),
    [
        pytest.param(("a/m", "b/n"), ["m", "n"], id="names that are unique are ids"),
        pytest.param(("a/m", "b/m", "b/n"), ["a/m", "b/m", "n"], id="one that is not is an id with its namespace"),
        pytest.param(
            (("a/m", named("chat")), ("b/n", named("chat"))), ["a/chat", "b/chat", "m", "n"], id="aliases as well"
        ),
        pytest.param((("a/m", named("n")), "b/n"), ["a/n", "b/n", "m"], id="an alias and a name of two namespaces"),
        pytest.param(
            (("a/m", named("chat")), ("a/n", named("chat"))), ["chat", "m", "n"], id="the first of one namespace has it"
        ),
        pytest.param((("a/m", named(enabled=False)), "b/m"), ["m"], id="a parked one is in nobody's way"),
        pytest.param(
            ("b/m", ("a/x", named("b/m"))), ["a/b/m", "m", "x"], id="an alias that looks like another's full name"
        ),
    ],
)
def test_ids(models: Any, ids: list[str]):
    assert World(*models).targets.ids() == ids


def test_every_id_leads_to_its_model_and_says_so():
    world = World(("a/m", named("chat")), "b/m", ("b/n", named("chat", "b/x")))
    for name in world.targets.ids():
        entry = world.targets.listed(name)
        assert (entry.id, world.leads(name) is not None) == (name, True)
    entry = world.targets.listed("a/m")
    assert (entry.root, entry.served_model_name, entry.aliases) == ("a/m", "a/m", ("a/chat",))


def test_a_plain_name_of_two_namespaces_leads_nowhere_and_names_both():
    world = World("a/m", "b/m")
    assert world.leads("m") is None
    assert world.targets.not_found("m") == "Several namespaces have a model 'm': ask for 'a/m' or 'b/m'."


def test_a_unique_name_may_be_said_with_its_namespace():
    world = World("a/m")
    assert (world.leads("m"), world.leads("a/m"), world.leads("b/m")) == ("a/m", "a/m", None)


def test_a_full_name_is_nobody_else_s_alias():
    world = World(("a/x", named("b/m")))
    assert world.leads("b/m") == "a/x"
    world.put("b/m", {})
    assert (world.leads("b/m"), world.leads("a/b/m")) == ("b/m", "a/x")
    world.drop("b/m")
    assert world.leads("b/m") == "a/x"


def test_a_name_is_unique_again_once_the_other_is_gone_and_answers_say_so():
    world = World("a/m")
    queue = world.targets.by_model["a/m"].queue
    assert queue.called == "m"
    world.put("b/m", {})
    assert (queue.called, world.leads("m")) == ("a/m", None)
    world.drop("b/m")
    assert (queue.called, world.leads("m"), world.leads("b/m")) == ("m", "a/m", None)


def test_a_machine_has_plain_names_only():
    world = World("default/m", qualified=False)
    assert (world.targets.ids(), world.leads("default/m"), list(world.targets.by_model)) == (["m"], None, ["m"])


def test_the_engine_is_asked_by_the_model_s_own_name():
    assert World("a/m").targets.called["m"].engine_name == "m"


@pytest.mark.parametrize(
    ("service", "found"),
    [
        pytest.param(ObjectKey("a", "m"), "a/m", id="by Service and namespace"),
        pytest.param(ObjectKey("b", "m"), "b/m", id="the same in another namespace"),
        pytest.param(ObjectKey("", "m"), None, id="a short name that two have"),
        pytest.param(ObjectKey("", "n"), "b/n", id="a short name that one has"),
        pytest.param(ObjectKey("a", "n"), None, id="in a namespace that has none"),
        pytest.param(ObjectKey("a", "parked"), None, id="a parked Model is not to be called"),
    ],
)
def test_the_model_behind_a_service(service: ObjectKey, found: str | None):
    world = World("a/m", "b/m", "b/n", ("a/parked", named(enabled=False)))
    target = world.targets.behind(service)
    assert (str(target.key) if target else None) == found
