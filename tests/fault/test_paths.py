"""Names and links: what a file says never becomes a path outside of its folder, nothing is followed out of a run's folder, and everything is made with the user's umask."""

import json
import os
import pathlib
import shutil
import stat
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 1, width: 16, heads: 2, vocab: 31, context: 32}\n"
FORBIDDEN = ("../outside/weights.safetensors", "/etc/passwd", "sub/weights.safetensors", "..", ".", "")
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(3 * i + j) % 31 for j in range(9)] for i in range(6)])


def configuration(folder, steps=2):
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
        batch={"sequences": 2}, train={"steps": steps, "save_every": 1, "eval_every": 1, "keep_best": True}, precision="fp32")


def contents(folder):
    return {str(path): path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


# ---- the user's umask -----------------------------------------------------------------------------------------------------------


def check_umask(folder):
    for mask in (0o077, 0o027, 0o022, 0o002):
        shutil.rmtree(f"{folder}/run", ignore_errors=True)
        before = os.umask(mask)
        harness.mpilora("train", configuration(folder))
        os.umask(before)
        paths = [pathlib.Path(f"{folder}/run"), *pathlib.Path(f"{folder}/run").rglob("*")]
        checks.that(len(paths) > 8, f"a run left only {len(paths)} files")
        for path in paths:
            mode, most = stat.S_IMODE(path.stat().st_mode), 0o777 if path.is_dir() else 0o666
            checks.that(mode == most & ~mask, f"umask {mask:03o}: {path.name} has mode {mode:03o}, expected {most & ~mask:03o}")


# ---- links in a run's folder ----------------------------------------------------------------------------------------------------


def check_link(folder, name, outside, steps):
    """A link at run/NAME: what it points to stays as it is, whether the run goes on or refuses with one line."""
    before = contents(outside)
    done = harness.start("train", configuration(folder, steps))
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
    checks.that(contents(outside) == before, f"{name}: what the link points to has changed")
    checks.that(done.returncode in (0, 2, 3, 4) and (done.returncode == 0 or len(lines) == 1), f"{name}: exit {done.returncode}: {done.stderr}")
    return done.returncode


def check_links(folder):
    outside = pathlib.Path(f"{folder}/outside")
    names = ("metrics.jsonl", "evaluations.jsonl", "saves.jsonl", "summary.json", "config.yaml", "adapter.h5", "best-adapter.h5", "lock", "checkpoints/latest",
             "checkpoints/set-aside", "checkpoints")
    for name in names:
        for already, step in ((False, 0), (True, 0), (True, 9)):  # a line that stays, and one that a resumed run would cut off
            shutil.rmtree(f"{folder}/run", ignore_errors=True)
            shutil.rmtree(outside, ignore_errors=True)
            outside.mkdir()
            if already:
                harness.mpilora("train", configuration(folder))
            link, target = pathlib.Path(f"{folder}/run/{name}"), outside / pathlib.Path(name).name
            link.parent.mkdir(parents=True, exist_ok=True)
            if name in ("checkpoints", "checkpoints/set-aside"):
                shutil.move(link, target) if link.exists() else target.mkdir()
            else:
                target.write_text(json.dumps({"step": step}) + "\n")
                link.unlink(missing_ok=True)
            link.symlink_to(target)
            check_link(folder, f"{name}, {'second' if already else 'first'} start", outside, 3)
    shutil.rmtree(f"{folder}/run", ignore_errors=True)
    (outside / "place").mkdir()
    os.symlink(outside / "place", f"{folder}/run")
    harness.mpilora("train", configuration(folder))
    checks.that((outside / "place/adapter.h5").exists(), "run.dir itself may be a link")
    os.unlink(f"{folder}/run")


# ---- names in files --------------------------------------------------------------------------------------------------------------


def write_safetensors(path, name):
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def check_index(folder):
    """Shards that an index of safetensors names."""
    source, outside = pathlib.Path(f"{folder}/source"), pathlib.Path(f"{folder}/outside")
    shutil.rmtree(outside, ignore_errors=True)
    for path in (source, outside):
        path.mkdir()
    write_safetensors(outside / "weights.safetensors", "wte.weight")
    (source / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2,
                                                    "n_positions": 32, "vocab_size": 31}))
    for name in FORBIDDEN:
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
        done = harness.start("import", source, f"{folder}/imported.h5")
        lines = done.stderr.strip().splitlines()
        checks.that(done.returncode == 3 and len(lines) == 1 and "not the name of a file beside it" in lines[0], f"index with {name!r}: exit {done.returncode}: {lines}")
        checks.that(not os.path.exists(f"{folder}/imported.h5"), f"index with {name!r}: something was written")


def check_manifest(folder):
    """Files that a checkpoint's manifest names: any other name makes it bad, and what has this name stays."""
    outside = pathlib.Path(f"{folder}/outside")
    for name in ("../../outside/weights.safetensors", "/etc/passwd", "state.h5/../state.h5", "state-0001.h5/../../x"):
        shutil.rmtree(f"{folder}/run", ignore_errors=True)
        harness.mpilora("train", configuration(folder))
        manifest = pathlib.Path(f"{folder}/run/checkpoints/step-00000002/MANIFEST.json")
        manifest.write_text(manifest.read_text().replace('"state.h5"', json.dumps(name)))
        before = contents(outside)
        done = harness.start("train", configuration(folder, 3))
        checks.that(done.returncode == 0 and "set aside" in done.stderr, f"manifest with {name!r}: exit {done.returncode}: {done.stderr}")
        checks.that(contents(outside) == before, f"manifest with {name!r}: what it names has changed")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_umask(folder)
        check_links(folder)
        check_index(folder)
        check_manifest(folder)
    checks.end()


main()
