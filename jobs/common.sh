#!/usr/bin/env bash
# Sourced by slurm.sh, flux.sh and pbs.sh: what does not depend on who starts the ranks. Such a file gives `launcher`, the words that start the program on all
# tasks, and `requeue`, which puts the job back; it may replace `hand_on` and `may_requeue`.
#
#   MPILORA         the program; else `mpilora` of PATH, else build/mpilora of this project
#   MPILORA_SETUP   a file that is sourced first: modules, paths
#   NO_REQUEUE=1    a run that was stopped before its end is not put into the queue again
#   MAX_RESTARTS    after so many requeues a job ends with 75; 1000 unless told
set -uo pipefail

STOPPED=75
TERMINATED= # set once the batch system, or its user, has ended the job

fail() {
  echo "$(basename "$0"): $*" >&2
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

# limit_time SECONDS: TIME_LIMIT becomes the option that tells the program how long it may run, a minute less than the job may: MPI has to start and to end,
# too. Nothing where the job has no limit (an empty word).
limit_time() {
  local left=$1
  TIME_LIMIT=()
  [ -n "$left" ] || return 0
  left=$((left > 120 ? left - 60 : left / 2))
  [ "$left" -lt 1 ] || TIME_LIMIT=(--set "run.time_limit=$left")
}

# hand_on SIGNAL PID: what a signal to this shell means for the launcher, whose ranks save and end.
hand_on() { kill "-$1" "$2" 2>/dev/null; }

# launch COMMAND [option]…: the program on all tasks of the job; its exit code.
launch() {
  local pid code=0
  launcher
  "${LAUNCHER[@]}" "$MPILORA" "$@" &
  pid=$!
  trap 'hand_on USR1 "$pid"' USR1
  trap 'TERMINATED=1; hand_on TERM "$pid"' TERM
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ends `wait`, not the launcher
    wait "$pid"
    code=$?
  done
  trap - USR1 TERM
  return "$code"
}

# Not a job that the batch system is ending: one that was cancelled stays so.
may_requeue() { [ -z "$TERMINATED" ]; }

# end_job CODE: what the job ends with. A run that stopped and can go on is put into the queue again, with the same command.
end_job() {
  local code=$1
  if [ "$code" = "$STOPPED" ] && [ -z "${NO_REQUEUE-}" ] && [ "$RESTARTS" -lt "${MAX_RESTARTS:-1000}" ] && may_requeue; then
    echo "stopped before its end: requeued (restart $((RESTARTS + 1)))"
    requeue || echo "the job could not be requeued; submit it again by the same command to go on" >&2
  fi
  exit "$code"
}
