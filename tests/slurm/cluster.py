"""A SLURM cluster of two nodes on this machine, for as long as a test takes: own daemons, ports, key and directories; each node in name spaces of its own.

Every process is a child of `unshare` with --kill-child or is ended by its pid; nothing of a SLURM that the machine itself may run is touched.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "unshare")
# What Open MPI needs where two "nodes" are one machine.
MPI = {"OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_oob_tcp_if_include": "lo", "OMPI_MCA_btl": "self,vader,tcp",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMPI_MCA_pml": "ob1", "PMIX_MCA_gds": "hash", "OMPI_MCA_mpi_yield_when_idle": "1",
       "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}


def why_not():
    """Why no cluster can be had here; None where one can."""
    missing = [name for name in NEEDED if not find(name)]
    if missing:
        return f"{', '.join(missing)} not installed (slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "needs root for name spaces of mounts and hosts"
    if subprocess.run(["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "true"], capture_output=True).returncode:
        return "name spaces are not allowed here"
    return None


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def end_with_parent():
    """The daemon gets a TERM when the test ends, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


CONFIGURATION = """
ClusterName=mpilora
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TmpFS={folder}/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
MinJobAge=3600
KillWait=20
JobRequeue=1
MailProg=/bin/true
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{last}] CPUs=4 RealMemory=2000
PartitionName=normal Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20 OverTimeLimit=0
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=off
"""


class Cluster:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="mpilora-slurm-")
        os.chmod(self.folder, 0o755)
        self.daemons, self.nodes = [], {}
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        self.environment.update(MPI, SLURM_CONF=f"{self.folder}/slurm.conf", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def run(self, *words, check=True):
        done = subprocess.run(list(words), env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            sys.exit(f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}{self.logs()}")
        return done.stdout

    def daemon(self, *words):
        log = open(f"{self.folder}/{os.path.basename(words[0])}-{len(self.daemons)}.out", "w")
        process = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                   preexec_fn=end_with_parent)
        self.daemons.append(process)
        return process

    def start(self):
        ports = free_ports(1)
        for first in range(20000, 60000, 2):  # two ports next to each other
            try:
                for port in (first, first + 1):
                    with socket.socket() as s:
                        s.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports += [first]
            break
        with open(f"{self.folder}/slurm.conf", "w") as file:
            file.write(CONFIGURATION.format(folder=self.folder, host=socket.gethostname(), ports=ports, last=ports[1] + 1))
        key = f"{self.folder}/munge.key"
        with open(key, "wb") as file:
            file.write(os.urandom(128))
        os.chmod(key, 0o400)
        os.mkdir(f"{self.folder}/state")
        self.daemon(find("munged"), "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
                    f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed")
        self.wait(lambda: os.path.exists(f"{self.folder}/munge.socket"), "munged")
        self.daemon(find("slurmctld"), "-D")
        for name in ("n1", "n2"):
            self.start_node(name)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%D %t", check=False).split() == ["2", "idle"], "the nodes")

    def start_node(self, name):
        """`name` as a host that has just been switched on: its own name, processes and /dev/shm, nothing of the past in its directories."""
        for kind in ("spool", "tmp"):
            shutil.rmtree(f"{self.folder}/{kind}-{name}", ignore_errors=True)
            os.makedirs(f"{self.folder}/{kind}-{name}", exist_ok=True)
        self.nodes[name] = self.daemon(find("unshare"), "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c",
                                       f"hostname {name} && mount -t tmpfs tmpfs /dev/shm && exec {find('slurmd')} -D -N {name}")

    def kill_node(self, name):
        """As a power cut: every process of the node at once."""
        self.nodes[name].kill()
        self.nodes[name].wait()

    def wait(self, condition, what, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"{what}: not there after {seconds} s\n{self.logs()}")
            time.sleep(0.1)

    def logs(self):
        """The last lines of every daemon, for a test that fails."""
        text = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith((".log", ".out")):
                with open(f"{self.folder}/{name}", errors="replace") as file:
                    text.append(f"---- {name}\n" + "".join(file.readlines()[-15:]))
        return "\n".join(text)

    def submit(self, *words, **environment):
        done = subprocess.run(["sbatch", "--parsable", *map(str, words)], env={**self.environment, **environment}, capture_output=True, text=True, timeout=60)
        if done.returncode:
            sys.exit(f"sbatch {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout.strip()

    def state(self, job):
        """(state, restarts, exit code)"""
        fields = dict(word.split("=", 1) for word in self.run("scontrol", "show", "job", job).split() if "=" in word)
        return fields["JobState"], int(fields["Restarts"]), fields["ExitCode"]

    def wait_for(self, job, states, what, seconds=90):
        self.wait(lambda: self.state(job)[0] in states, f"{what}: job {job}, state {self.state(job)}", seconds)

    def stop(self):
        for process in reversed(self.daemons):
            process.terminate()
        for process in reversed(self.daemons):
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
