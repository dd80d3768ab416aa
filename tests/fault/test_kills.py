"""kill -9 of a rank, of mpirun, and of the writer while it writes a checkpoint or deletes an old one: the rest of the job is gone within 30 s, the next start goes
on, and the run's end has the bytes of one that nothing disturbed. soak_kills.py does the same at random moments, a hundred times."""

import sys
import tempfile

import kills
import miniature

checks = kills.harness.Checks()
count = 0


def strike(campaign, what, job, killed):
    global count
    seconds = job.wait_for_end()
    checks.that(killed, f"{what}: nobody was there to be killed: {getattr(job, 'said', '')}")
    checks.that(seconds is not None, f"{what}: processes of the job were left after {kills.PATIENCE} s")
    count += 1
    print(f"{what}: gone after {seconds:.2f} s" if seconds is not None else f"{what}: not gone", flush=True)


def at_line(campaign, lines, victim):
    job = campaign.start()
    job.aim(victim)
    campaign.wait_for_lines(job, lines)
    strike(campaign, f"{campaign.name}: {victim} killed at line {lines}", job, job.kill())


def at_call(campaign, call, at):
    """World rank 0 is killed by the shim before its at-th call of the kind in the run's checkpoints."""
    job = campaign.start(LD_PRELOAD=miniature.SHIM, FAULT_ROOT=f"{campaign.run_dir}/checkpoints/", FAULT_CALL=call, FAULT_AT=str(at), FAULT_DO="KILL_BEFORE")
    job.process.wait()
    strike(campaign, f"{campaign.name}: the writer killed at its {call} number {at}", job, job.process.returncode != 0)


def main():
    with tempfile.TemporaryDirectory() as folder:
        kills.prepare(folder)
        lora = kills.Campaign(folder, "lora")
        for lines, victim in ((1, 0), (8, 1), (16, 0), (26, 1)):
            at_line(lora, lines, victim)
        if miniature.SHIM:
            for call, at in (("unlink", 1), ("unlink", 2), ("rmdir", 2), ("rename", 5), ("write", 3), ("fsync", 7)):
                at_call(lora, call, at)
        at_line(lora, 60, "launcher")
        checks.that((fault := lora.finish()) is None, f"lora: {fault}")
        full = kills.Campaign(folder, "full", "full", 2, 2)
        for lines, victim in ((6, 1), (12, 0), (20, "launcher")):
            at_line(full, lines, victim)
        checks.that((fault := full.finish()) is None, f"full: {fault}")
    print(f"{count} kills")
    checks.end()


if __name__ == "__main__":
    sys.exit(main())
