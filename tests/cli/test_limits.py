"""A low limit of the stack: where it may be raised the program raises it for itself and its libraries' threads, else it says so in one line; it never ends by a signal."""

import os
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 32, mlp_width: 48, heads: 2, kv_heads: 2, vocab: 61, context: 64}"
KIB = 1 << 10
checks = harness.Checks()


def limited(words, soft, hard):
    """With little in the environment: the kernel lets words and variables have a quarter of the stack."""
    kept = {key: value for key, value in os.environ.items() if key.startswith(("OMPI_", "OMP_", "XDG_", "PATH", "HOME", "LD_", "ASAN_", "UBSAN_", "LSAN_"))}
    return subprocess.run([harness.PROGRAM, *words], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (soft, hard)), env={**kept, "OMP_NUM_THREADS": "2"},
                          text=True, capture_output=True, timeout=120, check=False)


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(3 * i + 5 * j) % 61 for j in range(20)] for i in range(8)])
        config = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
                                      batch={"sequences": 4}, train={"steps": 2}, precision="fp32")
        ids = ("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/more.h5")
        for words in (("--version",), ids, ("train", config), ("inspect", f"{folder}/base.h5"), ("plan", config), ("help", "train")):
            for soft in (64 * KIB, 512 * KIB):
                done = limited(words, soft, resource.getrlimit(resource.RLIMIT_STACK)[1])
                checks.that(done.returncode == 0, f"{words[0]} with {soft} bytes that may be raised: exit {done.returncode}: {done.stderr}")
            done = limited(words, 64 * KIB, 64 * KIB)
            lines = done.stderr.splitlines()
            checks.that(done.returncode == 4 and len(lines) == 1 and "the stack may have 64 KiB" in lines[0] and "ulimit -s 8192" in lines[0] and not done.stdout,
                        f"{words[0]} with 64 KiB: exit {done.returncode}: {done.stderr}")
            done = limited(words, KIB * KIB, KIB * KIB)
            checks.that(done.returncode == 0, f"{words[0]} with 1 MiB: exit {done.returncode}: {done.stderr}")
    checks.end()


if __name__ == "__main__":
    main()
