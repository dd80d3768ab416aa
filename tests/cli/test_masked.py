"""Objective mlm from texts to a run: which tokens are predicted, whole words among them; a bare encoder gets a head, which the adapter and the merged base have;
a run does not depend on where it was stopped; what is refused, and with which words."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import test_embed

checks = harness.Checks()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "red door blue lantern river runs sea below the bridge a cat sat on one mat behind seven hills un ##break ##able ##s ##ing play".split()
ENCODER = test_embed.ENCODER.replace("vocab: 300", "vocab: 40")


def write_tokenizer():
    """WordPiece over a few words."""
    vocab = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    added = [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, word in enumerate(SPECIAL)]
    ends = [{"SpecialToken": {"id": word, "type_id": 0}} for word in ("[CLS]", "[SEP]")]
    single = [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]]
    words = {word: {"id": word, "ids": [vocab[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": {"type": "BertPreTokenizer"}}
    tokenizer |= {"post_processor": {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": words}}
    tokenizer |= {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    tokenizer |= {"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}}
    test_embed.write("tokenizer/tokenizer.json", tokenizer)


def write_texts(name, texts, base="encoder"):
    test_embed.write(f"{os.getcwd()}/{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    harness.mpilora("tokenize", "--base", f"{base}.h5", f"{name}.jsonl", f"{name}.h5")


def sentence(i):
    plain = [word for word in WORDS if not word.startswith("##")]
    return " ".join(plain[(i * 7 + j * (i % 5 + 1)) % len(plain)] for j in range(i % 6 + 1)) + " unbreakables playing"


def config(name, base="encoder", **sections):
    whole = {"run": {"dir": name}, "base": f"{base}.h5", "method": {"name": "lora", "rank": 4, "targets": ["q", "v"]}, "objective": {"name": "mlm"}, "data": {"train": "train.h5", "valid": "valid.h5"}, "batch": {"sequences": 4, "micro": 2}, "optim": {"lr": 1e-3, "schedule": "constant"}, "train": {"steps": 6}, "precision": "fp32"}
    for key, value in sections.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    return harness.write_config(f"{name}.yaml", **whole)


def losses(run):
    return [line["loss"] for line in harness.read_metrics(run)]


def evaluate(path, *words):
    return json.loads(harness.mpilora("eval", path, "--json", *words))


def check_run():
    """A new head trains whole, the same on every grid, and goes where adapter and base go."""
    done = harness.start("train", config("one"))
    checks.that(done.returncode == 0 and done.stderr.count("encoder.h5: has no head for masked tokens; a new one is drawn") == 1, f"a new head: {done.returncode}, {done.stderr}")
    expected = losses("one")
    checks.that(len(expected) == 6 and len(set(expected)) == 6, f"losses: {expected}")
    for name, tp in (("dp", 1), ("tp", 2)):
        harness.mpilora("train", config(name, parallel={"tp": tp}), ranks=2)
        checks.that(all(abs(a - b) < 2e-5 for a, b in zip(losses(name), expected)), f"{name}: {losses(name)}, expected {expected}")
    valid = harness.read_summary("one")["valid_loss"]
    found = evaluate("one.yaml", "--adapter", "one/adapter.h5")
    checks.close("eval --adapter", found["loss"], valid, 1e-6)
    harness.mpilora("merge", "--base", "encoder.h5", "--adapter", "one/adapter.h5", "--dtype", "fp32", "merged.h5")
    checks.close("eval of the merged base", evaluate(config("merged-run", base="merged"))["loss"], valid, 1e-6)
    done = harness.start("train", config("again", base="merged"))
    checks.that(done.returncode == 0 and "has no head" not in done.stderr, f"a base with a head: {done.stderr}")
    counts = [json.loads(harness.mpilora("plan", config(f"plan-{base}", base=base), "--json")) for base in ("encoder", "merged")]
    total = [plan["methods"][0]["params_total"] for plan in counts]
    checks.that(total[0] == total[1], f"parameters with a new head and with its own: {total}")
    harness.mpilora("export", "--base", "encoder.h5", "--adapter", "one/adapter.h5", "--format", "peft", "peft")
    checks.close("eval --adapter of the PEFT directory", evaluate("one.yaml", "--adapter", "peft")["loss"], valid, 1e-6)


def check_resume():
    """Stopped somewhere and begun again, a run chooses the same tokens."""
    kernels = {"product": harness.read_summary("one")["product_path"], "vector": harness.read_summary("one")["vector_path"]}
    harness.mpilora("train", config("whole", train={"steps": 60}, kernels=kernels))
    command, done = harness.command("train", config("parts", train={"steps": 60}, kernels=kernels)), 60
    for _ in range(5):  # a busy machine may be through before the signal comes
        shutil.rmtree("parts", ignore_errors=True)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and harness.count_lines("parts/metrics.jsonl") < 9:
            time.sleep(0.002)
        process.terminate()
        process.wait(60)
        done = harness.count_lines("parts/metrics.jsonl")
        if done < 60:
            break
    harness.mpilora("train", "parts.yaml")
    checks.that(done < 60 and losses("parts") == losses("whole"), f"stopped behind step {done}: {losses('parts')}, expected {losses('whole')}")


def check_choice():
    """Every token but the special ones where the probability is 1; words as a whole."""
    texts = [sentence(i) for i in range(20, 27)]
    sizes = [len(text.split()) + 4 for text in texts]  # un ##break ##able ##s play ##ing
    held = json.loads(harness.mpilora("inspect", "valid.h5", "--json"))["tokens"]
    checks.that(held == sum(sizes) + 2 * len(texts), f"{held} tokens, expected {sum(sizes)}, and two around each text")
    everything = evaluate(config("all", base="merged", objective={"mask_probability": 1}))
    checks.that(everything["target_tokens"] == sum(sizes), f"all: {everything['target_tokens']} targets, expected {sum(sizes)}")
    write_texts("word", ["unbreakables"] * 60)
    some = [evaluate(config(f"word-{whole}", base="merged", data={"valid": "word.h5"}, objective={"mask_probability": 0.4, "whole_words": whole}))["target_tokens"] for whole in (False, True)]
    checks.that(some[1] % 4 == 0 and 40 < some[1] < 160, f"whole words: {some[1]} pieces of words of 4")
    checks.that(some[0] % 4 != 0 and 60 < some[0] < 130, f"pieces: {some[0]}")
    again = [evaluate("word-True.yaml")["loss"], evaluate("word-True.yaml", "--set", "run.seed=5")["loss"]]
    checks.that(again[0] == evaluate("word-True.yaml")["loss"] and again[0] != again[1], f"drawn by run.seed: {again}")


def refused(says, *words, code=3):
    done = harness.start(*words)
    lines = done.stderr.strip().split("\n")
    checks.that(done.returncode == code and len(lines) == 1 and says in lines[0], f"{words}: {done.returncode}, {done.stderr}; expected {code}: {says}")


def check_compare():
    """The base alone has a loss where it brings the head."""
    found = {}
    for base in ("merged", "encoder"):
        run = config(f"compared-{base}", base=base, train={"steps": 1})
        table = json.loads(harness.mpilora("compare", run, "--methods", "lora", "--json", "--out", f"compare-{base}"))
        found[base] = table["base_valid_loss"]
        checks.that(len(table["rows"]) == 1 and table["rows"][0]["status"] == "ok", f"compare on {base}: {table}")
    checks.that(found["encoder"] is None, f"a base without a head: {found}")
    checks.that(found["merged"] == evaluate("compared-merged.yaml")["loss"], f"a base with a head: {found}")


def check_refusals():
    for says, code, words in [
        ("objective.name: mlm predicts a token from both sides of it, but decoder.h5", 2, config("bad0", base="decoder")),
        ("objective.mask_probability: is of mlm", 2, config("bad1", objective={"name": "contrastive", "mask_probability": 0.2})),
        ("objective.random_replace: 0.4, and objective.mask_replace is 0.8", 2, config("bad2", objective={"random_replace": 0.4})),
        ("objective.mask_token: 40, but encoder.h5 has 40 tokens", 2, config("bad3", objective={"mask_token": 40})),
        ("objective.mask_token: not given, and the tokenizer of bytes.h5 names no mask token", 2, config("bad4", base="bytes")),
        ("method.infix: 2 virtual tokens", 2, config("bad5", method={"name": "prefix_embed", "prefix": 2, "infix": 2})),
        ("labels of the kind", 3, config("bad6", data={"train": "labels.h5"})),
    ]:
        refused(says, "train", words, code=code)
    refused("encoder.h5: has no head for masked tokens, which objective mlm needs", "eval", config("bare"))
    refused("leave --generate out", "eval", "bare.yaml", "--generate", "out.jsonl", code=2)


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", "tokenizer"], check=True)
        for name, description in (("decoder", test_embed.DECODER), ("bytes", test_embed.ENCODER)):
            test_embed.make(folder, name, description)
        shutil.rmtree("tokenizer")
        write_tokenizer()
        test_embed.make(folder, "encoder", ENCODER)
        test_embed.write(f"{folder}/labels.jsonl", '{"text": "a cat", "label": 0}\n{"text": "one mat", "label": 1}\n')
        harness.mpilora("tokenize", "--base", "encoder.h5", "labels.jsonl", "labels.h5")
        write_texts("train", [sentence(i) for i in range(11)])
        write_texts("valid", [sentence(i) for i in range(20, 27)])
        check_run()
        check_resume()
        check_choice()
        check_compare()
        check_refusals()
    checks.end()


main()
