"""Fuzz one target: `python tests/fuzz/run.py TARGET RUNS [SEED] [--own]`. Exit code 0: nothing found.

With atheris where it can be imported, guided by coverage; else, and with `--own`, the seeded mutator.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
MOST_BYTES = 4096


def _atheris() -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module("atheris")
    return None


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main(name: str, runs: int, seed: int, own: bool) -> int:
    fuzzer = None if own else _atheris()
    if fuzzer is None:
        from tests.fuzz import mutator
        from tests.fuzz.targets import TARGETS

        target = TARGETS[name]
        for number, data in enumerate(mutator.cases(target.seeds, runs, seed, target.words)):
            try:
                target.run(data)
            except BaseException:
                sys.stderr.write(f"case {number} of seed {seed}: {data!r}\n")
                raise
        sys.stderr.write(f"own mutator: {runs} cases\n")
        return 0
    with fuzzer.instrument_imports(
        include=["flexinfer.artifacts", "flexinfer.hardware", "flexinfer.proxy", "flexinfer.openai"]
    ):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        seeds = Path(corpus) / "seeds"
        seeds.mkdir()
        for number, data in enumerate(target.seeds):
            (seeds / str(number)).write_bytes(data)
        options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={MOST_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
        if target.words:
            words = Path(corpus) / "words"
            words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
            options.append(f"-dict={words}")
        fuzzer.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/", str(seeds)], target.run)
        fuzzer.Fuzz()
    return 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    sys.exit(main(words[0], int(words[1]), int(words[2]) if len(words) > 2 else 1, "--own" in sys.argv))
