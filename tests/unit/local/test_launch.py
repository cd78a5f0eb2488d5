import stat
import sys

import pytest

from flexinfer.backends.base import LaunchPlan
from flexinfer.errors import EngineMissing
from flexinfer.local.launch import Command, environment, resolve


def plan(**fields):
    return LaunchPlan(
        **{"program": "llama-server", "args": ("--port", "1"), "port": 1, "health_path": "/", "slots": 1} | fields
    )


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def install(folder, name, mode=0o755):
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(stat.S_IFREG | mode)
    return path


def test_a_program_on_the_path_is_run_with_its_whole_name(tools):
    path = install(tools, "llama-server")
    found = resolve(plan(fallback=("engine",)), str(tools))
    assert (found, found.program) == (Command((str(path), "--port", "1"), built_in=False), str(path))


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(None, id="not installed"),
        pytest.param(0o644, id="not executable"),
    ],
)
def test_without_it_the_engine_of_this_package_is_run(tools, there):
    if there is not None:
        install(tools, "llama-server", there)
    built_in = (sys.executable, "-m", "flexinfer", "engine", "--port", "1")
    found = resolve(plan(fallback=("engine",)), str(tools))
    assert (found, found.program) == (Command(built_in, built_in=True), "flexinfer engine")


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        pytest.param("", "vllm is not installed", id="nothing to say"),
        pytest.param("pip install vllm", "vllm is not installed: pip install vllm", id="what to install"),
    ],
)
def test_a_missing_program_is_told_with_what_to_install(tools, hint, message):
    with pytest.raises(EngineMissing) as caught:
        resolve(plan(program="vllm", install_hint=hint), str(tools))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "OPENAI_APIKEY", "openai_api_key", "DB_PASSWORD", "MYSQL_PASSWD",
        "SSH_PRIVATE_KEY", "KEY_PASSPHRASE", "GOOGLE_APPLICATION_CREDENTIALS", "CLIENT_SECRET",
    ],
)  # fmt: skip
def test_an_engine_is_not_given_what_looks_like_a_credential(name):
    assert environment(plan(), {name: "x", "PATH": "/bin"}, "/home/engine") == {"HOME": "/home/engine", "PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    ["PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "TOKENIZERS_PARALLELISM", "KEYMAP"],
)
def test_an_engine_is_given_what_drivers_and_libraries_are_found_by(name):
    assert environment(plan(), {name: "x"}, "/home/engine") == {"HOME": "/home/engine", name: "x"}


@pytest.mark.parametrize(
    ("base", "env", "expected"),
    [
        pytest.param({"HOME": "/home/me"}, {}, {"HOME": "/home/me"}, id="a home of the user stays"),
        pytest.param({}, {}, {"HOME": "/e"}, id="without one the engine gets a folder of its own"),
        pytest.param({"HOME": "/home/me"}, {"HOME": "/p"}, {"HOME": "/p"}, id="the plan has the last word"),
        pytest.param({}, {"VLLM_API_KEY": "k"}, {"HOME": "/e", "VLLM_API_KEY": "k"}, id="what the plan sets is meant"),
    ],
)
def test_environment(base, env, expected):
    assert environment(plan(env=env), base, "/e") == expected
