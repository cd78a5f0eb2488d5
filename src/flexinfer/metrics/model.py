"""What the manager shows of every Model. Read from the Models themselves, so nothing of a deleted one is left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from flexinfer.api.v1alpha2.model import Model, Phase
from flexinfer.metrics.family import Family, Series

LOAD_SECONDS = Family(
    name="flexinfer_model_load_seconds", type="gauge", labels=("model", "node"),
    help="How long the last load took, from the start of the engine to its first readiness.",
)  # fmt: skip
PHASE = Family(
    name="flexinfer_model_phase", type="gauge", labels=("model", "namespace", "phase"),
    help="1 for the phase that the model is in, 0 for the others.",
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (LOAD_SECONDS, PHASE)


class ModelMetrics:
    """Register it with a Registry; `models` is asked on every read."""

    def __init__(self, models: Callable[[], Iterable[Model]]) -> None:
        self._models = models

    def collect(self) -> Iterator[Series]:
        models = sorted(self._models(), key=lambda model: model.key)
        count = Counter(model.metadata.name for model in models)
        yield (
            LOAD_SECONDS,
            (((_id(model, count), _node(model)), s) for model in models if (s := _load_s(model)) is not None),
        )
        yield (
            PHASE,
            (
                ((model.metadata.name, model.key.namespace, phase), int(phase == (model.status.phase or "Idle")))
                for model in models
                for phase in get_args(Phase)
            ),
        )


def _id(model: Model, count: Counter[str]) -> str:
    """Its name; with the namespace where several Models have that name, as clients have to say it."""
    name = model.metadata.name
    return name if count[name] == 1 else f"{model.key.namespace}/{name}"


def _node(model: Model) -> str:
    return model.status.gpu.node if model.status.gpu and model.status.gpu.node else "local"


def _load_s(model: Model) -> float | None:
    text = model.status.metrics.load_time_seconds if model.status.metrics else ""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
