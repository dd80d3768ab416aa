"""Damaged checkpoints: whatever happens to the files of the newest one, the next start says so, sets it aside before HDF5 sees it, and goes on from the older
one to the same end; where none is left it ends with exit code 3, again and again, and never begins anew.

Every byte of the manifest is changed, and many of the state; both are cut at many lengths; files are emptied, removed, swapped, replaced by links, directories
and pipes; checkpoints of other runs are put in. The runs are miniature.py's.
"""

import os
import pathlib
import random
import shutil
import sys
import tempfile

import miniature

NEWEST, OLDER = "step-00000004", "step-00000003"
STATE_BYTES, STATE_LENGTHS, MANIFEST_LENGTHS = 300, 100, 120
rng = random.Random(5)


# ---- damages: each takes the folder `checkpoints` and a folder outside of the run -------------------------------------------------------------------


def flip(name, at):
    def damage(checkpoints, outside):
        with open(checkpoints / NEWEST / name, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ rng.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])]))

    return f"byte {at} of {name} changed", damage


def cut(name, length):
    return f"{name} cut to {length} bytes", lambda checkpoints, outside: os.truncate(checkpoints / NEWEST / name, length)


def lengthen(name):
    def damage(checkpoints, outside):
        with open(checkpoints / NEWEST / name, "ab") as file:
            file.write(b"\n")

    return f"{name} one byte longer", damage


def replace(name, how):
    """A file of the newest checkpoint becomes something else with the same name."""

    def damage(checkpoints, outside):
        path, kept = checkpoints / NEWEST / name, outside / "kept"
        shutil.move(path, kept)
        if how == "link":
            path.symlink_to(kept)
        if how == "hanging link":
            path.symlink_to(outside / "nothing")
        if how == "directory":
            path.mkdir()
            (path / "file").write_text("x")
        if how == "pipe":
            os.mkfifo(path)

    return f"{name} became a {how}" if how != "nothing" else f"{name} removed", damage


def swap(name):
    def damage(checkpoints, outside):
        shutil.copy(outside.parent / "template/checkpoints" / OLDER / name, checkpoints / NEWEST / name)

    return f"{name} of another checkpoint", damage


def whole_older(checkpoints, outside):
    shutil.rmtree(checkpoints / NEWEST)
    shutil.copytree(outside.parent / "template/checkpoints" / OLDER, checkpoints / NEWEST)


def linked_directory(checkpoints, outside):
    shutil.move(checkpoints / NEWEST, outside / NEWEST)
    (checkpoints / NEWEST).symlink_to(outside / NEWEST)


def linked_elsewhere(checkpoints, outside):
    shutil.rmtree(checkpoints / NEWEST)
    (outside / "precious").mkdir()
    (outside / "precious/file").write_text("x")
    (checkpoints / NEWEST).symlink_to(outside / "precious")


def plain_file(checkpoints, outside):
    shutil.rmtree(checkpoints / NEWEST)
    (checkpoints / NEWEST).write_text("x")


def damages_of(newest):
    for at in range((newest / "MANIFEST.json").stat().st_size):
        yield flip("MANIFEST.json", at)
    size = (newest / "state.h5").stat().st_size
    for at in sorted({*range(0, 64), *(rng.randrange(size) for _ in range(STATE_BYTES)), size - 1}):
        yield flip("state.h5", at)
    for name, count in (("MANIFEST.json", MANIFEST_LENGTHS), ("state.h5", STATE_LENGTHS)):
        size = (newest / name).stat().st_size
        for length in sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(count))}):
            yield cut(name, length)
        yield lengthen(name)
        yield swap(name)
        for how in ("nothing", "link", "hanging link", "directory", "pipe"):
            if (name, how) != ("MANIFEST.json", "nothing"):
                yield replace(name, how)
    yield replace("MANIFEST.json", "nothing")
    yield "the older checkpoint under the newest one's name", whole_older
    yield "the newest checkpoint behind a link", linked_directory
    yield "a link to somebody's directory in the newest one's place", linked_elsewhere
    yield "a file in the newest one's place", plain_file


# ---- checks ------------------------------------------------------------------------------------------------------------------------------------------


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


class Case:
    """A fresh copy of a run with checkpoints 3 and 4, and a folder outside of it."""

    def __init__(self, driver, template, work):
        self.driver, self.run, self.outside = driver, work / "run", work / "outside"
        for folder in (self.run, self.outside):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, self.run)
        self.outside.mkdir()
        self.checkpoints = self.run / "checkpoints"

    def start(self, **settings):
        return self.driver.run(self.run, 4, **settings)


def check_falls_back(case, reference, what, damage):
    damage(case.checkpoints, case.outside)
    outside = contents(case.outside)
    code, said = case.start()
    assert code == 0, f"exit {code}: {said}"
    assert "found 3\n" in said, f"went on from elsewhere: {said}"
    warned = [line for line in said.splitlines() if line.startswith("warning: checkpoint of step 4") and "set aside" in line]
    assert len(warned) == 1, f"not said once: {said}"
    assert miniature.states(case.run) == reference, "another end"
    assert any((case.checkpoints / "set-aside").iterdir()), "not set aside"
    assert contents(case.outside) == outside, "something outside of the run was changed"


def check_none_left(case, what, damage):
    """The same damage to both: exit 3 before HDF5 has seen anything, on every start, and nothing new."""
    shutil.rmtree(case.checkpoints / OLDER)
    counts = case.outside / "counts"
    damage(case.checkpoints, case.outside)
    for start in range(2):
        code, said = case.start(FAULT_ROOT=f"{case.run}/", FAULT_COUNT=counts)
        assert code == 3, f"start {start + 1}: exit {code}, expected 3: {said}"
        assert said.count("error: ") == 1 and "--fresh" in said, said
        opened = dict(line.split() for line in counts.read_text().splitlines())["hdf5"]
        assert opened == "0", f"HDF5 opened {opened} files"
        assert not miniature.committed(case.run), f"{miniature.committed(case.run)}: begun anew"


def check_lost_hint(make, reference):
    """`latest` is only a hint: lost, emptied, wrong, a link or a directory."""
    hints = {
        "lost": lambda p: p.unlink(),
        "empty": lambda p: p.write_text(""),
        "wrong": lambda p: p.write_text("step-00000099\n"),
        "garbage": lambda p: p.write_bytes(bytes(range(256)) * 100),
        "link": lambda p: (p.unlink(), p.symlink_to("/etc/passwd")),
        "directory": lambda p: (p.unlink(), p.mkdir()),
    }
    for name, damage in hints.items():
        case = make()
        damage(case.checkpoints / "latest")
        code, said = case.start()
        assert code == 0 and "found 4\n" in said, f"latest {name}: exit {code}: {said}"
        assert miniature.states(case.run) == reference, f"latest {name}: something changed"
    return len(hints)


def check_foreign(make, driver, reference, work):
    """A checkpoint of another base: set aside where an own one is older; alone it is refused with both values, and nothing moves."""
    other = work / "other"
    code, said = driver.run(other, 4, DRIVER_BASE="ffff")
    assert code == 0, said
    case = make()
    shutil.rmtree(case.checkpoints / NEWEST)
    shutil.copytree(other / "checkpoints" / NEWEST, case.checkpoints / NEWEST)
    code, said = case.start()
    assert code == 0 and "found 3\n" in said and "of another run" in said and "set aside" in said, f"foreign: exit {code}: {said}"
    assert miniature.states(case.run) == reference, "foreign: another end"
    before = contents(other)
    code, said = driver.run(other, 4)
    assert code == 2 and "ffff" in said and "0123abcd" in said, f"foreign alone: exit {code}: {said}"
    changed = {name for name, content in contents(other).items() if before.get(name) != content}
    assert changed <= {"lock"}, f"foreign alone: {changed} changed"
    mixed = make()
    shutil.copy(other / "checkpoints" / NEWEST / "MANIFEST.json", mixed.checkpoints / NEWEST)
    code, said = mixed.start()
    assert code == 0 and miniature.states(mixed.run) == reference, f"foreign manifest: exit {code}: {said}"
    return 3


def check_bad_places(make):
    """What stands in the way of a whole run: an error with a name in it, no crash, and no checkpoint lost."""
    def lock_link(case):
        (case.run / "lock").unlink()
        (case.outside / "file").write_text("precious")
        (case.run / "lock").symlink_to(case.outside / "file")

    def lock_directory(case):
        (case.run / "lock").unlink()
        (case.run / "lock").mkdir()

    def aside_file(case):
        (case.checkpoints / "set-aside").write_text("x")
        os.truncate(case.checkpoints / NEWEST / "state.h5", 9)

    for damage in (lock_link, lock_directory, aside_file):
        case = make()
        damage(case)
        outside, kept = contents(case.outside), miniature.committed(case.run)
        code, said = case.start()
        assert code in (2, 3, 4) and said.count("error: ") == 1, f"{damage.__name__}: exit {code}: {said}"
        assert contents(case.outside) == outside and miniature.committed(case.run) == kept, f"{damage.__name__}: something changed"
    return 3


def main():
    if not miniature.DRIVER or not miniature.SHIM:
        print("the driver or the shim was not built: skipped")
        return 77
    with tempfile.TemporaryDirectory(prefix="mpilora-damage-", dir=miniature.scratch_folder()) as folder:
        work = pathlib.Path(folder)
        template, driver = work / "template", miniature.Driver(work / "driver")
        code, said = driver.run(template, 4)
        assert code == 0 and miniature.committed(template) == [3, 4], said
        reference = miniature.states(template)
        make = lambda: Case(driver, template, work)  # noqa: E731
        count, wrong = 0, []
        for number, (what, damage) in enumerate(damages_of(template / "checkpoints" / NEWEST)):
            for alone in (False, True) if number % 20 == 0 or " of " not in what and " cut to " not in what else (False,):
                count += 1
                try:
                    if alone:
                        check_none_left(make(), what, damage)
                    else:
                        check_falls_back(make(), reference, what, damage)
                except AssertionError as error:
                    wrong.append(f"{what}{', and no other left' if alone else ''}: {error}")
                    print("WRONG:", wrong[-1], flush=True)
        count += check_lost_hint(make, reference) + check_foreign(make, driver, reference, work) + check_bad_places(make)
        driver.end()
    print(f"{count} damages, {len(wrong)} not met as they should")
    return 1 if wrong or count < 500 else 0


if __name__ == "__main__":
    sys.exit(main())
