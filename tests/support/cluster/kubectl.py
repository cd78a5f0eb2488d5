"""kubectl against a test cluster, as a child that does not hold up the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path


class KubectlFailed(AssertionError):
    def __init__(self, argv: Sequence[str], code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(argv)}: exit {code}\n{stderr}{stdout}")
        self.code = code
        self.stderr = stderr


async def run_kubectl(
    binary: Path, kubeconfig: Path, argv: Sequence[str], stdin: str | None = None, limit_s: float = 60.0
) -> str:
    """Standard output; raises KubectlFailed for an exit code other than 0, TimeoutError after `limit_s`."""
    process = await asyncio.create_subprocess_exec(
        str(binary),
        *argv,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # The caches of discovery lie beside the kubeconfig: no test sees another cluster's.
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(kubeconfig.parent / "kubectl-cache")},
    )
    try:
        async with asyncio.timeout(limit_s):
            stdout, stderr = await process.communicate(None if stdin is None else stdin.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise KubectlFailed(argv, process.returncode, stdout.decode(), stderr.decode())
    return stdout.decode()
