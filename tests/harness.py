"""What the script tests share: mpilora started alone or on several ranks, configurations, and checks that say what was found.

CTest names the program in MPILORA and the sources in MPILORA_SOURCE_DIR.
"""

import json
import os
import shlex
import struct
import subprocess
import sys

PROGRAM = os.environ["MPILORA"]
MPIEXEC = os.environ.get("MPILORA_MPIEXEC", "mpiexec")  # of the MPI that the program was built for
SOURCE = os.environ["MPILORA_SOURCE_DIR"]


def is_open_mpi():
    """Else it is one of MPICH's kin."""
    return "Open" in subprocess.run([MPIEXEC, "--version"], text=True, capture_output=True, check=False).stdout  # Open MPI, or OpenRTE


def launcher(ranks):
    """More ranks than cores are allowed by the environment that CTest sets, so that this is right for every MPI."""
    return [MPIEXEC, "-n", str(ranks)]


def launch_apart(*groups):
    """The launcher's words for groups of ranks that differ: (number of ranks, the program's words[, environment[, working directory]])."""
    words, named = [MPIEXEC], is_open_mpi()
    for i, (count, own, *rest) in enumerate(groups):
        environment, folder = (*rest, *({}, None)[len(rest):])
        words += ([":"] if i else []) + ["-n", str(count)]
        words += [word for name, value in environment.items() for word in (("-x", f"{name}={value}") if named else ("-env", name, value))]
        words += (["-wdir", folder] if folder else []) + [PROGRAM, *map(str, own)]
    return words


def command(*words, ranks=0):
    """ranks 0: the program alone, without mpirun."""
    return [*(launcher(ranks) if ranks else []), PROGRAM, *map(str, words)]


# Where a rank ends with an error, mpirun sleeps for a second between asking the others to end and killing them. Ours end together, after MPI's
# last barrier. Tests that send signals keep the second: they start their processes themselves.
WITHOUT_DELAY = {**os.environ, "OMPI_MCA_odls_base_sigkill_timeout": "0"}


def start(*words, ranks=0, timeout=120):
    """The finished process, whatever its exit code; a hang ends the test."""
    call = command(*words, ranks=ranks)
    try:
        return subprocess.run(call, text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, env=WITHOUT_DELAY)
    except subprocess.TimeoutExpired:
        sys.exit(f"{shlex.join(call)}: still running after {timeout} s")


def mpilora(*words, ranks=0, timeout=120):
    """Standard output of a run that must succeed."""
    done = start(*words, ranks=ranks, timeout=timeout)
    if done.returncode:
        call = shlex.join(command(*words, ranks=ranks))
        sys.exit(f"{call} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_config(path, **sections):
    """JSON is YAML, too."""
    with open(path, "w") as file:
        json.dump(sections, file, indent=1)
    return path


def make_base(folder, model, dtype="bf16"):
    """FOLDER/base.h5: random weights of a description."""
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(model)
    mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", dtype, f"{folder}/base.h5")


def make_data(folder, sequences, name="data"):
    """FOLDER/NAME.h5: a data set of lists of ids, for the base of make_base."""
    with open(f"{folder}/{name}.jsonl", "w") as file:
        for ids in sequences:
            file.write(json.dumps({"input_ids": ids}) + "\n")
    mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/{name}.jsonl", f"{folder}/{name}.h5")


def write_safetensors(path, tensors):
    """tensors: name -> (shape, its numbers as little-endian fp32)."""
    header, data = {}, b""
    for name, (shape, raw) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def make_peft(folder, rank, alpha, factors):
    """A PEFT directory; factors: module -> (A, B), each (shape, numbers) as above. Returns the folder."""
    os.makedirs(folder)
    modules = sorted({name.rsplit(".", 1)[1] for name in factors})
    write_config(f"{folder}/adapter_config.json", peft_type="LORA", task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none",
                 target_modules=modules, fan_in_fan_out=False, inference_mode=True)
    tensors = {f"base_model.model.{name}.lora_{letter}.weight": pair[i] for name, pair in factors.items() for i, letter in enumerate("AB")}
    write_safetensors(f"{folder}/adapter_model.safetensors", tensors)
    return folder


def count_lines(path):
    """0 where there is no file yet."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as file:
        return file.read().count(b"\n")


def ranks_of(process):
    """The program's processes that a launcher started, in the order of their ranks; MPICH's has one of its own between."""
    try:
        if os.path.samefile(f"/proc/{process}/exe", PROGRAM):
            return [process]
        with open(f"/proc/{process}/task/{process}/children") as file:
            return [rank for child in file.read().split() for rank in ranks_of(int(child))]
    except OSError:
        return []  # it has ended meanwhile


def read_metrics(run_dir):
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def read_summary(run_dir):
    with open(os.path.join(run_dir, "summary.json")) as file:
        return json.load(file)


class Checks:
    """Collects what is wrong, so that one run of a test tells everything."""

    def __init__(self):
        self.count, self.faults = 0, []

    def that(self, true, text):
        self.count += 1
        if not true:
            self.faults.append(text)

    def close(self, what, found, expected, bound):
        """Relative difference of two numbers, or the largest of two lists of the same length."""
        pairs = list(zip(found, expected)) if isinstance(found, list) else [(found, expected)]
        if isinstance(found, list) and len(found) != len(expected):
            self.that(False, f"{what}: {len(found)} values, expected {len(expected)}")
            return float("inf")
        differences = [abs(a - b) / max(abs(b), 1e-30) for a, b in pairs]
        worst = max(range(len(pairs)), key=differences.__getitem__)
        a, b = pairs[worst]
        self.that(differences[worst] <= bound, f"{what}: {a} for {b} (number {worst + 1}), off by {differences[worst]:.3g}, bound {bound:g}")
        return differences[worst]

    def end(self):
        """The test's last line and exit code."""
        for fault in self.faults:
            print("WRONG:", fault)
        print(f"{self.count} checks, {len(self.faults)} wrong")
        sys.exit(1 if self.faults else 0)
