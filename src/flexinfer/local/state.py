"""The state directory of one `flexinfer up`: lock, socket, manifests, logs, folders of engines.

    <state-dir>/           0700
      up.lock              held with flock while `up` runs; its pid inside
      control.sock         0600
      manifests/NAME.yaml  what `up` without a file serves
      logs/NAME/N.log      the last LOG_STARTS starts of a model's engine (and N.log.1, their older halves)
      logs/NAME/replica-K/ the same of its further replicas
      engines/NAME/        what an engine may write and keep

The lock goes with the process that holds it, so one that a killed `up` left, whatever pid it names,
never keeps the next from starting.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flexinfer.errors import InvalidField, StateLocked

LOG_STARTS = 5
SOCKET_PATH_BYTES = 107
_SOCKET_NAME = "control.sock"
_NAME_LIMIT = 200
_LOG_NAME = re.compile(r"(\d{1,9})\.log")
_SAFE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def default_state_dir(env: Mapping[str, str] = os.environ) -> Path:
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "flexinfer"


def default_models_dir(env: Mapping[str, str] = os.environ) -> Path:
    return _xdg(env, "XDG_CACHE_HOME", ".cache") / "flexinfer" / "models"


def _xdg(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    """A relative path in an XDG variable is to be ignored, says its specification."""
    value = env.get(variable, "")
    if value.startswith("/"):
        return Path(value)
    home = env.get("HOME", "")
    return (Path(home) if home.startswith("/") else Path.home()) / below_home


def file_name(name: str) -> str:
    """A file name for an object's name, short enough for a suffix: object names go to 253 characters."""
    if len(name) <= _NAME_LIMIT and _SAFE.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9.-]", "-", name.lower())[:_NAME_LIMIT].strip(".-")
    return f"{readable}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


class State:
    """Paths of one state directory; nothing is touched before `prepare`. None: the default directory."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.root = Path(os.path.abspath(path)) if path is not None else default_state_dir()  # noqa: PTH100

    @classmethod
    def locate(cls, path: Path | str | None) -> State:
        """The directory that a command's `--state-dir` names."""
        return cls(path)

    @property
    def socket_path(self) -> Path:
        return self.root / _SOCKET_NAME

    @property
    def lock_path(self) -> Path:
        return self.root / "up.lock"

    @property
    def manifests_dir(self) -> Path:
        return self.root / "manifests"

    @property
    def mark(self) -> str:
        """What the processes of this state directory carry in their environment.

        Device and inode, not the path: the same path can exist in several containers whose processes
        see each other, and a copied directory is another one.
        """
        status = self.root.stat()
        return f"{status.st_dev:x}-{status.st_ino:x}"

    def manifest(self, name: str) -> Path:
        return self.manifests_dir / f"{file_name(name)}.yaml"

    def engine_dir(self, name: str) -> Path:
        """Created on the first call."""
        path = self.root / "engines" / file_name(name)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def prepare(self) -> None:
        """Create what is missing. Raises InvalidField when the directory cannot be used."""
        room = SOCKET_PATH_BYTES - len(_SOCKET_NAME) - 1
        if len(os.fsencode(self.root)) > room:
            raise InvalidField(
                "--state-dir", str(self.root), f"a path of at most {room} bytes: a longer one has no place for a socket"
            )
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.root.stat()
            if status.st_uid != os.geteuid():
                raise InvalidField("--state-dir", str(self.root), "a directory of your own")
            if stat.S_IMODE(status.st_mode) & stat.S_IWOTH:
                raise InvalidField("--state-dir", str(self.root), "a directory that others cannot write to")
            for folder in (self.manifests_dir, self.root / "logs", self.root / "engines"):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InvalidField("--state-dir", str(self.root), f"a directory to write to ({error.strerror})") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory. Raises StateLocked with the pid of the owner.

        A socket that a killed owner left is removed.
        """
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateLocked(str(self.root), _pid_in(os.pread(descriptor, 32, 0))) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self.socket_path.unlink(missing_ok=True)
            yield
            # The file stays: removing it would let two owners hold locks on different files.
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    async def released(self, timeout_s: float) -> bool:
        """Wait until nobody owns the directory; False when the time is over."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._is_owned():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def _is_owned(self) -> bool:
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    # ── logs

    def logs_dir(self, name: str, replica: int = 0) -> Path:
        folder = self.root / "logs" / file_name(name)
        return folder / f"replica-{replica}" if replica else folder

    def log_starts(self, name: str, replica: int = 0) -> list[int]:
        """Numbers of the starts whose logs are kept, oldest first."""
        try:
            names = [entry.name for entry in self.logs_dir(name, replica).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(match.group(1)) for entry in names if (match := _LOG_NAME.fullmatch(entry)))

    def logged(self) -> list[str]:
        """Models that have logs; those whose names are too long for a folder are left out."""
        try:
            names = [entry.name for entry in (self.root / "logs").iterdir()]
        except FileNotFoundError:
            return []
        return [name for name in names if file_name(name) == name]

    def current_log(self, name: str) -> Path | None:
        """The log of the latest start."""
        starts = self.log_starts(name)
        return self.logs_dir(name) / f"{starts[-1]}.log" if starts else None

    def new_log(self, name: str, replica: int = 0) -> Path:
        """An empty log for the next start; logs older than the last LOG_STARTS starts are removed."""
        folder = self.logs_dir(name, replica)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        starts = self.log_starts(name, replica)
        for number in starts[: max(0, len(starts) - LOG_STARTS + 1)]:
            for suffix in ("", ".1"):
                (folder / f"{number}.log{suffix}").unlink(missing_ok=True)
        path = folder / f"{starts[-1] + 1 if starts else 1}.log"
        path.touch(mode=0o600)
        return path

    def forget(self, name: str) -> None:
        """Remove logs and engine folder of a model that was deleted."""
        for folder in (self.logs_dir(name), self.root / "engines" / file_name(name)):
            shutil.rmtree(folder, ignore_errors=True)


def _pid_in(data: bytes) -> int | None:
    text = data.strip()
    return int(text) if text.isdigit() else None
