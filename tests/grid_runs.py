"""Runs of one configuration on several grids, each held to the run on one rank. A grid is (dp, tp, pp) or (dp, tp, cp, pp)."""

import json
import math

import harness


def words_of(grid):
    keys = ("tp", "pp") if len(grid) == 3 else ("tp", "cp", "pp")
    return [word for key, n in zip(keys, grid[1:]) for word in ("--set", f"parallel.{key}={n}")]


def ranks_of(grid):
    ranks = math.prod(grid)
    return ranks if ranks > 1 else 0


def train(config, grid, *words, timeout=120):
    harness.mpilora("train", config, *words_of(grid), *words, ranks=ranks_of(grid), timeout=timeout)


def plan(config, grid):
    return json.loads(harness.mpilora("plan", config, *words_of(grid), "--ranks", max(1, ranks_of(grid)), "--json"))


def check_same(checks, what, found, expected, bound=1e-6, norm_bound=None):
    """Run directories: steps, losses, gradient norms and the validation loss; a norm's bound is the losses' unless it is given."""
    lines, wanted = harness.read_metrics(found), harness.read_metrics(expected)
    checks.that([line["step"] for line in lines] == [line["step"] for line in wanted], f"{what}: steps {[line['step'] for line in lines]}")
    for key, most in (("loss", bound), ("grad_norm", norm_bound or bound)):
        checks.close(f"{what}: {key}", [line[key] for line in lines], [line[key] for line in wanted], most)
    for key in ("tokens", "computed_tokens", "lr"):
        checks.that([line[key] for line in lines] == [line[key] for line in wanted], f"{what}: {key} {[line[key] for line in lines]}, of one rank {[line[key] for line in wanted]}")
    left, right = harness.read_summary(found), harness.read_summary(expected)
    checks.that(abs(left["valid_loss"] - right["valid_loss"]) < bound * right["valid_loss"], f"{what}: valid_loss {left['valid_loss']}, of one rank {right['valid_loss']}")


def check_memory(checks, what, config, run, method, grid, above=1.03):
    """Accounted bytes of the largest rank beside what was planned before it, by the run and by plan. Returns the run's bytes and plan's of a rank."""
    memory = harness.read_summary(run)["memory"]
    planned_for = plan(config, grid)["methods"][method["name"] == "full"]
    for which, planned in (("the run", memory["predicted"]["total_bytes"]), ("plan", planned_for["total_bytes_per_rank"])):
        ratio = memory["total_peak_bytes"] / planned
        checks.that(0.97 <= ratio <= above, f"{what}: accounted / predicted by {which} = {ratio}")
    per_rank = planned_for["per_rank"]
    checks.that(memory["activation"] == per_rank["activation"], f"{what}: kept {memory['activation']}, planned {per_rank['activation']}")
    return memory, per_rank
