"""What holds for the whole repository: documents name what exists, files hold no index addresses and no keys."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexinfer.api import codec
from flexinfer.cli import COMMANDS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flexinfer"
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
MADE_BY_TOOLS = {
    ".git", "__pycache__", ".demo", ".engines", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
}  # fmt: skip
THIS_FILE = Path(__file__)

KEY_SHAPES = re.compile(
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
    r"|\bhf_[A-Za-z0-9]{34}\b|\bsk-(?:proj-)?[A-Za-z0-9]{40,}\b"
)
INDEX_OPTIONS = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|index-url\s*=|pypi\.org|pythonhosted")


def own_files(folder: Path = ROOT) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in MADE_BY_TOOLS or path.name.startswith(".venv") or path.is_symlink():
            continue
        if path.is_dir():
            yield from own_files(path)
        else:
            yield path


def text_files() -> Iterator[tuple[Path, str]]:
    for path in own_files():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_only_programs_without_an_event_loop_sleep():
    # The engine's main thread waits for llama.cpp's own log thread, which tells nobody when it has written.
    allowed = {SOURCE / "local" / "keeper.py", SOURCE / "engine" / "llamacpp.py"}
    sleepers = {path for path in SOURCE.rglob("*.py") if "time.sleep" in set(calls(ast.parse(path.read_text())))}
    assert sleepers - allowed == set()


def test_the_keeper_runs_on_the_standard_library():
    # -S leaves site-packages out, -P and the path below leave only the project itself.
    program = "import sys; sys.path.insert(0, sys.argv[1]); import flexinfer.local.keeper"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(SOURCE.parent)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_no_test_is_skipped_or_expected_to_fail():
    shortcuts = re.compile(r"pytest\.(?:skip|importorskip|xfail)\b|mark\.(?:skip|skipif|xfail)\b|\bunittest\.skip")
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != THIS_FILE and shortcuts.search(path.read_text())
    ]
    assert found == []


def test_no_file_names_a_package_index():
    found = [str(path) for path, text in text_files() if ROOT / path != THIS_FILE and INDEX_OPTIONS.search(text)]
    assert found == []


def test_no_file_holds_what_looks_like_a_key():
    found = [str(path) for path, text in text_files() if ROOT / path != THIS_FILE and KEY_SHAPES.search(text)]
    assert found == []


def test_every_requirement_is_pinned_by_hash():
    entries = [
        entry
        for path in sorted((ROOT / "requirements").glob("*.txt"))
        for entry in re.split(r"\n(?=[a-z0-9])", path.read_text().strip())
    ]
    assert len(entries) > 20
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_that_documents_name_exist(document: Path):
    # The commands of the first design stand in the left column of CONTRIBUTING's table.
    text = re.sub(r"^\| `[^|]*\|", "", document.read_text(), flags=re.MULTILINE)
    named = {word for line in re.findall(r"\bmake ((?:[a-z][a-z-]* ?)+)(?=[`\s])", text) for word in line.split()[:1]}
    in_code = {word for word in named if re.search(rf"`make {word}|^make {word}\b", text, re.MULTILINE)}
    assert in_code <= make_targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path):
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_command_stands_in_the_readme():
    documented = re.findall(r"^\| `flexinfer ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert documented == [name for name, _, _ in COMMANDS]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_manifests(example: Path):
    assert codec.decode_files({example.name: example.read_text()}) != []


def test_the_manifest_in_the_readme_is_valid():
    manifest = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    (model,) = codec.decode_files({"README.md": manifest})
    assert (model.metadata.name, model.spec.backend) == ("demo", "llamacpp")
