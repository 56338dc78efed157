"""The SLURM example of the documentation: its shares hold every participant once."""

import os
import re
import subprocess
from pathlib import Path

from blobs import REPOSITORY


def test_the_shares_of_the_job_array_are_everybody_once(shared_cohort, tmp_path):
    page = (REPOSITORY / "docs" / "how_to" / "many_machines.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)[1].replace("N=20", "N=5")
    fake = tmp_path / "repository"
    (fake / ".venv" / "bin").mkdir(parents=True)
    (fake / ".venv" / "bin" / "activate").touch()
    (fake / "bundle").mkdir()
    before = 'srun() { while [ "$1" != --participants ]; do shift; done; tail -n +2 "$2" | cut -f1; }\n'
    seen: list[str] = []
    for task in range(5):
        environment = {
            **os.environ, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_CPUS_PER_TASK": "1", "COHORT": str(shared_cohort), "REPOSITORY": str(fake),
        }  # fmt: skip
        done = subprocess.run(["bash", "-ec", before + script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        share = done.stdout.split()
        assert len(share) in (2, 3)
        seen += share
    assert sorted(seen) == sorted(path.name for path in Path(shared_cohort).glob("sub-*"))
