"""From a LaunchPlan to what this machine really runs: which executable, with which environment.

An engine gets the user's environment, because drivers and libraries are found through it, less what
looks like a credential: engines need none.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from typing import NamedTuple

from flexinfer.backends.base import LaunchPlan
from flexinfer.errors import EngineMissing

_CREDENTIAL = re.compile(
    # TOKENIZERS_PARALLELISM and its kind hold no token.
    r"TOKEN(?!I[SZ])|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY",
    re.IGNORECASE,
)


class Command(NamedTuple):
    argv: tuple[str, ...]
    built_in: bool
    """Whether it is the engine of this package, because `program` is not installed."""

    @property
    def program(self) -> str:
        """As a log names it."""
        return f"flexinfer {self.argv[3]}" if self.built_in else self.argv[0]


def resolve(plan: LaunchPlan, path: str | None) -> Command:
    """`path` is the PATH to search. Raises EngineMissing with what to install."""
    found = shutil.which(plan.program, path=path) if plan.program else None
    if found is not None:
        return Command((found, *plan.args), built_in=False)
    if plan.fallback:
        return Command((sys.executable, "-m", "flexinfer", *plan.fallback, *plan.args), built_in=True)
    hint = f": {plan.install_hint}" if plan.install_hint else ""
    raise EngineMissing(f"{plan.program} is not installed{hint}")


def environment(plan: LaunchPlan, base: Mapping[str, str], home: str) -> dict[str, str]:
    """`home` is a folder the engine may write to; it is HOME only where the user has none."""
    return {"HOME": home, **without_credentials(base), **plan.env}


def without_credentials(base: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in base.items() if not _CREDENTIAL.search(name)}
