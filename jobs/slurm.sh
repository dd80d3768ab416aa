#!/usr/bin/env bash
# Sourced by jobs/*.sbatch: finds the program, starts it under srun, hands signals on, requeues where it says so.
#
#   MPILORA         the program; else `mpilora` of PATH, else build/mpilora of this project
#   MPILORA_SETUP   a file that is sourced first: modules, paths
#   MPILORA_MPI     srun's --mpi, pmix unless told
#   SRUN_OPTIONS    more options of srun, such as --cpu-bind=ldoms
#   NO_REQUEUE=1    a run that was stopped before its end is not put into the queue again
#   MAX_RESTARTS    after so many requeues a job ends with 75; 1000 unless told
set -uo pipefail

STOPPED=75

fail() {
  echo "$(basename "$0" .sbatch): $*" >&2
  exit 2
}

# shellcheck source=/dev/null
if [ -n "${MPILORA_SETUP-}" ]; then source "$MPILORA_SETUP" || fail "MPILORA_SETUP=$MPILORA_SETUP failed"; fi

find_program() {
  local own
  own=$(dirname "$JOBS")/build/mpilora
  if [ -n "${MPILORA-}" ]; then
    [ -x "$MPILORA" ] || fail "MPILORA=$MPILORA: is not a program"
  elif command -v mpilora >/dev/null; then
    MPILORA=$(command -v mpilora)
  elif [ -x "$own" ]; then
    MPILORA=$own
  else
    fail "no program: build it (cmake -B build && cmake --build build), put mpilora into PATH, or name it in MPILORA"
  fi
}

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
  [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || return 0
  for part in ${SLURM_TASKS_PER_NODE//,/ }; do
    if [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]]; then tasks=$((tasks + BASH_REMATCH[1] * ${BASH_REMATCH[3]:-1})); fi
  done
  export SLURM_NTASKS=$tasks SLURM_NPROCS=$tasks
}

# sets KEY=VALUE…: fills SETS with --set options.
sets() {
  local word
  SETS=()
  for word in "$@"; do
    case $word in
      *=*) SETS+=(--set "$word") ;;
      *) fail "\"$word\": expected key=value, as in optim.lr=1e-4" ;;
    esac
  done
}

# launch COMMAND [option]…: the program on all tasks of the job; its exit code. Signals that reach this shell go on to the ranks, which save and end.
launch() {
  local pid code=0
  local options=()
  read -r -a options <<<"${SRUN_OPTIONS-}"
  # `${a[@]+…}`: an empty list is no error where bash is old
  srun --mpi="${MPILORA_MPI:-pmix}" --kill-on-bad-exit=1 ${options[@]+"${options[@]}"} "$MPILORA" "$@" &
  pid=$!
  trap 'kill -USR1 "$pid" 2>/dev/null' USR1
  trap 'kill -TERM "$pid" 2>/dev/null' TERM
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ends `wait`, not the job step
    wait "$pid"
    code=$?
  done
  trap - USR1 TERM
  return "$code"
}

is_running() { [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; }

# end_job CODE: what the job ends with. A run that stopped and can go on is put into the queue again: under the same id, with the same command. Not so a job that
# SLURM is ending itself: one that was cancelled stays so, one that was preempted is requeued by SLURM.
end_job() {
  local code=$1 restarts=${SLURM_RESTART_COUNT:-0}
  if [ "$code" = "$STOPPED" ] && [ -z "${NO_REQUEUE-}" ] && [ "$restarts" -lt "${MAX_RESTARTS:-1000}" ] && is_running; then
    echo "stopped before its end: requeued (restart $((restarts + 1)))"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # SLURM ends this shell
    echo "the job could not be requeued; submit it again by the same command to go on" >&2
  fi
  exit "$code"
}

[ -n "${SLURM_JOB_ID-}" ] || fail "is a batch script: sbatch jobs/$(basename "$0") …"
find_program
set_threads
count_tasks
