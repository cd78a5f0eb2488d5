"""The state directory: one owner, tight permissions, bounded logs, file names for every object name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flexinfer.errors import InvalidField, StateLocked
from flexinfer.local.state import LOG_STARTS, State, default_models_dir, default_state_dir, file_name

LONGEST_NAME = ".".join(["a" * 63] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("env", "state_dir", "models_dir"),
    [
        pytest.param(
            {"HOME": "/home/ann", "XDG_STATE_HOME": "/state", "XDG_CACHE_HOME": "/cache"},
            "/state/flexinfer",
            "/cache/flexinfer/models",
            id="XDG folders where they are set",
        ),
        pytest.param(
            {"HOME": "/home/ann"},
            "/home/ann/.local/state/flexinfer",
            "/home/ann/.cache/flexinfer/models",
            id="their defaults below home otherwise",
        ),
        pytest.param(
            {"HOME": "/home/ann", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": ""},
            "/home/ann/.local/state/flexinfer",
            "/home/ann/.cache/flexinfer/models",
            id="a relative or empty XDG folder is ignored",
        ),
    ],
)
def test_default_folders(env: dict[str, str], state_dir: str, models_dir: str) -> None:
    assert (str(default_state_dir(env)), str(default_models_dir(env))) == (state_dir, models_dir)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("llama3-8b", "llama3-8b", id="a usual name stays"),
        pytest.param("qwen2.5-0.5b", "qwen2.5-0.5b", id="dots stay"),
        pytest.param("a" * 200, "a" * 200, id="200 characters stay"),
        pytest.param("a" * 201, "a" * 200 + "_a92efd82109373e5", id="more are cut and told apart by a hash"),
        pytest.param("..", "_5ec1f7e700f37c3d", id="no way out of the folder"),
        pytest.param("../x", "x_d6b96a97d147daaa", id="no separators"),
    ],
)
def test_file_names(name: str, file: str) -> None:
    assert file_name(name) == file


def test_the_longest_object_name_has_a_manifest_a_log_and_a_folder(state: State) -> None:
    assert len(LONGEST_NAME) == 253
    state.manifest(LONGEST_NAME).write_text("kind: Model\n")
    assert state.new_log(LONGEST_NAME).exists()
    assert state.engine_dir(LONGEST_NAME).is_dir()
    assert file_name(LONGEST_NAME) != file_name(LONGEST_NAME[:-1] + "c")


def test_what_is_created_is_for_the_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        state = State(tmp_path / "new" / "state")
        state.prepare()
        state.new_log("model")
        folders = [state.root, state.manifests_dir, state.logs_dir("model"), state.engine_dir("model")]
    finally:
        os.umask(old)
    assert [oct(folder.stat().st_mode & 0o777) for folder in folders] == ["0o700"] * 4


def test_a_path_too_long_for_a_socket_is_refused_with_that_reason(tmp_path: Path) -> None:
    room = 107 - len("/control.sock")
    fits, too_long = (tmp_path / ("d" * (length - len(str(tmp_path)) - 1)) for length in (room, room + 1))
    State(fits).prepare()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(State(fits).socket_path))
    with pytest.raises(InvalidField, match="at most 94 bytes: a longer one has no place for a socket") as refused:
        State(too_long).prepare()
    assert (refused.value.path, refused.value.value) == ("--state-dir", str(too_long))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda path: path.mkdir(), None, id="an existing directory is used as it is"),
        pytest.param(lambda path: path.write_text(""), "a directory to write to (File exists)", id="a file"),
        pytest.param(
            lambda path: (path.mkdir(), path.chmod(0o777)), "a directory that others cannot write to", id="open to all"
        ),
    ],
)
def test_an_existing_path(tmp_path: Path, make, expected: str | None) -> None:
    make(tmp_path / "here")
    try:
        State(tmp_path / "here").prepare()
        refused = None
    except InvalidField as error:
        refused = error.expected
    assert refused == expected


def test_a_second_owner_is_refused_with_the_pid_of_the_first(state: State) -> None:
    with state.locked():
        with pytest.raises(StateLocked) as refused, State(state.root).locked():
            pass
        assert (refused.value.path, refused.value.pid) == (str(state.root), os.getpid())
    with State(state.root).locked():
        pass


def test_a_killed_owner_leaves_nothing_that_locks(state: State) -> None:
    """Neither its lock, nor the pid in the file when another process has it, nor its socket."""
    code = (
        "import sys, socket, time; from flexinfer.local.state import State\n"
        "state = State(sys.argv[1])\n"
        "with state.locked():\n"
        "    socket.socket(socket.AF_UNIX).bind(str(state.socket_path))\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(state.root)], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(StateLocked) as refused, state.locked():
            pass
        assert refused.value.pid == owner.pid
        owner.send_signal(signal.SIGKILL)
    assert state.socket_path.exists()
    state.lock_path.write_text("1\n")
    with state.locked():
        assert not state.socket_path.exists()
        assert state.lock_path.read_text() == f"{os.getpid()}\n"


def test_logs_of_the_last_starts_are_kept(state: State) -> None:
    for number in range(1, 8):
        path = state.new_log("model")
        path.write_text(f"start {number}\n")
        path.with_name(path.name + ".1").write_text("older half\n")
    assert LOG_STARTS == 5
    assert state.log_starts("model") == [3, 4, 5, 6, 7]
    assert sorted(entry.name for entry in state.logs_dir("model").iterdir()) == sorted(
        f"{number}.log{suffix}" for number in range(3, 8) for suffix in ("", ".1")
    )
    current = State(state.root).current_log("model")
    assert current is not None
    assert current.read_text() == "start 7\n"


def test_a_forgotten_model_leaves_no_files(state: State) -> None:
    state.new_log("model")
    state.engine_dir("model")
    state.forget("model")
    state.forget("never-known")
    assert state.current_log("model") is None
    assert [list((state.root / folder).iterdir()) for folder in ("logs", "engines")] == [[], []]


def test_two_directories_have_two_marks(tmp_path: Path) -> None:
    states = [State(tmp_path / name) for name in ("one", "two")]
    for state in states:
        state.prepare()
    assert states[0].mark != states[1].mark
    (tmp_path / "link").symlink_to(states[0].root)
    assert State(tmp_path / "link").mark == states[0].mark
