"""Ranks that share out the tokens of each sequence (parallel.cp), end to end: every grid has the losses, gradient norms and evaluations of one rank within 1e-6 in fp32,
of sft and of preferences, leaves the same adapter, and keeps within the memory that plan says.

Sequences are of all lengths, with common beginnings, some shorter than the chunks are many; models have rotary, learned and ALiBi positions, windows, and norms of keys.
Runs are killed and resumed on other grids; what cannot be shared out is refused in one line that names what would fit.
"""

import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import grid_runs
import harness

STEPS, LAYERS, LONGEST = 3, 4, 520
LORA = {"name": "lora", "rank": 4, "alpha": 8, "targets": ["all"]}
MODELS = {
    "llama": "family: llama\nlayers: 4\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 2\nvocab: 257\ncontext: 1024\n",
    "gpt2": "family: gpt2\nlayers: 3\nwidth: 32\nheads: 4\nvocab: 257\ncontext: 1024\n",
    "mistral": "family: mistral\nlayers: 2\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 2\nvocab: 257\ncontext: 1024\nwindow: 50\n",
    "gemma3": "family: gemma3_text\nlayers: 7\nwidth: 32\nmlp_width: 48\nheads: 2\nkv_heads: 1\nhead_dim: 16\nvocab: 257\ncontext: 1024\nwindow: 70\nfull_layers: [5]\n",
    "falcon": "family: falcon\nlayers: 2\nwidth: 32\nmlp_width: 64\nheads: 2\nkv_heads: 2\nvocab: 257\ncontext: 1024\nnorm_places: before\npositions: alibi_scaled\nqkv_bias: true\no_bias: true\nmlp_bias: true\n",
}
DPO = {"objective": {"name": "dpo", "sft_weight": 0.3}}
# Name: model, method, further sections, grids as (dp, tp, cp, pp), each compared with one rank.
CASES = {
    "llama": ("llama", LORA, {}, [(1, 1, 2, 1), (1, 1, 3, 1), (1, 2, 2, 1), (2, 1, 2, 1), (1, 1, 2, 2)]),
    "gpt2, checkpoint": ("gpt2", LORA, {"memory": {"activations": "checkpoint"}}, [(1, 1, 2, 1)]),
    "gpt2, dropout": ("gpt2", {**LORA, "dropout": 0.1}, {"memory": {"shard_optimizer": True}}, [(1, 1, 2, 1)]),
    "gpt2, full": ("gpt2", {"name": "full"}, {}, [(1, 1, 2, 1)]),
    "llama, prefix": ("llama", {"name": "lora+prefix_layer", "rank": 4, "prefix": 9, "infix": 2, "prefix_init": "random"}, {}, [(1, 1, 2, 1)]),
    "mistral": ("mistral", LORA, {"memory": {"activations": "selective"}}, [(1, 1, 2, 1)]),
    "gemma3": ("gemma3", LORA, {}, [(1, 1, 2, 1)]),
    "falcon": ("falcon", LORA, {}, [(1, 1, 2, 1)]),
    "llama, four and eight": ("llama", LORA, {"longest": LONGEST}, [(1, 1, 4, 1), (2, 2, 2, 1), (1, 2, 2, 2)]),
    "llama, dpo": ("llama", LORA, DPO, [(1, 1, 2, 1), (1, 2, 2, 2)]),
    "gpt2, kto": ("gpt2", LORA, {"objective": {"name": "kto"}}, [(2, 1, 2, 1)]),
    "llama, aot": ("llama", LORA, {"objective": {"name": "dpo", "loss_type": "aot"}}, [(1, 1, 2, 2)]),
    "llama, reward": ("llama", LORA, {"objective": {"name": "reward"}}, [(1, 1, 2, 1), (1, 2, 2, 2)]),
    "gpt2, classify": ("gpt2", LORA, {"objective": {"name": "classify"}}, [(1, 1, 2, 1)]),
    "llama, contrastive": ("llama", LORA, {"objective": {"name": "contrastive", "pooling": "mean"}, "batch": {"sequences": 6, "micro": 2}}, [(1, 1, 2, 1), (2, 1, 2, 1)]),
    "gpt2, orpo, checkpoint": ("gpt2", LORA, {"objective": {"name": "orpo"}, "memory": {"activations": "checkpoint"}}, [(1, 1, 2, 1)]),
}
checks = harness.Checks()


def sequences():
    """Of 9 to 400 tokens, some of which begin alike, and two of less tokens than there are chunks."""
    token = lambda i, j: (i * i + 7 * j + i * j * j) % 257
    own = [[token(i, j) for j in range(30 + 53 * i % 370)] for i in range(10)]
    shared = [[token(3, j) for j in range(200)] + [token(i, j) for j in range(90 + 20 * i)] for i in range(20, 24)]
    return own + shared + [[5, 6, 7], [8, 9], [token(1, j) for j in range(LONGEST)]]


def pairs():
    """Whose answers are short and long, behind prompts of all lengths."""
    token = lambda i, j: (3 * i * i + 5 * j + i * j * j) % 257
    return [{"prompt_ids": [token(i, j) for j in range(3 + 40 * i % 230)], "chosen_ids": [token(i + 50, j) for j in range(1 + 31 * i % 130)],
             "rejected_ids": [token(i + 90, j) for j in range(1 + 67 * i % 140)]} for i in range(14)]  # fmt: skip


def rows_of(objective):
    if objective == "classify":
        return [{"input_ids": pair["prompt_ids"] + pair["chosen_ids"], "label": i % 3} for i, pair in enumerate(pairs())]
    if objective == "contrastive":
        return [{"anchor_ids": pair["prompt_ids"] + pair["rejected_ids"], "positive_ids": pair["chosen_ids"], "negative_ids": pair["rejected_ids"]} for pair in pairs()]
    return pairs()


def prepare(folder, model, rows=None):
    os.mkdir(folder)
    harness.make_base(folder, MODELS[model], "fp32")
    if not rows:
        harness.make_data(folder, sequences())
        return
    with open(f"{folder}/data.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")


def write_config(folder, method, name, longest=400, **sections):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        **{
            "run": {"dir": f"{folder}/{name}", "seed": 5},
            "base": f"{folder}/base.h5",
            "method": method,
            "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": longest},
            "batch": {"sequences": 8, "micro": 3},
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup": 2},
            "train": {"steps": STEPS},
            "kernels": {"product": "native"},
            "precision": "fp32",
            **sections,
        },
    )


def check_same(what, found, expected):
    grid_runs.check_same(checks, what, found, expected, norm_bound=4e-6)


def check_memory(what, config, run, method, grid):
    checks.that([grid_runs.plan(config, grid)[key] for key in ("dp", "tp", "cp", "pp")] == list(grid), f"{what}: plan has another grid")
    memory, planned = grid_runs.check_memory(checks, what, config, run, method, grid)
    checks.close(f"{what}: workspace", memory["workspace"], planned["workspace"], 0.01)
    return memory


def check_left(what, folder, run, method):
    """Adapter or model against what one rank left, evaluated by one rank and by two that share tokens out."""
    full = method["name"] == "full"
    left = lambda name: ["--set", f"base={folder}/{name}/model.h5"] if full else ["--adapter", f"{folder}/{name}/adapter.h5"]
    evaluate = lambda name, cp: json.loads(harness.mpilora("eval", f"{folder}/whole.yaml", *left(name), "--set", f"parallel.cp={cp}", "--json", ranks=cp if cp > 1 else 0))
    expected = evaluate("whole", 1)
    for name, cp in ((run, 1), ("whole", 2)):
        found = evaluate(name, cp)
        checks.that(abs(found["loss"] - expected["loss"]) < 1e-6 * expected["loss"], f"{what}: {name} with cp {cp} has a loss of {found}, what one rank left {expected}")
        checks.that(found.get("target_tokens") == expected.get("target_tokens"), f"{what}: {name} with cp {cp}: {found}, of one rank {expected}")


def check_resumed(what, folder, method, grids):
    """Gone on with on another grid after each checkpoint."""
    for i, grid in enumerate(grids):
        grid_runs.train(write_config(folder, method, "resumed", train={"steps": STEPS, "save_every": 1}), grid, "--set", f"train.steps={i + 1}")
    check_same(f"{what}, resumed", f"{folder}/resumed", f"{folder}/whole")


def check_case(name, folder):
    model, method, sections, grids = CASES[name]
    prepare(folder, model, rows_of(sections["objective"]["name"]) if "objective" in sections else None)
    grid_runs.train(write_config(folder, method, "whole", **sections), (1, 1, 1, 1))
    for grid in grids:
        label = "x".join(map(str, grid))
        config = write_config(folder, method, label, **sections)
        grid_runs.train(config, grid)
        check_same(f"{name} on {label}", f"{folder}/{label}", f"{folder}/whole")
        check_memory(f"{name} on {label}", config, f"{folder}/{label}", method, grid)
    check_left(name, folder, label, method)
    if len(grids) > 3:
        check_resumed(name, folder, method, [grids[0], (2, 1, 1, 1), grids[3]])


def check_halves(folder):
    """What is kept for backward, a rank, of sequences that two ranks divide evenly."""
    kept = {}
    prepare(folder, "llama")
    harness.make_data(folder, [[(i * i + 7 * j) % 257 for j in range(401)] for i in range(4)], "even")
    for cp in (1, 2):
        config = write_config(folder, LORA, f"even-{cp}", data={"train": f"{folder}/even.h5", "max_len": 401}, batch={"sequences": 4, "micro": 2}, train={"steps": 1})
        grid_runs.train(config, (1, 1, cp, 1))
        kept[cp] = check_memory(f"cp {cp}", config, f"{folder}/even-{cp}", LORA, (1, 1, cp, 1))["activation"]
    checks.that(abs(2 * kept[2] / kept[1] - 1) < 0.01, f"kept for backward: {kept}")
    gathered = 3 * 4 * LAYERS * 2 * 16 * (4 * 400 // 2)  # floats of a key and a value of 2 heads of 8, of half of the tokens
    checks.that(harness.read_metrics(f"{folder}/even-2")[0]["gathered_bytes"] == gathered, f"{harness.read_metrics(f'{folder}/even-2')}, expected {gathered} gathered bytes")
    summary = harness.read_summary(f"{folder}/even-2")
    checks.that(summary["gathered_bytes_per_step"] == gathered, f"summary.json has {summary['gathered_bytes_per_step']} gathered bytes a step, expected {gathered}")


def check_ranks_unsaid(folder):
    """Without --ranks plan, and sweep with it, plan for one replica."""
    prepare(folder, "llama")
    config = write_config(folder, LORA, "unsaid", parallel={"cp": 2, "tp": 2})
    plan = json.loads(harness.mpilora("plan", config, "--json"))
    checks.that([plan[key] for key in ("dp", "tp", "cp", "pp")] == [1, 2, 2, 1], f"plan without --ranks: {plan}")
    harness.mpilora("sweep", "ranks", config, "--plan", "--lora-ranks", 2)


REFUSED = {
    "a number of ranks": (["parallel.cp=3"], 4, "parallel.cp: 3 times tp 1 does not divide the 4 ranks of this job; start a multiple of 3 ranks, or choose cp 1, 2 or 4"),
    "with tp and pp": (["parallel.cp=2", "parallel.tp=2", "parallel.pp=2"], 4, "start a multiple of 8 ranks, or choose pp 1"),
    "short sequences": (["parallel.cp=4"], 4, "parallel.cp: 4 would share the longest sequence, of 400 tokens, among ranks that have less than 128 of them; choose cp 2, or sequences of 512 tokens or more"),
    "an init": (["parallel.cp=2", "method.name=prefix_layer", "method.prefix_init=vocabulary"], 2, "parallel.cp: 2 does not know method.prefix_init other than random in layers yet"),
}


def check_refused(folder):
    prepare(folder, "llama")
    config = write_config(folder, LORA, "refused")
    for name, (sets, ranks, text) in REFUSED.items():
        words = [word for one in sets for word in ("--set", one)]
        done = harness.start("train", config, *words, ranks=ranks)
        lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora ")]
        checks.that(done.returncode == 2 and len(lines) == 1 and text in lines[0], f"{name}: ended with {done.returncode}\n{done.stderr}")
        done = harness.start("plan", config, "--ranks", ranks, *words)
        checks.that(done.returncode == 2 and text in done.stderr, f"plan, {name}: ended with {done.returncode}\n{done.stderr}")


def main():
    folder = tempfile.mkdtemp()
    try:
        for i, name in enumerate(CASES):
            check_case(name, f"{folder}/{i}")
        check_halves(f"{folder}/halves")
        check_ranks_unsaid(f"{folder}/unsaid")
        check_refused(f"{folder}/refused")
    finally:
        shutil.rmtree(folder)
    checks.end()


if __name__ == "__main__":
    main()
