"""An interpreter with torch, transformers and peft: the one that is named, or a virtual environment that is made once and kept."""

import os
import subprocess
import sys
import venv

PACKAGES = ["torch==2.13.*", "transformers==5.*", "peft==0.21.*"]
PROCESSOR_ONLY = "https://download.pytorch.org/whl/cpu"  # torch without the gigabytes for graphics cards; nothing else is looked for there
VERSIONS = "import json, torch, transformers, peft; print(json.dumps({m.__name__: m.__version__ for m in (torch, transformers, peft)}))"


def versions(python):
    """The versions of the packages as JSON text, or None where one is missing."""
    try:
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=False)
    except OSError as fault:
        sys.exit(f"{python}: cannot be started: {fault.strerror}")
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else None


def interpreter(named, folder):
    """The path of the interpreter. named: what --python says, or None; folder: where the virtual environment is, or will be."""
    if named:
        if not versions(named):
            sys.exit(f"{named}: torch, transformers or peft cannot be imported there; install them, or leave --python out: an environment is made then")
        return named
    python = os.path.join(folder, "bin", "python")
    if os.path.exists(python) and versions(python):
        return python
    print(f"making a virtual environment in {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--retries", "1", "--extra-index-url", PROCESSOR_ONLY, "--no-deps", PACKAGES[0]], check=False)
    if subprocess.run([*install, *PACKAGES], check=False).returncode or not versions(python):
        sys.exit(f"{folder}: {', '.join(PACKAGES)} could not be installed; install them elsewhere and name that interpreter with --python")
    return python
