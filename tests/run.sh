#!/usr/bin/env bash
# Installs what is missing, builds into build/, runs every test; ends with CTest's own summary and its exit code.
# usage: bash tests/run.sh [options of ctest, such as -R checkpoint]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/packages.sh disable=SC1091
source jobs/packages.sh

install_build_packages
(install_packages python3-numpy python3-h5py) || echo "without numpy and h5py tests that compute beside the program are skipped" >&2
(install_packages slurm-wlm munge) || echo "without SLURM the test of jobs/ is skipped" >&2
(install_packages valgrind) || echo "without valgrind no instructions are counted (tests/bench/guard.py)" >&2
(install_packages libsimde-dev) || echo "without SIMDe AVX-512 is tested only where the processor has it (tests/simde/)" >&2
(install_packages libsimgrid-dev) || echo "without SimGrid no cluster is simulated (tests/simulate/)" >&2
cores=$(nproc)
cmake -S . -B build -DBUILD_TESTING=ON
cmake --build build -j "$cores"
# They wait for a third of their time: three tests for two cores (tests/CMakeLists.txt).
exec ctest --test-dir build --output-on-failure -j $((cores + cores / 2)) "$@"
