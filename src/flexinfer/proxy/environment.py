"""Variables of a proxy on a cluster that no flag stands for: refused by name, where they promise what cannot be.

Those that are read are options of `flexinfer proxy`, which name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "PROXY_AUTH_TOKEN": "one token for all cannot be taken from one of them; --api-key-file has a line for each",
        "PROXY_VALIDATE_REQUESTS": "requests are always checked, as far as a proxy reads them",
        "PROXY_COLD_START_TIMEOUT": "each Model has its own, spec.serverless.coldStartTimeout",
        "PROXY_BACKOFF_ENABLED": "a proxy wakes a Model once; it is the manager that tries a failed load again",
        "FLEXINFER_PROXY_LABEL_GROUP_ROUTING": "groups of service labels are not routed to yet",
        "FLEXINFER_PROXY_UPSTREAM_MAX_ATTEMPTS": "only a request that no engine can have begun is sent again, once",
        "FLEXINFER_OTEL_ENABLED": "there is no OpenTelemetry exporter; scrape /metrics",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "there is no OpenTelemetry exporter; scrape /metrics",
    }
)
"""Variables of earlier systems, with the reason why they have no effect here."""

_OFF = frozenset({"", "0", "false", "no", "off"})


def refused(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is set and cannot have the effect that its name promises."""
    return [f"{name}: {why}" for name, why in REFUSED.items() if environment.get(name, "").lower() not in _OFF]
