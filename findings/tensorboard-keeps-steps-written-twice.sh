#!/usr/bin/env bash
# TensorBoard 2.21.0: EventAccumulator keeps the points of steps that a resumed run wrote again.
#
# A run writes steps 1 to 5, is resumed from the checkpoint of step 3 and writes 4 to 6 into a second
# file. EventAccumulator purges what a restart made obsolete (purge_orphaned_data, on by default), but
# in files of version 2 it takes only a SessionLog START event for a restart, which PyTorch's writer,
# for one, does not write.
# Expected: 6 points. Seen: 8, the curve goes back and forth; with a START event at the step that is
# written next, 6.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with tensorboard==2.21.0 setuptools==80.9.0
quietly "$python" - "$folder" <<'PYTHON'
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def write(folder, number, steps, start):
    with open(f"{folder}/events.out.tfevents.{number}.host", "wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=number, file_version="brain.Event:2").SerializeToString())
        if start:
            records.write(Event(wall_time=number, step=steps[0], session_log=SessionLog(status=SessionLog.START)).SerializeToString())
        for step in steps:
            value = Summary.Value(tag="loss", simple_value=10 * number + step)
            records.write(Event(wall_time=number + step / 100, step=step, summary=Summary(value=[value])).SerializeToString())


def accumulated(start):
    folder = f"{sys.argv[1]}/{start}"
    os.mkdir(folder)
    write(folder, 1, [1, 2, 3, 4, 5], False)
    write(folder, 2, [4, 5, 6], start)
    reader = EventAccumulator(folder)
    reader.Reload()
    return [event.step for event in reader.Scalars("loss")]


plain, marked = accumulated(False), accumulated(True)
print("EventAccumulator:", plain, " with a START event:", marked)
assert plain == [1, 2, 3, 4, 5, 4, 5, 6] and marked == [1, 2, 3, 4, 5, 6], "this has changed"
PYTHON
