"""Common beginnings computed once (data.share_prompts) change no loss and no gradient: runs with and without, on GPT-2 and Llama, at 1, 2 and 4 ranks; and
data.group_prompts keeps the sequences of one prompt together without losing or repeating any."""
import json
import os
import pathlib
import random
import subprocess
import tempfile

MPILORA = os.environ["MPILORA"]
MPIRUN = [os.environ["MPILORA_MPIEXEC"]]
MODELS = {
    "gpt2": "family: gpt2\nlayers: 2\nwidth: 32\nheads: 4\nvocab: 64\ncontext: 200\n",
    "llama": "family: llama\nlayers: 2\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 2\nvocab: 64\ncontext: 200\ntied_head: true\n",
}
STEPS = 4


def call(*words, ranks=1, expect=0):
    launcher = [*MPIRUN, "-n", str(ranks)] if ranks > 1 else []
    environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run([*launcher, MPILORA, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == expect, f"{words}: exit {done.returncode}, expected {expect}: {done.stderr}"
    return done.stdout


def lines():
    """Prompts of several lengths; of each: several completions, one twice, one the beginning of another, some that part late, and one whose
    targets begin in the middle; then sequences that share too little or nothing."""
    draw = random.Random(3)
    out = []
    for length in (3, 9, 70, 130):
        prompt = [draw.randrange(64) for _ in range(length)]
        completion = [draw.randrange(64) for _ in range(40)]
        for tail in (completion, completion[:11], completion, completion[:30] + [draw.randrange(64) for _ in range(5)], [1, 2, 3], [1, 2, 4, 5, 6]):
            out.append({"input_ids": prompt + tail, "labels": [-100] * length + tail})
        out.append({"input_ids": prompt + completion, "labels": [-100] * (length + 20) + completion[20:]})
        out.append({"input_ids": [(13 * k + length) % 64 for k in range(20)]})
    return out


def train(folder, name, ranks=1, **settings):
    words = [f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()]
    call("train", folder / "run.yaml", "--fresh", "--set", f"run.dir={folder}/{name}", *words, ranks=ranks)
    with open(folder / name / "metrics.jsonl", encoding="ascii") as file:
        return [json.loads(line) for line in file], json.loads((folder / name / "summary.json").read_text())


def near(what, got, want, tolerance):
    assert abs(got - want) <= tolerance * abs(want), f"{what}: {got!r}, expected {want!r}"


def check_family(folder, family):
    (folder / "model.yaml").write_text(MODELS[family])
    data = lines()
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in data))
    call("import", "--init", "random", "--config", folder / "model.yaml", "--dtype", "fp32", folder / "base.h5")
    call("tokenize", "--base", folder / "base.h5", folder / "data.jsonl", folder / "data.h5", "--format", "ids")
    (folder / "run.yaml").write_text(
        f"run: {{dir: {folder}/run}}\nbase: {folder}/base.h5\nmethod: {{rank: 4, targets: all}}\n"
        f"data: {{train: {folder}/data.h5, valid: {folder}/data.h5, shuffle: false}}\n"
        f"batch: {{sequences: 16, micro: 8}}\noptim: {{lr: 1.0e-2, label_smoothing: 0.1}}\ntrain: {{steps: {STEPS}}}\nprecision: fp32\nkernels: {{product: blas}}\n"
    )
    for method in ("lora", "full"):
        apart, apart_summary = train(folder, "apart", data__share_prompts="false", method__name=method)
        for ranks, tp, micro in ((1, 1, 8), (1, 1, 16), (2, 1, 8), (2, 2, 8), (4, 2, 4)):
            if method == "full" and (ranks, micro) != (2, 8):
                continue
            shared, summary = train(folder, "shared", ranks, parallel__tp=tp, batch__micro=micro, method__name=method)
            for a, s in zip(apart, shared):
                near(f"{family}, {method}, {ranks} ranks, step {a['step']}: loss", s["loss"], a["loss"], 1e-5)
                near(f"{family}, {method}, {ranks} ranks, step {a['step']}: gradient norm", s["grad_norm"], a["grad_norm"], 1e-4)
                assert s["tokens"] == a["tokens"]
            near("valid_loss", summary["valid_loss"], apart_summary["valid_loss"], 1e-5)
            ratio = sum(s["computed_tokens"] for s in shared) / sum(a["computed_tokens"] for a in apart)
            assert ratio < (0.8 if micro < 8 else 0.55), f"{family}, {ranks} ranks: {ratio:.2f} of the tokens were computed"
            print(f"{family}, {method}, {ranks} ranks, tp {tp}, micro {micro}: {ratio:.2f} of the tokens, last loss {shared[-1]['loss']:.9f}, "
                  f"apart {apart[-1]['loss']:.9f}")


def check_dropout(folder):
    """Each sequence has its own mask: nothing is shared, and the curve stays the same."""
    both = [train(folder, "dropout", data__share_prompts=share, method__dropout=0.2)[0] for share in ("true", "false")]
    for a, b in zip(*both):
        assert a["loss"] == b["loss"] and a["computed_tokens"] == b["computed_tokens"], (a, b)


def check_groups(folder):
    """File order: every prompt's sequences lie apart, so that grouping is what makes sharing possible; an epoch holds each once."""
    data = lines()
    scattered = [data[i] for k in range(8) for i in range(k, len(data), 8)]
    (folder / "scattered.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scattered))
    call("tokenize", "--base", folder / "base.h5", folder / "scattered.jsonl", folder / "scattered.h5", "--format", "ids")
    epoch = {"data__train": folder / "scattered.h5", "batch__sequences": 8, "train__steps": len(scattered) // 8, "optim__lr": 0}
    for shuffle in ("false", "true"):
        runs = {group: train(folder, "groups", data__group_prompts=group, data__shuffle=shuffle, **epoch)[0] for group in ("false", "true")}
        tokens = {group: sum(line["tokens"] for line in run) for group, run in runs.items()}
        computed = {group: sum(line["computed_tokens"] for line in run) for group, run in runs.items()}
        assert tokens["true"] == tokens["false"] == sum(len(line["input_ids"]) for line in data), tokens
        assert computed["true"] < 0.75 * computed["false"], f"shuffle {shuffle}: {computed}"
        print(f"shuffle {shuffle}: computed {computed['false']} tokens, grouped {computed['true']}")


def main():
    for family in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check_family(pathlib.Path(folder), family)
            check_dropout(pathlib.Path(folder))
            check_groups(pathlib.Path(folder))


main()
