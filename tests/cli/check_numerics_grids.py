"""numerics: grid at the true width: SmolLM2-135M's shape (random weights, the vocabulary of GPT-2's tokenizer) learns lines of E2E on every grid, and `verify --digest`, all
losses and norms, and the validation loss are the same. One row in twenty is as long as several ranks can share out (parallel.cp).

    MPILORA_SHARED_DATA=DIR python3 tests/cli/check_numerics_grids.py [PROGRAM] [--layers 30] [--steps 20] [--precision bf16] [--only REGEX]

DIR has e2e/*.txt and gpt2-bpe/; without it the test is skipped. Two layers and 20 steps of 30 settings take two cores half an hour.
"""

import argparse
import os
import re
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import harness
import test_numerics as numerics

SHARED = os.environ.get("MPILORA_SHARED_DATA", "/nowhere")
MODEL = f"{harness.SOURCE}/configs/models/smollm2-135m.yaml"
GPT2_VOCABULARY, ROWS, LONG_EVERY, JOINED = 50257, 240, 20, 90  # so many lines are more than 4 pieces of 512 tokens
HOURS = 3600
SETTINGS = {
    "micro 1": {"batch__micro": 1},
    "micro 2": {"batch__micro": 2},
    "micro 3": {"batch__micro": 3},
    "2 threads": {"threads": 2},
    "3 threads, micro 2": {"threads": 3, "batch__micro": 2},
    "AVX2": {"kernels__vector": "avx2"},
    "selective": {"memory__activations": "selective"},
    "checkpoint, micro 2": {"memory__activations": "checkpoint", "batch__micro": 2},
    "prompts apart": {"data__share_prompts": "false"},
    "dp 2": {"ranks": 2},
    "dp 2, weights of its own": {"ranks": 2, "memory__share_frozen": "off"},
    "dp 2, moments divided, 2 threads": {"ranks": 2, "threads": 2, "memory__shard_optimizer": "true"},
    "dp 3": {"ranks": 3},
    "dp 4, micro 1, checkpoint": {"ranks": 4, "batch__micro": 1, "memory__activations": "checkpoint"},
    "tp 3": {"ranks": 3, "parallel__tp": 3},
    "tp 3, micro 1, checkpoint": {"ranks": 3, "parallel__tp": 3, "batch__micro": 1, "memory__activations": "checkpoint"},
    "tp 3, 2 threads, selective": {"ranks": 3, "parallel__tp": 3, "threads": 2, "memory__activations": "selective"},
    "pp 2": {"ranks": 2, "parallel__pp": 2},
    "pp 2, micro 1": {"ranks": 2, "parallel__pp": 2, "batch__micro": 1},
    "pp 2, micro 2, checkpoint": {"ranks": 2, "parallel__pp": 2, "batch__micro": 2, "memory__activations": "checkpoint"},
    "dp 2, pp 2": {"ranks": 4, "parallel__pp": 2, "batch__micro": 1},
    "tp 3, pp 2": {"ranks": 6, "parallel__tp": 3, "parallel__pp": 2, "batch__micro": 2},
    "dp 2, tp 3": {"ranks": 6, "parallel__tp": 3},
    "cp 2": {"ranks": 2, "parallel__cp": 2},
    "cp 2, micro 1, 2 threads": {"ranks": 2, "parallel__cp": 2, "batch__micro": 1, "threads": 2},
    "dp 2, cp 2, moments divided": {"ranks": 4, "parallel__cp": 2, "memory__shard_optimizer": "true"},
    "cp 2, pp 2, micro 1": {"ranks": 4, "parallel__cp": 2, "parallel__pp": 2, "batch__micro": 1},
    "cp 3, micro 2": {"ranks": 3, "parallel__cp": 3, "batch__micro": 2},
    "cp 4, micro 1, checkpoint": {"ranks": 4, "parallel__cp": 4, "batch__micro": 1, "memory__activations": "checkpoint"},
    "tp 3, cp 2, selective": {"ranks": 6, "parallel__tp": 3, "parallel__cp": 2, "memory__activations": "selective"},
}
RESUMED = "stopped and resumed on other grids"  # after a third and two thirds of the steps


def write_lines(folder):
    with open(f"{SHARED}/e2e/train.txt", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("||") for line in file]
    with open(f"{folder}/train.txt", "w", encoding="utf-8") as file:
        for i in range(ROWS):
            text = " ".join(line[1] for line in lines[i : i + JOINED]) if i % LONG_EVERY == 3 else lines[i][1]
            file.write(f"{lines[i][0]}||{text}\n")
    with open(f"{folder}/valid.txt", "w", encoding="utf-8") as file:
        file.writelines("||".join(line) + "\n" for line in lines[ROWS : ROWS + 12])


def prepare(folder, options):
    with open(MODEL) as file:
        model = re.sub(r"(?m)^layers: \d+$", f"layers: {options.layers}", file.read())
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(re.sub(r"(?m)^vocab: \d+$", f"vocab: {GPT2_VOCABULARY}", model))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", options.precision, "--tokenizer", f"{SHARED}/gpt2-bpe", f"{folder}/base.h5")
    write_lines(folder)
    for part in ("train", "valid"):
        harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "e2e", f"{folder}/{part}.txt", f"{folder}/{part}.h5")
    numerics.configure(folder, {"name": "lora", "rank": 8, "targets": ["all"]}, data={"train": f"{folder}/train.h5", "valid": f"{folder}/valid.h5"},
                       batch={"sequences": 4, "micro": 4}, optim={"lr": 2e-3, "warmup": 2}, train={"steps": options.steps}, precision=options.precision)  # fmt: skip


def go(folder, name, options):
    train = lambda **settings: numerics.train(folder, name, timeout=HOURS, **settings)
    if name != RESUMED:
        train(**SETTINGS.get(name, {}))
        return
    train(ranks=2, train__steps=options.steps // 3)
    train(ranks=2, threads=2, train__steps=2 * options.steps // 3, parallel__cp=2, batch__micro=1)
    train(ranks=3, parallel__tp=3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if not os.path.exists(f"{SHARED}/e2e/train.txt"):
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, options)
        expected = None
        for name in ("one rank", *filter(re.compile(options.only).search, (*SETTINGS, RESUMED))):
            since = time.monotonic()
            go(folder, name, options)
            found = numerics.result(folder, name)
            expected = expected or found
            print(f"{found[0][:16]}  {len(found[1])} steps, losses {found[1][0][0]:.6f} to {found[1][-1][0]:.6f}, valid {found[2]:.6f}  {name}, {time.monotonic() - since:.0f} s", flush=True)
            numerics.same(folder, "SmolLM2", name, expected)
            numerics.check_memory(folder, "SmolLM2", name)
    print(f"{numerics.compared} settings compared")
    numerics.checks.end()


if __name__ == "__main__":
    main()
