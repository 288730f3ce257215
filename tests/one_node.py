"""A Slurm of one node, this machine, for as long as a test or a command needs it.

Debian's packages: apt-get install slurm-wlm. Needs root, since slurmd starts what users submit.
    python tests/one_node.py make study PROFILE=smoke CORES=1
runs a command within it, with the committed profile for Snakemake's Slurm plugin.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

PROFILE = Path(__file__).resolve().parents[1] / "cluster" / "slurm" / "config.yaml"
TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
# Two GPUs are counted and none is there: what a job asks for is asked for, and not looked at.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
MinJobAge=3600
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """What is missing for it here, or nothing."""
    if os.getuid() != 0:
        return "slurmd needs root"
    if missing := [tool for tool in TOOLS if not shutil.which(tool, path=_path())]:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm"
    plugin = "snakemake_executor_plugin_slurm"
    return "" if importlib.util.find_spec(plugin) else f"no {plugin}: the extra cluster"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"  # Debian's place of the daemons


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, with all that it writes in `folder`; gives the environment to submit in."""
    host = socket.gethostname().split(".")[0]
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    facts = {"host": host, "ports": ports, "folder": folder, "cores": os.cpu_count()}
    written = CONFIGURATION.format(memory=memory - 1024, **facts)
    (folder / "slurm.conf").write_text(written, "utf-8")
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n", "utf-8")
    for number in range(2):
        (folder / f"gpu{number}").touch()
    for name in ("bin", "profile", "state", "spool"):
        (folder / name).mkdir()
    # without a data base for accounts, nothing can be asked of it
    own = {"slurm-no-account": True, "slurm-status-command": "squeue", "latency-wait": 10}
    own |= {"slurm-init-seconds-before-status-checks": 5, "default-resources": {"mem_mb": 1000}}
    profile = yaml.safe_load(PROFILE.read_text("utf-8")) | own
    (folder / "profile" / "config.yaml").write_text(yaml.safe_dump(profile), "utf-8")
    srun = folder / "bin" / "srun"  # inside a job the plugin drops what says where Slurm is
    within = f"SLURM_CONF={folder}/slurm.conf"
    srun.write_text(f'#!/bin/sh\n{within} exec {shutil.which("srun")} "$@"\n', "utf-8")
    srun.chmod(0o755)
    environment = os.environ | {"PATH": f"{srun.parent}:{_path()}"}
    environment["SLURM_CONF"] = f"{folder}/slurm.conf"
    environment["SNAKEMAKE_PROFILE"] = str(folder / "profile")
    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (folder / f"{name}.out").open("w") as output:
                how = {"stdout": output, "stderr": output, "env": environment}
                daemons.append(subprocess.Popen([name, "-D"], **how))
        _await_node(environment, folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):  # it may be waiting for the other
                daemon.wait(20)
            daemon.kill()
            daemon.wait()


def _await_node(environment: dict[str, str], folder: Path, seconds: int = 120) -> None:
    """Wait until jobs may be submitted."""
    asked, last = ["sinfo", "--noheader", "--format=%T"], time.monotonic() + seconds
    while time.monotonic() < last:
        said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        if said.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "".join(log.read_text("utf-8")[-2000:] for log in sorted(folder.glob("*.log")))
    raise AssertionError(f"no node is idle: {said.stdout}{said.stderr}\n{logs}")


if __name__ == "__main__":
    if reason := lacking():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as place, slurm(Path(place)) as within:
        code = subprocess.run(sys.argv[1:], env=within, check=False).returncode
        print(Path(place, "jobs.txt").read_text("utf-8"))
    sys.exit(code)
