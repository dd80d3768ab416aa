#!/usr/bin/env bash
# Damaged inputs in earnest: 20,000 mutations a reader under AddressSanitizer and UndefinedBehaviorSanitizer, in about a quarter of an hour on two cores.
# usage: bash tests/fuzz/soak.sh [COUNT [READER …]]      FUZZ_FIRST: the first mutation's number (each number is always the same damage)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cmake -S . -B build-soak -DMPILORA_SANITIZE=ON -DBUILD_TESTING=ON >/dev/null
cmake --build build-soak -j "$(nproc)" --target mpilora fuzz
export MPILORA=$PWD/build-soak/mpilora MPILORA_FUZZ=$PWD/build-soak/tests/fuzz MPILORA_SOURCE_DIR=$PWD
export ASAN_OPTIONS=detect_leaks=0 # Open MPI's; the driver itself fails where accounted memory is not given back
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
python3 tests/fuzz/test_fuzz.py "${@:-20000}"
