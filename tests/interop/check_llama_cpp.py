"""What `export --format gguf` writes, run by llama.cpp (a developer's check: needs xllamacpp, which has llama.cpp inside, beside what make_golden.py needs; no CTest
test). The tiny models of said_models.py, fp32, llama.cpp's key/value cache in F32:

1. of every architecture log p of all tokens, after the prompt and after each token of a greedy continuation, beside mpilora's (generate --logprobs) and
   transformers', and the greedy continuations themselves;
2. the same with a LoRA adapter that llama.cpp loads beside the base, and with the merged model, for llama, gpt2, qwen3 and gemma.

llama.cpp's GELU is a table of fp16: models that use it get 5e-3, the others 1e-4. What was measured goes to tests/golden/llama_cpp.json with --write.

usage: MPILORA=build/mpilora MPILORA_SOURCE_DIR=. python tests/interop/check_llama_cpp.py [--write] [NAME]...
"""

import importlib.metadata
import json
import os
import sys
import tempfile

import torch
import transformers
import xllamacpp

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import family_models as families
import harness
import reference_models as reference
import said_models as said

GOLDEN = os.path.join(HERE, "..", "golden", "llama_cpp.json")
PROMPT = [5, 17, 3, 44, 2]
LONG = [(7 * i * i + 3) % 150 for i in range(30)]  # Phi-3's: llama.cpp pads its context to 256, and takes the long factors then
NEW = {"phi3": 8}  # the others: 50
GELU = {"gpt2", "bloom", "falcon-7b", "falcon-40b", "gpt_neox", "phi", "starcoder2", "gemma", "gemma2", "gemma3_text"}
ADAPTED = ("llama", "gpt2", "qwen3", "gemma")


def server(path, lora=None):
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.fit_params, p.n_gpu_layers, p.verbosity = path, 256, 1, False, False, 0, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = lora, 1.0
        p.lora_adapters = [adapter]
    return xllamacpp.Server(p)


def by_llama(path, prompt, new, vocab, lora=None):
    """[(id, {id: log p})] of a greedy continuation."""
    asked = {"prompt": prompt, "n_predict": new, "temperature": -1, "n_probs": vocab, "post_sampling_probs": False, "cache_prompt": False}
    answer = server(path, lora).handle_completions(asked)
    return [(t["id"], {q["id"]: q["logprob"] for q in t["top_logprobs"]}) for t in answer["choices"][0]["logprobs"]["content"]]


def by_mpilora(base, prompt, new, vocab, folder, *words):
    with open(f"{folder}/prompt.jsonl", "w") as file:
        file.write(json.dumps({"prompt_ids": prompt}) + "\n")
    text = harness.mpilora("generate", "--base", base, "--prompts", f"{folder}/prompt.jsonl", "--max-new", new, "--logprobs", vocab, "--precision", "fp32", *words)
    found = json.loads(text)["logprobs"]
    return [(token, {id: p for id, p in top}) for token, top in zip(found["tokens"], found["top"])]


def by_transformers(source, prompt, new):
    """Until the end of a text, which llama.cpp does not give back either."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    ids, out, end = list(prompt), [], model.config.eos_token_id
    for _ in range(new):
        with torch.no_grad():
            row = model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
        ids.append(int(row.argmax()))
        if ids[-1] == end:
            break
        out.append((ids[-1], dict(enumerate(row.tolist()))))
    return out


def compare(checks, label, tolerance, wanted, **others):
    """The largest difference to each of the others."""
    worst = {}
    for who, found in others.items():
        ids, expected = [id for id, _ in found], [id for id, _ in wanted]
        checks.that(ids[: len(expected)] == expected, f"{label}: {who} goes on with {ids}, mpilora with {expected}")
        worst[who] = max((abs(p - row[id]) for (_, row), (_, top) in zip(wanted, found) for id, p in top.items() if id in row), default=0.0)
        limit = tolerance if who == "llama_cpp" else 1e-4
        checks.that(worst[who] < limit, f"{label}: {who} differs by {worst[who]:.2e}, allowed {limit:g}")
    print(f"{label}: {len(wanted)} tokens;", ", ".join(f"{who} differs by {value:.1e}" for who, value in worst.items()), flush=True)
    return worst


def check_model(checks, folder, name):
    source, base, out = f"{folder}/{name}", f"{folder}/{name}.h5", f"{folder}/{name}.gguf"
    said.write_model(source, name)
    vocab, prompt, new, tolerance = said.config_of(name)["vocab_size"], LONG if name == "phi3" else PROMPT, NEW.get(name, 50), 5e-3 if name in GELU else 1e-4
    harness.mpilora("import", source, base, "--dtype", "fp32")
    export = ("export", "--format", "gguf", "--base", base)
    harness.mpilora(*export, out)
    ours = by_mpilora(base, prompt, new, vocab, folder)
    worst = compare(checks, name, tolerance, ours, llama_cpp=by_llama(out, prompt, new, vocab), transformers=by_transformers(source, prompt, new))
    golden = {"tokens": [id for id, _ in ours], "llama_cpp": float(f"{worst['llama_cpp']:.1e}")}
    if name not in ADAPTED:
        return golden
    adapter = f"{folder}/{name}.peft"
    if name in reference.MODELS:
        reference.write_adapter(adapter, {**reference.DEFAULTS, "model": name, "targets": ["qkv", "fc"] if name == "gpt2" else ["all"]})
    else:
        families.write_adapter(adapter, name, said.shapes_of(name))
    harness.mpilora(*export, "--adapter", adapter, f"{folder}/lora.gguf")
    harness.mpilora(*export, "--adapter", adapter, "--merge", f"{folder}/merged.gguf")
    adapted = by_mpilora(base, prompt, new, vocab, folder, "--adapter", adapter)
    checks.that([id for id, _ in adapted] != golden["tokens"], f"{name}: the adapter changes nothing")
    beside = compare(checks, f"{name} with --lora", tolerance, adapted, llama_cpp=by_llama(out, prompt, new, vocab, f"{folder}/lora.gguf"))
    merged = compare(checks, f"{name} merged", tolerance, adapted, llama_cpp=by_llama(f"{folder}/merged.gguf", prompt, new, vocab))
    return golden | {"adapted": [id for id, _ in adapted], "lora": float(f"{beside['llama_cpp']:.1e}"), "merged": float(f"{merged['llama_cpp']:.1e}")}


def main():
    checks, golden = harness.Checks(), {}
    names = [word for word in sys.argv[1:] if word != "--write"] or list(said.CHANGES)
    torch.set_num_threads(1)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = check_model(checks, folder, name)
    if "--write" in sys.argv:
        with open(GOLDEN, "w") as file:
            json.dump({"xllamacpp": importlib.metadata.version("xllamacpp"), "models": golden}, file)
            file.write("\n")
    checks.end()


main()
