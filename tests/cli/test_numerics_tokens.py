"""numerics: grid with ranks that share out the tokens of each sequence (parallel.cp): the digest, losses and norms of one rank on 2, 3 and 4 of them, with tp, dp and pp,
whatever the micro-batches, activation mode and threads, before and after a resume elsewhere (test_numerics.py). Sequences are cut between pieces of 512 tokens: some here are
shorter, so that a rank has none of them, some longer."""

import json
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import harness
import test_numerics as numerics

SHAPE = "layers: 2, width: 32, heads: 4, vocab: 257, context: 2200"
MODELS = {
    "llama": f"{{family: llama, {SHAPE}, mlp_width: 48, kv_heads: 2}}",
    "gpt2": f"{{family: gpt2, {SHAPE}}}",
    "mistral": f"{{family: mistral, {SHAPE}, mlp_width: 48, kv_heads: 2, window: 700}}",
    "falcon": f"{{family: falcon, {SHAPE}, mlp_width: 64, kv_heads: 4, norm_places: before, positions: alibi_scaled, qkv_bias: true, o_bias: true, mlp_bias: true}}",
}
SETTINGS = {
    "cp 2": {"ranks": 2, "parallel__cp": 2},
    "cp 2, micro 1, checkpoint": {"ranks": 2, "parallel__cp": 2, "batch__micro": 1, "memory__activations": "checkpoint"},
    "cp 3, micro 2": {"ranks": 3, "parallel__cp": 3, "batch__micro": 2},
    "cp 4, 2 threads": {"ranks": 4, "parallel__cp": 4, "threads": 2},
    "cp 2, dp 2, moments divided": {"ranks": 4, "parallel__cp": 2, "batch__micro": 1, "memory__shard_optimizer": "true"},
    "cp 2, tp 2, selective": {"ranks": 4, "parallel__cp": 2, "parallel__tp": 2, "memory__activations": "selective"},
    "cp 2, pp 2": {"ranks": 4, "parallel__cp": 2, "parallel__pp": 2, "batch__micro": 1},
}
LORA = numerics.LORA
DROPOUT, DORA = {**LORA, "dropout": 0.1}, {**LORA, "dora": True}
CASES = [("llama", "fp32", DROPOUT, SETTINGS), ("llama", "bf16", DROPOUT, ("cp 2", "cp 2, tp 2, selective")), ("llama", "fp32", DORA, ("cp 2, micro 1, checkpoint", "cp 2, tp 2, selective")),
         ("gpt2", "fp32", LORA, ("cp 2, micro 1, checkpoint",)), ("mistral", "fp32", LORA, ("cp 3, micro 2",)), ("falcon", "fp32", LORA, ("cp 2",))]  # fmt: skip


def ids(draw, count):
    return [draw.randrange(257) for _ in range(count)]


def sequences():
    draw = random.Random(7)
    return [ids(draw, n) for n in (2150, 3, 70, 513, 1030, 514, 1700, 40, 1024, 600)]


def pairs():
    draw = random.Random(8)
    return [{"prompt_ids": ids(draw, p), "chosen_ids": ids(draw, c), "rejected_ids": ids(draw, r)} for p, c, r in ((900, 300, 20), (40, 6, 5), (300, 700, 800), (5, 90, 1500), (510, 4, 9), (30, 40, 50))]


def related():
    return [{"anchor_ids": pair["prompt_ids"], "positive_ids": pair["chosen_ids"], "negative_ids": pair["rejected_ids"]} for pair in pairs()]


def prepare(folder, family, precision="fp32", method=None, **sections):
    harness.make_base(folder, MODELS[family], precision)
    numerics.configure(folder, method, precision=precision, batch={"sequences": 4, "micro": 4}, train={"steps": 3, "save_every": 1}, **sections)


def compare(folder, what, settings):
    numerics.train(folder, "first")
    expected = numerics.result(folder, "first")
    for name in settings:
        numerics.train(folder, name, **SETTINGS[name])
        numerics.same(folder, what, name, expected)
        numerics.check_memory(folder, what, name)
    return expected


def check_resumed(folder, expected):
    numerics.train(folder, "resumed", ranks=2, parallel__cp=2, train__steps=1)
    numerics.train(folder, "resumed", train__steps=2)
    numerics.train(folder, "resumed", ranks=4, parallel__cp=4)
    numerics.same(folder, "llama", "resumed", expected)


def check_objectives(folder):
    """Log-probabilities of an answer that several ranks have parts of, and the last token of a text, which one of them has."""
    harness.make_base(folder, MODELS["llama"], "fp32")
    for name, rows in (("pairs", pairs()), ("related", related())):
        with open(f"{folder}/{name}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/{name}.jsonl", f"{folder}/{name}.h5")
    for objective in ({"name": "dpo", "sft_weight": 0.5, "ld_alpha": 0.5}, {"name": "kto"}, {"name": "dpo", "loss_type": "aot"}, {"name": "contrastive", "pooling": "last"}):
        with tempfile.TemporaryDirectory() as own:
            os.symlink(f"{folder}/base.h5", f"{own}/base.h5")
            os.symlink(f"{folder}/{'related' if 'pooling' in objective else 'pairs'}.h5", f"{own}/data.h5")
            numerics.configure(own, None if "loss_type" in objective else DROPOUT, batch={"sequences": 4, "micro": 2}, train={"steps": 2}, objective=objective)
            compare(own, f"llama, {objective}", ("cp 2, micro 1, checkpoint", "cp 2, pp 2"))


def check_refusals(folder):
    """Before anything is computed, and by plan as well."""
    for words, text in (({"method__bias": "all"}, "these gradients are sums over whole sequences"), ({"method__name": "full"}, "take lora without bias"), ({"objective__name": "contrastive"}, "set objective.pooling to last"),
                        ({"data__max_len": 1000}, "cp: 2 would share the longest sequence, of 1000 tokens, among ranks that have less than 512 of them")):  # fmt: skip
        error = numerics.train(folder, "refused", ranks=2, expect=2, parallel__cp=2, **words)
        numerics.checks.that(text in error and "numerics is grid" in error, f"{words}: {error}")


def main():
    for family, precision, method, settings in CASES:
        with tempfile.TemporaryDirectory() as folder:
            prepare(folder, family, precision, method)
            harness.make_data(folder, sequences())
            expected = compare(folder, f"{family}, {precision}, {method}", settings)
            if settings is SETTINGS:
                check_resumed(folder, expected)
                check_refusals(folder)
    with tempfile.TemporaryDirectory() as folder:
        check_objectives(folder)
    print(f"{numerics.compared} settings compared")
    numerics.checks.end()


if __name__ == "__main__":
    main()
