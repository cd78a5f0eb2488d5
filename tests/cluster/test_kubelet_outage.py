"""The process kubelet while the API server is away: containers go on, and what became of them is told afterwards."""

from __future__ import annotations

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods, container, terminated, tools
from tests.support.processes import with_words
from tests.support.waiting import until


async def test_pods_go_on_without_the_api_server_and_are_told_of_when_it_is_back(own_cluster: Cluster):
    async with TestKubelet(own_cluster) as kubelet:
        await own_cluster.nodes([NodeRow("n")])
        async with own_cluster.namespace() as namespace:
            pods = Pods(own_cluster, namespace)
            await pods.create(tools("sleep 86396 & exec sleep 86396"), name="stays", terminationGracePeriodSeconds=1)
            script = "while ! test -e /v/go; do sleep 0.05; done; exit 5"
            mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
            volume = {"volumes": [{"name": "v", "hostPath": {"path": "/v"}}]}
            await pods.create(tools(script, **mount), name="ends", restartPolicy="Never", **volume)
            for name in ("stays", "ends"):
                await pods.ready(name)
            await own_cluster.stop("apiserver")
            (kubelet.node_folder("n-0") / "v/go").touch()
            await until(lambda: not with_words("test -e /v/go"), 20)
            assert len(with_words("sleep 86396")) >= 2
            await own_cluster.start("apiserver")
            pod = await pods.ended("ends")
            assert terminated(pod) == (5, "Error")
            assert container(await pods.get("stays"))["restartCount"] == 0
            await pods.delete("stays")
            await pods.gone("stays")
            await until(lambda: not with_words("sleep 86396"), 20)
