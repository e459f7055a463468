"""A cluster of one's own: loopback, token, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from common.errors import MachineError
from degrpo.cluster import require_memory, start_cluster
from degrpo.config import ClusterConfig


def test_a_port_in_use_is_named_before_anything_starts(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        config = ClusterConfig(dashboard_port=port, min_memory_gib=0)
        with (
            pytest.raises(MachineError, match=rf"cluster.dashboard_port={port}.*any free port"),
            start_cluster(config, working_dir=tmp_path),
        ):
            pass


def test_too_little_memory_is_named():
    with pytest.raises(MachineError, match="min_memory_gib=1e\\+06"):
        require_memory(1e6)


@pytest.mark.engine
def test_a_job_runs_behind_a_token_on_loopback_and_nothing_is_left(tmp_path):
    (tmp_path / "job.py").write_text(
        "import ray, sys; ray.init(); sys.exit(int(ray.get(ray.put(7))))"
    )
    before = {process.pid for process in psutil.process_iter()}
    with start_cluster(ClusterConfig(min_memory_gib=0), working_dir=tmp_path) as cluster:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=10)
        assert refusal.value.code == 401
        started = [process for process in psutil.process_iter() if process.pid not in before]
        ours = [
            process
            for process in started
            if str(tmp_path) in _text(process) or "ray" in _text(process)
        ]
        listening = {
            c.laddr.ip
            for process in ours
            for c in _connections(process)
            if c.status == psutil.CONN_LISTEN
        }
        assert listening
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
        # ray job submit passes the job's failure on
        assert cluster.submit(["python", "job.py"], submission_id="seven") != 0
        (tmp_path / "job.py").write_text("import ray; ray.init(); print(ray.get(ray.put(7)))")
        assert cluster.submit(["python", "job.py"], submission_id="fine") == 0
    assert not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in ours
    )


@pytest.mark.engine
def test_a_killed_command_line_takes_its_cluster_with_it(tmp_path):
    script = textwrap.dedent(
        """
        import time
        from pathlib import Path
        from degrpo.cluster import start_cluster
        from degrpo.config import ClusterConfig
        with start_cluster(ClusterConfig(min_memory_gib=0), working_dir=Path.cwd()):
            Path("ready").write_text("")
            time.sleep(600)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert any("gcs_server" in _text(process) for process in family)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def _text(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _connections(process: psutil.Process):
    try:
        return process.net_connections(kind="tcp")
    except psutil.Error:
        return []
