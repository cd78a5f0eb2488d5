"""The command line that runs a container: nsenter into the pod's network, bubblewrap, setpriv, the argv. Pure.

Two traps of bubblewrap: parent folders that it makes are 0700, so each is made first with --perms 0755;
and a root that is a read-only bind of this machine's has no place for /models, so the root is a tmpfs
with what programs need bound into it. The container's process is process 1, as with other runtimes: a
program that does not ask for SIGTERM does not get it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.cluster.kubelet.plan import ContainerPlan, User

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "passwd", "group", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "ssl",
    "ca-certificates", "alternatives", "mime.types", "services", "protocols",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What of this machine every container sees, read-only."""

    repository: Path
    interpreter: Path
    """The installation that the virtual environment stands on."""
    app: Path
    """Programs by the names that images have them under; seen as /app."""

    @property
    def flexinfer(self) -> str:
        return str(self.repository / ".venv/bin/flexinfer")

    def shown(self) -> list[Path]:
        """Folders at their own paths, each once, none inside /usr."""
        wanted = [Path("/usr"), self.repository, self.interpreter]
        return [path for path in dict.fromkeys(wanted) if path == Path("/usr") or not path.is_relative_to("/usr")]


def this_machine(app: Path) -> Machine:
    return Machine(Path(__file__).resolve().parents[3], Path(sys.base_prefix).resolve(), app)


@dataclass(frozen=True)
class Surroundings:
    """What a container shares with its pod."""

    network: Path | None
    """The file of the pod's network namespace; None: the node's."""
    hostname: str
    etc: Path
    """A folder with hosts, hostname and resolv.conf."""
    termination_log: Path


def command(plan: ContainerPlan, machine: Machine, around: Surroundings, status_fd: int) -> list[str]:
    """bubblewrap writes the process id of the container to `status_fd`."""
    enter = [] if around.network is None else ["/usr/bin/nsenter", f"--net={around.network}"]
    return [
        *enter,
        *("/usr/bin/bwrap", "--die-with-parent", "--as-pid-1", "--new-session", "--json-status-fd", str(status_fd)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", around.hostname),
        *_root(machine, around),
        *_volumes(plan, machine, around),
        *_working_dir(plan),
        *(("--remount-ro", "/") if plan.read_only_root else ()),
        *("--chdir", plan.working_dir, "--"),
        *as_user(plan.user),
        *plan.argv,
    ]


def enter(pid: int, user: User, argv: list[str]) -> list[str]:
    """Another command in a running container, whose process is `pid` here: exec probes and hooks."""
    namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
    return ["/usr/bin/nsenter", "--target", str(pid), *namespaces, "--", *as_user(user), *argv]


def as_user(user: User) -> list[str]:
    """Nothing for root with the rights that it has anyway."""
    if user == User(0, 0, (), without_capabilities=False):
        return []
    groups = ["--groups", ",".join(map(str, user.groups))] if user.groups else ["--clear-groups"]
    bounds = ["--bounding-set=-all", "--inh-caps=-all"] if user.without_capabilities else []
    return ["/usr/bin/setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), *groups, *bounds, "--"]


def _root(machine: Machine, around: Surroundings) -> list[str]:
    argv = [word for name in _LINKS for word in ("--symlink", f"usr/{name}", f"/{name}")]
    for path in machine.shown():
        argv += [*folders(path.as_posix()), "--ro-bind", str(path), str(path)]
    argv += [*("--proc", "/proc", "--dev", "/dev"), *("--perms", "1777", "--dir", "/tmp")]
    argv += [*("--perms", "1777", "--dir", "/var/tmp")]
    # Processors and NUMA nodes, which engines count; of the rest of sysfs a container is given nothing.
    argv += [*folders("/sys/devices/system"), "--ro-bind-try", "/sys/devices/system", "/sys/devices/system"]
    argv = [*folders("/etc/x"), *folders("/var/x"), *folders("/root/x"), *argv, *folders("/app/x")]
    for name in _ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("hosts", "hostname", "resolv.conf"):
        argv += ["--ro-bind", str(around.etc / name), f"/etc/{name}"]
    for program in ("llama-server", "flexinfer"):
        argv += ["--ro-bind", str(machine.app / program), f"/app/{program}"]
    return argv


def _volumes(plan: ContainerPlan, machine: Machine, around: Surroundings) -> list[str]:
    argv: list[str] = []
    for mount in plan.mounts:
        argv += [*folders(mount.target), "--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target]
        # A checkout below /tmp is there although a volume is mounted at /tmp.
        for path in machine.shown():
            if path.is_relative_to(mount.target):
                argv += [*folders(path.as_posix()), "--ro-bind", str(path), str(path)]
    return [*argv, *folders(plan.termination_log), "--bind", str(around.termination_log), plan.termination_log]


def _working_dir(plan: ContainerPlan) -> list[str]:
    """A runtime makes it where the image lacks it; what a volume or this machine brings is there already."""
    brought = any(PurePosixPath(plan.working_dir).is_relative_to(mount.target) for mount in plan.mounts)
    return [] if brought else folders(f"{plan.working_dir.rstrip('/')}/x")


def folders(path: str) -> list[str]:
    """Makes the parents of `path`, each readable for everybody."""
    parents = [str(parent) for parent in PurePosixPath(path).parents if str(parent) != "/"]
    return [word for parent in reversed(parents) for word in ("--perms", "0755", "--dir", parent)]
