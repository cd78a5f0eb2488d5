"""`flexinfer migrate`, as it is typed."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from flexinfer.api import codec
from flexinfer.cli import migrate

OLD = """
apiVersion: ai.flexinfer/v1alpha1
kind: ModelDeployment
metadata: {name: old, namespace: team, labels: {a: b}}
spec:
  backend: mlc
  model: org/name
  idleTimeoutSeconds: 600
  modelCacheRef: shared
  resources: {limits: {nvidia.com/gpu: 1}}
  mlcllm: {mode: local, compileOptions: {useCutlass: true}}
"""
NEW = """
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata: {name: new}
spec: {backend: llamacpp, source: file:///models/demo.gguf}
"""
COMPILED = "they are chosen when the model's library is compiled, not by a server"


def run(text: str):
    return CliRunner().invoke(migrate.command, ["-"], input=text)


def test_the_models_are_printed_and_the_losses_told():
    result = run(f"{OLD}---{NEW}")
    assert (result.exit_code, result.stderr.splitlines()) == (
        0,
        [
            "# team/old: spec.modelCacheRef is left out: it names an object that does not act yet",
            f"# team/old: spec.mlcllm.compileOptions is left out: {COMPILED}",
        ],
    )
    assert list(yaml.safe_load_all(result.stdout)) == [
        {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "metadata": {"name": "old", "namespace": "team", "labels": {"a": "b"}},
            "spec": {
                "backend": "mlc",
                "source": "org/name",
                "gpu": {"vendor": "nvidia", "count": 1},
                "serverless": {"idleTimeout": "600s"},
                "config": {"mode": "local"},
            },
        },
        {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "metadata": {"name": "new"},
            "spec": {"backend": "llamacpp", "source": "file:///models/demo.gguf"},
        },
    ]


def test_what_it_prints_is_admitted_and_stays_as_it_is():
    once = run(OLD).stdout
    assert [kept.kind for kept in codec.decode_files({"-": once})] == ["Model"]
    assert run(once).stdout == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "-: (file): '': expected at least one ModelDeployment\n", id="nothing at all"),
        pytest.param(OLD.replace("mode: local", "mode: fast"),
                     "-: spec.mlcllm.mode: 'fast': expected one of interactive, local, server\n",
                     id="one that is refused"),
        pytest.param(OLD.replace("gpu: 1", "gpu: 12"),
                     "-: spec.resources[nvidia.com/gpu]: '12': expected a whole number of GPUs, at most 8 (team/old)\n",
                     id="one of which no Model can be made"),
    ],
)  # fmt: skip
def test_nothing_is_printed_where_one_is_wrong(text, said):
    result = run(f"{NEW}---{text}" if text else text)
    assert (result.exit_code, result.stdout, result.stderr.replace("-:6: ", "-: ")) == (2, "", said)


def test_no_backend_may_mean_an_image_of_the_installation():
    result = run(OLD.replace("backend: mlc", "").replace("org/name", "llama3").split("  modelCacheRef")[0])
    assert result.stderr == (
        "# team/old: no backend was named: spec.image is left out, an installation may have set one\n"
    )
