"""merge and export on a real run: a merged base computes what base and adapter compute together, --subtract gives the base back, and a PEFT directory
is as good as the adapter.h5 it was made of; what does not belong together is refused with the right exit code."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MPILORA = os.environ["MPILORA"]
MODELS = {
    "llama": "family: llama\nlayers: 2\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 2\nvocab: 64\ncontext: 32\ntied_head: true\n",
    "gpt2": "family: gpt2\nlayers: 2\nwidth: 32\nheads: 4\nvocab: 64\ncontext: 32\n",
}
TARGETS = {"llama": "[q, k, v, o, gate, up, down]", "gpt2": "[q, v, o, proj]"}


def call(*words, expect=0, contains=""):
    done = subprocess.run([MPILORA, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, f"{words}: exit {done.returncode}, expected {expect}: {done.stderr}"
    assert contains in done.stderr, f"{words}: {done.stderr!r} lacks {contains!r}"
    return done.stdout


def train(folder, family, dtype, targets=None):
    (folder / "model.yaml").write_text(MODELS[family])
    lines = [{"input_ids": [(7 * i + 3 * k) % 64 for k in range(12)]} for i in range(16)]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call("import", "--init", "random", "--config", folder / "model.yaml", "--dtype", dtype, folder / "base.h5")
    call("tokenize", "--base", folder / "base.h5", folder / "data.jsonl", folder / "data.h5", "--format", "ids")
    (folder / "run.yaml").write_text(
        f"run: {{dir: {folder}/run}}\nbase: {folder}/base.h5\n"
        f"method: {{name: lora, rank: 4, alpha: 8, targets: {targets or TARGETS[family]}, scaling: rslora}}\n"
        f"data: {{train: {folder}/data.h5, valid: {folder}/data.h5, max_len: 16}}\n"
        "batch: {sequences: 8, micro: 8}\noptim: {lr: 1.0e-2, schedule: constant, warmup: 0}\n"
        f"train: {{steps: 6}}\nprecision: {dtype}\n"
    )
    call("train", folder / "run.yaml")


def loss(folder, base, *words):
    return json.loads(call("eval", folder / "run.yaml", "--set", f"base={base}", "--json", *words))["loss"]


def check_family(folder, family, dtype):
    train(folder, family, dtype)
    base, adapter, close = folder / "base.h5", folder / "run/adapter.h5", 1e-5 if dtype == "fp32" else 3e-2
    call("merge", "--base", base, "--adapter", adapter, "--dtype", dtype, folder / "merged.h5")
    call("merge", "--base", base, "--adapter", adapter, folder / "untold.h5", contains="--dtype fp32" if dtype == "fp32" else "")
    for form in ("q8_0", "untold", "merged"):
        if form == "q8_0":
            call("merge", "--base", base, "--adapter", adapter, "--dtype", form, folder / "q8_0.h5", contains="changed the weights by")
        call("merge", "--subtract", "--original", base, "--base", folder / f"{form}.h5", "--adapter", adapter, folder / "same.h5", contains="bit for bit")
        assert (folder / "same.h5").read_bytes() == base.read_bytes(), f"{family}, {form}: what was subtracted differs from the original"
    assert json.loads(call("inspect", "--json", folder / "untold.h5"))["dtype"] == "bf16", f"{family}: bf16 unless told"
    call("export", "--format", "peft", "--base", base, "--adapter", adapter, folder / "peft", contains="--base-name")
    assert json.loads((folder / "peft/adapter_config.json").read_text())["base_model_name_or_path"] is None, "a path of a base file is no model's name"
    plain, adapted = loss(folder, base), loss(folder, base, "--adapter", adapter)
    merged, rounded = loss(folder, folder / "merged.h5"), loss(folder, folder / "untold.h5")
    peft = loss(folder, base, "--adapter", folder / "peft")
    assert plain - adapted > 0.05, f"{family}: the adapter learnt nothing: {plain} → {adapted}"
    assert abs(merged - adapted) < close, f"{family}: merged {merged}, with adapter {adapted}"
    assert abs(rounded - adapted) < 3e-2, f"{family}: merged in bf16 {rounded}, with adapter {adapted}"
    assert abs(peft - adapted) < 1e-5, f"{family}: PEFT directory {peft}, adapter.h5 {adapted}"
    print(f"{family} {dtype}: base {plain:.5f}, adapter {adapted:.5f}, merged {merged:.5f}, in bf16 {rounded:.5f}, PEFT directory {peft:.5f}")


def check_gguf(folder):
    """A merged GGUF file is that of the base that merge writes, whose sums are rounded once."""
    base, adapter = folder / "base.h5", folder / "run/adapter.h5"
    for dtype, merged in (("f32", "fp32"), ("bf16", "bf16"), ("q8_0", "q8_0")):
        call("merge", "--base", base, "--adapter", adapter, "--dtype", merged, folder / "way.h5")
        call("export", "--format", "gguf", "--base", folder / "way.h5", folder / "way.gguf")
        call("export", "--format", "gguf", "--base", base, "--adapter", adapter, "--merge", "--dtype", dtype, folder / "straight.gguf", contains="changed the weights" if dtype == "q8_0" else "")
        assert (folder / "straight.gguf").read_bytes() == (folder / "way.gguf").read_bytes(), f"{folder.name}: merged as {dtype}: sums were rounded on the way"


def check_tied_ends(folder):
    """Adapters on the head and the embedding of a tied model: each changes its own end, so the merged base is not tied; with the original it is taken off bit for bit."""
    train(folder, "llama", "fp32", targets="[q, head, embed]")
    base, adapter, merged = folder / "base.h5", folder / "run/adapter.h5", folder / "merged.h5"
    call("merge", "--base", base, "--adapter", adapter, "--dtype", "fp32", merged)
    adapted, found = loss(folder, base, "--adapter", adapter), loss(folder, merged)
    assert loss(folder, base) - adapted > 0.05 and abs(found - adapted) < 1e-5, f"tied ends: merged {found}, with adapter {adapted}"
    assert not json.loads(call("inspect", "--json", merged))["architecture"]["tied_head"], "the merged base is tied"
    call("merge", "--subtract", "--base", merged, "--adapter", adapter, folder / "out.h5", expect=2, contains="--original")
    call("merge", "--subtract", "--original", base, "--base", merged, "--adapter", adapter, folder / "same.h5", contains="bit for bit")
    assert (folder / "same.h5").read_bytes() == base.read_bytes(), "tied ends: not the original"


def check_original(folder, other):
    """--original must be what was merged, and the merged base as the merge left it."""
    base, adapter, merged, out = folder / "base.h5", folder / "run/adapter.h5", folder / "merged.h5", folder / "out.h5"
    subtract = ("merge", "--subtract", "--adapter", adapter)
    call("merge", "--original", base, "--base", merged, "--adapter", adapter, out, expect=2, contains="--subtract")
    call(*subtract, "--original", other / "base.h5", "--base", merged, out, expect=3)
    call(*subtract, "--original", merged, "--base", merged, out, expect=3, contains="belongs to another base")
    call(*subtract, "--original", base, "--base", merged, base, expect=2, contains="is the base itself")
    call(*subtract, "--original", folder / "none.h5", "--base", merged, out, expect=3, contains="none.h5")
    content = bytearray(merged.read_bytes())
    content[len(content) // 2] ^= 0x01  # of a weight
    (folder / "touched.h5").write_bytes(content)
    call(*subtract, "--original", base, "--base", folder / "touched.h5", out, expect=3, contains="changed afterwards")


def check_refusals(folder, other):
    base, adapter, out = folder / "base.h5", folder / "run/adapter.h5", folder / "out.h5"
    call("merge", "--base", base, out, expect=2, contains="--adapter is missing")
    call("merge", "--base", base, "--adaptor", adapter, out, expect=2, contains="--adapter")
    call("merge", "--base", base, "--adapter", adapter, base, expect=2, contains="is the base itself")
    call("merge", "--base", base, "--adapter", adapter, adapter, expect=2, contains="is the adapter itself")
    call("merge", "--base", folder / "none.h5", "--adapter", adapter, out, expect=3, contains="none.h5")
    call("merge", "--base", base, "--adapter", folder / "none.h5", out, expect=3, contains="none.h5")
    call("merge", "--base", other / "base.h5", "--adapter", adapter, out, expect=3, contains="another base")
    call("merge", "--base", folder / "merged.h5", "--adapter", adapter, out, expect=3, contains="another base")
    call("merge", "--subtract", "--base", folder / "merged.h5", "--adapter", adapter, out, expect=2, contains="--original")
    check_original(folder, other)
    call("export", "--format", "pft", "--base", base, "--adapter", adapter, out, expect=2, contains="pft")
    call("export", "--format", "peft", "--base", base, "--adapter", adapter, folder, expect=2, contains="holds")
    damaged = folder / "damaged.h5"
    damaged.write_bytes(adapter.read_bytes()[:-7])
    call("merge", "--base", base, "--adapter", damaged, out, expect=3, contains="is damaged")
    assert not out.exists() and not list(folder.glob("*.tmp-*"))
    call("merge", "--base", base, "--adapter", adapter, folder / "no/such/out.h5", expect=4, contains="no/such/out.h5")


def main():
    with tempfile.TemporaryDirectory(prefix="mpilora-merge-") as name:
        folders = {}
        for family, dtype in (("llama", "fp32"), ("gpt2", "fp32"), ("gpt2", "bf16")):
            folder = folders[family] = pathlib.Path(name) / f"{family}-{dtype}"
            folder.mkdir()
            check_family(folder, family, dtype)
            if dtype == "bf16":  # what no block fits stays fp32 in the file of an fp32 base
                check_gguf(folder)
        (pathlib.Path(name) / "tied").mkdir()
        check_tied_ends(pathlib.Path(name) / "tied")
        check_refusals(folders["llama"], folders["gpt2"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
