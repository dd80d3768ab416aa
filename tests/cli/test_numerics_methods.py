"""numerics: grid with the other methods and objectives, whose gradients are of one sequence (or pair) at a time, with LoRA's variants, and with several runs in one job: the
same digest, losses and norms on one rank and on others (test_numerics.py)."""

import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import harness
import test_numerics as numerics

METHODS = {
    "dropout": {"dropout": 0.1},
    "both ends": {"targets": ["all", "head", "embed"]},
    "pattern, LoRA+": {"targets": ["all"], "rank_pattern": {"q": 2}, "lora_plus": 4.0},
    "pissa": {"init": "pissa", "targets": ["q", "v", "down"]},
    "dora": {"dora": True, "targets": ["all"]},
    "biases": {"bias": "all"},  # of GPT-2
    "whole modules": {"modules_to_save": ["head", "norm"]},
    "trained tokens": {"trainable_tokens": [3, 7, 200]},
    "compacter": {"name": "compacter"},
    "full": {"name": "full"},
    "top": {"name": "top", "top": 1},
    "bitfit": {"name": "bitfit"},  # of GPT-2
    "adapter_h": {"name": "adapter_h"},
    "adapter_l": {"name": "adapter_l"},
    "prefix_embed": {"name": "prefix_embed", "prefix": 3, "infix": 0},
    "prefix_layer": {"name": "prefix_layer", "prefix": 3, "prefix_init": "random"},
    "prefix_kv": {"name": "prefix_kv", "prefix": 3},
    "lora+prefix_layer": {"name": "lora+prefix_layer", "prefix": 3},
}
OTHERS = {
    "dp 2, micro 3, checkpoint": {"ranks": 2, "batch__micro": 3, "memory__activations": "checkpoint"},
    "dp 3, moments divided, 2 threads": {"ranks": 3, "threads": 2, "batch__micro": 1, "memory__shard_optimizer": "true", "memory__activations": "selective"},
}
STAGES = {"pp 2, micro 2": {"ranks": 2, "parallel__pp": 2, "batch__micro": 2}}
SHARES = {"tp 2, micro 2": {"ranks": 2, "parallel__tp": 2, "batch__micro": 2}, "tp 2, dp 2, 2 threads": {"ranks": 4, "parallel__tp": 2, "threads": 2}}
IN_SHARES = ("pissa", "dora", "compacter", "trained tokens")
IN_STAGES = ("both ends", "pissa", "dora", "compacter", "full", "adapter_l", "prefix_embed")  # of the model whose head is not tied


def check(folder, what, others=None):
    numerics.train(folder, "first")
    expected = numerics.result(folder, "first")
    for name, settings in (others or OTHERS).items():
        numerics.train(folder, name, **settings)
        numerics.same(folder, what, name, expected)


def check_methods():
    for method, keys in METHODS.items():
        family = "gpt2" if "bias" in keys or keys.get("name") == "bitfit" else "llama"
        with tempfile.TemporaryDirectory() as folder:
            harness.make_base(folder, numerics.MODELS[family], "fp32")
            harness.make_data(folder, numerics.sequences())
            numerics.configure(folder, {"name": "lora", "rank": 4, **keys} if keys.get("name", "lora").startswith("lora") else keys)
            check(folder, f"{family}, {method}", {**OTHERS, **(STAGES if method in IN_STAGES else {}), **(SHARES if method in IN_SHARES else {})})


def check_blocks():
    """Weights in blocks of 32 and of 256, which are deeper than a share of what tp cuts: a share then has a whole block, or none; LoftQ, which starts from what they have
    lost, and PiSSA, whose first factors each layer takes off, since blocks stay."""
    model = "{family: llama, layers: 2, width: 256, mlp_width: 768, heads: 4, kv_heads: 4, head_dim: 128, vocab: 257, context: 700}"
    settings = {**OTHERS, "tp 2": {"ranks": 2, "parallel__tp": 2, "threads": 2}, "tp 2, dp 2, micro 2": {"ranks": 4, "parallel__tp": 2, "batch__micro": 2}}
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, model, "fp32")
        os.rename(f"{folder}/base.h5", f"{folder}/original.h5")
        for dtype in ("q8_0", "q4_k", "q6_k"):
            own = f"{folder}/{dtype}"
            os.mkdir(own)
            harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "fp32", "--quantise", dtype, "--head-dtype", "fp32", f"{own}/base.h5")
            harness.make_data(own, numerics.sequences())
            init = {"q4_k": {"init": "loftq", "original": f"{folder}/original.h5"}, "q8_0": {"init": "pissa"}}.get(dtype, {})
            numerics.configure(own, {**numerics.LORA, **init})
            check(own, f"llama, {dtype}", settings)


def check_zeros():
    """Blocks decode to -0 as well as to 0, and rows of tokens begin as what the base has, whichever rank of tp holds them."""
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, numerics.MODELS["llama"], "fp32")
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--quantise", "q5_0", f"{folder}/base.h5")
        harness.make_data(folder, numerics.sequences())
        numerics.configure(folder, {"name": "lora", "trainable_tokens": ["200-260", "1990-1999"]})
        check(folder, "llama, q5_0, trained tokens", SHARES)


def check_applied():
    """What would not train on several ranks of tp is applied on them: nothing is summed there."""
    qwen3 = "{family: qwen3, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, head_dim: 16, vocab: 257, context: 700, qk_norm: true}"
    for model, method in (
        (numerics.MODELS["gpt2"], {"trainable_tokens": [3, "100-160", 200]}), (numerics.MODELS["llama"], {"trainable_head_tokens": [3, "100-160", 200]}),
        (qwen3, {"modules_to_save": ["layers.0.attn.q_norm"]})):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            harness.make_base(folder, model, "fp32")
            harness.make_data(folder, numerics.sequences())
            numerics.configure(folder, {"name": "lora", **method})
            numerics.train(folder, "run")
            words = ["eval", f"{folder}/run.yaml", "--adapter", f"{folder}/run/adapter.h5", "--json"]
            one, two = harness.mpilora(*words), harness.mpilora(*words, "--set", "parallel.tp=2", ranks=2)
            numerics.checks.that(one == two, f"eval with tp 2, {method}: {two}, expected {one}")


# ---- objectives ------------------------------------------------------------------------------------------------------------------------------------------


def ids(i, length):
    return [(i * i + 7 * j + i * j * j) % 257 for j in range(length)]


PAIRS = [{"prompt_ids": ids(i, 8 + i), "chosen_ids": ids(i + 3, 6 + 20 * (i % 3)), "rejected_ids": ids(i + 5, 4 + i % 3)} for i in range(13)]
RELATED = [{"anchor_ids": ids(i, 8 + i), "positive_ids": ids(i + 3, 6), "negative_ids": ids(i + 5, 4 + i % 3)} for i in range(13)]
LABELS = [{"input_ids": ids(i, 8 + 3 * i), "label": i % 3} for i in range(13)]
PRICES = [{"input_ids": ids(i, 8 + 3 * i), "label": 1e5 + 37.3 * i * i} for i in range(13)]  # the squares of their errors need more than a double's 53 bits in units of 2^-28
OBJECTIVES = {
    "dpo": ({"name": "dpo", "sft_weight": 0.5}, PAIRS), "simpo": ({"name": "simpo"}, PAIRS), "orpo": ({"name": "orpo"}, PAIRS), "reward": ({"name": "reward"}, PAIRS),
    "classify": ({"name": "classify"}, LABELS), "prices": ({"name": "regress"}, PRICES),
    "what the data have": (None, LABELS), "what rows of texts have": (None, RELATED),
    # What compares over a whole step.
    "kto": ({"name": "kto", "undesirable_weight": 0.7}, PAIRS), "aot": ({"name": "dpo", "loss_type": ["sigmoid", "aot"], "loss_weights": [0.5, 1.0]}, PAIRS),
    "aot_unpaired": ({"name": "dpo", "loss_type": "aot_unpaired"}, PAIRS), "contrastive": ({"name": "contrastive"}, RELATED)}  # fmt: skip
AHEAD = {"pp 2, micro 2": {"ranks": 2, "parallel__pp": 2, "batch__micro": 2}, "tp 2, dp 2, micro 1": {"ranks": 4, "parallel__tp": 2, "batch__micro": 1}}
COMPARED = ("kto", "aot", "contrastive")


def check_objectives(family):
    for name, (objective, rows) in OBJECTIVES.items():
        with tempfile.TemporaryDirectory() as folder:
            harness.make_base(folder, numerics.MODELS[family], "fp32")
            with open(f"{folder}/data.jsonl", "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
            numerics.configure(folder, **({"objective": objective} if objective else {}))
            check(folder, f"{family}, {name}", {**OTHERS, **AHEAD} if name in COMPARED else OTHERS)


# ---- several runs ----------------------------------------------------------------------------------------------------------------------------------------


def check_together(folder):
    runs = {"a": {"optim.lr": 0.02}, "b": {"method.rank": 2, "method.targets": ["q", "down", "head"]}, "c": {"method.dora": True, "batch.sequences": 5},
            "d": {"method.name": "adapter_h", "batch.micro": 1}}  # fmt: skip
    harness.make_base(folder, numerics.MODELS["llama"], "fp32")
    harness.make_data(folder, numerics.sequences())
    numerics.configure(folder, runs=[{"dir": f"{folder}/{name} beside", "set": sets} for name, sets in runs.items()])
    numerics.train(folder, "all", ranks=2)
    numerics.configure(folder)
    for name, sets in runs.items():
        numerics.train(folder, name, **{key.replace(".", "__"): json.dumps(value) for key, value in sets.items()})
        numerics.same(folder, "together", f"{name} beside", numerics.result(folder, name))


def check_apart(folder):
    """Beside a run that adapts the head answers would be weighed otherwise than alone."""
    harness.make_base(folder, numerics.MODELS["llama"], "fp32")
    with open(f"{folder}/data.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in PAIRS)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    for targets, expect in ((["all"], 0), (["all", "head"], 2)):
        runs = [{"dir": f"{folder}/a{expect}", "set": {}}, {"dir": f"{folder}/b{expect}", "set": {"method.targets": targets}}]
        numerics.configure(folder, objective={"name": "dpo"}, runs=runs)
        error = numerics.train(folder, "none", expect=expect)
        numerics.checks.that((expect == 0) == ("one alone adapts the head" not in error), f"{targets}: {error}")


def main():
    check_methods()
    check_blocks()
    check_zeros()
    check_applied()
    check_objectives("gpt2")
    with tempfile.TemporaryDirectory() as folder:
        check_together(folder)
    with tempfile.TemporaryDirectory() as folder:
        check_apart(folder)
    print(f"{numerics.compared} settings compared")
    numerics.checks.end()


main()
