"""The command line in two processes over gloo, as ``torchrun --nproc-per-node 2`` starts it, but quicker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

_TWO_RANKS = """\
import os, sys
from flashdistill import cli, pipeline, teacher_command  # slow, so once for both

child = os.fork()
rank = 1 if child == 0 else 0
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
code = 0
try:
    cli.main()
except SystemExit as done:
    code = done.code or 0
if child == 0:
    sys.stderr.flush()
    os._exit(code)  # threads that only the parent has must not be waited for
sys.exit(code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def flashdistill_in_two_processes(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run ``flashdistill ARGUMENTS`` in two processes that share every training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TWO_RANKS, *arguments],
        cwd=directory,
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
