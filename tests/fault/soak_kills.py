"""Random kills for as long as it is wanted: usage: soak_kills.py [--kills N] [--seed S]. MPILORA and MPILORA_SOURCE_DIR name the program and the sources.

Each campaign is a training run (LoRA or full, 2 or 3 ranks, dp or tp) that processes are killed out of at random moments until it ends; then its bytes are
compared with those of the undisturbed run.
"""

import argparse
import os
import random
import sys
import tempfile
import time

os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMPI_MCA_hwloc_base_binding_policy", "none")
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
import kills

KINDS = [("lora", 2, 1), ("full", 2, 2), ("lora", 2, 2), ("full", 2, 1), ("lora", 3, 1)]
MOST = 25  # kills of one campaign: then it may end


def campaign_of(folder, number, rng, left):
    method, ranks, tp = KINDS[number % len(KINDS)]
    campaign = kills.Campaign(folder, f"campaign-{number}", method, ranks, tp)
    done, slowest, wrong = {}, 0.0, []
    while sum(done.values()) < min(left, MOST) and campaign.lines() < kills.STEPS:
        victim, seconds = kills.random_kill(rng, campaign)
        if victim is not None:
            done[str(victim)] = done.get(str(victim), 0) + 1
        if seconds is None:
            wrong.append(f"{campaign.name}: processes were left {kills.PATIENCE} s after {victim} was killed")
        slowest = max(slowest, seconds or kills.PATIENCE)
    fault = campaign.finish()
    if fault:
        wrong.append(f"{campaign.name}: {fault}")
    print(f"campaign {number}: {method}, {ranks} ranks, tp {tp}: {done} killed, job gone after at most {slowest:.1f} s; {fault or 'the same bytes'}", flush=True)
    return done, slowest, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, since = random.Random(arguments.seed), time.monotonic()
    total, slowest, wrong, number = {}, 0.0, [], 0
    with tempfile.TemporaryDirectory() as folder:
        kills.prepare(folder)
        while sum(total.values()) < arguments.kills:
            done, seconds, faults = campaign_of(folder, number, rng, arguments.kills - sum(total.values()))
            for victim, count in done.items():
                total[victim] = total.get(victim, 0) + count
            slowest, wrong, number = max(slowest, seconds), wrong + faults, number + 1
    for text in wrong:
        print("WRONG:", text)
    print(f"{sum(total.values())} kills in {number} campaigns ({total}), seed {arguments.seed}, {time.monotonic() - since:.0f} s; slowest end {slowest:.1f} s; {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
