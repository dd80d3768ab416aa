"""The families laid over transformers and PEFT (tests/golden/families.json, by make_families_golden.py), every optional feature on: loss of the base, LoRA
on every linear layer and method full on every grid, greedy continuations, adapters and models out and back, and GGUF like the Hugging Face directory."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import gguf_models
import gpt_models
import harness
import reference_models as reference

LAYOUTS = {"1 rank": (1, 1, 6, "full"), "dp 2": (2, 1, 6, "selective"), "tp 2": (1, 2, 4, "checkpoint"), "dp 2, tp 2": (2, 2, 1, "full")}  # dp, tp, micro, activations
FULL_LAYOUTS = ["1 rank", "dp 2, tp 2"]
LOSS, NORM = 5e-6, 1e-4
UNSAID = {"mistral", "gemma2", "gemma3_text", "smollm3"} | gpt_models.UNSAID


def inspect(path):
    return json.loads(harness.mpilora("inspect", path, "--json"))


def evaluate(config, *words, ranks=0):
    return json.loads(harness.mpilora("eval", config, "--json", *words, ranks=ranks))["loss"]


def prepare(folder, name, shapes):
    families.write_model(f"{folder}/{name}", name, shapes)
    families.write_adapter(f"{folder}/{name}.adapter", name, shapes)
    harness.mpilora("import", f"{folder}/{name}", f"{folder}/{name}.h5", "--dtype", "fp32")
    families.write_tokenizer(f"{folder}/{name}", families.MODELS[name]["vocab_size"])
    harness.mpilora("import", f"{folder}/{name}", f"{folder}/{name}-spoken.h5", "--dtype", "fp32")
    for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
        reference.write_data(f"{folder}/{part}.jsonl", data)
        harness.mpilora("tokenize", "--base", f"{folder}/{name}.h5", "--format", "ids", f"{folder}/{part}.jsonl", f"{folder}/{name}-{part}.h5")


def write_config(folder, name, case, run_dir, tp, micro, activations, init):
    method = {"name": "full"}
    if case["method"] == "lora":
        method = {"name": "lora", **{key: case[key] for key in ("rank", "alpha", "targets", "scaling")}, "init": init}
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=f"{folder}/{name}.h5",
        method=method,
        data={"train": f"{folder}/{name}-train.h5", "valid": f"{folder}/{name}-valid.h5", "max_len": case["max_len"], "shuffle": False},
        batch={"sequences": reference.SEQUENCES, "micro": micro},
        optim={key: case[key] for key in ("lr", "weight_decay", "clip_norm", "schedule", "warmup", "label_smoothing")},
        train={"steps": case["steps"]},
        memory={"activations": activations},
        parallel={"tp": tp},
        precision="fp32",
    )


def check_run(checks, folder, name, case, golden, layout):
    dp, tp, micro, activations = LAYOUTS[layout]
    run_dir = f"{folder}/{name}-{case['method']}-{dp}-{tp}"
    config = write_config(folder, name, case, run_dir, tp, micro, activations, f"{folder}/{name}.adapter")
    harness.mpilora("train", config, ranks=dp * tp)
    metrics, summary, label = harness.read_metrics(run_dir), harness.read_summary(run_dir), f"{name}, {case['method']}, {layout}"
    loss = checks.close(f"{label}: loss", [line["loss"] for line in metrics], golden["loss"], LOSS)
    norm = checks.close(f"{label}: grad_norm", [line["grad_norm"] for line in metrics], golden["grad_norm"], NORM)
    checks.close(f"{label}: valid_loss", summary["valid_loss"], golden["valid_loss"], LOSS)
    checks.that(summary["params_trainable"] == golden["trainable"], f"{label}: {summary['params_trainable']} parameters, expected {golden['trainable']}")
    for category in ("frozen", "trainable", "gradient", "optimizer", "activation", "workspace"):
        measured, planned = summary["memory"][category], summary["memory"]["predicted"][category]
        checks.that(measured == planned, f"{label}: {category}: {measured} bytes, planned {planned}")
    print(f"{label}: loss {loss:.2g}, grad_norm {norm:.2g}", flush=True)
    return config, run_dir


def check_files(checks, folder, name, golden, config, run_dir):
    """The base, and what was trained: as it is, merged, and through a PEFT directory, on two ranks where the heads allow, have the losses of PEFT."""
    base, trained = f"{folder}/{name}.h5", f"{run_dir}/adapter.h5"
    merged, exported = f"{run_dir}/merged.h5", f"{run_dir}/peft"
    harness.mpilora("merge", "--base", base, "--adapter", trained, "--dtype", "fp32", merged)
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", trained, exported)
    tp = () if name in gpt_models.UNCUT else ("--set", "parallel.tp=2")
    checks.close(f"{name}: base", [evaluate(config), evaluate(config, *tp, ranks=2)], [golden["base_loss"]] * 2, LOSS)
    found = [evaluate(config, "--adapter", exported, *tp, ranks=2), evaluate(config, "--set", f"base={merged}")]
    checks.close(f"{name}: adapter out and back, merged", found, [golden["lora"]["valid_loss"]] * 2, LOSS)


def check_parts(checks, folder, name):
    """q and v alone, by PEFT's words, of a fused projection whose parts are not equally wide: out as one adapter of it, and back as two."""
    words = families.LORA | {"targets": ["q_proj", "v_proj"]}
    first, again, exported = f"{folder}/{name}-parts", f"{folder}/{name}-parts-again", f"{folder}/{name}-parts.peft"
    config = write_config(folder, name, words | {"steps": 4}, first, 1, 6, "full", None)
    harness.mpilora("train", config)
    harness.mpilora("export", "--format", "peft", "--base", f"{folder}/{name}.h5", "--adapter", f"{first}/adapter.h5", exported)
    harness.mpilora("train", write_config(folder, name, words | {"steps": 1}, again, 1, 6, "full", exported))  # whose first update has rate 0
    trained = harness.read_summary(first)["valid_loss"]
    found = [evaluate(config, "--adapter", exported), harness.read_summary(again)["valid_loss"]]
    checks.close(f"{name}: q and v out and back", found, [trained] * 2, LOSS)
    checks.that(abs(trained - evaluate(config)) > 1e-4, f"{name}: q and v learned nothing: {trained}")


def check_greedy(checks, folder, name, golden, ranks):
    prompts = [word for prompt in families.PROMPTS for word in ("--prompt", families.text(prompt))]
    words = ["generate", "--base", f"{folder}/{name}-spoken.h5", "--precision", "fp32", "--max-new", families.NEW, "--json", *prompts]
    out = [json.loads(line)["output"] for line in harness.mpilora(*words, *(["--tp", ranks] if ranks else []), ranks=ranks).splitlines()]
    ends = [ids[: ids.index(0)] if 0 in ids else ids for ids in golden["greedy"]]
    checks.that(out == [families.text(ids) for ids in ends], f"{name}, {ranks} ranks: greedy {out}, expected {golden['greedy']}")


def same_base(checks, label, found, base):
    for key in ("architecture", "content_sha256", "tensors"):
        checks.that(found[key] == base[key], f"{label}: {key} {found[key]}, expected {base[key]}")


def check_shared(checks, folder, name, config):
    """Sequences that begin alike, longer and shorter than windows and original contexts, have the loss that each has alone."""
    begin = [(11 * i) % 190 for i in range(20)]
    ends = [[3, 9], [3, 14, 2, 8, 1, 30, 31, 7], [5] * 10 + [6], [40], [40, 41, 42, 43, 44, 45]]
    reference.write_data(f"{folder}/shared.jsonl", [{"input_ids": begin + end} for end in ends] + [{"input_ids": begin[:9] + [1, 2, 3]}])
    harness.mpilora("tokenize", "--base", f"{folder}/{name}.h5", "--format", "ids", f"{folder}/shared.jsonl", f"{folder}/{name}-shared.h5")
    alone, shared = (evaluate(config, "--set", f"data.valid={folder}/{name}-shared.h5", "--set", f"data.share_prompts={share}") for share in ("false", "true"))
    checks.close(f"{name}: prompts shared", shared, alone, 1e-6)


def check_crossing(checks, folder, name):
    """A continuation from within longrope's original context to beyond it is refused."""
    words = ["generate", "--base", f"{folder}/{name}-spoken.h5", "--precision", "fp32", "--max-new", families.NEW, "--prompt", families.text(range(1, 21))]
    done = harness.start(*words)
    checks.that(done.returncode == 2 and "original context" in done.stderr and done.stderr.count("\n") <= 2, f"{name}: exit {done.returncode}, {done.stderr}")


def check_projected(checks, folder, name):
    """Virtual tokens where the embedding is projected, and an adapter of the projections, are refused."""
    config = write_config(folder, name, families.FULL, f"{folder}/{name}-refused", 1, 6, "full", None)
    done = harness.start("train", config, "--set", "method.name=prefix_embed", "--set", "method.prefix=2", "--set", "data.max_len=32")
    checks.that(done.returncode == 2 and "projected" in done.stderr and done.stderr.count("\n") <= 2, f"{name}: exit {done.returncode}, {done.stderr}")
    shapes = {f"model.decoder.layers.{layer}.self_attn.q_proj.weight": [48, 48] for layer in range(3)} | {"model.decoder.project_in.weight": [48, 28]}
    tensors = reference.Tensors("refused")
    for path, (outputs, inputs) in shapes.items():
        tensors.add(f"base_model.model.{path.removesuffix('.weight')}.lora_A.weight", [4, inputs], 0.2)
        tensors.add(f"base_model.model.{path.removesuffix('.weight')}.lora_B.weight", [outputs, 4], 0.2)
    os.makedirs(f"{folder}/all-linear")
    reference.write_json(f"{folder}/all-linear/adapter_config.json", {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "project_in"]})
    reference.write_safetensors(f"{folder}/all-linear/adapter_model.safetensors", tensors)
    done = harness.start("eval", config, "--adapter", f"{folder}/all-linear")
    checks.that(done.returncode == 3 and "project_in" in done.stderr and done.stderr.count("\n") <= 2, f"{name}: exit {done.returncode}, {done.stderr}")


def check_formats(checks, folder, name, shapes):
    """The base out as a Hugging Face directory and back, and from GGUF, is the same; what GGUF does not say is warned of."""
    base, directory, file, back = inspect(f"{folder}/{name}.h5"), f"{folder}/{name}.hf", f"{folder}/{name}.gguf", f"{folder}/{name}-back.h5"
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/{name}.h5", directory)
    harness.mpilora("import", directory, back, "--dtype", "fp32")
    same_base(checks, f"{name}, out and back", inspect(back), base)
    if name in gpt_models.UNKNOWN:
        return
    gguf_models.write_file(file, *families.gguf_contents(name, shapes))
    harness.mpilora("import", file, f"{folder}/{name}-gguf.h5", "--dtype", "fp32", "--hf-config", f"{folder}/{name}/config.json")
    same_base(checks, f"{name}, from GGUF", inspect(f"{folder}/{name}-gguf.h5"), base)
    alone = harness.start("import", file, f"{folder}/{name}-alone.h5", "--dtype", "fp32")
    checks.that(alone.returncode == 0 and ("--hf-config" in alone.stderr) == (name in UNSAID), f"{name}: GGUF alone: exit {alone.returncode}, {alone.stderr}")
    found = inspect(f"{folder}/{name}-alone.h5")
    checks.that(found["tensors"] == base["tensors"], f"{name}: GGUF alone has other tensors")
    if name not in UNSAID:
        said = {key: value for key, value in base["architecture"].items() if key not in ("norm_eps", "rope_scaling", "logit_multiplier", "embed_multiplier", "attention_scale", "residual_multiplier")}
        checks.that(said == {key: found["architecture"][key] for key in said}, f"{name}: GGUF alone: {found['architecture']}, expected {base['architecture']}")


def layouts_of(name, layouts):
    if name in gpt_models.VARIANTS:
        return ["1 rank", "dp 2, tp 2"]
    return [layout for layout in layouts if not (name in gpt_models.UNCUT and "tp" in layout)]


def main():
    checks, golden = harness.Checks(), families.golden()
    for name in sys.argv[1:] or families.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            shapes = golden[name]["tensors"]
            prepare(folder, name, shapes)
            runs = [check_run(checks, folder, name, families.LORA, golden[name]["lora"], layout) for layout in layouts_of(name, LAYOUTS)]
            for layout in layouts_of(name, FULL_LAYOUTS):
                check_run(checks, folder, name, families.FULL, golden[name]["full"], layout)
            check_files(checks, folder, name, golden[name], *runs[0])
            for ranks in (0,) if name in gpt_models.UNCUT else (0, 2):
                check_greedy(checks, folder, name, golden[name], ranks)
            check_shared(checks, folder, name, runs[0][0])
            check_formats(checks, folder, name, shapes)
            if name == "phi3":
                check_crossing(checks, folder, name)
            if name == "opt-350m":
                check_projected(checks, folder, name)
            if name == "falcon-40b":
                check_parts(checks, folder, name)
    checks.end()


main()
