"""mpilora --version: the project's version, and each library with its version and a file that is there; as text and as JSON. A build without ScaLAPACK says so
where it is needed."""
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

check = harness.Checks()


def project_version():
    with open(os.path.join(harness.SOURCE, "CMakeLists.txt"), encoding="utf-8") as file:
        return re.search(r"project\(mpilora VERSION ([0-9.]+)", file.read()).group(1)


def check_version():
    """Names of the libraries."""
    text, found = harness.mpilora("--version"), json.loads(harness.mpilora("--version", "--json"))
    check.that(found["version"] == project_version(), f"{found['version']}, not the project's")
    check.that(text.splitlines()[0] == f"mpilora {project_version()}", text)
    check.that("generic" in found["vector_paths"], f"{found['vector_paths']}")
    libraries = {library["name"]: library for library in found["libraries"]}
    check.that({"MPI", "HDF5", "BLAS", "OpenMP"} <= set(libraries), f"only {sorted(libraries)}")
    for library in libraries.values():
        check.that(os.path.isfile(library["path"]), f"{library}: no such file")
        check.that(library["path"] in text and library["version"] in text, f"{library} is not in the text")
    for name in ("MPI", "HDF5", "OpenMP", "oneDNN"):
        check.that(name not in libraries or re.search(r"\d", libraries[name]["version"]), f"{name}: no version")
    return set(libraries)


def check_missing_scalapack(folder):
    harness.make_base(folder, "family: llama\nlayers: 1\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 4\nvocab: 64\ncontext: 32\n", "fp32")
    done = harness.start("analyze", "spectrum", "--base", f"{folder}/base.h5")
    check.that(done.returncode == 2 and "MPILORA_SCALAPACK" in done.stderr, f"exit {done.returncode}: {done.stderr}")


names = check_version()
if "ScaLAPACK" not in names:
    with tempfile.TemporaryDirectory() as place:
        check_missing_scalapack(place)
check.end()
