"""A run beside the curve of another program: what test_classification.py, test_encoder_heads.py, test_masked.py and test_contrast.py have in common."""
import harness
import preference_cases

# Ranks by dp and tp, and batch.micro.
LAYOUTS = {"1 rank": (1, 1, 4), "dp 2": (2, 1, 1), "tp 2": (1, 2, 3), "dp 2, tp 2": (2, 2, 2)}
# Of what metrics.jsonl has, relative to the number or a tenth of the largest; keys that are not here: as good as equal.
BOUNDS = {"loss": 2e-5, "grad_norm": 1e-3, "rewards_chosen": 1e-3, "rewards_rejected": 1e-3}


def prepare_data(folder, name, parts, *words):
    """The model in folder/NAME-model as a base in fp32, and the rows of each part as a data set for it."""
    harness.mpilora("import", f"{folder}/{name}-model", f"{folder}/{name}.h5", "--dtype", "fp32")
    for part, rows in parts.items():
        preference_cases.write_pairs(f"{folder}/{part}.jsonl", rows)
        harness.mpilora("tokenize", "--base", f"{folder}/{name}.h5", *words, f"{folder}/{part}.jsonl", f"{folder}/{name}-{part}.h5")


def write_config(folder, name, run_dir, case, method, objective, sequences, tp, micro, seed=1):
    """The configuration of a run on what prepare_data has made; `case` has the optimizer's numbers and the steps."""
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": seed},
        base=f"{folder}/{name}.h5",
        method=method,
        objective=objective,
        data={"train": f"{folder}/{name}-train.h5", "valid": f"{folder}/{name}-valid.h5", "shuffle": False},
        batch={"sequences": sequences, "micro": micro},
        optim={"lr": case["lr"], "weight_decay": case["weight_decay"], "clip_norm": case["clip_norm"]},
        train={"steps": case["steps"]},
        parallel={"tp": tp},
        precision="fp32",
    )


def check_curve(checks, folder, name, golden, layout, write_config, sizes=None):
    """Trains as write_config(folder, name, run_dir, tp, micro) says, and compares each key of `golden` step by step."""
    dp, tp, micro = sizes or LAYOUTS[layout]
    run_dir = f"{folder}/{name}-{layout.replace(' ', '').replace(',', '-')}"
    harness.mpilora("train", write_config(folder, name, run_dir, tp, micro), ranks=dp * tp if dp * tp > 1 else 0)
    metrics = harness.read_metrics(run_dir)
    for key, expected in golden.items():
        if key == "valid_loss":
            continue
        found = [line[key] for line in metrics]
        size, bound = max(map(abs, expected)), BOUNDS.get(key, 1e-9)
        checks.that(
            len(found) == len(expected) and all(abs(a - b) <= bound * max(abs(b), 0.1 * size, 1e-2) for a, b in zip(found, expected)),
            f"{name}, {layout}: {key} {found}, expected {expected}",
        )
    checks.close(f"{name}, {layout}: valid_loss", harness.read_summary(run_dir)["valid_loss"], golden["valid_loss"], 5e-5)
