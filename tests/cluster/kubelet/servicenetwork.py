"""What Services are in the network of the test cluster: their names, and what is behind their addresses."""

from __future__ import annotations

from tests.cluster.kubelet.clusterdns import ClusterDns
from tests.cluster.kubelet.kubeproxy import KubeProxy
from tests.cluster.kubelet.services import Settings
from tests.cluster.kubelet.servicetable import ServiceTable, Target

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import ENDPOINT_SLICES, SERVICES, Object, ObjectStore


class ServiceNetwork:
    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self._settings = settings
        # Nobody writes slices for the API server's own Service: here it does not announce itself.
        self.table = ServiceTable({ObjectKey("default", "kubernetes"): Target(settings.api_host, settings.api_port)})
        self._dns = ClusterDns(self.table.lookup)
        self._proxy = KubeProxy(self.table.fronts)
        services, slices = Informer(store, SERVICES, _as_it_is), Informer(store, ENDPOINT_SLICES, _as_it_is)
        services.add_handler(self.table.on_service)
        slices.add_handler(self.table.on_slice)
        self.informers = (services, slices)
        for informer in self.informers:
            informer.add_handler(lambda _key, _old, _new: self._proxy.changed())

    async def listen(self) -> None:
        """Names can be asked from now on."""
        await self._dns.listen(self._settings.dns_address)

    async def run(self) -> None:
        """Passes on what is sent to Services; until cancelled."""
        await self._proxy.run()

    def close(self) -> None:
        self._dns.close()


def _as_it_is(obj: Object) -> Object:
    return obj
