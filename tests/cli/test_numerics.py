"""numerics: grid. The same digest of a run's last checkpoint (trained values, moments, step, cursor) and the same losses and norms, bit by bit, whatever
replicas, stages, threads, micro-batches, activation mode, shared prompts and precision a run has, and whether it was interrupted and went on elsewhere.
Under numerics: fast some of them differ, so that the comparison can fail. What cannot promise it is refused."""

import json
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODELS = {
    "gpt2": "{family: gpt2, layers: 2, width: 64, heads: 4, vocab: 257, context: 700}",
    "llama": "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, vocab: 2000, context: 700}",  # a share of the vocabulary is deeper than a block of a product
}
LORA = {"name": "lora", "rank": 4, "targets": ["all"]}
STEPS = 4
checks = harness.Checks()
compared = 0


def sequences():
    """Of all lengths: shorter than any block of a kernel, and longer than a piece of gradients (512); some begin alike."""
    draw = random.Random(5)
    prompt = [draw.randrange(257) for _ in range(20)]
    out = [[draw.randrange(257) for _ in range(n)] for n in (2, 3, 6, 17, 33, 64, 70, 100, 130, 280, 600)]
    return out + [prompt + [draw.randrange(257) for _ in range(n)] for n in (1, 4, 9, 30, 40, 50)]


def configure(folder, method=None, **sections):
    return harness.write_config(
        f"{folder}/run.yaml",
        **{
            "base": f"{folder}/base.h5",
            "method": method or LORA,
            "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
            "batch": {"sequences": 8, "micro": 8},
            "optim": {"lr": 0.01},
            "train": {"steps": STEPS, "save_every": 2},
            "numerics": "grid",
            "precision": "fp32",
            **sections,
        },
    )


def train(folder, name, ranks=1, threads=1, expect=0, timeout=120, **settings):
    """settings: keys with __ for the dots."""
    words = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    os.environ["OMP_NUM_THREADS"] = harness.WITHOUT_DELAY["OMP_NUM_THREADS"] = str(threads)
    done = harness.start("train", f"{folder}/run.yaml", "--set", f"run.dir={folder}/{name}", *words, ranks=ranks if ranks > 1 else 0, timeout=timeout)
    if done.returncode != expect:
        sys.exit(f"{name} {settings}: exit code {done.returncode}, expected {expect}: {done.stderr}")
    return done.stderr


def result(folder, name):
    """The digest, and what is said of every step."""
    digest = harness.mpilora("verify", "--digest", f"{folder}/{name}").split()[0]
    with open(f"{folder}/{name}/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    with open(f"{folder}/{name}/summary.json") as file:
        valid = json.load(file)["valid_loss"]
    return digest, [(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line], valid


SETTINGS = {
    "micro 1": {"batch__micro": 1},
    "micro 2": {"batch__micro": 2},
    "micro 3": {"batch__micro": 3},
    "2 threads": {"threads": 2},
    "AVX2": {"kernels__vector": "avx2"},
    "dp 2": {"ranks": 2},
    "dp 4, micro 1": {"ranks": 4, "batch__micro": 1},
    "dp 3": {"ranks": 3},
    "dp 2, moments divided": {"ranks": 2, "memory__shard_optimizer": "true"},
    "pp 2, micro 2": {"ranks": 2, "parallel__pp": 2, "batch__micro": 2},
    "dp 2, pp 2": {"ranks": 4, "parallel__pp": 2, "batch__micro": 1},
    "tp 2": {"ranks": 2, "parallel__tp": 2},
    "tp 4": {"ranks": 4, "parallel__tp": 4},
    "tp 2, dp 2, micro 1": {"ranks": 4, "parallel__tp": 2, "batch__micro": 1},
    "tp 2, pp 2": {"ranks": 4, "parallel__tp": 2, "parallel__pp": 2, "batch__micro": 2},
    "selective": {"memory__activations": "selective"},
    "checkpoint, dp 2": {"memory__activations": "checkpoint", "ranks": 2},
    "prompts apart": {"data__share_prompts": "false"},
}

FEW = ("micro 3", "AVX2", "tp 2", "dp 2", "selective", "checkpoint, dp 2", "pp 2, micro 2")


def check_memory(folder, what, name):
    with open(f"{folder}/{name}/summary.json") as file:
        memory = json.load(file)["memory"]
    ratio = memory["total_peak_bytes"] / memory["predicted"]["total_bytes"]
    checks.that(0.99 <= ratio <= 1.01, f"{what}: {name}: {ratio} of the bytes that plan says")


def same(folder, what, name, expected):
    global compared
    compared += 1
    found = result(folder, name)
    checks.that(found == expected, f"{what}: {name}: {found}, expected {expected}")


def compare(folder, what, settings):
    train(folder, "first")
    expected = result(folder, "first")
    for name in settings:
        train(folder, name, **SETTINGS[name])
        same(folder, what, name, expected)
        check_memory(folder, what, name)
    train(folder, "resumed", ranks=2, train__steps=2, train__save_every=2)
    train(folder, "resumed", ranks=1, threads=2, batch__micro=3)
    same(folder, what, "resumed", expected)


def check_refusals(folder):
    for words, text in (
        ({"kernels__product": "blas"}, "kernels.product"), ({"kernels__vector": "ref"}, "kernels.vector"),
        ({"parallel__tp": 2, "ranks": 2, "method__trainable_tokens": "[3]"}, "method.trainable_tokens")):  # fmt: skip
        error = train(folder, "refused", expect=2, **words)
        checks.that(text in error and "numerics is grid" in error, f"{words}: {error}")
    error = train(folder, "refused", ranks=2, expect=2, method__name="full", parallel__pp=2)
    checks.that("parallel.pp" in error and "tied embedding" in error, f"stages with a tied embedding that trains: {error}")
    planned = harness.start("plan", f"{folder}/run.yaml", "--ranks", 2, "--set", "method.name=full", "--set", "parallel.pp=2")
    checks.that(planned.returncode == 2 and "tied embedding" in planned.stderr, f"planned: {planned.returncode}: {planned.stderr}")
    # Norms of q and k that all heads share are trained by full, which stands beside what is planned, whatever can be run.
    for method, expected in (("lora", 0), ("full", 2)):
        planned = harness.start("plan", f"{folder}/run.yaml", "--ranks", 2, *(word for one in ("parallel.tp=2", f"method.name={method}", f"base={harness.SOURCE}/configs/models/qwen3-0.6b.yaml", "data.train=null", "data.valid=null", "data.max_len=64") for word in ("--set", one)))
        checks.that(planned.returncode == expected, f"plan of {method} where q and k have norms: {planned.returncode}: {planned.stderr}")
    error = train(folder, "first", expect=2, numerics="fast", train__steps=STEPS + 1)
    checks.that("numerics" in error, f"resumed as fast: {error}")
    os.environ["MPILORA_PRODUCT_PATH"] = harness.WITHOUT_DELAY["MPILORA_PRODUCT_PATH"] = "blas"
    error = train(folder, "refused", expect=2)
    checks.that("numerics" in error, f"forced by the environment: {error}")
    del os.environ["MPILORA_PRODUCT_PATH"], harness.WITHOUT_DELAY["MPILORA_PRODUCT_PATH"]


def check_fast(folder):
    """Which differs, or nothing above could."""
    train(folder, "fast", numerics="fast", kernels__product="native")
    train(folder, "fast apart", numerics="fast", kernels__product="native", batch__micro=1)
    checks.that(result(folder, "fast") != result(folder, "fast apart"), "fast: micro-batches of 8 and 1 have the same bits")


def main():
    for family, model in MODELS.items():
        for precision in ("fp32", "bf16"):
            with tempfile.TemporaryDirectory() as folder:
                harness.make_base(folder, model, precision)
                harness.make_data(folder, sequences())
                configure(folder, precision=precision)
                compare(folder, f"{family}, {precision}", SETTINGS if (family, precision) == ("gpt2", "fp32") else FEW)
                if (family, precision) == ("gpt2", "fp32"):
                    check_refusals(folder)
                    check_fast(folder)
    print(f"{compared} settings compared")
    checks.end()


if __name__ == "__main__":
    main()
