"""A real Slurm on this machine: one controller and two nodes, without root, nothing installed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.debian import fetch
from tests.support.processes import free_ports

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins",
    "libmunge2", "libhwloc15", "liblua5.1-0", "libnuma1", "libreadline8", "libnss-wrapper",
)  # fmt: skip
"""Debian's names: the programs, and what of the libraries they need a bare container may lack."""

NODES = ("127.0.0.1", "127.0.0.2")
"""Names that are addresses, so that they resolve on any machine."""

_STRANGERS = ("SLURM", "SBATCH", "SRUN", "MASTER_", "PMI", "OMPI_", "WORLD_SIZE", "RANK", "LOCAL_RANK")
"""Beginnings of variables by which another launcher would speak to our jobs."""

_CONFIGURATION = """
ClusterName=test
FirstJobId={first_job}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ReturnToService=2
SlurmdTimeout=10
KillWait=10
InactiveLimit=0
NodeName={nodes[0]} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64
NodeName={nodes[1]} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64
PartitionName=low Nodes=ALL Default=YES OverSubscribe=EXCLUSIVE PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL OverSubscribe=EXCLUSIVE PriorityTier=10 PreemptMode=OFF
"""
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE")
"""States of a job that has ended."""


class SlurmCluster:
    """A controller and two nodes; a job is a dictionary of what ``scontrol show job`` tells.

    Args:
        programs: Folder with Debian's packages unpacked, see :func:`fetch_slurm`.
        folder: Where configuration, state and logs go.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self.configuration = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        [plugins] = programs.glob("usr/lib/*/slurm-wlm")
        self._plugins = plugins
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_STRANGERS)}
        self.environment = {
            **inherited,
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{programs}/usr/bin:{inherited.get('PATH', '/usr/bin:/bin')}",
            "LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}",
            # Slurm listens where the name of the machine leads to, which may be nowhere, or a network
            # where strangers could submit jobs: so the machine is called localhost.
            "LD_PRELOAD": str(next(plugins.parent.glob("libnss_wrapper.so*"))),
            "NSS_WRAPPER_HOSTNAME": "localhost",
        }

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        (self.folder / "state").mkdir(parents=True)
        self._configure()
        self._spawn("slurmctld", "slurmctld-wlm", "-D")
        for node in NODES:
            self.start_node(node)
        self.until(lambda: self.node_states() == ["idle", "idle"], 60, "two idle nodes")

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node, again after :meth:`kill_node`."""
        stepd = self.programs / "usr/sbin/slurmstepd-wlm"
        self._spawn(node, "slurmd-wlm", "-D", "-N", node, "-d", str(stepd))

    def kill_node(self, node: str) -> None:
        """What a power cut does: slurmd, its steps and their tasks are gone without a word."""
        self._daemons[node].kill()
        self._daemons.pop(node).wait()
        for pid in self._processes("SLURMD_NODENAME=" + node, "YOLO_TEST_NODE=" + node):
            _kill(pid)

    def stop(self) -> None:
        """End all that runs, whatever state it is in."""
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        while pids := self._processes(f"SLURM_CONF={self.configuration}"):
            for pid in pids:
                _kill(pid)
            time.sleep(0.05)

    def run(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints, both streams."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=60,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def submit(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> int:
        """``sbatch`` with these arguments; returns the number of the job."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)],
            env={**self.environment, **(environment or {})}, cwd=self.folder, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split(";")[0])

    def job(self, number: int) -> dict[str, str]:
        """``scontrol show job`` as a dictionary."""
        line = self.run("scontrol", "show", "job", "-o", str(number))
        pairs = (word.partition("=") for word in line.split())
        return {name: value for name, equals, value in pairs if equals}

    def state(self, number: int) -> str:
        """JobState, such as RUNNING."""
        return self.job(number)["JobState"]

    def node_states(self) -> list[str]:
        """State of each node, such as ``idle``; empty while the controller does not answer."""
        printed = self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T", check=False)
        return [] if "error" in printed else printed.split()

    def until(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for a condition.

        Raises:
            AssertionError: It did not come; tells the last lines of the daemons' logs.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout_s} s in vain for {what}\n{self.tell()}")
            time.sleep(0.1)

    def begin(self, number: int, starts: int = 1) -> None:
        """Wait until a job runs for the n-th time, or has done so already.

        Slurm lets a job that was queued again wait for some seconds; we make that two, the least after
        which it does not take its credential for that of the start before.
        """
        hurried = False

        def runs() -> bool:
            nonlocal hurried
            job = self.job(number)
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime" and not hurried:
                self.run("scontrol", "update", f"JobId={number}", "StartTime=now+2")
                hurried = True
            return job["JobState"] in ("RUNNING", *_OVER) and int(job["Restarts"]) == starts - 1

        self.until(runs, 60, f"start {starts} of job {number}")

    def log(self, number: int) -> str:
        """What a job has written so far."""
        path = Path(self.job(number)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, number: int, timeout_s: float = 120) -> str:
        """Wait for the end of a job; returns its state."""
        self.until(lambda: self.state(number) in _OVER, timeout_s, f"the end of job {number}")
        return self.state(number)

    def tell(self) -> str:
        """The queue, and the end of the logs of controller and jobs."""
        logs = [*self.folder.glob("slurmctld*.log"), *self.folder.glob("slurm-*")]
        ends = [f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(logs)]
        return "\n".join([self.run("squeue", "--long", check=False), *ends])

    def clear(self) -> None:
        """Cancel all jobs, start nodes that were killed, and wait until both are idle."""
        for node in NODES:
            if node not in self._daemons:
                self.start_node(node)
        self.run("scancel", "--quiet", "--user", str(os.getuid()), check=False)
        self.until(lambda: self.node_states() == ["idle", "idle"], 60, "two idle nodes")

    def _configure(self) -> None:
        text = _CONFIGURATION.format(
            user=_user_name(), ports=free_ports(3), nodes=NODES, folder=self.folder, plugins=self._plugins,
            # The script derives the port where ranks meet from it: clusters side by side need their own.
            first_job=1 + os.getpid() % 4000,
        )  # fmt: skip
        self.configuration.write_text(text)

    def _spawn(self, name: str, program: str, *options: str) -> None:
        command = [str(self.programs / "usr/sbin" / program), "-f", str(self.configuration), *options]
        with (self.folder / f"{name}_console.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env={**self.environment, "YOLO_TEST_NODE": name}, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_die_with_parent,
            )  # fmt: skip

    def tasks(self, number: int, rank: int) -> list[int]:
        """Processes of a rank of a job whose program is Python."""
        pids = self._processes(f"SLURM_PROCID={rank}", also=f"SLURM_JOB_ID={number}")
        return [pid for pid in pids if "python" in Path(f"/proc/{pid}/exe").resolve().name]

    def _processes(self, *marks: str, also: str | None = None) -> list[int]:
        """Processes of this cluster whose environment has one of the marks: daemons, steps and tasks."""
        found = []
        ours = {f"SLURM_CONF={self.configuration}", *([also] if also else [])}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                environment = set((folder / "environ").read_text(errors="replace").split("\0"))
            except OSError:  # gone, or somebody else's
                continue
            if ours <= environment and environment & set(marks):
                found.append(int(folder.name))
        return found


def fetch_slurm() -> Path:
    """Debian's Slurm, unpacked in the user's cache folder; downloaded on the first call on a machine.

    Raises:
        PackagesMissing: There is no apt or dpkg, or nothing can be downloaded.
    """
    return fetch("slurm", PACKAGES)


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _die_with_parent() -> None:
    """Where the tests themselves are killed, no daemon stays behind (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
