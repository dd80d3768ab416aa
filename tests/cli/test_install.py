"""`cmake --install` gives a tree that other programs can build against, wherever it is moved to: C and C++ programs with find_package(mpilora), shared
and static, and with pkg-config; and neither library shows a symbol that the public headers do not declare."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

BUILD = os.path.dirname(os.environ["MPILORA"])
CONSUMER = """
#include <mpilora/mpilora.h>

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    printf("%s %s %d\\n", ml_version(), ml_dtype_name(ML_BF16), (int)ml_grid_world_rank());
    ml_grid_stop();
    return 0;
}
"""
LISTS = """
cmake_minimum_required(VERSION 3.20)
project(consumer C CXX)
find_package(mpilora REQUIRED COMPONENTS static)
add_executable(c-default consumer.c)
target_link_libraries(c-default PRIVATE mpilora::mpilora)
add_executable(c-static consumer.c)
target_link_libraries(c-static PRIVATE mpilora::static)
add_executable(cpp-default consumer.cpp)
target_link_libraries(cpp-default PRIVATE mpilora::mpilora)
"""


def run(*command, **keywords):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def sanitizer_flags():
    with open(os.path.join(BUILD, "CMakeCache.txt")) as cache:
        return ["-fsanitize=address,undefined"] if re.search("^MPILORA_SANITIZE:[A-Z]+=ON$", cache.read(), re.MULTILINE) else []


def check_tree(prefix):
    """The folder of the libraries."""
    library_dir = next(d for d, _, names in os.walk(prefix) if "libmpilora.a" in names)
    for path in ("bin/mpilora", "include/mpilora/mpilora.h", "include/mpilora/version.h", "share/man/man1/mpilora.1", "share/bash-completion/completions/mpilora"):
        assert os.path.isfile(os.path.join(prefix, path)), path
    assert run(os.path.join(prefix, "bin/mpilora"), "--help").startswith("mpilora")
    return library_dir


def declared_names(prefix):
    """Every word of the public headers."""
    folder = os.path.join(prefix, "include/mpilora")
    words = set()
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            words |= set(re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)))
    return words


def check_symbols(library_dir, declared):
    for library, options in (("libmpilora.a", []), ("libmpilora.so", ["-D"])):
        lines = run("nm", "-g", "--defined-only", *options, os.path.join(library_dir, library)).splitlines()
        found = {words[2] for words in map(str.split, lines) if len(words) == 3}
        strange = sorted(name for name in found if not name.startswith("ml_") or name not in declared)
        assert len(found) > 200, f"{library} shows {len(found)} symbols only"
        assert not strange, f"{library} shows what no public header declares: {strange[:10]}"


def build_with_cmake(folder, prefix):
    with open(os.path.join(folder, "CMakeLists.txt"), "w") as file:
        file.write(LISTS)
    build = os.path.join(folder, "build")
    flags = " ".join(sanitizer_flags())
    run("cmake", "-S", folder, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_EXE_LINKER_FLAGS={flags}")
    run("cmake", "--build", build)
    return [os.path.join(build, name) for name in ("c-default", "c-static", "cpp-default")]


def build_with_pkg_config(folder, library_dir):
    environment = dict(os.environ, PKG_CONFIG_PATH=os.path.join(library_dir, "pkgconfig"))
    flags = shlex.split(run("pkg-config", "--cflags", "--libs", "mpilora", env=environment))
    whole = shlex.split(run("pkg-config", "--cflags", "--libs", "--static", "mpilora", env=environment))
    whole = ["-l:libmpilora.a" if word == "-lmpilora" else word for word in whole]
    programs = []
    for name, compiler, source, words in (("pc-c", ["cc", "-std=c11"], "consumer.c", flags), ("pc-cpp", ["c++", "-std=c++11"], "consumer.cpp", flags),
                                          ("pc-static", ["cc", "-std=c11"], "consumer.c", whole)):
        programs.append(os.path.join(folder, name))
        run(*compiler, os.path.join(folder, source), "-o", programs[-1], *words, *sanitizer_flags())
    return programs


def main():
    folder = tempfile.mkdtemp()
    try:
        prefix = os.path.join(folder, "prefix")
        run("cmake", "--install", BUILD, "--prefix", prefix)
        moved = prefix + "-moved"
        os.rename(prefix, moved)  # nothing installed may know where it was put
        library_dir = check_tree(moved)
        check_symbols(library_dir, declared_names(moved))
        for name in ("consumer.c", "consumer.cpp"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(CONSUMER)
        version = run(os.path.join(moved, "bin/mpilora"), "--version").split()[1]
        for program in build_with_cmake(folder, moved) + build_with_pkg_config(folder, library_dir):
            said = run(program, env=dict(os.environ, LD_LIBRARY_PATH=library_dir))
            assert said == f"{version} bf16 0\n", f"{program} said {said!r}"
    finally:
        shutil.rmtree(folder)


main()
