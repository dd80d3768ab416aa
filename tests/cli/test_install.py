"""`cmake --install` gives a tree that other programs can build against: a consumer is built with find_package(mpilora) and with pkg-config."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile

BUILD = os.path.dirname(os.environ["MPILORA"])
CONSUMER = """
#include <mpilora/base.h>
#include <mpilora/grid.h>

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    printf("%s %d\\n", ml_dtype_name(ML_BF16), (int)ml_grid_world_rank());
    ml_grid_stop();
    return 0;
}
"""
LISTS = """
cmake_minimum_required(VERSION 3.20)
project(consumer C)
find_package(mpilora REQUIRED)
add_executable(consumer consumer.c)
target_link_libraries(consumer PRIVATE mpilora::mpilora)
"""


def run(*command, **keywords):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def sanitizer_flags():
    with open(os.path.join(BUILD, "CMakeCache.txt")) as cache:
        return ["-fsanitize=address,undefined"] if "MPILORA_SANITIZE:BOOL=ON" in cache.read() else []


def check_tree(prefix):
    library_dir = next(d for d, _, names in os.walk(prefix) if "libmpilora.a" in names)
    for path in ("bin/mpilora", "include/mpilora/base.h", "share/man/man1/mpilora.1", "share/bash-completion/completions/mpilora"):
        assert os.path.isfile(os.path.join(prefix, path)), path
    assert run(os.path.join(prefix, "bin/mpilora"), "--help").startswith("mpilora")
    return library_dir


def build_with_cmake(folder, prefix):
    with open(os.path.join(folder, "CMakeLists.txt"), "w") as file:
        file.write(LISTS)
    build = os.path.join(folder, "build")
    flags = " ".join(sanitizer_flags())
    run("cmake", "-S", folder, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_EXE_LINKER_FLAGS={flags}")
    run("cmake", "--build", build)
    return os.path.join(build, "consumer")


def build_with_pkg_config(folder, library_dir):
    environment = dict(os.environ, PKG_CONFIG_PATH=os.path.join(library_dir, "pkgconfig"))
    flags = shlex.split(run("pkg-config", "--cflags", "--libs", "mpilora", env=environment))
    program = os.path.join(folder, "consumer-pc")
    run("cc", "-std=c11", os.path.join(folder, "consumer.c"), "-o", program, *flags)
    return program


def main():
    folder = tempfile.mkdtemp()
    try:
        prefix = os.path.join(folder, "prefix")
        run("cmake", "--install", BUILD, "--prefix", prefix)
        moved = prefix + "-moved"
        os.rename(prefix, moved)  # nothing installed may know where it was put
        library_dir = check_tree(moved)
        with open(os.path.join(folder, "consumer.c"), "w") as file:
            file.write(CONSUMER)
        for program in (build_with_cmake(folder, moved), build_with_pkg_config(folder, library_dir)):
            said = run(program)
            assert said == "bf16 0\n", f"{program} said {said!r}"
    finally:
        shutil.rmtree(folder)


main()
