"""TensorBoard's own readers on what a run writes: the page's default one and EventAccumulator, for a run that was killed, lost its newest steps and went on. For developers; needs
the package tensorboard:

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_tensorboard.py
"""

import glob
import os
import shutil
import sys
import tempfile

from tensorboard.backend.event_processing import directory_watcher, event_file_loader, io_wrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 1, width: 32, heads: 4, mlp_width: 64, vocab: 257, context: 64}\n"


def page_curve(folder, tag):
    """What the page's reader keeps: a step at or below an earlier one drops what stands from it on."""
    watcher = directory_watcher.DirectoryWatcher(folder, event_file_loader.LegacyEventFileLoader, io_wrapper.IsTensorFlowEventsFile)
    curve = {}
    for event in watcher.Load():
        for value in event.summary.value:
            if value.tag == tag:
                curve = {step: kept for step, kept in curve.items() if step < event.step}
                curve[event.step] = value.simple_value
    return curve


def main():
    check = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        harness.make_base(".", MODEL, "fp32")
        harness.make_data(".", [[(i * i + 7 * j) % 257 for j in range(10 + i)] for i in range(16)])
        config = harness.write_config("run.yaml", run={"dir": "run"}, base="base.h5", data={"train": "data.h5", "valid": "data.h5"}, batch={"sequences": 4},
                                      train={"steps": 10, "save_every": 4, "keep": 9, "eval_every": 5}, precision="fp32")
        harness.mpilora("train", config)
        shutil.rmtree("run/checkpoints/step-00000010")
        with open(glob.glob("run/tb/*")[0], "ab") as file:
            file.write(b"\x28\0\0\0torn")
        harness.mpilora("train", config)
        accumulator = EventAccumulator("run/tb")
        accumulator.Reload()
        metrics = harness.read_metrics("run")
        for tag, key in (("train/loss", "loss"), ("train/learning_rate", "lr"), ("train/grad_norm", "grad_norm")):
            events, expected = accumulator.Scalars(tag), [line[key] for line in metrics]
            check.that([event.step for event in events] == list(range(1, 11)), f"{tag}: EventAccumulator has steps {[event.step for event in events]}")
            check.close(tag, [event.value for event in events], expected, 1e-6)
            page = page_curve("run/tb", tag)
            check.that(list(page) == list(range(1, 11)), f"{tag}: the page has steps {list(page)}")
            check.close(f"{tag} of the page", list(page.values()), expected, 1e-6)
        check.that([event.step for event in accumulator.Scalars("eval/loss")] == [5, 10], f"eval/loss: {accumulator.Scalars('eval/loss')}")
        os.chdir("/")
    check.end()


main()
