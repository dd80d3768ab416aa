"""The kernels on 64-bit Arm: built by a cross-compiler, their tests run under qemu-user. And bit by bit: what ordered kernels compute there and here has one
digest. Debian: gcc-aarch64-linux-gnu, qemu-user-static. Speed is not seen, nor what a real processor's memory order would show.

check_arm.py [PROGRAM] [test_product] builds all and runs test_same_bits, or the named test, which takes long; MPILORA_SAME_BITS names this processor's
unit/test_same_bits."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
TESTS = ("same_bits",)
EMULATOR = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")


def build(folder):
    for words in (
        ("cmake", "-S", HERE, "-B", folder, "-G", "Ninja" if shutil.which("ninja") else "Unix Makefiles", "-DCMAKE_BUILD_TYPE=Release",
         f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/cmake/toolchains/aarch64-linux-gnu.cmake"),
        ("cmake", "--build", folder, "-j", str(os.cpu_count())),
    ):
        done = subprocess.run(words, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stdout[-4000:]}{done.stderr[-4000:]}")


def run(words):
    begin = time.time()
    done = subprocess.run(words, text=True, capture_output=True, env=ENVIRONMENT)
    if done.returncode:
        sys.exit(f"{words[-1]}: exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{os.path.basename(words[-1])}: {time.time() - begin:.0f} s")
    return dict(re.findall(r"^digest of (\w+): (\w+)$", done.stdout, re.MULTILINE))


def main():
    missing = [program for program in ("aarch64-linux-gnu-gcc", EMULATOR[0]) if not shutil.which(program)]
    if missing:
        print(f"skipped: {' and '.join(missing)} not found (Debian: gcc-aarch64-linux-gnu, qemu-user-static)")
        return 77
    wanted = [name.removeprefix("test_") for name in sys.argv[1:] if name.startswith("test_")] or TESTS
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        digests = {name: run((*EMULATOR, f"{folder}/test_{name}")) for name in wanted}
    here = os.environ.get("MPILORA_SAME_BITS")
    if here and "same_bits" in digests:
        found, there = run((here,)).get("avx2"), digests["same_bits"].get("generic")
        if not there or (found and found != there):
            sys.exit(f"ordered kernels: digest {there} by NEON, {found} by AVX2")
        print(f"ordered kernels: digest {there} by NEON, {found or 'none'} by AVX2")
    return 0


sys.exit(main())
