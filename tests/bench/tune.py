"""How the native product best divides its work on this processor: rows of A that stay in the second cache, columns of a task, tasks a thread, rows of a task at least. None of
these changes a bit of a result. One number after the other is varied around what is there, each value against the present ones in turn within every round (`bench gemm`,
forward and backward), and counts by the median of the rounds' ratios over all shapes; the best one goes on. Prints every ratio and, at the end, the line for the table of
src/kernels/blocking.c. Nothing else may be running; two per cent are noise on a shared machine, so a value has to win by --least."""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

PROGRAM = os.environ.get("MPILORA", "mpilora")
NAMES = ("rows_in_l2", "group_columns", "tasks_a_thread", "least_task_rows")
VALUES = ((12, 24, 36, 48, 72, 96, 144, 192), (32, 64, 96, 128), (2, 4, 8, 16), (48, 96, 192))
SHAPES = "2048x2304x768,2048x768x3072,1024x4096x4096,160x2304x768,64x576x1536"


def model_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")


def bench(o, shape, **environment):
    tokens, rows, columns = shape.split("x")
    words = [PROGRAM, "bench", "gemm", "--json", "--tokens", tokens, "--rows", rows, "--cols", columns, "--dtype", o.dtype]
    environment = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "MPILORA_PRODUCT_PATH": "native", **environment}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(o, blocking, shape):
    """Shares of the same run's multiply-add peak, which a change of the clock leaves alone: forward, backward."""
    rates = bench(o, shape, MPILORA_BLOCKING=",".join(map(str, blocking)))["paths"][0]  # the one that is forced
    return rates["forward_share"], rates["backward_share"]


def ratio(o, blocking, present):
    """The median over shapes, directions and rounds of what a division gains over the present one."""
    gains = []
    for i in range(o.rounds):
        for shape in o.shapes.split(","):
            pair = [(blocking, 1), (present, -1)][:: 1 if i % 2 == 0 else -1]
            logs = [0.0, 0.0]
            for which, sign in pair:
                for way, share in enumerate(measure(o, which, shape)):
                    logs[way] += sign * math.log(share)
            gains += logs
    return math.exp(statistics.median(gains)), math.exp(min(gains)), math.exp(max(gains))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help="tokens x outputs x inputs, with commas between")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=1.02, help="what a value has to gain")
    parser.add_argument("--only", choices=NAMES, help="vary this number alone")
    parser.add_argument("--values", help="values of --only, with commas between")
    o = parser.parse_args()
    present = bench(o, o.shapes.split(",")[0])
    key, vector, best = present["processor"], present["vector_path"], tuple(present["blocking"])
    print(f"{model_name() or key}, {o.threads} threads, {vector}, {o.dtype}, shapes {o.shapes}, {o.rounds} rounds; from {', '.join(map(str, best))}")
    for i, number in enumerate(NAMES):
        if o.only and number != o.only:
            continue
        values = tuple(map(int, o.values.split(","))) if o.only and o.values else VALUES[i]
        found, present = (o.least, best), best
        for value in values:
            if value == present[i]:
                continue
            other = (*present[:i], value, *present[i + 1 :])
            gain, low, high = ratio(o, other, present)
            print(f"  {number} {value}: {gain:.3f} of {present[i]} ({low:.3f} to {high:.3f})", flush=True)
            found = max(found, (gain, other))
        best = found[1]
    print(f'    {{"{key}", "{vector}", {{{", ".join(map(str, best))}}}}}, /* {model_name()} */')


if __name__ == "__main__":
    main()
