#!/usr/bin/env bash
# Sourced by jobs/*.sbatch: the program under srun, in a job of SLURM. common.sh has the rest, and the variables that all scripts know.
#
#   MPILORA_MPI     srun's --mpi, pmix unless told
#   SRUN_OPTIONS    more options of srun, such as --cpu-bind=ldoms
# shellcheck source=jobs/common.sh disable=SC1091
source "$JOBS/common.sh"

# One thread a core of the task. Threads are bound only where SLURM gives each task cores of its own: else all ranks of a node would begin at its first core.
set_threads() {
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  if scontrol show config | grep -Eq '^TaskPlugin .*(affinity|cgroup)'; then
    export OMP_PROC_BIND=${OMP_PROC_BIND:-close} OMP_PLACES=${OMP_PLACES:-cores}
  fi
}

# A job that was requeued at another size still has the first start's SLURM_NTASKS; the tasks of each node, "2(x3),1", are those of now.
count_tasks() {
  local part tasks=0
  [ "$RESTARTS" -gt 0 ] || return 0
  for part in ${SLURM_TASKS_PER_NODE//,/ }; do
    if [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]]; then tasks=$((tasks + BASH_REMATCH[1] * ${BASH_REMATCH[3]:-1})); fi
  done
  export SLURM_NTASKS=$tasks SLURM_NPROCS=$tasks
}

launcher() {
  local options=()
  read -r -a options <<<"${SRUN_OPTIONS-}"
  # `${a[@]+…}`: an empty list is no error where bash is old
  LAUNCHER=(srun --mpi="${MPILORA_MPI:-pmix}" --kill-on-bad-exit=1 ${options[@]+"${options[@]}"})
}

# SLURM requeues a preempted job itself, and one that was cancelled stays so: neither is running any more.
may_requeue() { [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; }

# Under the same number. SLURM ends this shell: one that is still there later was not requeued.
requeue() {
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
  return 1
}

[ -n "${SLURM_JOB_ID-}" ] || fail "is a batch script: sbatch jobs/$(basename "$0") …"
RESTARTS=${SLURM_RESTART_COUNT:-0}
find_program
set_threads
count_tasks
