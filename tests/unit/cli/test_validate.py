"""`flexinfer validate` and `flexinfer crds`, as they are typed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from flexinfer.api import definitions
from flexinfer.cli import crds, validate

GOOD = """
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata: {name: demo}
spec: {backend: llamacpp, source: file:///models/demo.gguf}
"""
BAD = """
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata: {name: bad}
spec:
  backend: llama-ccp
  source: file:///models/../etc/passwd
  gpu: {vendor: cpu, count: 1}
"""


@pytest.fixture
def run(tmp_path):
    def call(*args: str, **files: str):
        paths = []
        for name, text in files.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(text)
            paths.append(str(path))
        return CliRunner().invoke(validate.command, [*args, *paths])

    return call


def test_all_is_well(run):
    result = run(good=GOOD, other=GOOD.replace("demo}", "two, namespace: team-a}"))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "default/demo: ok\nteam-a/two: ok\n", "")


def test_three_mistakes_at_once(run, tmp_path):
    result = run(good=GOOD, bad=BAD)
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": expected ")[0] for line in lines] == [
        f"{tmp_path}/bad.yaml: spec.backend: 'llama-ccp'",
        f"{tmp_path}/bad.yaml: spec.source: 'file:///models/../etc/passwd'",
        f"{tmp_path}/bad.yaml: spec.gpu.count: 1",
    ]
    assert lines[0].endswith("; did you mean 'llama-cpp'?")


def test_for_programs(run, tmp_path):
    result = run("-o", "json", bad=GOOD.replace("llamacpp,", "llamacpp, replica: 1,"))
    assert (result.exit_code, json.loads(result.stdout)) == (
        2,
        {
            "valid": False,
            "models": [],
            "modelDeployments": [],
            "errors": [
                {
                    "file": f"{tmp_path}/bad.yaml",
                    "path": "spec.replica",
                    "value": 1,
                    "expected": "a known field; did you mean 'replicas'?",
                }
            ],
            "problems": [],
            "withoutEffect": [],
        },
    )


def test_what_would_be_taken_and_not_work_is_told(run):
    config = GOOD.replace(
        "gguf}",
        "gguf, slo: {minTokensPerSecond: 3}, config: {contextSise: 1, parallel: x}, litellm: {aliases: [gpt]}}",
    )
    result = run(one=config, two=GOOD.replace("demo}", "two}").replace("gguf}", "gguf, litellm: {aliases: [gpt]}}"))
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "default/demo: ok",
            "  problem: spec.config.parallel: 'x': expected a whole number of at least 1",
            "  problem: spec.config.contextSise: 1: expected no such key; did you mean contextSize?",
            "  problem: the name 'gpt' leads to Model demo, two wants it as well",
            "  no effect yet: spec.slo.minTokensPerSecond",
            "default/two: ok",
            "  problem: the name 'gpt' leads to Model demo, two wants it as well",
        ],
    )
    told = json.loads(run("-o", "json", one=config).stdout)
    assert (told["valid"], [problem["model"] for problem in told["problems"]]) == (True, ["default/demo"] * 2)
    assert told["withoutEffect"] == [{"model": "default/demo", "path": "spec.slo.minTokensPerSecond"}]


OLD = """
apiVersion: ai.flexinfer/v1alpha1
kind: ModelDeployment
metadata: {name: old}
spec: {model: "llama3:8b", modelCacheRef: shared, mlcllm: {mode: local}, replicas: 12}
"""


def test_both_generations_in_one_file(run):
    result = run(mixed=f"{GOOD}---{OLD}")
    assert (result.exit_code, result.stdout.splitlines(), result.stderr) == (
        0,
        [
            "default/demo: ok",
            "default/old: ok",
            "  problem: spec.replicas: 12: expected at most 10",
            "  no effect yet: spec.modelCacheRef, spec.mlcllm",
        ],
        "",
    )
    told = json.loads(run("-o", "json", mixed=f"{GOOD}---{OLD}").stdout)
    assert (told["models"], told["modelDeployments"]) == (["default/demo"], ["default/old"])


def test_a_model_and_a_modeldeployment_do_not_share_a_name(run, tmp_path):
    result = run(mixed=f"{GOOD}---{OLD.replace('name: old', 'name: demo')}")
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"{tmp_path}/mixed.yaml:6: metadata.name: 'demo': expected a name that no other Model has: it is also in "
            f"{tmp_path}/mixed.yaml line 2\n"
        ),
    )


@pytest.mark.parametrize(
    ("args", "text", "code", "said"),
    [
        pytest.param(["-"], GOOD, 0, "default/demo: ok\n", id="from the standard input"),
        pytest.param(["-"], "", 2, "-: (file): '': expected at least one Model\n", id="nothing at all"),
        pytest.param(["/no/such.yaml"], "", 2,
                     "/no/such.yaml: (file): 'No such file or directory': expected a file that can be read\n",
                     id="a file that is not there"),
        pytest.param(["/"], "", 2, "/: (file): 'Is a directory': expected a file that can be read\n", id="a folder"),
    ],
)  # fmt: skip
def test_files(args, text, code, said):
    result = CliRunner().invoke(validate.command, args, input=text)
    assert (result.exit_code, result.output) == (code, said)


def test_of_several_objects_in_a_file_the_line_of_the_wrong_one_is_told(run, tmp_path):
    both = f"{GOOD}---{BAD.replace('gpu: {vendor: cpu, count: 1}', '')}"
    places = [line.split(": spec.")[0] for line in run(both=both).stderr.splitlines()]
    assert places == [f"{tmp_path}/both.yaml:6"] * 2
    assert [error["line"] for error in json.loads(run("-o", "json", both=both).stdout)["errors"]] == [6, 6]


def test_no_file_is_wrong_use():
    assert CliRunner().invoke(validate.command, []).exit_code == 2


def test_crds(tmp_path):
    files = definitions.crd_files()
    assert CliRunner().invoke(crds.command, []).stdout == "---\n".join(files.values())
    assert CliRunner().invoke(crds.command, ["--dir", str(tmp_path / "crd")]).exit_code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "crd").iterdir()} == files
