"""A run with a head for labels beside the curve of another program: what test_classification.py and test_encoder_heads.py have in common."""
import harness

# Ranks by dp and tp, and batch.micro.
LAYOUTS = {"1 rank": (1, 1, 4), "dp 2": (2, 1, 1), "tp 2": (1, 2, 3), "dp 2, tp 2": (2, 2, 2)}
# Of what metrics.jsonl has, relative to the number or a tenth of the largest; keys that are not here: as good as equal.
BOUNDS = {"loss": 2e-5, "grad_norm": 1e-3, "rewards_chosen": 1e-3, "rewards_rejected": 1e-3}


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
