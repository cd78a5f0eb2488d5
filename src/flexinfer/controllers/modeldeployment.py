"""Reconcile one ModelDeployment: make and own the Model that it becomes, and report that Model's state.

A Model of that name that is not its own is never touched. A spec of which no Model can be made
leaves the Model of the spec before it running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from flexinfer import logs
from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha1.conversion import Conversion, convert
from flexinfer.api.v1alpha1.modeldeployment import ModelDeployment, ModelDeploymentStatus
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import DEPLOYMENT_FINALIZER
from flexinfer.clock import Clock
from flexinfer.controllers.model import status_patch
from flexinfer.errors import Conflict, NotFound
from flexinfer.kube.controller import Result
from flexinfer.kube.informer import Informer
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import MODEL_DEPLOYMENTS, MODELS, Object, ObjectStore
from flexinfer.lifecycle import modeldeployment

log = logs.get("controller.modeldeployment")

FIELD_MANAGER: Final = "flexinfer-manager"


class ModelDeploymentReconciler:
    def __init__(
        self,
        store: ObjectStore,
        deployments: Informer[ModelDeployment] | ScopedInformer[ModelDeployment],
        models: Informer[Model] | ScopedInformer[Model],
        clock: Clock,
        default_image: str = "",
    ) -> None:
        """`default_image` is that of the installation for those that name no backend."""
        self._store = store
        self._deployments = deployments
        self._models = models
        self._clock = clock
        self._default_image = default_image
        self._applied: dict[ObjectKey, tuple[Object, int]] = {}
        """What a Model was last applied as, and the generation that this left."""
        self._written: dict[ObjectKey, tuple[str, ModelDeploymentStatus]] = {}
        """Version of the ModelDeployment that the last status was made from, and that status."""

    def watch_models(self, enqueue: Callable[[ObjectKey], None]) -> None:
        """`enqueue` gets the name of every Model that changes, if there is a ModelDeployment of that name."""

        def changed(key: ObjectKey, _old: Model | None, _new: Model | None) -> None:
            if self._deployments.get(key) is not None:
                enqueue(key)

        self._models.add_handler(changed)

    async def reconcile(self, key: ObjectKey) -> Result:
        deployment = self._deployments.get(key)
        if deployment is None:
            self._applied.pop(key, None)
            self._written.pop(key, None)
            return Result()
        version, left = self._written.get(key, ("", None))
        if left is not None and version == deployment.metadata.resource_version:
            # The cache has not caught up with our own write: what that left is what it says.
            deployment = msgspec.structs.replace(deployment, status=left)
        if deployment.metadata.deletion_timestamp is not None:
            await self._delete(deployment)
            return Result()
        if DEPLOYMENT_FINALIZER not in deployment.metadata.finalizers:
            await self._set_finalizers(deployment, [*deployment.metadata.finalizers, DEPLOYMENT_FINALIZER])
        conversion = convert(deployment, self._default_image)
        model = self._models.get(key)
        foreign = _foreign(model, deployment)
        if not foreign and not conversion.wrong:
            foreign = await self._keep(deployment, conversion, model)
        own = None if foreign else model
        await self._report(
            deployment, modeldeployment.status_of(deployment, conversion, own, foreign, self._clock.now())
        )
        return Result()

    async def _keep(self, deployment: ModelDeployment, conversion: Conversion, model: Model | None) -> str:
        """Make or change its Model; says whose the Model of that name is, where it turns out not to be its own."""
        if model is None:
            # The cache may lag behind: what is stored decides whether the name is free.
            found = await self._stored(deployment.key)
            foreign = _foreign(found, deployment)
            if found is None:
                # Without force: fields of one that was made this very moment are not taken over.
                await self._store.apply(MODELS, _desired(deployment, conversion), field_manager=FIELD_MANAGER)
                log.info("model made", modeldeployment=str(deployment.key))
            return foreign
        if model.metadata.deletion_timestamp is None:
            await self._change(deployment, conversion, model)
        return ""

    async def _change(self, deployment: ModelDeployment, conversion: Conversion, model: Model) -> None:
        if model.spec == conversion.model.spec:
            return
        # The uid is a precondition: a namesake that took its place is not touched.
        desired = _desired(deployment, conversion, model.metadata.uid)
        if self._applied.get(deployment.key) == (desired, model.metadata.generation):
            # Somebody set a field that the ModelDeployment does not have.
            return
        made = await self._store.apply(MODELS, desired, field_manager=FIELD_MANAGER, force=True)
        self._applied[deployment.key] = (desired, made["metadata"]["generation"])

    async def _stored(self, key: ObjectKey) -> Model | None:
        try:
            return codec.from_object(await self._store.get(MODELS, key))
        except NotFound:
            return None

    async def _delete(self, deployment: ModelDeployment) -> None:
        if DEPLOYMENT_FINALIZER not in deployment.metadata.finalizers:
            return
        model = await self._stored(deployment.key)
        if model is None or _foreign(model, deployment):
            left = [name for name in deployment.metadata.finalizers if name != DEPLOYMENT_FINALIZER]
            await self._set_finalizers(deployment, left)
            return
        if model.metadata.deletion_timestamp is None:
            try:
                await self._store.delete(MODELS, deployment.key, uid=model.metadata.uid)
            except (Conflict, NotFound):
                log.debug("the model is gone or another one", modeldeployment=str(deployment.key))
        await self._report(deployment, modeldeployment.terminating(deployment, self._clock.now()))

    async def _set_finalizers(self, deployment: ModelDeployment, finalizers: list[str]) -> None:
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": deployment.metadata.resource_version}}
        try:
            await self._store.patch(MODEL_DEPLOYMENTS, deployment.key, patch, field_manager=FIELD_MANAGER)
        except (Conflict, NotFound):
            # Somebody changed it meanwhile: their event brings this key back.
            log.debug("finalizers not written, it changed meanwhile", modeldeployment=str(deployment.key))

    async def _report(self, deployment: ModelDeployment, status: ModelDeploymentStatus) -> None:
        patch = status_patch(deployment.status, status)
        if not patch:
            return
        if status.phase != deployment.status.phase:
            log.info("phase", modeldeployment=str(deployment.key), was=deployment.status.phase, now=status.phase)
        try:
            await self._store.patch(
                MODEL_DEPLOYMENTS,
                deployment.key,
                {"status": patch},
                subresource="status",
                field_manager=FIELD_MANAGER,
            )
        except NotFound:
            log.debug("status not written, it is gone", modeldeployment=str(deployment.key))
        self._written[deployment.key] = (deployment.metadata.resource_version, status)


def _foreign(model: Model | None, deployment: ModelDeployment) -> str:
    """Whose a Model of its name is; empty where it is its own, or there is none."""
    if model is None:
        return ""
    owner = next((owner for owner in model.metadata.owner_references if owner.controller), None)
    if owner is None:
        return "is nobody's"
    return "" if owner.uid == deployment.metadata.uid else f"belongs to {owner.kind} {owner.name}"


def _desired(deployment: ModelDeployment, conversion: Conversion, uid: str = "") -> Object:
    """The Model as it is applied. Labels and annotations stay behind: those of a GitOps tool would claim it."""
    made = codec.to_object(conversion.model)
    metadata: Object = {
        "name": deployment.key.name,
        "namespace": deployment.key.namespace,
        "ownerReferences": [
            {
                "apiVersion": deployment.api_version,
                "kind": deployment.kind,
                "name": deployment.metadata.name,
                "uid": deployment.metadata.uid,
                "controller": True,
            }
        ],
    }
    return {**made, "metadata": metadata | ({"uid": uid} if uid else {})}
