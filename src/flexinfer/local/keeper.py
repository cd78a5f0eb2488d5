"""The keeper: parent of all engines of one `flexinfer up`. Standard library only, few imports, run by path.

    up ──stdin──▶ keeper ──▶ minder (one per engine, forked from the keeper) ──▶ engine ──▶ its workers, daemons, …
       ◀─stdout──

Keeper and minders are subreapers: an orphan becomes the child of the nearest one, whatever session it
moved to, so everything an engine ever started is a descendant of its minder. Hence the rules:

* `up` is gone (end of stdin, or its pidfd fires): the keeper kills every descendant and ends.
* The keeper is gone (end of the minder's control pipe): each minder kills its descendants and ends.
* The engine ended, or `kill` was asked: the minder kills what is left of it, reports, and ends.
* A minder is gone: the engine has a parent-death signal, what else was below becomes the keeper's child; a
  child of the keeper that is no minder is killed.

All of it carries FLEXINFER_STATE_DIR_MARK in its environment for the case that keeper and minders are
killed together. Frames both ways: four bytes of length (big-endian), then a JSON object.

    start {id, argv, env, cwd, log} · signal {id, signal} (to the engine's process group) · kill {id}
    started {id, pid} · failed {id, stage, errno} · exited {id, status} · gone {id} (its tree is empty)

A minder also copies the engine's stdout and stderr to the log and bounds it: two files, the older one
renamed to `<log>.1`, at most LOG_BYTES together.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import sys

MARK = "FLEXINFER_STATE_DIR_MARK"
LOG_BYTES = 16 * 1024 * 1024
MAX_FRAME_BYTES = 16 * 1024 * 1024

# The engine goes first when memory runs out, not `up` or somebody else's shell; 1000 would mean "always".
OOM_SCORE_ADJ = "300"

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 65536
_TREE_POLL_MS = 5
_KILL_BYTE = b"\x00"

ProcessId = tuple[int, int]
"""pid and start time in clock ticks: a pid alone may be another process by the time it is signalled."""


def prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# ── /proc


def read_stat(pid: int) -> tuple[int, str, int] | None:
    """(parent pid, state letter, start time), or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib costs the keeper a megabyte
            # The name in parentheses may hold spaces and parentheses itself.
            fields = stat.read().rpartition(b")")[2].split()
        return int(fields[1]), fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def descendants(*roots: int) -> list[ProcessId]:
    """Every live process below the roots, parents before children; zombies are left out."""
    children: dict[int, list[ProcessId]] = {}
    for pid in all_pids():
        stat = read_stat(pid)
        if stat is not None and stat[1] not in "ZX":
            children.setdefault(stat[0], []).append((pid, stat[2]))
    found: list[ProcessId] = []
    for root in roots:
        found.extend(children.pop(root, ()))
    for pid, _ in found:  # grows while it is walked
        found.extend(children.pop(pid, ()))
    return found


def marked(mark: str) -> list[ProcessId]:
    """Every live process, except this one, whose environment carries the mark, and what is below them."""
    wanted = f"{MARK}={mark}".encode()
    own = os.getpid()
    found: dict[int, ProcessId] = {}
    for pid in all_pids():
        if pid == own:
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123
                carries = wanted in environ.read().split(b"\x00")
        except OSError:
            continue
        stat = read_stat(pid) if carries else None
        if stat is not None:
            found[pid] = (pid, stat[2])
    found.update((process[0], process) for process in descendants(*found))
    found.pop(own, None)
    return list(found.values())


def send_signal(process: ProcessId, number: int) -> None:
    """Signal exactly this process; nothing happens when it has ended."""
    pid, started = process
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel without pidfd
        descriptor = -1
    try:
        stat = read_stat(pid)
        if stat is None or stat[2] != started:
            return
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _reap() -> tuple[dict[int, int], bool]:
    """Wait statuses of the children that have ended, and whether any child is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


# ── frames


def encode(message: dict[str, object]) -> bytes:
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body


def take_frames(buffer: bytearray) -> list[dict[str, object]]:
    """Remove the complete frames from the front of the buffer."""
    frames: list[dict[str, object]] = []
    while len(buffer) >= 4:
        end = 4 + int.from_bytes(buffer[:4], "big")
        if end > MAX_FRAME_BYTES:
            raise ValueError("frame too large")
        if len(buffer) < end:
            break
        frames.append(json.loads(bytes(buffer[4:end])))
        del buffer[:end]
    return frames


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# ── the log of one start


class BoundedLog:
    """Appends to `path`; at half of LOG_BYTES the file becomes `path`.1 and a new one begins."""

    def __init__(self, path: str, limit_bytes: int = LOG_BYTES) -> None:
        self._path = path
        self._half = limit_bytes // 2
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)

    def write(self, data: bytes) -> None:
        try:
            if self._size + len(data) > self._half:
                head = data[: max(0, min(len(data), self._half - self._size))]
                head = head[: head.rfind(b"\n") + 1]
                _write_all(self._descriptor, head)
                data = data[len(head) :]
                self._rotate()
            _write_all(self._descriptor, data)
            self._size += len(data)
        except OSError:
            # A full disk or a removed folder costs log lines; the engine must not block on them.
            return

    def _rotate(self) -> None:
        try:
            os.rename(self._path, self._path + ".1")  # noqa: PTH104
        except FileNotFoundError:
            pass
        descriptor = self._open()
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = 0


# ── one engine


def _exec_engine(command: dict[str, object], output: int, failure: int, parent: int) -> None:
    """In the forked child: become the engine, or write `stage errno` to `failure` and end."""
    stage = "setup"
    number = errno.EINVAL
    try:
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)
        try:
            with open("/proc/self/oom_score_adj", "w") as adjust:  # noqa: PTH123
                adjust.write(OOM_SCORE_ADJ)
        except OSError:
            pass
        # An engine that aborts would write its whole memory to the disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, output), (2, output)):
            os.dup2(source, target)
        for one in signal.valid_signals():
            try:
                signal.signal(one, signal.SIG_DFL)
            except (OSError, ValueError):  # SIGKILL, SIGSTOP and those of the C library
                pass
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        stage = "cwd"
        os.chdir(str(command["cwd"]))
        stage = "exec"
        argv, env = command["argv"], command["env"]
        assert isinstance(argv, list)
        assert isinstance(env, dict)
        os.execve(argv[0], argv, env)  # noqa: S606 - engines are never run by a shell
    except OSError as error:
        number = error.errno or errno.EIO
    finally:
        os.write(failure, f"{stage} {number}".encode())
        os._exit(127)


class Minder:
    """One engine and everything it starts. Runs in a process of its own, forked from the keeper."""

    def __init__(self, control: int, report: int, command: dict[str, object]) -> None:
        self._control = control
        self._report_to = report
        self._command = command
        self._id = command["id"]
        self._engine = 0
        self._killing = False

    def run(self) -> None:
        self._become()
        try:
            log = BoundedLog(str(self._command["log"]))
        except OSError as error:
            self._report(event="failed", stage="log", errno=error.errno)
            return
        output = self._spawn()
        if output is not None:
            self._watch(output, log)

    def _become(self) -> None:
        """Leave what belongs to the keeper: its pipes to `up`, and its ends of the other minders' pipes."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        start = 3
        for keep in sorted((self._control, self._report_to)):
            os.closerange(start, keep)
            start = keep + 1
        os.closerange(start, os.sysconf("SC_OPEN_MAX"))
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        prctl(_PR_SET_NAME, b"flexinfer-mind")
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def _report(self, **message: object) -> None:
        try:
            os.write(self._report_to, encode({**message, "id": self._id}))
        except OSError:  # the keeper is gone; the control pipe says so too
            pass

    def _spawn(self) -> int | None:
        """Start the engine; the read end of its output, or None when it did not start."""
        output, output_write = os.pipe()
        failure, failure_write = os.pipe()
        own = os.getpid()
        try:
            self._engine = os.fork()
        except OSError as error:
            self._report(event="failed", stage="fork", errno=error.errno)
            return None
        if self._engine == 0:
            _exec_engine(self._command, output_write, failure_write, own)
        os.close(output_write)
        os.close(failure_write)
        words = os.read(failure, 100).decode().split()
        os.close(failure)
        if words:
            os.waitpid(self._engine, 0)
            self._report(event="failed", stage=words[0], errno=int(words[1]))
            return None
        self._report(event="started", pid=self._engine)
        os.set_blocking(output, False)
        return output

    def _watch(self, output: int, log: BoundedLog) -> None:
        poll = select.poll()
        for descriptor in (self._control, output, self._wake):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(_TREE_POLL_MS if self._killing else None)}
            if output in ready and not _copy(output, log):
                poll.unregister(output)
            if self._control in ready and not self._obey(os.read(self._control, 64)):
                poll.unregister(self._control)
            if self._wake in ready:
                _copy(self._wake, None)
            if not self._reap():
                break
            if self._killing:
                for process in descendants(os.getpid()):
                    send_signal(process, signal.SIGKILL)
        _copy(output, log)

    def _obey(self, commands: bytes) -> bool:
        """Each byte is a signal for the process group, 0 means "kill the tree"; at the end the keeper is gone."""
        for number in commands:
            if number == 0:
                self._killing = True
            elif self._engine:
                try:
                    os.killpg(self._engine, number)
                except OSError:  # every member has ended, or changed its user
                    pass
        if not commands:
            self._killing = True
        return bool(commands)

    def _reap(self) -> bool:
        """False when nothing is left of the engine."""
        ended, left = _reap()
        if self._engine in ended:
            self._report(event="exited", status=ended[self._engine])
            self._engine = 0
            self._killing = True
        return left


def _copy(source: int, log: BoundedLog | None) -> bool:
    """Move what is there to the log, one megabyte at most; False at the end of the source."""
    for _ in range(16):
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        if log is not None:
            log.write(data)
    return True


def _become_minder(control: int, report: int, command: dict[str, object]) -> None:
    """Never returns: the fork must not go on as a second keeper."""
    try:
        Minder(control, report, command).run()
    finally:
        kind, error, traceback = sys.exc_info()
        if kind is not None and error is not None:
            sys.excepthook(kind, error, traceback)
        os._exit(0 if kind is None else 1)


# ── all engines


class Keeper:
    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._own = os.getpid()
        self._buffer = bytearray()
        self._poll = select.poll()
        self._pids: dict[int, int] = {}
        """Minder of an engine, by engine id."""
        self._controls: dict[int, int] = {}
        """Write end of the minder's control pipe, by engine id."""
        self._reports: dict[int, int] = {}
        """Engine id, by the read end of the minder's report pipe."""
        self._lost: list[int] = []
        """Engines whose minder is gone, until nothing of them is left."""

    def run(self) -> None:
        """Returns when `up` is gone and every descendant with it."""
        os.set_blocking(0, True)
        os.set_inheritable(0, False)
        os.set_inheritable(1, False)
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        prctl(_PR_SET_NAME, b"flexinfer-keep")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        gc.disable()
        gc.freeze()  # so that minders share the keeper's memory
        try:
            self._serve()
        except (OSError, ValueError):
            # Nobody reads our events any more, or the commands make no sense: either way `up` is lost.
            pass
        self._end()

    def _serve(self) -> None:
        self._poll.register(0, select.POLLIN)
        watched = self._watch_parent()
        if os.getppid() != self._parent:
            return
        while True:
            ready = self._poll.poll(_TREE_POLL_MS if self._lost else None)
            for descriptor, _ in ready:
                if descriptor == watched:
                    return
                if descriptor == 0:
                    data = os.read(0, _CHUNK)
                    if not data:
                        return
                    self._buffer += data
                    for command in take_frames(self._buffer):
                        self._obey(command)
                elif descriptor in self._reports:
                    self._forward(descriptor)
            if self._lost:
                self._kill_strays()

    def _watch_parent(self) -> int:
        """The pipe tells the end of `up` too, unless a process it started holds a copy of the other end."""
        try:
            descriptor = os.pidfd_open(self._parent)
        except OSError:
            return -1
        self._poll.register(descriptor, select.POLLIN)
        return descriptor

    def _obey(self, command: dict[str, object]) -> None:
        engine = command["id"]
        assert isinstance(engine, int)
        if command["op"] == "start":
            self._start(engine, command)
            return
        control = self._controls.get(engine)
        if control is None:
            return
        number = command.get("signal", 0)
        assert isinstance(number, int)
        try:
            os.write(control, _KILL_BYTE if command["op"] == "kill" else bytes([number]))
        except BrokenPipeError:  # the minder is ending; its report pipe says so next
            pass

    def _start(self, engine: int, command: dict[str, object]) -> None:
        control, control_write = os.pipe()
        report, report_write = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            for descriptor in (control, control_write, report, report_write):
                os.close(descriptor)
            self._send({"event": "failed", "id": engine, "stage": "fork", "errno": error.errno})
            self._send({"event": "gone", "id": engine})
            return
        if pid == 0:
            _become_minder(control, report_write, command)
        os.close(control)
        os.close(report_write)
        self._pids[engine] = pid
        self._controls[engine] = control_write
        self._reports[report] = engine
        self._poll.register(report, select.POLLIN)

    def _forward(self, report: int) -> None:
        data = os.read(report, _CHUNK)
        if data:
            _write_all(1, data)
            return
        engine = self._reports.pop(report)
        self._poll.unregister(report)
        os.close(report)
        os.close(self._controls.pop(engine))
        _, status = os.waitpid(self._pids.pop(engine), 0)
        if status == 0:
            self._send({"event": "gone", "id": engine})
        else:
            self._lost.append(engine)

    def _kill_strays(self) -> None:
        """Children of the keeper that are no minders: what a killed minder left."""
        minders = set(self._pids.values())
        strays = {
            pid: (pid, stat[2])
            for pid in all_pids()
            if pid not in minders and (stat := read_stat(pid)) is not None and stat[0] == self._own
        }
        for process in (*strays.values(), *(descendants(*strays) if strays else ())):
            send_signal(process, signal.SIGKILL)
        for pid in strays:
            os.waitpid(pid, os.WNOHANG)
        if not strays:
            for engine in self._lost:
                self._send({"event": "gone", "id": engine})
            self._lost.clear()

    def _send(self, message: dict[str, object]) -> None:
        _write_all(1, encode(message))

    def _end(self) -> None:
        while _reap()[1]:
            for process in descendants(self._own):
                send_signal(process, signal.SIGKILL)
            select.poll().poll(_TREE_POLL_MS)


if __name__ == "__main__":
    Keeper(int(sys.argv[1])).run()
