"""Our definitions and our own `admission` on one table of objects: the API server gives the same verdicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from tests.support import bad_models, good_models
from tests.support.bad_models import edited
from tests.support.cluster import crds
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.rest import Refused

from flexinfer.api import admission

MODELS = "/apis/ai.flexinfer/v1alpha2/namespaces/{}/models"
REFUSALS = {400, 409, 422}
"""Unreadable, not what the path says, invalid."""


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    await crds.install(cluster.admin)
    async with cluster.namespace() as one:
        yield one


async def answer(cluster: Cluster, namespace: str, obj: dict[str, Any], query: str = "") -> tuple[int, str]:
    """Status and text of a dry run: of a create, or where there is a status, of writing that."""
    path = MODELS.format(namespace)
    meta = obj.get("metadata")
    try:
        if "status" in obj:
            demo = await cluster.rest.get(f"{path}/demo")
            obj["metadata"]["resourceVersion"] = demo["metadata"]["resourceVersion"]
            await cluster.rest.call("PUT", f"{path}/demo/status?dryRun=All{query}", obj)
        else:
            if isinstance(meta, dict) and meta.get("name") == "demo":
                meta["name"] = "another"
            await cluster.rest.call("POST", f"{path}?dryRun=All{query}", obj)
    except Refused as refused:
        return refused.status, str(refused)
    return 200, ""


def written(value: Any) -> Any:
    """As `documents` and `kubectl` pass it on, who both read `2.0` as 2: in JSON the server knows a difference."""
    if isinstance(value, dict):
        return {name: written(item) for name, item in value.items()}
    if isinstance(value, list):
        return [written(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


async def answers(
    cluster: Cluster, namespace: str, rows: Iterable[tuple[str, dict[str, Any]]]
) -> dict[str, tuple[int, str]]:
    await cluster.rest.create(MODELS.format(namespace), bad_models.model())
    at_once = asyncio.Semaphore(8)

    async def judge(name: str, edits: dict[str, Any]) -> tuple[str, tuple[int, str]]:
        async with at_once:
            return name, await answer(cluster, namespace, written(edited(edits)))

    async with asyncio.TaskGroup() as tasks:
        judging = [tasks.create_task(judge(*row)) for row in rows]
    return dict(task.result() for task in judging)


async def test_what_validate_refuses_the_api_server_refuses(cluster, namespace):
    """And every rule of the definition is among the reasons it gives."""
    rows = [(row.id, row.edits) for row in bad_models.ROWS if not row.unknown]
    found = await answers(cluster, namespace, rows)
    assert {name: told for name, told in found.items() if told[0] not in REFUSALS} == {}
    definition = await cluster.rest.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/models.ai.flexinfer")
    wanted = set(messages(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    reasons = "".join(text for _, text in found.values())
    assert wanted
    assert {message for message in wanted if json.dumps(message)[1:-1] not in reasons} == set()


async def test_what_validate_admits_the_api_server_admits(cluster, namespace):
    found = await answers(cluster, namespace, [(row.id, row.edits) for row in good_models.ROWS])
    assert {name: told for name, told in found.items() if told[0] != 200} == {}


async def test_unknown_fields_are_dropped_unless_the_writer_is_strict(cluster, namespace):
    """`validate` is strict, as kubectl is: a mistyped field is a mistake."""
    path = MODELS.format(namespace)
    kept, passed = [], []
    for number, row in enumerate(bad_models.UNKNOWN):
        obj = edited(row.edits)
        obj["metadata"]["name"] = f"demo-{number}"
        if (await answer(cluster, namespace, obj, "&fieldValidation=Strict"))[0] == 200:
            passed.append(row.id)
        stored = await cluster.rest.create(path, obj)
        if [error.path for error in admission.admit(stored)]:
            kept.append(row.id)
    assert (kept, passed) == ([], [])


def messages(node: Any) -> Iterable[str]:
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations") or ():
            yield rule["message"]
        for value in node.values():
            yield from messages(value)
    elif isinstance(node, list):
        for value in node:
            yield from messages(value)
