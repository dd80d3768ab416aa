"""import --memory: the process stays below it, whatever is imported and made of it, and the base is the same, as it is with any number of threads; less than a row needs
is refused; so it is whatever order the file has its tensors in. Of several weights that no block holds the first of the model is named, whoever finds another one earlier."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import harness
import packed_models as models

WIDTH, MLP, VOCAB = 256, 16384, 40000
# A small process between: what a child says of its peak begins with what its parent had.
WATCH = "import os, sys; _, end, used = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0); print(1024 * used.ru_maxrss); sys.exit(os.waitstatus_to_exitcode(end))"
checks = harness.Checks()


def start(*words, threads=12):
    """Exit code, peak in bytes, what is said on standard error."""
    done = subprocess.run([sys.executable, "-S", "-c", WATCH, harness.PROGRAM, *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return done.returncode, int(done.stdout.split()[-1]), done.stderr


def identity(base):
    return json.loads(harness.mpilora("inspect", base, "--json"))["content_sha256"]


def damaged(folder):
    """A model whose embedding has Inf in several pieces of an import, the first of them after a long way of good rows, and a later matrix NaN."""
    os.mkdir(folder)
    tensors = models.plain_tensors("llama", WIDTH, 512)
    dtype, shape, raw = tensors["model.embed_tokens.weight"]
    embed = np.frombuffer(raw, "<f4").reshape(shape).copy()
    for row, column in ((9000, 3 * 32 + 5), (9001, 0), (16000, 7), (30000, 200)):
        embed[row, column] = np.inf
    tensors["model.embed_tokens.weight"] = (dtype, shape, embed.tobytes())
    dtype, shape, raw = tensors["model.layers.0.mlp.down_proj.weight"]
    tensors["model.layers.0.mlp.down_proj.weight"] = (dtype, shape, np.full(shape, np.nan, "<f4").tobytes())
    models.write_safetensors(f"{folder}/model.safetensors", tensors)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(models.config_of("llama", WIDTH, 512), file)
    return folder


def turned_round(source, folder):
    """The same model with the tensors of its file in the opposite order, so that an import takes the model's last tensors first."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with open(f"{source}/model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    models.write_safetensors(f"{folder}/model.safetensors", {name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])]) for name, t in reversed(header.items())})


def main():
    if not os.environ.get("MPILORA_FAULT_SHIM"):
        print("a build with sanitizers, which take memory of their own: skipped")
        return 77
    models.VOCAB = models.COMMON["vocab_size"] = VOCAB
    rng = np.random.default_rng(2)
    q = rng.integers(-128, 128, (WIDTH, MLP)).astype(np.int8)
    scale = np.full((WIDTH, MLP // 32), 0.001, np.float16)
    words = {"weight_packed": ("I32", [WIDTH, MLP // 4], (q.view(np.uint8) + np.uint8(128)).tobytes()), "weight_scale": ("F16", [WIDTH, MLP // 32], scale.tobytes()),
             "weight_shape": ("I64", [2], np.array([WIDTH, MLP], "<i8").tobytes())}  # fmt: skip
    config = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}}
    case = {"family": "llama", "module": "model.layers.0.mlp.down_proj", "config": config}
    with tempfile.TemporaryDirectory() as folder:
        source, base, least = f"{folder}/hf", f"{folder}/base.h5", 0
        models.write_model(source, case, parts=words, width=WIDTH, mlp=MLP)
        size = os.path.getsize(f"{source}/model.safetensors")
        for how in ([], ["--dtype", "keep"], ["--quantise", "q8_0"]):
            code, peak, said = start("import", source, base, *how)
            checks.that(code == 0 and peak > 56_000_000, f"{how}: exit {code}, {peak} bytes: {said}")
            if code:
                continue
            wanted = identity(base)
            for memory in (50_000_000, 36_000_000):
                code, peak, said = start("import", source, base, "--memory", str(memory), *how)
                checks.that(code == 0 and peak < memory < size, f"{how}: exit {code}, {peak} bytes of {memory}, from a file of {size}: {said}")
                checks.that(identity(base) == wanted, f"{how}: another base with --memory {memory}")
            code, _, said = start("import", source, base, *how, threads=1)
            checks.that(code == 0 and identity(base) == wanted, f"{how}: exit {code}, or another base by one thread: {said}")
            turned_round(source, f"{folder}/turned")
            code, _, said = start("import", f"{folder}/turned", base, *how)
            checks.that(code == 0 and identity(base) == wanted, f"{how}: exit {code}, or another base where the file has its tensors in another order: {said}")
        damaged(f"{folder}/damaged")
        turned_round(f"{folder}/damaged", f"{folder}/wrong")
        for threads, name in ((1, "damaged"), (12, "damaged"), (1, "wrong"), (12, "wrong")):
            code, _, said = start("import", f"{folder}/{name}", base, "--quantise", "q4_0", "--head-dtype", "q4_0", threads=threads)
            checks.that(code == 3 and "embed.weight: row 9000, block 3 has a weight that is not finite" in said, f"{name}, {threads} threads: exit {code}: {said}")
        code, _, said = start("import", source, base, "--memory", "20M")
        checks.that(code == 2 and "--memory: 20000000 bytes are less than the" in said, f"20M: exit {code}: {said}")
        for words_, expected in ((("--memory", "much"), '"much", expected bytes'), (("--memory", "0"), "expected bytes")):
            code, _, said = start("import", source, base, *words_)
            checks.that(code == 2 and expected in said, f"{words_}: exit {code}: {said}")
        with open(f"{folder}/m.yaml", "w") as file:
            file.write("{family: gpt2, layers: 1, width: 32, heads: 2, vocab: 61, context: 48}\n")
        code, _, said = start("import", "--init", "random", "--config", f"{folder}/m.yaml", "--memory", "64M", base)
        checks.that(code == 2 and "not for --init" in said, f"--init: exit {code}: {said}")
    checks.end()
    return 0


sys.exit(main())
