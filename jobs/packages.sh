#!/usr/bin/env bash
# Sourced by tests/run.sh and jobs/quickstart.sh: puts Debian's packages there that are missing. It calls apt only where something is missing,
# and only as root.

is_installed() {
  dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -q '^installed$'
}

# install_packages NAME…: ends the script with a clear line where that is not possible.
install_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || return 0 # not Debian: CMake names what it does not find
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "missing packages; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update </dev/null || echo "apt-get update failed; trying with the package lists that are there" >&2
  if ! apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null; then
    echo "apt-get could not install: ${missing[*]}" >&2
    exit 1
  fi
}

# What .ci/run checks the sources with.
install_check_packages() {
  install_packages clang clang-format clang-tidy libomp-dev
}

# Everything that the build and its tests stand on.
install_build_packages() {
  install_packages build-essential cmake pkg-config python3 python3-jinja2 python3-yaml openmpi-bin libopenmpi-dev libopenblas-openmp-dev libdnnl-dev \
    libscalapack-openmpi-dev libhdf5-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libssl-dev libcmocka-dev
}
