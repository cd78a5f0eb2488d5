"""The manager's environment: every variable is read, or refused by its name with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.api.quantity import Quantity
from flexinfer.controllers import settings
from flexinfer.errors import InvalidField
from flexinfer.resources.installation import Installation


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, {}, id="nothing is said"),
        pytest.param({"POD_NAMESPACE": "inference"}, {"namespace": "inference"}, id="another namespace"),
        pytest.param({"MODEL_CACHE_PATH": "/var/models"}, {"cache_path": "/var/models"}, id="another mount"),
        pytest.param({"DEFAULT_SHM_SIZE_LIMIT": "16Gi"}, {"shm_limit": Quantity("16Gi")}, id="more shared memory"),
        pytest.param({"FLEXINFER_ALLOW_HOST_PATH": "Yes"}, {"allow_host_path": True}, id="folders of nodes"),
        pytest.param({"FLEXINFER_WATCH_NAMESPACES": "a, b,"}, {"watch_namespaces": ("a", "b")}, id="some namespaces"),
        pytest.param(
            {"DEFAULT_VLLM_IMAGE_AMD": "x:1", "DEFAULT_OLLAMA_IMAGE": "", "DEFAULT_X": "y"},
            {"images": {"DEFAULT_VLLM_IMAGE_AMD": "x:1"}},
            id="images of backends",
        ),
        pytest.param(
            {"HF_ENDPOINT": "http://hub", "HF_TOKEN": "secret"},
            {"download_env": {"HF_ENDPOINT": "http://hub"}},
            id="what downloads are told, never a token",
        ),
        pytest.param({"FLEXINFER_MODEL_ACCESS": "proxies"}, {"model_access": "proxies"}, id="who may reach pods"),
    ],
)
def test_what_is_read(environment: dict[str, str], expected: dict[str, Any]):
    assert settings.installation(environment) == Installation(**expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("MODEL_CACHE_PATH", "models", id="a path that is not absolute"),
        pytest.param("MODEL_CACHE_PATH", "/a/../b", id="a path that climbs"),
        pytest.param("DEFAULT_SHM_SIZE_LIMIT", "much", id="a size that is none"),
        pytest.param("FLEXINFER_ALLOW_HOST_PATH", "perhaps", id="neither yes nor no"),
        pytest.param("FLEXINFER_MODEL_ACCESS", "everybody", id="an access that is none"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str):
    with pytest.raises(InvalidField, match=name):
        settings.installation({name: value})


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        pytest.param("ENABLE_WEBHOOKS", "true", True, id="webhooks"),
        pytest.param("ENABLE_WEBHOOKS", "false", False, id="no webhooks"),
        pytest.param("BENCHMARK_SERVICE_ACCOUNT", "bench", True, id="an account of benchmarks"),
        pytest.param("FLEXINFER_QUANTIZER_AWQ_IMAGE", "x:1", True, id="a quantizer's image"),
        pytest.param("DEFAULT_FLASH_LOADER_CONCURRENCY", "4", True, id="a setting of the flash loader"),
        pytest.param("FLEXINFER_MODEL_TOOLS_IMAGE", "x:1", True, id="an image for downloads"),
        pytest.param("FLEXINFER_VALIDATOR_IMAGE", "x:1", True, id="an image for checks"),
        pytest.param("FLEXINFER_PUBLISH_IMAGE", "x:1", True, id="an image for publishing"),
        pytest.param("FLEXINFER_RUNTIME_IMAGE", "x:1", True, id="a persistent runtime"),
        pytest.param("FLEXINFER_OTEL_ENABLED", "1", True, id="traces"),
        pytest.param("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x", True, id="where traces go"),
        pytest.param("FLEXINFER_SHM_CAPACITY_BYTES", "1", True, id="shared memory of a node"),
        pytest.param("MODEL_CACHE_PATH", "/models", False, id="one that is read"),
    ],
)
def test_what_can_have_no_effect_is_refused_by_name(name: str, value: str, refused: bool):
    said = settings.refused({name: value, "PATH": "/bin"})
    assert [sentence.partition(":")[0] for sentence in said] == ([name] if refused else [])
