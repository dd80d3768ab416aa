# Sourced by the scripts of this folder: packages of fixed versions in a temporary folder, which is
# removed at the end. Nothing is installed on the machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# python_with PACKAGE==VERSION…: $python is a Python that has these, and nothing else.
python_with() {
  python3 -m venv "$folder/python"
  python=$folder/python/bin/python
  "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

# debian_with PACKAGE=VERSION…: Debian 12's packages, unpacked below $root.
debian_with() {
  root=$folder/root
  mkdir -p "$root" "$folder/deb"
  (cd "$folder/deb" && apt-get --quiet=2 download "$@" >/dev/null)
  for package in "$folder"/deb/*.deb; do dpkg -x "$package" "$root"; done
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
