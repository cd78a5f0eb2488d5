"""Whatever a ModelDeployment that is admitted says: its Model is admitted too, or what is wrong is told."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.deployments import deployment

from flexinfer import backends
from flexinfer.api import admission, codec, wellknown
from flexinfer.api.v1alpha1.conversion import convert
from flexinfer.api.v1alpha1.modeldeployment import ModelDeployment

NAME = st.text("abzAZ09._-:/@", min_size=1, max_size=12)
SOURCES = NAME | st.sampled_from(
    [
        "HF://org/name@v1",
        "ollama://x:y",
        "pvc://claim/a",
        "file:///models/x",
        "oci://h/r:t",
        "http://10.0.0.1:80",
        "org/name",
    ]
)
AMOUNT = st.sampled_from([0, 1, 2, 9, "1", "500m", "8Gi", "1e3"])
AMOUNTS = st.dictionaries(st.sampled_from([*wellknown.GPU_RESOURCES, "cpu", "memory"]), AMOUNT, max_size=3)
SPECS = st.fixed_dictionaries(
    {"model": SOURCES},
    optional={
        "backend": st.sampled_from(wellknown.BACKEND_NAMES),
        "replicas": st.integers(0, 15),
        "minReplicas": st.integers(0, 15),
        "idleTimeoutSeconds": st.sampled_from([0, 1, 300, 315_360_000]),
        "coldStartTimeoutSeconds": st.sampled_from([1, 315_360_000]),
        "resources": st.fixed_dictionaries({}, optional={"limits": AMOUNTS, "requests": AMOUNTS}),
        "modelCacheRef": st.just("c"),
        "mlcllm": st.fixed_dictionaries(
            {},
            optional={
                "mode": st.sampled_from(["local", "server", "interactive"]),
                "gpuMemoryBytes": st.integers(0, 2**40),
                "overrides": st.fixed_dictionaries({}, optional={"raw": st.text("a=;_1-", max_size=9)}),
            },
        ),
    },
)


@settings(max_examples=400, deadline=None)
@given(SPECS)
def test_its_model_is_admitted_or_what_is_wrong_is_told(spec: dict[str, Any]):
    obj = deployment(**spec)
    if admission.admit(obj):
        return
    found = codec.decode(obj)
    assert isinstance(found, ModelDeployment)
    made = convert(found)
    refused = admission.admit(codec.to_object(made.model))
    assert made.wrong or (refused, list(backends.check_config(made.model))) == ([], [])
    assert all(error.path.startswith("spec.") for error in made.wrong)
