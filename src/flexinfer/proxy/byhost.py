"""By host: who is called under the address of a Model's own Service, and that nobody else is served there.

While no replica of a Model is ready, its Service leads to the proxies. Such a request needs no key, so
it gets the Model that its Host names or nothing; a body may name that Model, by any of its names, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import RequestError
from flexinfer.lifecycle.modelnames import further_names
from flexinfer.openai.errors import refuse
from flexinfer.openai.request import missing_model
from flexinfer.proxy.admission import Admission, ListedModel, Ticket, Waiter
from flexinfer.proxy.requesthead import RequestHead
from flexinfer.proxy.targets import ModelTarget, Targets

_LONGEST_SHOWN = 256


def service_of(host: bytes) -> ObjectKey | None:
    """The Service in `<service>`, `<service>.<namespace>` or `<service>.<namespace>.svc…`, with or without a port.

    The namespace is empty where the host leaves it out. None: this is the name of no Service.
    """
    name, _, _ = host.decode("ascii", "replace").lower().partition(":")
    labels = name.removesuffix(".").split(".")
    if not labels[0] or (len(labels) > 2 and labels[2] != "svc"):
        return None
    return ObjectKey(labels[1] if len(labels) > 1 else "", labels[0])


class OnlyByHost:
    """Of the port that Services of Models lead to: the Host says which Model, and there is no other."""

    def __init__(self, admission: Admission, targets: Targets) -> None:
        self._admission = admission
        self._targets = targets

    def called(self, head: RequestHead, model: str) -> Admission:
        return self.listing(head)

    def listing(self, head: RequestHead) -> OneModel:
        """Raises RequestError 404."""
        host = head.host or b""
        service = service_of(host)
        target = self._targets.behind(service) if service is not None else None
        if target is None:
            said = host[:_LONGEST_SHOWN].decode("ascii", "backslashreplace")
            raise refuse("model_not_found", f"no model is served as {said!r}; expected SERVICE.NAMESPACE of a model")
        return OneModel(self._admission, self._targets, target)


class HostAtLast:
    """Of the proxy's own address: the Host is asked where a body names no model."""

    def __init__(self, admission: Admission, targets: Targets) -> None:
        self._admission = admission
        self._hosts = OnlyByHost(admission, targets)

    def called(self, head: RequestHead, model: str) -> Admission:
        if model:
            return self._admission
        try:
            return self._hosts.listing(head)
        except RequestError:
            raise missing_model() from None

    def listing(self, head: RequestHead) -> Admission:
        return self._admission


class OneModel:
    """An Admission that knows just this Model."""

    def __init__(self, admission: Admission, targets: Targets, target: ModelTarget) -> None:
        self._admission = admission
        self._targets = targets
        self._target = target

    def resolve(self, name: str) -> ModelTarget:
        """An empty name is a body that names none."""
        target = self._target
        own = name.removeprefix(f"{target.key.namespace}/")
        if name and own not in (target.engine_name, target.key.name, *further_names(target.model)):
            message = f"this address serves the model {target.key.name!r}, not {name[:_LONGEST_SHOWN]!r}"
            raise refuse("model_not_found", message, param="model")
        return target

    def admit(self, target: ModelTarget, waiter: Waiter) -> Ticket:
        return self._admission.admit(target, waiter)

    def models(self) -> Sequence[ListedModel]:
        return [self._targets.listed(name) for name in self._targets.ids_of(self._target)]

    def listed(self, name: str) -> ListedModel:
        self.resolve(name)
        return self._targets.listed(self._targets.ids_of(self._target)[0])

    def draining(self) -> bool:
        return self._admission.draining()
