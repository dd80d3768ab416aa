"""Two nodes of two ranks in network namespaces, with 100 Mb/s between them: a run has the results that it has on one host; a link that is cut ends every rank within
a minute with one line, and the run goes on where the link is up again. Skipped, and said why, where namespaces cannot be made."""

import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

RESOURCE, SKIPPED, SOON = 4, 77, 60.0
WAIT_LIMIT = 5  # seconds
NETWORK = "10.77.{}.0/24"
MODEL = "{family: llama, layers: 4, width: 64, heads: 4, kv_heads: 2, mlp_width: 160, vocab: 257, context: 64}"
GRIDS = {"dp 2 x tp 2": {"tp": 2, "pp": 1}, "tp 2 x pp 2": {"tp": 2, "pp": 2}}
checks = harness.Checks()


class Nodes:
    """node1 and node2, each with a network, a host name and shared memory of its own."""

    def __init__(self, folder):
        number = os.getpid() % 250
        self.folder, self.spaces = folder, [f"mpilora-{os.getpid()}-{i}" for i in (1, 2)]
        self.links, self.network = [f"mlv{os.getpid()}.{i}" for i in (1, 2)], NETWORK.format(number)
        self.addresses = [self.network.replace("0/24", str(i)) for i in (1, 2)]

    def make(self):
        """Why it cannot be; None: it is made."""
        (one, two), (left, right) = self.spaces, self.links
        commands = [f"ip netns add {space}" for space in self.spaces]
        commands += [f"ip link add {left} netns {one} type veth peer name {right} netns {two}"]
        for space, link, address in zip(self.spaces, self.links, self.addresses):
            commands += [f"ip -n {space} addr add {address}/24 dev {link}", f"ip -n {space} link set lo up", f"ip -n {space} link set {link} up",
                         f"tc -n {space} qdisc add dev {link} root tbf rate 100mbit burst 32k latency 50ms"]
            # The launcher's own messages are given up after some 13 s, not after a quarter of an hour.
            commands += [f"ip netns exec {space} sysctl -qw net.ipv4.tcp_retries2=5"]
        self.write("hosts", "127.0.0.1 localhost\n" + "".join(f"{address} node{i}\n" for i, address in enumerate(self.addresses, 1)))
        inside = f'mount --make-rprivate / && hostname "$0" && mount -t tmpfs none /dev/shm && mount --bind {self.folder}/hosts /etc/hosts && exec "$@"'
        spaces = " ".join(f"node{i}) space={space};;" for i, space in enumerate(self.spaces, 1))
        self.write("enter", f"#!/bin/sh\nnode=$1; shift\ncase $node in {spaces} esac\nexec ip netns exec $space unshare -m -u sh -c '{inside}' $node \"$@\"\n")
        self.write("agent", f'#!/bin/sh\nnode=$1; shift\nexec {self.folder}/enter "$node" sh -c "$*"\n')
        for words in [command.split() for command in commands] + [[f"{self.folder}/enter", f"node{i}", "true"] for i in (1, 2)]:
            try:
                done = subprocess.run(words, text=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
            except OSError as error:
                return f"{words[0]}: {error.strerror}"
            if done.returncode:
                return f"{' '.join(words)}: {done.stderr.strip()}"
        return None

    def write(self, name, text):
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(text)
        os.chmod(f"{self.folder}/{name}", 0o755)

    def command(self, *words):
        """Two ranks on each node. The launcher looks after its daemons often enough to know soon that one is gone."""
        settings = {"plm_rsh_agent": f"{self.folder}/agent", "btl": "self,vader,tcp", "btl_tcp_if_include": self.network, "oob_tcp_if_include": self.network,
                    "oob_tcp_keepalive_time": 5, "oob_tcp_keepalive_intvl": 2, "oob_tcp_keepalive_probes": 3}
        named = [word for name, value in settings.items() for word in ("--mca", name, str(value))]
        return [f"{self.folder}/enter", "node1", harness.MPIEXEC, *named, "--host", "node1:2,node2:2", "-n", "4", harness.PROGRAM, *map(str, words)]

    def link(self, state):
        subprocess.run(["ip", "-n", self.spaces[0], "link", "set", self.links[0], state], check=True)

    def wait_for_links(self):
        for space, address in zip(self.spaces, reversed(self.addresses)):
            until = time.monotonic() + 20
            probe = f"import socket; socket.create_connection(('{address}', 9), 1)"
            while time.monotonic() < until:
                said = subprocess.run(["ip", "netns", "exec", space, sys.executable, "-c", probe], text=True, capture_output=True).stderr
                if "refused" in said:  # by the other node
                    break

    def processes(self):
        """Of both nodes: (number, program)."""
        found = []
        for space in self.spaces:
            numbers = subprocess.run(["ip", "netns", "pids", space], text=True, capture_output=True).stdout.split()
            for number in numbers:
                try:
                    found.append((int(number), os.readlink(f"/proc/{number}/exe")))
                except OSError:
                    pass  # it has ended
        return found

    def ranks(self):
        return [number for number, program in self.processes() if program == os.path.realpath(harness.PROGRAM)]

    def end_processes(self):
        for number, _ in self.processes():
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def remove(self):
        self.end_processes()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def configure(folder, name, grid, steps):
    return harness.write_config(
        f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "wait_limit": WAIT_LIMIT}, base=f"{folder}/base.h5", method={"rank": 4, "targets": ["all"]},
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 8, "micro": 2}, optim={"lr": 1e-3, "schedule": "constant"},
        train={"steps": steps, "save_every": 2}, parallel=grid, kernels={"product": "native"}, precision="fp32")


def start(nodes, *words):
    return subprocess.Popen(nodes.command(*words), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def finish(nodes, what, *words):
    process = start(nodes, *words)
    try:
        said = process.communicate(timeout=120)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"{what}: still running after 120 s")
    if process.returncode:
        sys.exit(f"{what}: exit {process.returncode}: {said}")


def check_same(what, found, expected):
    lines, wanted = harness.read_metrics(found), harness.read_metrics(expected)
    for key in ("loss", "grad_norm"):
        checks.close(f"{what}: {key}", [line[key] for line in lines], [line[key] for line in wanted], 1e-6)
    checks.close(f"{what}: valid_loss", harness.read_summary(found)["valid_loss"], harness.read_summary(expected)["valid_loss"], 1e-6)


def check_results(nodes, folder):
    for name, grid in GRIDS.items():
        label = name.replace(" ", "")
        harness.mpilora("train", configure(folder, f"{label}-host", grid, 4), ranks=4)
        finish(nodes, name, "train", configure(folder, f"{label}-nodes", grid, 4))
        check_same(f"{name} on two nodes", f"{folder}/{label}-nodes", f"{folder}/{label}-host")


def check_cut(nodes, folder):
    grid, run = GRIDS["dp 2 x tp 2"], f"{folder}/cut"
    config = configure(folder, "cut", grid, 400)
    process = start(nodes, "train", config)
    until = time.monotonic() + 60
    while harness.count_lines(f"{run}/metrics.jsonl") < 5 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    checks.that(len(nodes.ranks()) == 4, f"the ranks under way: {nodes.processes()}")
    nodes.link("down")
    cut = time.monotonic()
    while nodes.ranks() and time.monotonic() < cut + SOON:
        time.sleep(0.1)
    took = time.monotonic() - cut
    checks.that(took < SOON, f"{took:.1f} s after the link was cut: {nodes.processes()}")
    try:
        said = process.communicate(timeout=SOON)[1]
    except subprocess.TimeoutExpired:
        sys.exit(f"the launcher still runs {time.monotonic() - cut:.0f} s after the link was cut: {nodes.processes()}")
    lines = [line for line in said.splitlines() if line.startswith("mpilora: ")]
    checks.that(len(lines) == 1 and "run.wait_limit: rank 0 on node1 has waited" in lines[0], f"a cut link: {said}")
    checks.that(process.returncode == RESOURCE, f"a cut link: exit {process.returncode}: {said}")
    done = harness.count_lines(f"{run}/metrics.jsonl")
    print(f"every rank ended {took:.1f} s after the link was cut, behind step {done}; the launcher ended with {process.returncode}")
    nodes.end_processes()  # the other node's daemon may not know yet
    nodes.link("up")
    nodes.wait_for_links()
    finish(nodes, "resumed", "train", config, "--set", f"train.steps={done + 3}")
    harness.mpilora("train", configure(folder, "whole", grid, done + 3), ranks=4)
    check_same("resumed", run, f"{folder}/whole")


def main():
    if os.geteuid() != 0 or not harness.is_open_mpi():
        print("needs root, and Open MPI's launcher: skipped")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        nodes = Nodes(folder)
        try:
            why = nodes.make()
            if why:
                print(f"network namespaces cannot be made here, skipped: {why}")
                return SKIPPED
            harness.make_base(folder, MODEL, "fp32")
            harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(30 + i)] for i in range(16)])
            check_results(nodes, folder)
            check_cut(nodes, folder)
        finally:
            nodes.remove()
    checks.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
