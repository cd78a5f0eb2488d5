"""Installation: what whoever installed FlexInfer has said, the same for every Model of the cluster."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flexinfer.api.quantity import Quantity
from flexinfer.artifacts.layout import MOUNT


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = "flexinfer-system"
    """Where FlexInfer's own processes run."""
    image: str = ""
    """The image of FlexInfer itself: Jobs, init containers and the simulator run it."""
    pull_policy: str = ""
    """Of its own image; empty: as Kubernetes has it for the tag."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in a Model's namespace."""
    images: Mapping[str, str] = {}
    """What replaces the images of `backends.images`, by the name of the variable."""
    allow_host_path: bool = False
    cache_path: str = MOUNT
    """Where the cache is mounted in every pod and Job."""
    download_env: Mapping[str, str] = {}
    """What every download is told: HF_ENDPOINT, HTTPS_PROXY, …; never a token."""
    shm_limit: Quantity = Quantity("8Gi")
    """Of /dev/shm in a serving pod with a GPU."""
    label_prefix: str = "flexinfer.ai"
    """Of the labels that our agent puts on nodes."""
    scheduler_name: str = ""
    """Empty: the cluster's own."""
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    cluster_domain: str = "cluster.local"
    proxy_service: str = "flexinfer-proxy"
    """Name of the proxies' Service in `namespace`."""
    upstream_cidrs: tuple[str, ...] = ()
    """Addresses that `external` Models may use; empty: none."""
    model_access: str = ""
    """Who but the proxies may reach serving pods: nobody ("proxies"), pods of the Model's "namespace", or of the
    "cluster"; empty: no NetworkPolicy is made."""
