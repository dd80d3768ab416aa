#!/usr/bin/env bash
# Sourced by jobs/*.pbs: the program under mpirun, in a job of PBS Pro, OpenPBS or Torque. common.sh has the rest, and the variables that all scripts know.
#
#   MPIRUN           mpirun of the MPI that the program was built with; `mpirun` of PATH unless told
#   MPIRUN_OPTIONS   its options in the place of `--bind-to none`, such as `--map-by slot:PE=16 --bind-to core`
#   QSUB_OPTIONS     more options for submitting the job again, such as `-W group_list=mine`
# shellcheck source=jobs/common.sh disable=SC1091
source "$JOBS/common.sh"

KEPT=(CONFIG SET MPILORA MPILORA_SETUP MPILORA_JOBS MPIRUN MPIRUN_OPTIONS QSUB_OPTIONS OMP_NUM_THREADS NO_REQUEUE MAX_RESTARTS MPILORA_RESTARTS HDF5_USE_FILE_LOCKING)

# attribute NAME: one line of `qstat -f`, which folds long ones before a tab.
attribute() { qstat -f "$PBS_JOBID" | sed -e ':join' -e '$!{N;b join' -e '}' -e 's/\n\t//g' | sed -n "s/^ *$1 = //p" | head -n 1; }

# seconds [[D:]H:]M:S or a number: nothing where it is neither.
seconds() {
  local part sum=0 scale=(1 60 3600 86400) i=0
  [[ $1 =~ ^[0-9]+(:[0-9]+){0,3}$ ]] || return 0
  for part in $(tr ':' '\n' <<<"$1" | tac); do
    sum=$((sum + 10#$part * scale[i]))
    i=$((i + 1))
  done
  echo "$sum"
}

# The seconds of the job that are left; this shell began when the job did.
time_left() {
  local limit
  limit=$(seconds "${PBS_WALLTIME:-$(attribute Resource_List.walltime)}")
  [ -z "$limit" ] || echo $((limit > SECONDS ? limit - SECONDS : 0))
}

# A line of PBS_NODEFILE is a rank: mpiprocs of PBS Pro, ppn of Torque. Ranks on other nodes get what this shell has set.
launcher() {
  local options=() name
  read -r -a options <<<"${MPIRUN_OPTIONS---bind-to none}"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  for name in OMP_NUM_THREADS HDF5_USE_FILE_LOCKING LD_LIBRARY_PATH; do
    if [ -n "${!name-}" ]; then options+=(-x "$name"); fi
  done
  LAUNCHER=("${MPIRUN:-mpirun}" -n "$(wc -l <"$PBS_NODEFILE")" --hostfile "$PBS_NODEFILE" ${options[@]+"${options[@]}"})
}

# Open MPI's mpirun kills its ranks on TERM, and hands USR1 on to them.
hand_on() { kill -USR1 "$2" 2>/dev/null; }

# As a new job: qrerun is for operators. Its resources, queue, account and name are this one's; its settings are named, and qsub takes their values from here.
requeue() {
  local options=() kept=() more=() name value
  for name in select nodes place walltime; do
    value=$(attribute "Resource_List.$name")
    if [ -n "$value" ]; then options+=(-l "$name=$value"); fi
  done
  value=$(attribute Account_Name)
  if [ -n "$value" ]; then options+=(-A "$value"); fi
  value=$(attribute project)
  if [ -n "$value" ] && [ "$value" != _pbs_project_default ]; then options+=(-P "$value"); fi
  read -r -a more <<<"${QSUB_OPTIONS-}"
  export MPILORA_RESTARTS=$((RESTARTS + 1))
  for name in "${KEPT[@]}"; do
    if [ -n "${!name-}" ]; then
      export "${name?}"
      kept+=("$name")
    fi
  done
  qsub -N "${PBS_JOBNAME:-mpilora}" -q "$PBS_O_QUEUE" ${options[@]+"${options[@]}"} ${more[@]+"${more[@]}"} -v "$(IFS=, && echo "${kept[*]}")" "$JOBS/$SCRIPT"
}

[ -n "${PBS_JOBID-}" ] || fail "is a batch script: qsub -v CONFIG=run.yaml jobs/$SCRIPT"
RESTARTS=${MPILORA_RESTARTS:-0}
find_program
limit_time "$(time_left)"
