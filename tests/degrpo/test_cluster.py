"""A cluster of one's own: loopback, token, and nothing left behind."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from common.errors import MachineError
from degrpo import cluster as cluster_module
from degrpo.cluster import available_memory, require_memory, start_cluster
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


@pytest.mark.parametrize("keys", [{}, {"port": 6400, "dashboard_port": 6401}])
@pytest.mark.parametrize("host", ["256.1.1.1", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_named(tmp_path, host, keys):
    config = ClusterConfig(host=host, min_memory_gib=0, **keys)
    with (
        pytest.raises(MachineError, match=rf"cluster.host={host};.*cluster.host=127.0.0.1"),
        start_cluster(config, working_dir=tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("membership", "folder", "files"),
    [
        (
            "0::/pod/job\n",
            "pod",  # the limit is the parent's
            {"memory.max": 5000, "memory.current": 3000, "memory.stat": "inactive_file 400"},
        ),
        (
            "4:cpu,memory:/not/mounted\n0::/\n",
            "memory",
            {
                "memory.limit_in_bytes": 5000,
                "memory.usage_in_bytes": 3000,
                "memory.stat": "inactive_file 1\ntotal_inactive_file 400",
            },
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path, membership, folder, files):
    (tmp_path / "membership").write_text(membership)
    (tmp_path / folder).mkdir()
    (tmp_path / "pod" / "job").mkdir(parents=True)
    (tmp_path / "pod" / "job" / "memory.max").write_text("max\n")
    for name, content in files.items():
        (tmp_path / folder / name).write_text(f"{content}\n")
    assert available_memory(tmp_path, tmp_path / "membership") == 5000 - 3000 + 400


def test_without_a_limit_the_machines_memory_counts(tmp_path):
    assert available_memory(tmp_path, tmp_path / "nowhere") > 2**20
    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path, tmp_path / "membership") > 2**20


def test_clients_reach_the_cluster_without_a_proxy(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet, 127.0.0.1")
    environment = cluster_module._environment(tmp_path, "10.0.0.7")
    assert environment["no_proxy"] == environment["NO_PROXY"] == "intranet,127.0.0.1,10.0.0.7"


def test_the_token_is_never_sent_through_a_proxy(tmp_path, monkeypatch):
    seen = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    class Head:
        def poll(self):
            return None

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as proxy, http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        proxy.bind(("127.0.0.1", 0))  # does not listen: a request sent here fails
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setattr(cluster_module, "START_SECONDS", 5)
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        cluster_module._wait_until_ready(Head(), address, "secret", tmp_path / "log")
    assert seen == [("/api/version", "Bearer secret")]


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
