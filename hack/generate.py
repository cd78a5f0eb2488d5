"""Rewrite the files that are made from the code, or with --check say which are out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import chart_values
import tables

from flexinfer.api import definitions
from flexinfer.backends import reference
from flexinfer.metrics import registry

ROOT = Path(__file__).parent.parent
CRD_FOLDERS = (ROOT / "config" / "crd", ROOT / "charts" / "flexinfer" / "files" / "crd")


def generated() -> dict[Path, str]:
    files = {folder / name: text for name, text in definitions.crd_files().items() for folder in CRD_FOLDERS}
    files[ROOT / "docs" / "reference" / "values.md"] = chart_values.markdown()
    files[ROOT / "docs" / "reference" / "metrics.md"] = registry.table()
    files[ROOT / "docs" / "reference" / "config.md"] = reference.markdown()
    files[ROOT / "docs" / "reference" / "modules.md"] = tables.modules()
    for name in ("AGENTS.md", "ARCHITECTURE.md"):
        files[ROOT / name] = tables.filled((ROOT / name).read_text("utf-8"))
    return files


def main() -> None:
    try:
        files = generated()
    except (tables.Unfit, chart_values.Undocumented) as error:
        sys.exit(f"make generate: {error}")
    old = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left_over = sorted({path for folder in CRD_FOLDERS for path in folder.glob("*.yaml")} - set(files))
    if sys.argv[1:] == ["--check"]:
        for path in old + left_over:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: make generate\n")
        sys.exit(1 if old or left_over else 0)
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    for path in left_over:
        path.unlink()
        sys.stdout.write(f"removed {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
