"""The folders that volumes are: made with the pod, filled, kept fresh, gone with it (claims and hostPath stay)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kubelet import amounts, payload
from tests.cluster.kubelet.downward import ConfigError
from tests.cluster.kubelet.payload import Files

_SET_GID_AND_GROUP = 0o2070


class NotMounted(Exception):
    """A volume is not there (yet); the pod waits in ContainerCreating and this is told as FailedMount."""


class PodVolumes:
    """The volumes of one pod below `folder`."""

    def __init__(self, folder: Path, node_folder: Path, pod: Mapping[str, Any]) -> None:
        self._folder = folder
        self._node_folder = node_folder
        self._spec = pod["spec"]
        self._fs_group: int | None = (self._spec.get("securityContext") or {}).get("fsGroup")
        self._mounted: list[Path] = []
        self.places: dict[str, Path] = {}

    def make(self, claims: Mapping[str, Path], filled: Mapping[str, Files]) -> None:
        """`claims` are folders by the names of PersistentVolumeClaims. Raises NotMounted, ConfigError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for volume in self._spec.get("volumes") or ():
            if volume["name"] not in self.places:
                self.places[volume["name"]] = self._one(volume, claims, filled)

    def refresh(self, filled: Mapping[str, Files]) -> None:
        for name, files in filled.items():
            write_atomically(self.places[name], files, self._fs_group)

    def memory_used(self) -> int:
        """Bytes in volumes of medium Memory: they count against the pod's limits."""
        stats = [os.statvfs(path) for path in self._mounted if path.is_dir()]
        return sum((one.f_blocks - one.f_bfree) * one.f_frsize for one in stats)

    def remove(self) -> None:
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
        self._mounted.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _one(self, volume: Mapping[str, Any], claims: Mapping[str, Path], filled: Mapping[str, Files]) -> Path:
        if any(kind in volume for kind in payload.KINDS):
            place = self._folder / str(volume["name"])
            place.mkdir(exist_ok=True)
            write_atomically(place, filled[volume["name"]], self._fs_group)
            return place
        if "emptyDir" in volume:
            return self._empty(volume)
        if "hostPath" in volume:
            return _host_path(self._node_folder, volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            place = claims[volume["persistentVolumeClaim"]["claimName"]]
            self._own(place)
            return place
        kinds = ", ".join(kind for kind in volume if kind != "name")
        raise ConfigError(f"volume {volume['name']}: {kinds} is not played by the test cluster")

    def _empty(self, volume: Mapping[str, Any]) -> Path:
        place = self._folder / str(volume["name"])
        place.mkdir(exist_ok=True)
        if volume["emptyDir"].get("medium") == "Memory":
            size = amounts.bytes_of(volume["emptyDir"].get("sizeLimit"))
            options = f"mode=0777,size={size}" if size else "mode=0777"
            mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            subprocess.run(mount, check=True, capture_output=True)
            self._mounted.append(place)
        place.chmod(0o777)
        self._own(place)
        return place

    def _own(self, place: Path) -> None:
        if self._fs_group is not None:
            os.chown(place, -1, self._fs_group)
            place.chmod(place.stat().st_mode & 0o7777 | _SET_GID_AND_GROUP)


def prepare_sub_paths(spec: Mapping[str, Any], places: Mapping[str, Path], sources: Iterable[Path]) -> None:
    """Sub-paths that are mounted are made as folders where the volume lacks them, as the kubelet does."""
    roots = set(places.values())
    for source in sources:
        if source not in roots and not source.exists():
            source.mkdir(parents=True)
            source.chmod(0o777 if (spec.get("securityContext") or {}).get("fsGroup") is not None else 0o755)


def _host_path(node_folder: Path, given: Mapping[str, Any]) -> Path:
    """A path of the node is one below the node's folder."""
    place = node_folder / str(given["path"]).lstrip("/")
    kind = given.get("type") or ""
    if kind in {"", "DirectoryOrCreate"}:
        place.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    elif not (place.is_dir() if kind == "Directory" else place.exists()):
        raise NotMounted(f"hostPath type check failed: {given['path']} is not a {kind}")
    return place


def write_atomically(folder: Path, files: Files, group: int | None) -> None:
    """Readers see all old files or all new ones: `..data` leads to a folder that never changes."""
    current = folder / "..data"
    if current.exists() and _read(current.resolve()) == {path: one.data for path, one in files.items()}:
        return
    fresh = folder / f"..{time.time_ns()}"
    fresh.mkdir()
    fresh.chmod(0o755)
    for path, one in files.items():
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(one.data)
        place.chmod(one.mode if group is None else one.mode | 0o040)
        if group is not None:
            os.chown(place, -1, group)
    old = current.resolve() if current.exists() else None
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(current)
    tops = {path.split("/")[0] for path in files}
    for name in tops:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _read(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
