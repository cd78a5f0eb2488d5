"""What every backend must bring: unique names, compatibility, telemetry, documentation, a plan or a refusal."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from flexinfer import backends
from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import Model, ModelSpec
from flexinfer.api.wellknown import BACKENDS, IMAGE_BACKENDS
from flexinfer.backends import compat, images, llamacpp, reference, simulator, telemetry, vllm
from flexinfer.backends.base import Artifact, Backend, Site
from flexinfer.backends.config import ConfigKey
from flexinfer.errors import InvalidField

ROOT = Path(__file__).parents[2]
BY_NAME = pytest.mark.parametrize("backend", backends.REGISTRY, ids=lambda backend: backend.name)


def test_the_registry_and_the_api_know_the_same_names() -> None:
    assert {backend.name: backend.aliases for backend in backends.REGISTRY} == dict(BACKENDS)
    names = [name for backend in backends.REGISTRY for name in (backend.name, *backend.aliases)]
    assert len(names) == len(set(names))
    assert {backend.name for backend in backends.REGISTRY if backend.image_generation} == IMAGE_BACKENDS


@BY_NAME
def test_every_name_finds_its_backend(backend: Backend) -> None:
    assert {backends.get(name) for name in (backend.name, *backend.aliases)} == {backend}


@BY_NAME
def test_it_has_a_compatibility_entry_and_telemetry_names(backend: Backend) -> None:
    assert backend.name in compat.CPU
    assert (compat.CPU[backend.name] is None) == ("cpu" in backend.vendors)
    assert backend.name in telemetry.NAMES


@BY_NAME
def test_it_has_a_row_in_the_documentation(backend: Backend) -> None:
    rows = [line.split("|") for line in (ROOT / "docs/engines.md").read_text().splitlines()]
    row = next(cells for cells in rows if len(cells) > 9 and cells[1].strip() == f"`{backend.name}`")
    assert tuple(re.findall(r"`([^`]+)`", row[2])) == backend.aliases
    assert row[3].strip() == str(backend.port)
    assert row[5].strip() == ", ".join(backend.vendors)
    assert row[6].strip() == ("yes" if backend.runs_locally else "not yet")
    assert re.match(r"no$|CPU|GPU", row[9].strip())


@BY_NAME
def test_one_that_does_not_run_here_refuses_a_plan(backend: Backend) -> None:
    source = "http://127.0.0.1:9" if backend.name == "external" else "ollama://llama3:8b"
    source = source if backend.reads in ("registry", "nothing") else "file:///models/m.gguf"
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source=source))
    site = Site(host="127.0.0.1", port=1, artifact=Artifact(path="/m/m.gguf"))
    if backend.runs_locally:
        assert bool(backend.plan(model, site).program) == backend.process
        assert (backend.upstream(model) is None) == backend.process
    else:
        with pytest.raises(InvalidField, match=r"spec\.backend: .* does not start it yet"):
            backend.plan(model, site)
    assert backend.serving(model).slots >= 1


@BY_NAME
def test_its_config_keys_are_declared_once(backend: Backend) -> None:
    names = [key.name for key in backend.config_keys]
    assert len(names) == len(set(names))


@BY_NAME
def test_serving_never_raises(backend: Backend) -> None:
    junk = {key.name: {"a": [1, None]} for key in backend.config_keys}
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source="?", config=junk))
    assert backends.serving(model).slots >= 1


def test_no_image_is_a_latest() -> None:
    for by_vendor in images.IMAGES.values():
        for image in by_vendor.values():
            assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]+", image.reference)
            assert not image.reference.endswith(":latest")
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", image.seen)
            assert image.source


def test_the_table_of_config_keys_is_up_to_date() -> None:
    path = ROOT / "docs/reference/config.md"
    if os.environ.get("FLEXINFER_REWRITE_GOLDEN"):
        path.write_text(reference.markdown())
    assert path.read_text() == reference.markdown()


def _options(keys: tuple[ConfigKey, ...]) -> set[str]:
    return {option for key in keys if not key.gone for option in (key.flag, key.no_flag) if option}


def test_every_option_of_vllm_exists_in_its_release() -> None:
    known = set((ROOT / "tests/data/engines/vllm-0.32.0-options.txt").read_text().split())
    assert _options(vllm.config_keys) <= known
    assert not {f"--{_dashed(key.name)}" for key in vllm.config_keys if key.gone} & known


def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()


def test_every_option_of_llamacpp_exists_in_its_release() -> None:
    known = set((ROOT / "tests/data/engines/llamacpp-options.txt").read_text().split())
    assert _options(llamacpp.config_keys) <= known


@pytest.mark.parametrize(("command", "backend"), [("engine", llamacpp), ("sim", simulator)], ids=["engine", "sim"])
def test_our_own_engines_take_the_options_that_are_planned(command: str, backend: Backend) -> None:
    from importlib import import_module

    click_command = import_module(f"flexinfer.cli.{command}").command
    known = {option for param in click_command.params for option in (*param.opts, *param.secondary_opts)}
    assert _options(backend.config_keys) <= known
