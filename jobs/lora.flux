#!/usr/bin/env bash
#flux: --job-name=mpilora
#flux: --signal=USR1@180
#flux: --output=mpilora-{{id}}.out
# lora.sbatch for Flux: fine-tuning to the end; it saves before its time is over, is submitted again, and goes on.
#
#   TASKS_PER_NODE=2 flux batch -N 4 -n 8 -c 16 -t 12h jobs/lora.flux CONFIG.yaml [key=value]...
# Flux runs a copy of this file, in the folder that it was submitted from; MPILORA_JOBS names the folder jobs/ where that is not beside it.
JOBS=${MPILORA_JOBS:-$PWD/jobs}
[ -r "$JOBS/flux.sh" ] || { echo "lora.flux: no $JOBS/flux.sh; name the folder that it lies in by MPILORA_JOBS" >&2 && exit 2; }
# shellcheck source=jobs/flux.sh disable=SC1091
source "$JOBS/flux.sh"

[ $# -ge 1 ] || fail "usage: flux batch [options] jobs/lora.flux CONFIG.yaml [key=value]..."
config=$1
shift
sets "$@"
launch train "$config" ${TIME_LIMIT[@]+"${TIME_LIMIT[@]}"} ${SETS[@]+"${SETS[@]}"}
end_job $?
