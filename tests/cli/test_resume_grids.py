"""Saved on one process grid, resumed on another: 1×1, 2×1, 1×2 and 2×2 (dp × tp), each to each other.

The losses that follow are those of a run on one rank that was never stopped (within 1e-5 in fp32), with dropout, and the order of the data is unchanged: the sequences'
lengths are chosen so that a step's tokens say which two it took (no two pairs of them have the same sum), and every epoch takes each of them once. Killed runs too, in
the middle of an epoch and of a step whose sequences are computed one after the other.
"""

import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../fault")]
import harness
import kills

GRIDS = {"1x1": (1, 1), "2x1": (2, 1), "1x2": (1, 2), "2x2": (2, 2)}
LENGTHS = [n + 3 for n in (1, 2, 4, 8, 13, 21, 31, 45, 66, 81, 97, 123)]  # Mian and Chowla's: all sums of two differ
MODEL = "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 4, vocab: 257, context: 128}"
METHODS = {"lora": {"name": "lora", "rank": 4, "dropout": 0.1, "targets": ["all"]}, "full": {"name": "full"}}
HALF, STEPS, EPOCH = 7, 15, len(LENGTHS) // 2
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + i * j * j) % 257 for j in range(length)] for i, length in enumerate(LENGTHS)])


def write_config(folder, method, name, micro=1, **train):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 5},
        base=f"{folder}/base.h5",
        method=METHODS[method],
        data={"train": f"{folder}/data.h5", "shuffle": True, "max_len": 128},
        batch={"sequences": 2, "micro": micro},
        optim={"lr": 1e-3, "schedule": "constant", "warmup": 3},
        train={"steps": STEPS, "save_every": 3, **train},
        kernels={"product": "native"},
        precision="fp32",
    )


def train(config, grid, **settings):
    dp, tp = GRIDS[grid]
    sets = [word for key, value in {"parallel.tp": tp, **settings}.items() for word in ("--set", f"{key}={value}")]
    harness.mpilora("train", config, *sets, ranks=dp * tp)


def check_order(what, lines, lengths_of):
    """Each epoch's steps take every sequence once."""
    for epoch in range(len(lines) // EPOCH):
        pairs = [lengths_of.get(line["tokens"], ()) for line in lines[epoch * EPOCH : (epoch + 1) * EPOCH]]
        checks.that(sorted(sum(pairs, ())) == LENGTHS, f"{what}: epoch {epoch + 1} took the sequences {pairs}")


def check_same(what, folder, name, whole, lengths_of):
    found, expected = harness.read_metrics(f"{folder}/{name}"), harness.read_metrics(whole)
    checks.that([line["step"] for line in found] == list(range(1, STEPS + 1)), f"{what}: steps {[line['step'] for line in found]}")
    checks.that([line["tokens"] for line in found] == [line["tokens"] for line in expected], f"{what}: another order of the data")
    check_order(what, found, lengths_of)
    return max(checks.close(f"{what}: {key}", [line[key] for line in found], [line[key] for line in expected], 1e-5) for key in ("loss", "grad_norm"))


def check_method(folder, method, pairs, lengths_of):
    whole, worst = f"{folder}/{method}-whole", 0.0
    train(write_config(folder, method, f"{method}-whole"), "1x1")
    check_order(f"{method}, never stopped", harness.read_metrics(whole), lengths_of)
    saved = set()
    for first, then in pairs:
        half, name = f"{method}-{first}", f"{method}-{first}-{then}"
        if first not in saved:
            train(write_config(folder, method, half, steps=HALF), first)
            saved.add(first)
        shutil.copytree(f"{folder}/{half}", f"{folder}/{name}")
        train(write_config(folder, method, name, micro=2 if then == "1x1" else 1), then)
        worst = max(worst, check_same(f"{method}, saved on {first}, resumed on {then}", folder, name, whole, lengths_of))
    print(f"{method}: {len(pairs)} changes of the grid, largest relative difference {worst:.3g}", flush=True)


def check_killed(folder, first, then, lengths_of):
    """Killed between two saves, in the middle of an epoch and of a step's sequences, and resumed elsewhere."""
    name = f"killed-{first}-{then}"
    config, (dp, tp) = write_config(folder, "lora", name), GRIDS[first]
    with open(config) as file:
        text = file.read()
    with open(config, "w") as file:
        file.write(text.replace('"seed": 5}', '"seed": 5}, "parallel": {"tp": %d}' % tp, 1))
    job = kills.Job(config, dp * tp)
    job.aim(0)
    metrics = f"{folder}/{name}/metrics.jsonl"
    while job.process.poll() is None and not (os.path.exists(metrics) and kills.read(metrics).count(b"\n") >= 4):
        pass
    checks.that(job.kill(), f"{name}: ended before it was killed")
    checks.that(job.wait_for_end() is not None, f"{name}: processes were left")
    train(config, then)
    check_same(f"killed on {first}, resumed on {then}", folder, name, f"{folder}/lora-whole", lengths_of)


def main():
    lengths_of = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        train(write_config(folder, "lora", "probe", steps=1), "1x1")
        probe = harness.read_metrics(f"{folder}/probe")[0]["tokens"]
        sums = {a + b: (a, b) for i, a in enumerate(LENGTHS) for b in LENGTHS[i + 1 :]}
        shift = 0 if probe in sums else 2  # whether a step's tokens count a sequence's first one
        lengths_of.update({total - shift: pair for total, pair in sums.items()})
        check_method(folder, "lora", [(a, b) for a in GRIDS for b in GRIDS if a != b], lengths_of)
        check_method(folder, "full", [("2x1", "1x2"), ("1x2", "2x2"), ("2x2", "1x1")], lengths_of)
        for first, then in (("1x1", "2x2"), ("2x1", "1x2")):
            check_killed(folder, first, then, lengths_of)
    checks.end()


main()
