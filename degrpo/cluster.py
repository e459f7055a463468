"""A Ray cluster of one's own: on loopback, with token authentication, stopped by its process id.

``ray stop`` ends every Ray process of the machine, other people's included; this module ends only
what it started. The head process is tied to its parent's life by the kernel, so that even a killed
command line leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.errors import MachineError
from common.processes import die_with_parent
from common.progress import bar
from degrpo.config import ClusterConfig

FOLDER_PREFIX = "favchat-ray-"
START_SECONDS = 90
STOP_SECONDS = 20
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# What libraries repeat in every process and a user can do nothing about.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
# Learner and sampler take turns on the same cores: a thread that spins while it waits slows both.
SHARED_CORES = {"OMP_WAIT_POLICY": "PASSIVE"}
# Ray replaces 127.0.0.1 by the machine's public address unless several machines are ruled out.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running cluster as its clients need it."""

    address: str  # of the job server
    environment: Mapping[str, str]  # what a client process needs: authentication and loopback
    head: str = ""  # host:port that drivers connect to; "" when only the job server is known

    def submit(self, entrypoint: Sequence[str], *, submission_id: str) -> int:
        """Run ``ray job submit`` and follow the job's output; return its exit code.

        When interrupted, the job is stopped before the interruption goes on.
        """
        command = [
            _ray(),
            "job",
            "submit",
            "--address",
            self.address,
            "--submission-id",
            submission_id,
        ]
        command += ["--log-style", "record", "--log-color", "false", "--", *entrypoint]
        # A session of its own: Ctrl-C reaches this process alone, which then stops the job.
        client = subprocess.Popen(
            command,
            env=dict(self.environment),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            return client.wait()
        except BaseException:
            self._stop_job(submission_id)
            client.terminate()
            client.wait()
            raise

    def _stop_job(self, submission_id: str) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [_ray(), "job", "stop", "--address", self.address, submission_id],
                env=dict(self.environment),
                timeout=STOP_SECONDS,
                capture_output=True,
                check=False,
            )


@contextlib.contextmanager
def start_cluster(config: ClusterConfig, *, working_dir: Path) -> Iterator[Cluster]:
    """Start a head node in ``working_dir`` (where jobs will run), yield it, stop it.

    Raises:
        MachineError: when a port is taken, memory is short, or Ray does not come up.
    """
    require_memory(config.min_memory_gib)
    port, dashboard_port = _port(config, "port"), _port(config, "dashboard_port")
    _clear_orphans()
    # A short path: unix sockets allow 107 characters.
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
    environment = _environment(folder, config.host)
    log = (folder / "start.log").open("w")
    head = subprocess.Popen(
        _start_command(config, folder, port, dashboard_port),
        cwd=working_dir,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        address = f"http://{config.host}:{dashboard_port}"
        _wait_until_ready(head, address, environment["RAY_AUTH_TOKEN"], folder / "start.log")
        yield Cluster(address=address, head=f"{config.host}:{port}", environment=environment)
    finally:
        _stop(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def connected(config: ClusterConfig, *, working_dir: Path) -> Iterator[None]:
    """Start a cluster and make this process a driver of it, for work that needs no job."""
    with start_cluster(config, working_dir=working_dir) as cluster:
        before = dict(os.environ)
        os.environ.update(cluster.environment)
        import ray  # reads at import whether it may stay on loopback

        ray.init(address=cluster.head, logging_level="warning", log_to_driver=True)
        try:
            yield
        finally:
            ray.shutdown()
            os.environ.clear()
            os.environ.update(before)


def require_memory(gib: float) -> None:
    """Raise :class:`MachineError` when less than ``gib`` GiB of memory is free."""
    free = available_memory() / 2**30
    if free < gib:
        raise MachineError(
            f"{free:.1f} GiB of free memory",
            f"this run needs cluster.min_memory_gib={gib:g}",
            "end other programs, use a smaller recipe, or lower cluster.min_memory_gib",
        )


def available_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that may still be taken: the machine's, or a container's where that is less.

    Args:
        cgroups: where control groups (version 2 or 1) are mounted.
        membership: names the groups of this process, as ``/proc/self/cgroup``.
    """
    free = [psutil.virtual_memory().available]
    lines = membership.read_text().splitlines() if membership.exists() else []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, files = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = cgroups / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A limit may be set on any group above. Inside a container the own path is often not
        # mounted; the mount then is the container's group.
        own = Path(group.strip("/"))
        free += [left for part in (own, *own.parents) for left in _left(mount / part, *files)]
    return max(0, min(free))


def _left(group: Path, limit_file: str, usage_file: str, cache_key: str) -> list[int]:
    """Bytes under one group's limit, page cache that can be dropped included; [] if unlimited."""
    try:
        limit = (group / limit_file).read_text().strip()
        if limit == "max":
            return []
        usage = int((group / usage_file).read_text())
        rows = (group / "memory.stat").read_text().splitlines()
        cache = sum(int(row.split()[1]) for row in rows if row.split()[0] == cache_key)
        return [int(limit) - usage + cache]
    except (OSError, ValueError, IndexError):  # no such group, or one that cannot be read
        return []


def _environment(folder: Path, host: str) -> dict[str, str]:
    token = secrets.token_hex(32)
    environment = dict(os.environ)
    environment.pop("RAY_ADDRESS", None)
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment |= QUIET | SHARED_CORES
    if host in ("127.0.0.1", "localhost"):
        environment |= LOOPBACK_ONLY
    # Clients take the lower-case name first: both hold what either held.
    direct = [environment.get("no_proxy", ""), environment.get("NO_PROXY", ""), host]
    names = dict.fromkeys(name.strip() for value in direct for name in value.split(","))
    no_proxy = ",".join(name for name in names if name)
    environment |= {"no_proxy": no_proxy, "NO_PROXY": no_proxy}
    # A job's `python` is this one.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return environment


def _start_command(
    config: ClusterConfig, folder: Path, port: int, dashboard_port: int
) -> list[str]:
    options: dict[str, object] = {
        "--node-ip-address": config.host,
        "--port": port,
        "--dashboard-host": config.host,
        "--dashboard-port": dashboard_port,
        "--dashboard-agent-listen-port": _free_port(config.host),
        "--ray-client-server-port": _free_port(config.host),
        "--temp-dir": folder,
        "--object-store-memory": config.object_store_mib * 2**20,
    }
    flags = [str(word) for pair in options.items() for word in pair]
    return [_ray(), "start", "--head", "--block", "--disable-usage-stats", *flags]


def _ray() -> str:
    return str(Path(sys.executable).parent / "ray")


def _port(config: ClusterConfig, key: str) -> int:
    wanted = getattr(config, key)
    free = _free_port(config.host)  # from here on the host is known to be good
    if wanted == 0:
        return free
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, wanted))
        except OSError as error:
            raise MachineError(
                f"cluster.{key}={wanted}",
                f"the port cannot be used on {config.host} ({error.strerror})",
                f"set cluster.{key}=0 to take any free port, or end the program that holds it",
            ) from error
    return wanted


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except (OSError, UnicodeError) as error:  # UnicodeError: not even the form of a name
            raise MachineError(
                f"cluster.host={host}",
                f"it is an address of this machine ({error})",
                "set cluster.host=127.0.0.1",
            ) from error
        return probe.getsockname()[1]


def _wait_until_ready(head: subprocess.Popen, address: str, token: str, log: Path) -> None:
    request = urllib.request.Request(
        f"{address}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    # Never through a proxy: it could not reach loopback, and would be shown the token.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with bar("starting Ray", total=START_SECONDS, unit="s") as waiting:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and head.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                opener.open(request, timeout=5).close()
                return
            time.sleep(0.5)
            waiting.update(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise MachineError(
        f"no answer from Ray at {address} within {START_SECONDS} s",
        f"its last words were:\n{tail}",
        "free memory and disk, then try again",
    )


def _clear_orphans() -> None:
    """Remove the session folders of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _stop(head: subprocess.Popen) -> None:
    """End the head and everything it started, politely first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        head.terminate()  # `ray start --block` ends its services in order
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
    head.wait()
