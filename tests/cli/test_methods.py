"""Every method through the program: losses on any grid, resuming, the adapter that is left, memory beside the plan, and what is refused."""
import json
import os
import shutil
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODELS = {
    "gpt2": "{family: gpt2, layers: 3, width: 32, heads: 4, vocab: 61, context: 48}\n",
    "llama": "{family: llama, layers: 3, width: 32, heads: 4, kv_heads: 2, mlp_width: 56, vocab: 61, context: 48, tied_head: true}\n",
}
LAYERS, WIDTH = 3, 32
SIZES = {"top": 1, "prefix": 3, "infix": 2, "bottleneck": 4, "drop": 1, "factors": 2, "rank": 2}
DEFAULTS = {"top": 2, "prefix": 8, "infix": 0, "bottleneck": 8, "drop": 0, "factors": 4, "rank": 8}
BOTTLENECK = 2 * WIDTH * 4 + 4 + WIDTH
COMPACT = 2 * (4 + WIDTH) + 4 + WIDTH
# method -> trainable parameters of the GPT-2 above, by the formulas of the paper's section 5.1
PARAMETERS = {
    "lora": LAYERS * 2 * (2 * 2 * WIDTH),
    "top": 12 * WIDTH**2 + 13 * WIDTH,
    "bitfit": LAYERS * 11 * WIDTH + WIDTH,
    "prefix_embed": WIDTH * 5,
    "prefix_layer": LAYERS * WIDTH * 5,
    "prefix_kv": 2 * LAYERS * WIDTH * 3,
    "adapter_h": 2 * LAYERS * BOTTLENECK,
    "adapter_l": LAYERS * (BOTTLENECK + 2 * WIDTH),
    "adapter_p": LAYERS * BOTTLENECK,
    "adapter_drop": (LAYERS - 1) * BOTTLENECK,
    "compacter": 2 * LAYERS * COMPACT + 2**3,
    "lora+prefix_embed": LAYERS * 2 * (2 * 2 * WIDTH) + WIDTH * 5,
    "lora+prefix_layer": LAYERS * 2 * (2 * 2 * WIDTH) + LAYERS * WIDTH * 5,
    "lora+prefix_kv": LAYERS * 2 * (2 * 2 * WIDTH) + 2 * LAYERS * WIDTH * 3,
}
MORE = {("gpt2", "prefix_kv"): {"infix": 0}, ("gpt2", "lora+prefix_kv"): {"infix": 0}, ("llama", "prefix_kv"): {"infix": 0}, ("llama", "bitfit"): {"new_biases": True}}


def sequences(seed):
    return [[(seed + 7 * i + 3 * j * (1 + i % 3)) % 61 for j in range(9 + (5 * i) % 17)] for i in range(12)]


def config(folder, name, **change):
    method = {"name": name, **SIZES, **change.pop("method", {})}
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method=method,
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/valid.h5", "max_len": 40}, batch={"sequences": 6, "micro": 2},
        optim={"lr": 0.01}, train={"steps": 4, **change.pop("train", {})}, **{"precision": "fp32", **change})


def train(folder, *words, ranks=0):
    shutil.rmtree(f"{folder}/run", ignore_errors=True)
    harness.mpilora("train", f"{folder}/run.yaml", *words, ranks=ranks)
    return [m["loss"] for m in harness.read_metrics(f"{folder}/run")], harness.read_summary(f"{folder}/run")


def check_method(checks, folder, model, name, more):
    title = f"{model} {name}"
    config(folder, name, method=more)
    alone, summary = train(folder)
    checks.that(alone[-1] < alone[0], f"{title}: the loss does not fall: {alone}")
    ratio = summary["memory"]["total_peak_bytes"] / summary["memory"]["predicted"]["total_bytes"]
    checks.that(0.98 <= ratio <= 1.02, f"{title}: accounted / predicted = {ratio}")
    if model == "gpt2":
        checks.that(summary["params_trainable"] == PARAMETERS[name], f"{title}: {summary['params_trainable']} parameters, formula {PARAMETERS[name]}")
    plan = json.loads(harness.mpilora("plan", f"{folder}/run.yaml", "--json"))["methods"][0]
    checks.that(plan["name"] == name and plan["params_trainable"] == summary["params_trainable"], f"{title}: plan says {plan['name']}, {plan['params_trainable']}")
    told = json.loads(harness.mpilora("inspect", f"{folder}/run/adapter.h5", "--json"))
    checks.that((told["method"], told["params_trainable"]) == (name, summary["params_trainable"]), f"{title}: inspect says {told['method']}, {told['params_trainable']}")
    found = json.loads(harness.mpilora("eval", f"{folder}/run.yaml", "--adapter", f"{folder}/run/adapter.h5", "--json", ranks=2))["loss"]
    checks.close(f"{title}: eval with its adapter", found, summary["valid_loss"], 1e-5)
    for ranks, tp in ((2, 2), (4, 2)):
        losses, there = train(folder, "--set", f"parallel.tp={tp}", ranks=ranks)
        checks.close(f"{title}, {ranks} ranks, tp {tp}", losses, alone, 1e-5)
        checks.close(f"{title}, {ranks} ranks, tp {tp}: validation", there["valid_loss"], summary["valid_loss"], 1e-5)
    train(folder, "--set", "train.steps=2", "--set", "parallel.tp=2", ranks=2)
    harness.mpilora("train", f"{folder}/run.yaml")
    resumed = [m["loss"] for m in harness.read_metrics(f"{folder}/run")]
    checks.close(f"{title}, resumed on another grid", resumed, alone, 1e-5)
    shutil.copy(f"{folder}/run/adapter.h5", f"{folder}/first.h5")
    config(folder, name, method={**more, "init": f"{folder}/first.h5"}, train={"steps": 1})
    losses, _ = train(folder)
    checks.that(losses[0] < alone[0], f"{title}: started from its adapter: loss {losses[0]}, at first {alone[0]}")
    config(folder, name, method=more, precision="bf16")
    narrow, summary = train(folder, "--set", "parallel.tp=2", ranks=4)
    checks.close(f"{title}, bf16", narrow, alone, 0.02)
    found = json.loads(harness.mpilora("eval", f"{folder}/run.yaml", "--adapter", f"{folder}/run/adapter.h5", "--json"))["loss"]
    checks.close(f"{title}, bf16: eval with its adapter", found, summary["valid_loss"], 1e-3)


def refused(checks, folder, what, name, code, expected, **more):
    config(folder, name, **more)
    shutil.rmtree(f"{folder}/run", ignore_errors=True)
    done = harness.start("train", f"{folder}/run.yaml", ranks=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
    checks.that(done.returncode == code and any(expected in line for line in lines), f"{what}: exit {done.returncode}: {done.stderr[:300]}")


def check_refusals(checks, folder):
    refused(checks, folder, "more top layers than there are", "top", 2, "method.top: 9", method={"top": 9})
    refused(checks, folder, "no layer left", "adapter_drop", 2, "method.drop: 3", method={"drop": 3})
    refused(checks, folder, "factors that divide nothing", "compacter", 2, "method.factors: 3", method={"factors": 3})
    refused(checks, folder, "no virtual token", "prefix_embed", 2, "method.prefix", method={"prefix": 0, "infix": 0})
    refused(checks, folder, "virtual tokens beyond the context", "prefix_layer", 2, "virtual tokens", method={"prefix": 30})
    done = harness.start("plan", f"{folder}/run.yaml")
    checks.that(done.returncode == 2 and "virtual tokens" in done.stderr, f"plan of virtual tokens beyond the context: exit {done.returncode}: {done.stderr[:300]}")
    refused(checks, folder, "keys and values behind the prompt", "prefix_kv", 2, "method.infix: 2", method={"infix": 2})
    refused(checks, folder, "a text that is missing", "prefix_embed", 2, "method.prefix_text: missing", method={"prefix_init": "text"})
    refused(checks, folder, "a text that nobody reads", "prefix_embed", 2, "method.prefix_text", method={"prefix_text": "a"})
    refused(checks, folder, "a text without a tokenizer", "prefix_embed", 3, "has no tokenizer", method={"prefix_init": "text", "prefix_text": "a"})
    refused(checks, folder, "an unknown method", "adapterH", 2, "method.name")
    config(folder, "adapter_p", method={**DEFAULTS, "rank": 16, "bottleneck": 4})
    said = harness.start("train", f"{folder}/run.yaml", ranks=2).stderr
    checks.that(said.count("does not read it") == 1 and "method.rank: is set, but method adapter_p" in said, f"a key of another method: {said[:300]}")
    config(folder, "adapter_p")
    train(folder)
    shutil.copy(f"{folder}/run/adapter.h5", f"{folder}/other.h5")
    refused(checks, folder, "another method's adapter", "bitfit", 2, "adapter_p", method={"init": f"{folder}/other.h5"})
    refused(checks, folder, "an adapter for full fine-tuning", "full", 2, "method.init", method={"init": f"{folder}/other.h5"})
    refused(checks, folder, "another size's adapter", "adapter_p", 2, "method.init", method={"init": f"{folder}/other.h5", "bottleneck": 8})
    config(folder, "adapter_p")
    train(folder)
    config(folder, "adapter_p", method={"bottleneck": 8}, train={"steps": 5})
    done = harness.start("train", f"{folder}/run.yaml")
    checks.that(done.returncode == 2 and "method.bottleneck" in done.stderr, f"resumed with another size: exit {done.returncode}: {done.stderr[:300]}")
    config(folder, "prefix_embed")
    train(folder)
    config(folder, "prefix_embed", method={"prefix_init": "random"}, train={"steps": 5})
    done = harness.start("train", f"{folder}/run.yaml")
    checks.that(done.returncode == 2 and "method.prefix_init" in done.stderr, f"resumed with another start: exit {done.returncode}: {done.stderr[:300]}")
    done = harness.start("export", "--format", "peft", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/other.h5", f"{folder}/peft")
    checks.that(done.returncode == 2 and "adapter_p" in done.stderr, f"export of what PEFT has not: exit {done.returncode}: {done.stderr[:300]}")
    done = harness.start("merge", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/other.h5", f"{folder}/merged.h5")
    checks.that(done.returncode == 2 and "adapter_p" in done.stderr, f"merge of what cannot be merged: exit {done.returncode}: {done.stderr[:300]}")


def check_prompt_tuning(checks, folder):
    """prefix_embed is PEFT's prompt tuning, prefix_kv its prefix tuning: out, in again with the same loss, and directories that are not right."""
    peft, options = f"{folder}/prompt", f"{folder}/prompt/adapter_config.json"
    words = ("export", "--format", "peft", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/run/adapter.h5", peft)
    config(folder, "prefix_embed")
    train(folder)
    done = harness.start(*words)
    checks.that(done.returncode == 2 and "method.infix" in done.stderr, f"export with an infix: exit {done.returncode}: {done.stderr[:300]}")
    for name, other in (("prefix_embed", "PREFIX_TUNING"), ("prefix_kv", "PROMPT_TUNING")):
        shutil.rmtree(peft, ignore_errors=True)
        config(folder, name, method={"infix": 0})
        _, summary = train(folder)
        harness.mpilora(*words)
        found = json.loads(harness.mpilora("eval", f"{folder}/run.yaml", "--adapter", peft, "--json"))["loss"]
        checks.close(f"{name}: loss of the exported directory", found, summary["valid_loss"], 1e-6)
        config(folder, name, method={"infix": 0, "init": peft}, train={"steps": 1})
        losses, again = train(folder)
        checks.that(losses[0] < summary["loss_first"], f"{name}: started from the exported directory: loss {losses[0]}, at first {summary['loss_first']}")
        with open(options) as file:
            good = json.load(file)
        for change, expected in (
                ({"num_virtual_tokens": 4}, "expected 4"), ({"num_virtual_tokens": 0}, "num_virtual_tokens"), ({"num_virtual_tokens": "3"}, "num_virtual_tokens"),
                ({"token_dim": WIDTH + 1}, "token_dim"), ({"num_transformer_submodules": 2}, "num_transformer_submodules"), ({"peft_type": other}, "expected 3"),
                ({"peft_type": "P_TUNING"}, "P_TUNING"), ({"peft_type": "LORA"}, "mpilora"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")):
            with open(options, "w") as file:
                json.dump({**good, **change}, file)
            refuse_prompt(checks, folder, f"{name}, {change}", expected)
        with open(options, "w") as file:
            json.dump(good, file)
        for tensor, expected in (("other", "prompt_embeddings is missing"), ("prompt_embeddings", "expected 3")):
            harness.write_safetensors(f"{peft}/adapter_model.safetensors", {tensor: ([2, WIDTH], bytes(8 * WIDTH))})
            refuse_prompt(checks, folder, f"{name}, tensor {tensor}", expected)


def refuse_prompt(checks, folder, what, expected):
    done = harness.start("eval", f"{folder}/run.yaml", "--adapter", f"{folder}/prompt")
    lines = done.stderr.splitlines()
    checks.that(done.returncode == 3 and len(lines) == 1 and expected in lines[0], f"{what}: exit {done.returncode}: {done.stderr[:300]}")


def check_merge(checks, folder, name):
    """Tensors of the base that were trained stand in the merged base."""
    config(folder, name)
    _, summary = train(folder)
    if os.path.exists(f"{folder}/merged.h5"):
        os.remove(f"{folder}/merged.h5")
    harness.mpilora("merge", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/run/adapter.h5", "--dtype", "fp32", f"{folder}/merged.h5")
    found = json.loads(harness.mpilora("eval", f"{folder}/run.yaml", "--set", f"base={folder}/merged.h5", "--json"))["loss"]
    checks.close(f"{name}: merged", found, summary["valid_loss"], 1e-6)
    harness.mpilora("merge", "--subtract", "--original", f"{folder}/base.h5", "--base", f"{folder}/merged.h5", "--adapter", f"{folder}/run/adapter.h5", f"{folder}/back.h5")
    with open(f"{folder}/base.h5", "rb") as base, open(f"{folder}/back.h5", "rb") as back:
        checks.that(base.read() == back.read(), f"{name}: subtracted with the original beside it: not the original")


def check_negative_alpha(checks, folder):
    """PEFT allows it: alpha −a with B is alpha a with −B."""
    config(folder, "lora")
    losses = []
    for sign in (1.0, -1.0):
        a, b = (struct.pack(f"<{2 * WIDTH}f", *[side * 0.1 * (i % 7 - 3) for i in range(2 * WIDTH)]) for side in (1.0, sign))
        peft = harness.make_peft(f"{folder}/alpha{sign}", 2, 4 * sign, {f"model.layers.{i}.self_attn.q_proj": (([2, WIDTH], a), ([WIDTH, 2], b)) for i in range(LAYERS)})
        losses.append(json.loads(harness.mpilora("eval", f"{folder}/run.yaml", "--adapter", peft, "--json"))["loss"])
    checks.close("negative alpha", losses[1], losses[0], 1e-7)


def main():
    checks = harness.Checks()
    for model, text in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            harness.make_base(folder, text, "fp32")
            harness.make_data(folder, sequences(1))
            harness.make_data(folder, sequences(2), "valid")
            for name in PARAMETERS:
                if model == "llama" and name not in ("bitfit", "top", "prefix_layer", "prefix_kv", "compacter"):
                    continue  # the family touches biases, layers, keys and the two sub-layers' outputs; the rest differs from these in none of them
                check_method(checks, folder, model, name, MORE.get((model, name), {}))
            if model == "gpt2":
                check_refusals(checks, folder)
                check_prompt_tuning(checks, folder)
                check_merge(checks, folder, "top")
                check_merge(checks, folder, "bitfit")
            else:
                refused(checks, folder, "biases that are not there", "bitfit", 2, "method.new_biases")
                check_negative_alpha(checks, folder)
    checks.end()


main()
