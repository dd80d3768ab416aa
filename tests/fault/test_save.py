"""One save, and every call of it that can fail: made to fail, or to be the last thing that the process does.

After each fault the next start must go on from a whole checkpoint and end with the bytes of the undisturbed run; a fault that is reported is
exit code 4 with one line (3 for what is read when a run starts), and the older checkpoints are as they were. Each fault is a process of its own
(miniature.py); every call is struck: opening, reading, writing, syncing, closing, renaming, removing, making directories, reserving,
cutting, asking for status, listing; and every request for memory of a save, HDF5's, OpenSSL's and jansson's with ours.
"""

import collections
import concurrent.futures
import os
import pathlib
import queue
import shutil
import sys
import tempfile

import miniature

ERRORS = {
    "open": ["EIO", "ENOSPC", "EDQUOT", "EINTR", "EACCES"],
    "look": ["EIO", "EINTR"],
    "read": ["EIO", "EINTR", "SHORT", "FLIP"],
    "write": ["EIO", "ENOSPC", "EDQUOT", "EINTR", "SHORT"],
    "fsync": ["EIO", "ENOSPC", "EDQUOT", "EINTR"],
    "close": ["EIO", "ENOSPC", "EDQUOT"],
    "rename": ["EIO", "ENOSPC", "EDQUOT", "EINTR"],
    "unlink": ["EIO", "EACCES", "EINTR"],
    "mkdir": ["EIO", "ENOSPC", "EDQUOT"],
    "rmdir": ["EIO", "EACCES"],
    "fallocate": ["EIO", "ENOSPC", "EDQUOT", "EINTR"],
    "ftruncate": ["EIO", "EINTR"],
    "stat": ["EIO"],
    "list": ["EIO"],
    "malloc": ["ENOMEM"],
    "hdf5": [],
}
KILLS = ["KILL_BEFORE", "KILL_AFTER"]
ASKING = ("look", "read", "stat", "list", "malloc", "hdf5")  # the disk is the same before and after: a kill there is the kill after the call before
SURVIVED = ("EINTR", "SHORT")  # must not be noticed
STEPS, KEPT = 4, 2
# Of the allocations only some are struck, to keep the test short: with FAULT_EVERY_ALLOCATION in the environment each of one file, and more of the other ways to save.
SOME = 1 if os.environ.get("FAULT_EVERY_ALLOCATION") else 4
FORMATS = {"one file": ({}, SOME), "several files": ({"DRIVER_FILE_BYTES": 400}, 4 * SOME), "beside training": ({"DRIVER_BESIDE": 1}, 3 * SOME)}


def count_calls(driver, template, work, settings):
    run, counts = work / "count", work / "counts"
    shutil.copytree(template, run)
    code, said = driver.run(run, STEPS, FAULT_ROOT=f"{run}/", FAULT_COUNT=counts, **settings)
    assert code == 0, said
    found = {line.split()[0]: int(line.split()[1]) for line in counts.read_text().splitlines()}
    reference = miniature.states(run)
    shutil.rmtree(run)
    return found, reference


def faults_of(counts, stride):
    for call, calls in counts.items():
        for at in range(1, calls + 1, stride if call == "malloc" else 1):
            for action in ERRORS[call] + ([] if call in ASKING else KILLS):
                yield call, at, action


def check_struck(call, action, code, said):
    """What the struck process itself may do."""
    if action in KILLS:
        assert code == -9, f"exit {code}, expected to be killed: {said}"
    elif action in SURVIVED:
        assert code == 0, f"exit {code}, expected no more than a second try: {said}"
    else:
        assert code in ((0, 3, 4) if call in ASKING else (0, 4)), f"exit {code}: {said}"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code in (3, 4)), f"exit {code}: {said}"


def check_fault(driver, template, work, reference, settings, call, at, action):
    run = work / f"{call}-{at}-{action}"
    shutil.copytree(template, run)
    known = {**miniature.states(run), **reference}
    code, said = driver.run(run, STEPS, FAULT_ROOT=f"{run}/", FAULT_CALL=call, FAULT_AT=at, FAULT_DO=action, **settings)
    check_struck(call, action, code, said)
    after = miniature.states(run)
    whole = miniature.committed(run)
    assert len(whole) >= KEPT, f"{whole} are left: {said}"
    assert all(known[name] == after[name] for name in after if int(name[17:25]) in whole), f"a checkpoint changed: {said}"
    newest = whole[-1]
    code_again, said_again = driver.run(run, STEPS, **settings)
    assert code_again == 0, f"the next start: exit {code_again}: {said_again}; before: {said}"
    assert f"found {newest}\n" in said_again, f"the next start goes on from elsewhere than {newest}: {said_again}; before: {said}"
    assert not (run / "checkpoints/set-aside").exists(), f"something was set aside: {said}{said_again}"
    assert not miniature.temporary_files(run), f"{miniature.temporary_files(run)} are left: {said}{said_again}"
    end = miniature.states(run)
    assert {name: end.get(name) for name in reference} == reference, f"the end is not that of the undisturbed run: {said}{said_again}"
    shutil.rmtree(run)
    return code


def check_format(name, settings, stride, drivers, work):
    """Every fault of one format of checkpoints; codes by how the struck processes ended, and what went wrong."""
    work.mkdir()
    template = work / "template"
    code, said = drivers[0].run(template, KEPT, **settings)
    assert code == 0, said
    counts, reference = count_calls(drivers[0], template, work, settings)
    print(f"{name}: calls of a start and two saves (malloc: of one save):", counts, flush=True)
    free = queue.Queue()
    for driver in drivers:
        free.put(driver)

    def one(fault):
        driver = free.get()
        try:
            return check_fault(driver, template, work, reference, settings, *fault), None
        except AssertionError as wrong:
            text = f"{name}, {'-'.join(map(str, fault))}: {wrong}"
            print("WRONG:", text, flush=True)
            return None, text
        finally:
            free.put(driver)

    with concurrent.futures.ThreadPoolExecutor(len(drivers)) as pool:
        return list(pool.map(one, faults_of(counts, stride)))


def main():
    if not miniature.DRIVER or not miniature.SHIM:
        print("the driver or the shim was not built: skipped")
        return 77
    with tempfile.TemporaryDirectory(prefix="mpilora-fault-", dir=miniature.scratch_folder()) as folder:
        work = pathlib.Path(folder)
        drivers = [miniature.Driver(work / f"driver-{i}") for i in range(2)]
        results = [r for i, (name, (settings, stride)) in enumerate(FORMATS.items()) for r in check_format(name, settings, stride, drivers, work / f"format-{i}")]
        for driver in drivers:
            driver.end()
    codes = collections.Counter(code for code, wrong in results)
    wrong = [text for _, text in results if text]
    print(f"{len(results)} faults injected: {codes[-9]} processes killed, {codes[4]} ended with exit code 4, {codes[3]} with 3, {codes[0]} went on; {len(wrong)} wrong")
    return 1 if wrong or len(results) < 500 else 0


if __name__ == "__main__":
    sys.exit(main())
