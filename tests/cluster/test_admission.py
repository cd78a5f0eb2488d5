"""Our definitions and our own `admission` on one table of objects: the API server gives the same verdicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple

import pytest
from tests.support import bad_models, deployments, good_models
from tests.support.bad_models import Bad
from tests.support.cluster import crds
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.rest import Refused
from tests.support.good_models import Good

from flexinfer.api import admission
from flexinfer.api.kinds import MODEL, MODEL_DEPLOYMENT, Kind


class Table(NamedTuple):
    """Objects of one kind, as changes of a good one."""

    kind: Kind
    edited: Callable[[dict[str, Any]], dict[str, Any]]
    bad: tuple[Bad, ...]
    unknown: tuple[Bad, ...]
    good: tuple[Good, ...]

    def path(self, namespace: str) -> str:
        return f"/apis/{self.kind.api_version}/namespaces/{namespace}/{self.kind.plural}"


TABLES = [
    pytest.param(
        Table(
            MODEL,
            bad_models.edited,
            tuple(row for row in bad_models.ROWS if not row.unknown),
            tuple(bad_models.UNKNOWN),
            tuple(good_models.ROWS),
        ),
        id="Model",
    ),
    pytest.param(
        Table(MODEL_DEPLOYMENT, deployments.edited, deployments.BAD, deployments.UNKNOWN, deployments.GOOD),
        id="ModelDeployment",
    ),
]
REFUSALS = {400, 409, 422}
"""Unreadable, not what the path says, invalid."""


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    await crds.install(cluster.admin)
    async with cluster.namespace() as one:
        yield one


async def answer(cluster: Cluster, path: str, obj: dict[str, Any], query: str = "") -> tuple[int, str]:
    """Status and text of a dry run: of a create, or where there is a status, of writing that."""
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
    cluster: Cluster, table: Table, namespace: str, rows: Iterable[Bad | Good]
) -> dict[str, tuple[int, str]]:
    path = table.path(namespace)
    await cluster.rest.create(path, table.edited({}))
    at_once = asyncio.Semaphore(8)

    async def judge(row: Bad | Good) -> tuple[str, tuple[int, str]]:
        async with at_once:
            return row.id, await answer(cluster, path, written(table.edited(row.edits)))

    async with asyncio.TaskGroup() as tasks:
        judging = [tasks.create_task(judge(row)) for row in rows]
    return dict(task.result() for task in judging)


@pytest.mark.parametrize("table", TABLES)
async def test_what_validate_refuses_the_api_server_refuses(cluster, namespace, table):
    """And every rule of the definition is among the reasons it gives."""
    found = await answers(cluster, table, namespace, table.bad)
    assert {name: told for name, told in found.items() if told[0] not in REFUSALS} == {}
    definition = await cluster.rest.get(
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{table.kind.plural}.ai.flexinfer"
    )
    wanted = set(messages(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    reasons = "".join(text for _, text in found.values())
    assert wanted
    assert {message for message in wanted if json.dumps(message)[1:-1] not in reasons} == set()


@pytest.mark.parametrize("table", TABLES)
async def test_what_validate_admits_the_api_server_admits(cluster, namespace, table):
    found = await answers(cluster, table, namespace, table.good)
    assert {name: told for name, told in found.items() if told[0] != 200} == {}


@pytest.mark.parametrize("table", TABLES)
async def test_unknown_fields_are_dropped_unless_the_writer_is_strict(cluster, namespace, table):
    """`validate` is strict, as kubectl is: a mistyped field is a mistake."""
    path = table.path(namespace)
    kept, passed = [], []
    for number, row in enumerate(table.unknown):
        obj = table.edited(row.edits)
        obj["metadata"]["name"] = f"demo-{number}"
        if (await answer(cluster, path, obj, "&fieldValidation=Strict"))[0] == 200:
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
