"""How the process kubelet runs a container on this machine: sandbox, network, images, engines, files, devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kubelet import containerlogs, memory, network, payload, sandbox
from tests.cluster.kubelet.devices import Devices, NoDevice
from tests.cluster.kubelet.downward import ConfigError, Facts
from tests.cluster.kubelet.engines import translate
from tests.cluster.kubelet.images import Images, NotPulled, repository
from tests.cluster.kubelet.objects import Ref
from tests.cluster.kubelet.payload import File, TokenWanted
from tests.cluster.kubelet.plan import ContainerPlan, Mount, User
from tests.cluster.kubelet.provisioner import is_released, volume_for, wants_volume
from tests.cluster.kubelet.volumes import write_atomically

from flexinfer.backends.images import IMAGES

MACHINE = sandbox.Machine(Path("/repo"), Path("/usr"), Path("/state/app"))
AROUND = sandbox.Surroundings(Path("/run/netns/198.18.16.1"), "p", Path("/pod/etc"), Path("/pod/termination/c"))


def command(machine: sandbox.Machine = MACHINE, **changed: Any) -> str:
    base: dict[str, Any] = {
        "argv": ("serve", "--port", "1"),
        "env": {},
        "working_dir": "/",
        "user": User(0, 0, (), without_capabilities=False),
        "read_only_root": False,
        "mounts": (),
        "memory_limit": None,
        "termination_log": "/dev/termination-log",
    }
    return " ".join(sandbox.command(ContainerPlan(**(base | changed)), machine, AROUND, 9))


def test_a_container_is_entered_by_its_network_and_is_process_1():
    found = command()
    assert found.startswith("/usr/bin/nsenter --net=/run/netns/198.18.16.1 /usr/bin/bwrap --die-with-parent --as-pid-1")
    assert found.endswith("--bind /pod/termination/c /dev/termination-log --chdir / -- serve --port 1")
    assert "--unshare-pid --unshare-ipc --unshare-uts --hostname p" in found


def test_every_parent_of_a_mount_is_readable_for_everybody():
    mounts = (Mount(Path("/node/v"), "/models/deep", read_only=True), Mount(Path("/node/w"), "/w", read_only=False))
    assert (
        "--perms 0755 --dir /models --ro-bind /node/v /models/deep --bind /node/w /w --perms 0755 --dir /dev"
        in command(mounts=mounts)
    )


def test_a_volume_above_the_checkout_does_not_hide_it():
    shown = "--perms 0755 --dir /repo --ro-bind /repo/main /repo/main"
    machine = sandbox.Machine(Path("/repo/main"), Path("/usr"), Path("/state/app"))
    plain = command(mounts=(Mount(Path("/node/v"), "/repo-of", read_only=False),), machine=machine)
    above = command(mounts=(Mount(Path("/node/v"), "/repo", read_only=False),), machine=machine)
    assert (plain.count(shown), above.count(shown)) == (1, 2)
    assert above.index("/node/v") < above.rindex(shown)


def test_the_root_is_made_read_only_last():
    found = command(read_only_root=True, working_dir="/srv/app")
    assert "--perms 0755 --dir /srv --perms 0755 --dir /srv/app --remount-ro / --chdir /srv/app --" in found


def test_a_working_folder_of_a_volume_is_not_made():
    mounts = (Mount(Path("/node/v"), "/v", read_only=True),)
    assert "--dir /v/sub" not in command(mounts=mounts, working_dir="/v/sub")


def test_machine_folders_are_shown_once():
    assert command().count("--ro-bind /usr /usr") == 1


@pytest.mark.parametrize(
    ("user", "words"),
    [
        pytest.param(User(0, 0, (), without_capabilities=False), "", id="root as it is"),
        pytest.param(
            User(5, 6, (), without_capabilities=False),
            "/usr/bin/setpriv --reuid 5 --regid 6 --clear-groups --",
            id="a user",
        ),
        pytest.param(
            User(0, 0, (7, 8), without_capabilities=True),
            "/usr/bin/setpriv --reuid 0 --regid 0 --groups 7,8 --bounding-set=-all --inh-caps=-all --",
            id="groups, and no capabilities",
        ),
    ],
)
def test_users(user: User, words: str):
    assert " ".join(sandbox.as_user(user)) == words


def test_another_command_enters_the_running_container():
    user = User(0, 0, (), without_capabilities=False)
    namespaces = "--mount --uts --ipc --net --pid --root --wd"
    assert " ".join(sandbox.enter(42, user, ["ls"])) == f"/usr/bin/nsenter --target 42 {namespaces} -- ls"


def test_the_network_of_a_pod():
    outside, inside = network.plan("198.18.16.5")
    assert outside == (
        "link add vc6121005 type veth peer name eth0 address 02:00:c6:12:10:05 netns 198.18.16.5\n"
        "link set vc6121005 master flexinfer0 up\n"
    )
    assert inside == (
        "link set lo up\naddress add 198.18.16.5/16 dev eth0\nlink set eth0 up\n"
        "route add 198.19.0.0/16 via 198.18.0.1\n"
    )


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        pytest.param("vllm/vllm-openai:v1", "vllm/vllm-openai", id="a tag"),
        pytest.param("docker.io/ollama/ollama", "ollama/ollama", id="the known registry"),
        pytest.param("localhost:5000/a/b:1", "localhost:5000/a/b", id="a registry with a port"),
        pytest.param("a/b:1@sha256:00", "a/b", id="a digest"),
    ],
)
def test_repositories(reference: str, name: str):
    assert repository(reference) == name


def test_every_image_that_the_backends_name_can_be_pulled(tmp_path: Path):
    images = Images(tmp_path / "none.json")
    for backend, by_vendor in IMAGES.items():
        found = {images.pull(image.reference).flavour for several in by_vendor.values() for image in several}
        assert found == {backend}
    assert images.pull("registry.test/team/flexinfer-proxy:1").flavour == "flexinfer"


def test_a_test_says_what_cannot_be_pulled_and_what_can(tmp_path: Path):
    said = {"failing": ["ollama/ollama:1"], "images": {"my/image:1": {"entrypoint": ["sleep"], "user": 5}}}
    (tmp_path / "images.json").write_text(json.dumps(said))
    images = Images(tmp_path / "images.json")
    assert (images.pull("my/image:1").entrypoint, images.pull("my/image:1").user) == (("sleep",), 5)
    for reference, policy in (("ollama/ollama:1", "Always"), ("who/knows:1", "Always"), ("who/knows:1", "Never")):
        with pytest.raises(NotPulled):
            images.pull(reference, policy)


@pytest.mark.parametrize(
    ("flavour", "argv", "env", "expected"),
    [
        pytest.param("llamacpp", "/app/llama-server -m x", {}, "F engine -m x", id="llama.cpp is our engine"),
        pytest.param(
            "vllm",
            "vllm serve /models/x --served-model-name a b --port 9 --max-num-seqs=4 --dtype half --enforce-eager",
            {},
            "F sim --engine vllm --host 0.0.0.0 --model a --model b --port 9 --slots 4",
            id="vLLM with two names",
        ),
        pytest.param(
            "vllm",
            "vllm serve org/x",
            {},
            "F sim --engine vllm --host 0.0.0.0 --model org/x --port 8000",
            id="vLLM's defaults",
        ),
        pytest.param(
            "vllm",
            "python3 -m vllm.entrypoints.openai.api_server --model m",
            {},
            "F sim --engine vllm --host 0.0.0.0 --model m --port 8000",
            id="vLLM by its module",
        ),
        pytest.param(
            "sglang",
            "python3 -m sglang.launch_server --model-path m --context-length 99",
            {},
            "F sim --engine sglang --host 0.0.0.0 --context 99 --model m --port 30000",
            id="SGLang",
        ),
        pytest.param(
            "sglang",
            "sglang serve --model-path m --served-model-name chat --max-running-requests 7",
            {},
            "F sim --engine sglang --host 0.0.0.0 --model chat --slots 7 --port 30000",
            id="SGLang by its own program",
        ),
        pytest.param(
            "tgi",
            "text-generation-launcher --model-id m --port 8080 --max-concurrent-requests 7 --max-total-tokens 99",
            {},
            "F sim --engine tgi --host 0.0.0.0 --port 8080 --slots 7 --context 99 --model m",
            id="TGI",
        ),
        pytest.param(
            "mlc-llm", "mlc_llm serve m --port 9 --overrides a=1", {},
            "F sim --engine mlc-llm --host 0.0.0.0 --port 9 --model m", id="MLC-LLM",
        ),
        pytest.param(
            "tensorrt-llm", "trtllm-serve serve m --max_batch_size 7 --port 9", {},
            "F sim --engine tensorrt-llm --host 0.0.0.0 --slots 7 --port 9 --model m", id="TensorRT-LLM",
        ),
        pytest.param(
            "vllm-omni", "vllm serve m --omni --port 9", {},
            "F sim --engine vllm-omni --host 0.0.0.0 --port 9 --model m", id="vLLM-Omni",
        ),
        pytest.param(
            "comfyui", "python main.py --listen 0.0.0.0 --port 8188", {},
            "F sim --engine comfyui --host 0.0.0.0 --port 8188", id="ComfyUI",
        ),
        pytest.param(
            "diffusers", "diffusers-server", {"MODEL": "m", "PORT": "9", "HOST": "0.0.0.0"},
            "F sim --engine diffusers --host 0.0.0.0 --port 9 --model m", id="diffusers by its environment",
        ),
        pytest.param(
            "ollama",
            "/bin/ollama serve",
            {"OLLAMA_HOST": "http://0.0.0.0:1"},
            "F sim --engine ollama --host 0.0.0.0 --port 1",
            id="Ollama where its variable says",
        ),
        pytest.param(
            "ollama", "ollama serve", {}, "F sim --engine ollama --host 127.0.0.1 --port 11434", id="Ollama's default"
        ),
        pytest.param("vllm", "sh -c true", {}, "sh -c true", id="another program is itself"),
        pytest.param("plain", "vllm serve m", {}, "vllm serve m", id="another image too"),
        pytest.param("plain", "flexinfer ps", {}, "F ps", id="our command in any image"),
    ],
)  # fmt: skip
def test_engines(flavour: Any, argv: str, env: dict[str, str], expected: str):
    assert " ".join(translate(flavour, argv.split(), env, "F")) == expected


POD = {"metadata": {"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "1"}}, "spec": {"containers": []}}
FACTS = Facts("198.18.16.5", "198.18.0.1")
OBJECTS = {Ref("configmap", "m"): {"a": b"1", "b": b"2"}, Ref("secret", "s"): {"w": b"open"}}
TOKENS = {TokenWanted("", 3600): "text"}


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        pytest.param(
            {"configMap": {"name": "m"}}, {"a": File(b"1", 0o644), "b": File(b"2", 0o644)}, id="all keys of a ConfigMap"
        ),
        pytest.param(
            {"secret": {"secretName": "s", "defaultMode": 0o400}},
            {"w": File(b"open", 0o400)},
            id="a Secret with a mode",
        ),
        pytest.param(
            {"configMap": {"name": "m", "items": [{"key": "b", "path": "d/b", "mode": 0o600}]}},
            {"d/b": File(b"2", 0o600)},
            id="chosen keys",
        ),
        pytest.param({"configMap": {"name": "none", "optional": True}}, {}, id="an optional one that is missing"),
        pytest.param(
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"l": File(b'a="1"\nb="2"', 0o644)},
            id="labels",
        ),
        pytest.param(
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "s"}}]}},
            {"token": File(b"text", 0o644), "w": File(b"open", 0o644)},
            id="a token beside a Secret",
        ),
    ],
)
def test_files_of_volumes(volume: dict[str, Any], expected: dict[str, File]):
    assert payload.files({"name": "v", **volume}, POD, FACTS, OBJECTS, TOKENS) == expected


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        pytest.param({"secret": {"secretName": "none"}}, 'secret "none" not found', id="a Secret that is missing"),
        pytest.param(
            {"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent key: z",
            id="a key that is missing",
        ),
        pytest.param(
            {"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}},
            "a projected volume of clusterTrustBundle: not played",
            id="a source that is not played",
        ),
    ],
)
def test_files_that_cannot_be(volume: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        payload.files({"name": "v", **volume}, POD, FACTS, OBJECTS, TOKENS)
    assert str(raised.value) == message


def test_files_change_all_at_once_and_leave_nothing(tmp_path: Path):
    write_atomically(tmp_path, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}, None)
    first = (tmp_path / "..data").resolve()
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "d/b").stat().st_mode & 0o777) == (b"1", 0o600)
    write_atomically(tmp_path, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}, None)
    assert (tmp_path / "..data").resolve() == first
    write_atomically(tmp_path, {"c": File(b"3", 0o644)}, None)
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("..")) == ["c"]
    assert len(list(tmp_path.glob("..*"))) == 2


def gpu_pod(uid: str, count: int) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(count), "memory": "1Gi", "hugepages-2Mi": "0"}
    container = {"name": "c", "resources": {"limits": limits}}
    return {"metadata": {"uid": uid}, "spec": {"nodeName": "n", "containers": [container]}}


def test_devices_go_to_one_pod_at_a_time():
    devices, node = Devices(), {"nvidia.com/gpu": "3"}
    assert devices.take(gpu_pod("a", 2), node) == {"c": {"NVIDIA_VISIBLE_DEVICES": "0,1"}}
    assert devices.take(gpu_pod("b", 1), node) == {"c": {"NVIDIA_VISIBLE_DEVICES": "2"}}
    with pytest.raises(NoDevice, match=r"unavailable for nvidia\.com/gpu"):
        devices.take(gpu_pod("c", 1), node)
    devices.release("a")
    assert devices.take(gpu_pod("c", 1), node) == {"c": {"NVIDIA_VISIBLE_DEVICES": "0"}}


def claim(**changed: Any) -> dict[str, Any]:
    spec = {
        "storageClassName": "test",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        **changed,
    }
    return {"metadata": {"name": "data", "namespace": "ns", "uid": "u"}, "spec": spec}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        pytest.param({}, True, id="of our class and free"),
        pytest.param({"volumeName": "x"}, False, id="promised to a volume"),
        pytest.param({"storageClassName": "other"}, False, id="of another class"),
    ],
)
def test_claims_that_want_a_volume(changed: dict[str, Any], wanted: bool):
    assert wants_volume(claim(**changed)) is wanted


def test_a_volume_is_a_folder_bound_to_its_claim_and_ours_to_reclaim():
    volume = volume_for(claim(), Path("/volumes"))
    spec = volume["spec"]
    assert (volume["metadata"]["name"], spec["hostPath"]["path"]) == ("test-u", "/volumes/test-u")
    assert (spec["claimRef"]["uid"], spec["capacity"], spec["volumeMode"]) == ("u", {"storage": "1Gi"}, "Filesystem")
    assert [is_released({**volume, "status": {"phase": phase}}) for phase in ("Bound", "Released")] == [False, True]


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        pytest.param(b"a\nb\nc\n", 2, b"b\nc\n", id="the last lines"),
        pytest.param(b"a\nb\nc", 1, b"c", id="a line without an end"),
        pytest.param(b"a\n", 5, b"a\n", id="fewer than asked for"),
        pytest.param(b"a\n", 0, b"", id="none"),
        pytest.param(b"", 3, b"", id="nothing"),
    ],
)
def test_tails(text: bytes, lines: int, expected: bytes):
    assert containerlogs.tail(text, lines) == expected


def test_the_newest_logs_are_kept(tmp_path: Path):
    names = [containerlogs.next_file(tmp_path).name for _ in range(8)]
    assert names == [f"{number}.log" for number in range(8)]
    assert [file.name for file in containerlogs.files(tmp_path)] == [f"{number}.log" for number in (3, 4, 5, 6, 7)]


def test_memory_is_that_of_a_process_and_all_below_it(tmp_path: Path):
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a b) c) S {parent} 0 0\n")
        (folder / "status").write_text(f"Name:\tx\nRssAnon:\t{pid} kB\nRssFile:\t999 kB\nRssShmem:\t1 kB\n")
    children = memory.tree(memory.parents(tmp_path))
    assert sorted(memory.below(10, children)) == [10, 11, 12]
    assert [memory.resident(pid, tmp_path) for pid in (10, 99)] == [11 * 1024, 0]
