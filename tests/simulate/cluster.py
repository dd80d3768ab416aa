"""A described cluster for SMPI, and mpilora's training run on it beside what plan says of the same run.

A machine file (configs/machines/*.yaml) says what a node computes and how its ranks and nodes are connected; its nodes form a fat tree of full bisection,
16 to a switch. CTest names the simulated program in MPILORA_SIMULATE, smpirun in MPILORA_SMPIRUN.
"""

import json
import os
import subprocess
import sys

import yaml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import make_base, make_data, mpilora, read_metrics, write_config

SMPIRUN, SIMULATE = os.environ.get("MPILORA_SMPIRUN", ""), os.environ.get("MPILORA_SIMULATE", "")
NODES_A_SWITCH = 16

# The network is what the machine file says: no correction factors of one real network, no acknowledgements that take bandwidth. What is computed here takes no
# time there. Of what messages.c leaves to SMPI the small sums double their
# distances, as Open MPI's; the algorithms that ask which ranks share a node first ask all of them, which takes minutes for a thousand. (smpirun takes the folder of its ranks' copies of
# the program from TMPDIR: its own option for that takes the next word for the program.)
OPTIONS = ("smpi/simulate-computation:no", "smpi/coll-selector:ompi", "smpi/bcast:binomial_tree", "smpi/allreduce:rdb", "smpi/barrier:ompi_recursivedoubling", "smpi/allgather:rdb",
           "smpi/bw-factor:0:1", "smpi/lat-factor:0:1", "network/crosstraffic:0", "network/weight-S:0",
           "smpi/wtime:0", "smpi/host-speed:1e9f")


def skip_where_missing():
    if not SIMULATE or not SMPIRUN:
        print("SimGrid is not there (Debian: libsimgrid-dev): skipped")
        sys.exit(77)


def write_platform(folder, machine, nodes, ranks_on_node):
    """FOLDER/platform.xml and FOLDER/hosts: consecutive ranks fill the nodes. A way between two nodes has two links, or four, with the latency between them."""
    switches = -(-nodes // NODES_A_SWITCH)
    tree = f"1;{nodes};1;1" if switches == 1 else f"2;{NODES_A_SWITCH},{switches};1,{NODES_A_SWITCH};1,1"
    network = machine["network"]
    with open(f"{folder}/platform.xml", "w", encoding="utf-8") as file:
        file.write(f"""<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="world" routing="Full">
    <cluster id="cluster" prefix="node" suffix="" radical="0-{max(nodes, switches * NODES_A_SWITCH if switches > 1 else nodes) - 1}" speed="1Gf"
             core="{ranks_on_node}" topology="FAT_TREE" topo_parameters="{tree}"
             bw="{network['between_bytes_per_s']}Bps" lat="{network['between_latency_s'] / (2 if switches == 1 else 4)}s"
             loopback_bw="{network['inside_bytes_per_s']}Bps" loopback_lat="{network['inside_latency_s']}s"/>
  </zone>
</platform>
""")
    with open(f"{folder}/hosts", "w", encoding="utf-8") as file:
        file.write("".join(f"node{node}\n" * ranks_on_node for node in range(nodes)))


def describe(folder, *, model, method, length, micro, micros, tp, pp, dp, steps=1, **sections):
    """FOLDER/run.yaml, with data of the model's vocabulary; each replica has so many micro-batches. The token at a position is in that part of the vocabulary
    that the position is in of all: a rank that looks embeddings up, which is not left out, writes into its own rows alone, the same ones each time."""
    with open(model, encoding="utf-8") as file:
        vocab = yaml.safe_load(file)["vocab"]
    if not os.path.exists(f"{folder}/data.h5"):
        make_base(folder, f"family: gpt2\nlayers: 1\nwidth: 8\nheads: 1\nvocab: {vocab}\ncontext: {length}\n")
        make_data(folder, [[i * vocab // length for i in range(length)]] * 16)
        os.remove(f"{folder}/base.h5")
    return write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run", "seed": 1}, base=model, method=method,
                        data={"train": f"{folder}/data.h5", "max_len": length, "shuffle": False}, batch={"sequences": dp * micro * micros, "micro": micro},
                        train={"steps": steps}, parallel={"tp": tp, "pp": pp}, memory={"activations": "full", "share_frozen": "off"}, **sections)


def simulate(folder, machine_file, ranks, ranks_on_node, timeout=600):
    """The run's metrics, what its ranks sent, and seconds of simulating and peak memory here."""
    with open(machine_file, encoding="utf-8") as file:
        machine = yaml.safe_load(file)
    write_platform(folder, machine, ranks // ranks_on_node, ranks_on_node)
    call = [SMPIRUN, "-np", str(ranks), "-platform", f"{folder}/platform.xml", "-hostfile", f"{folder}/hosts", "--log=root.thresh:warning",
            *(f"--cfg={option}" for option in OPTIONS), SIMULATE, f"{folder}/run.yaml", machine_file]
    environment = {**os.environ, "MPILORA_SUMS": "mpi", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": folder}
    done = subprocess.run(call, text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, env=environment, check=False, cwd=folder)
    if done.returncode:
        sys.exit(f"{' '.join(call)} ended with {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    with open(f"{folder}/run/sent.json", encoding="utf-8") as file:
        return read_metrics(f"{folder}/run"), json.load(file)


def plan(folder, machine_file, ranks, ranks_on_node):
    """What plan says of the configuration's method."""
    return json.loads(mpilora("plan", f"{folder}/run.yaml", "--ranks", ranks, "--nodes", ranks // ranks_on_node, "--machine", machine_file, "--json"))["methods"][0]


def summed_bytes(rank, layers, width, rows, tp, pp, dp, micros):
    """What all ranks together send of large sums in a step of LoRA on q and v of a GPT: a sum of b bytes over n ranks takes 2·(n − 1)·b. Of a micro-batch over
    tp: the embedding, two a layer forward, two backward but for what is before the first layer that trains, and the gradient of the head's input. Once: A's
    gradient over a stage, B's over dp."""
    over_tp = dp * micros * (1 + 4 * layers - 1 + 1) * 2 * (tp - 1) * 4 * rows * width
    factor = 4 * 2 * rank * width * layers  # all layers' A, or B
    return over_tp + 2 * (tp * dp - 1) * factor + 2 * (dp - 1) * factor
