"""`import --add-tokens`: ids as transformers gives them (tests/golden/added_tokens.json, made by check_add_tokens.py --golden), new rows the mean of the old
ones, the export has both, a vocabulary that is no multiple of tp trains the same; bad files are refused in one line and nothing is written."""

import json
import os
import shutil
import struct
import sys
import tempfile

try:
    import numpy
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import reference_models as reference

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "added_tokens.json")
BAD = {  # name: (file, content, exit code, what the line says)
    "empty": ("a.txt", b"", 3, "has no token"),
    "blank": ("a.txt", b"\n\n", 3, "has no token"),
    "twice": ("a.txt", b"<a>\n<b>\n<a>\n", 3, "line 3: \"<a>\" stands there for the second time"),
    "bytes": ("a.txt", b"<a>\n\xff\xfe<b>\n", 3, "line 2: it is not UTF-8"),
    "zero": ("a.txt", b"<a\0>\n", 3, "line 1: it has a zero byte"),
    "object": ("a.txt", b'{"<a>": 7}', 3, "expected a list of tokens"),
    "number": ("a.json", b"[1, 2]", 3, "added_tokens[0]"),
    "broken": ("a.json", b'["<a>", ', 3, "a.json"),
    "content": ("a.json", b'[{"special": true}]', 3, "token 1: \"content\" is missing"),
    "kind": ("a.json", b'[{"content": "<a>", "special": 1}]', 3, "token 1: key \"special\" is an integer"),
    "key": ("a.json", b'[{"content": "<a>", "strip": true}]', 3, "token 1: unknown key \"strip\""),
    "nothing": ("a.json", b'["<a>", ""]', 3, "token 2: the token is an empty text"),
    "id": ("a.json", b'[{"content": "<a>", "id": 7}]', 3, "has id 7, but the tokenizer gives it"),
}


def write_model(folder, name, case, vocab):
    reference.MODELS[name] = {**reference.LLAMA, "vocab_size": vocab, "num_hidden_layers": 1, "tie_word_embeddings": name == "tied"}
    reference.write_model(f"{folder}/{name}", name)
    with open(f"{folder}/{name}/tokenizer.json", "w") as file:
        file.write(case["tokenizer"])


def gives(folder, base, texts, expected):
    """Whether the tokens of a data set are these, each text with or without an end; they lie in the file as they are."""
    with open(f"{folder}/texts.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    harness.mpilora("tokenize", "--special-tokens", "ids", "--base", base, f"{folder}/texts.jsonl", f"{folder}/texts.h5")
    with open(f"{folder}/texts.h5", "rb") as file:
        content = file.read()
    ways = [[id for ids in expected for id in [*ids, *end]] for end in ([], [0], [1])]
    return any(struct.pack(f"<{len(ids)}i", *ids) in content for ids in ways)


def tensors(folder, base):
    """Of an export, as fp32."""
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/weights")
    with open(f"{folder}/weights/model.safetensors", "rb") as file:
        content = file.read()
    shutil.rmtree(f"{folder}/weights")
    start = 8 + struct.unpack("<Q", content[:8])[0]
    found = {}
    for name, about in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        raw = content[start + about["data_offsets"][0] : start + about["data_offsets"][1]]
        narrow = numpy.frombuffer(raw, "<u2").astype("<u4") << 16 if about["dtype"] == "BF16" else numpy.frombuffer(raw, "<u4")
        found[name] = narrow.view("<f4").reshape(about["shape"])
    return found


def check(checks, folder, kind, case, name, padding, dtype):
    label, before = f"{kind}, {name}, {padding} rows of padding, {dtype}", case["before"]
    write_model(folder, name, case, before + padding)
    source, plain, base, again = f"{folder}/{name}", f"{folder}/plain.h5", f"{folder}/base.h5", f"{folder}/again.h5"
    with open(f"{folder}/list.json", "w") as file:
        json.dump(case["tokens"], file)
    with open(f"{folder}/list", "w", newline="") as file:
        file.write(case["lines"])
    harness.mpilora("import", source, plain, "--dtype", dtype)
    harness.mpilora("import", source, base, "--dtype", dtype, "--add-tokens", f"{folder}/list")
    checks.that(gives(folder, base, case["texts"], case["line_ids"]), f"{label}: ids with a token a line")
    harness.mpilora("import", source, base, "--dtype", dtype, "--add-tokens", f"{folder}/list.json")
    checks.that(gives(folder, base, case["texts"], case["ids"]), f"{label}: ids with a JSON file")
    after = before + len(case["tokens"])
    harness.mpilora("import", source, f"{folder}/exact.h5", "--dtype", "fp32")
    exact = tensors(folder, f"{folder}/exact.h5")  # the mean is taken of what the source has, and rounded once
    old, new = tensors(folder, plain), tensors(folder, base)
    for tensor in old:
        if not tensor.startswith(("model.embed_tokens.weight", "lm_head.weight")):
            checks.that(numpy.array_equal(old[tensor], new[tensor]), f"{label}: {tensor} differs")
            continue
        mean = exact[tensor][:before].astype("f8").mean(0)
        checks.that(new[tensor].shape[0] == max(before + padding, after), f"{label}: {tensor} has {new[tensor].shape}")
        checks.that(numpy.array_equal(old[tensor][:before], new[tensor][:before]), f"{label}: old rows of {tensor} differ")
        checks.that(numpy.allclose(new[tensor][before:after], mean, rtol=2**-8 if dtype == "bf16" else 1e-6, atol=1e-7), f"{label}: new rows of {tensor}")
        checks.that(numpy.array_equal(old[tensor][after:], new[tensor][after:]), f"{label}: padding of {tensor} differs")
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/out")
    with open(f"{folder}/out/config.json") as file:
        checks.that(json.load(file)["vocab_size"] == max(before + padding, after), f"{label}: vocab_size of the export")
    harness.mpilora("import", f"{folder}/out", again, "--dtype", dtype)
    checks.that(gives(folder, again, case["texts"], case["ids"]), f"{label}: ids of the export")
    checks.that(all(numpy.array_equal(a, b) for a, b in zip(new.values(), tensors(folder, again).values())), f"{label}: weights of the export")


def check_training(checks, folder):
    """The base that check left: 203 + 5 rows are no multiple of anything."""
    losses = {}
    harness.mpilora("tokenize", "--special-tokens", "ids", "--base", f"{folder}/base.h5", f"{folder}/texts.jsonl", f"{folder}/data.h5")
    for label, tp, ranks in (("1 rank", 1, 1), ("tp 2", 2, 2), ("dp 2", 1, 2)):
        run_dir = f"{folder}/run-{label.replace(' ', '')}"
        config = harness.write_config(f"{run_dir}.yaml", run={"dir": run_dir}, base=f"{folder}/base.h5", data={"train": f"{folder}/data.h5", "shuffle": False},
                                      method={"targets": ["q", "head", "embed"]}, batch={"sequences": 4}, optim={"lr": 0.01, "warmup": 0}, train={"steps": 4}, parallel={"tp": tp}, precision="fp32")
        harness.mpilora("train", config, ranks=ranks)
        losses[label] = [line["loss"] for line in harness.read_metrics(run_dir)]
        checks.close(f"{label}: loss", losses[label], losses["1 rank"], 5e-6)
    checks.that(losses["1 rank"][-1] < losses["1 rank"][0], f"nothing is learnt: {losses['1 rank']}")


def refused(checks, label, code, says, done, out):
    fine = done.returncode == code and says in done.stderr and done.stderr.count("\n") == 1
    checks.that(fine, f"{label}: exit {done.returncode}, {done.stderr!r}")
    checks.that(not os.path.exists(out), f"{label}: {out} was written")


def check_refusals(checks, folder, case):
    write_model(folder, "bad", case, case["before"])
    out = f"{folder}/bad.h5"
    for label, (name, content, code, says) in BAD.items():
        with open(f"{folder}/{name}", "wb") as file:
            file.write(content)
        refused(checks, label, code, says, harness.start("import", f"{folder}/bad", out, "--add-tokens", f"{folder}/{name}"), out)
    refused(checks, "missing file", 3, "nowhere", harness.start("import", f"{folder}/bad", out, "--add-tokens", f"{folder}/nowhere"), out)
    os.remove(f"{folder}/bad/tokenizer.json")
    refused(checks, "no tokenizer", 2, "has no tokenizer", harness.start("import", f"{folder}/bad", out, "--add-tokens", f"{folder}/list.json"), out)


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        cases = json.load(file)
    for kind, case in cases.items():
        for name, padding, dtype in (("untied", 0, "fp32"), ("tied", 2, "bf16"), ("untied", 20, "fp32"), ("tied", 0, "fp32")):
            with tempfile.TemporaryDirectory() as folder:
                check(checks, folder, kind, case, name, padding, dtype)
                if (kind, name, dtype) == ("byte_bpe", "tied", "fp32"):
                    check_training(checks, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_refusals(checks, folder, cases["byte_bpe"])
    checks.end()


main()
