#!/usr/bin/env bash
# Sourced by jobs/*.flux: the program under `flux run`, in a job of `flux batch`. common.sh has the rest, and the variables that all scripts know.
#
#   TASKS_PER_NODE   ranks a node; 1 unless told
#   FLUX_OPTIONS     more options of flux run, such as -opmi=pmix, which Open MPI 5 needs
# shellcheck source=jobs/common.sh disable=SC1091
source "$JOBS/common.sh"

# The cores of the job are divided among the tasks, and a task's threads stay on its cores.
launcher() {
  local options=() nodes cores tasks
  read -r -a options <<<"${FLUX_OPTIONS-}"
  nodes=$(flux resource list -n -o '{nnodes}') && cores=$(flux resource list -n -o '{ncores}') || fail "flux resource list does not say what the job has"
  tasks=$((nodes * ${TASKS_PER_NODE:-1}))
  [ "$cores" -ge "$tasks" ] || fail "TASKS_PER_NODE=$TASKS_PER_NODE: $tasks tasks on $cores cores; ask flux batch for more (-n $tasks -c CORES)"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / tasks))}
  LAUNCHER=(flux run -N "$nodes" -n "$tasks" -c $((cores / tasks)) -o cpu-affinity=per-task ${options[@]+"${options[@]}"})
}

# The seconds of the job that are left; without a limit Flux says 2^32 − 1.
time_left() {
  local left
  left=$(flux job timeleft 2>/dev/null) || return 0
  [ "$left" -ge 4294967295 ] || echo "$left"
}

# Flux gives the job's signals (--signal) to the ranks themselves, beside this shell.
hand_on() { :; }

# The job as it was submitted, once more: its jobspec holds resources, time, queue, script, words and environment. Only the count of restarts is another.
requeue() {
  flux --parent job info "$(flux getattr jobid)" jobspec | python3 -c '
import json, sys
job = json.load(sys.stdin)
job["attributes"]["system"].setdefault("environment", {})["MPILORA_RESTARTS"] = sys.argv[1]
json.dump(job, sys.stdout)' $((RESTARTS + 1)) | flux --parent job submit
}

flux getattr jobid >/dev/null 2>&1 || fail "is a batch script: flux batch -N NODES -n SLOTS jobs/lora.flux …"
RESTARTS=${MPILORA_RESTARTS:-0}
find_program
limit_time "$(time_left)"
