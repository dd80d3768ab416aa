/* mpilora --version: what runs here, for a bug report: the program, how it was built, what the
 * processor can do, and each library with its version and the file that was loaded. */
#include "cli/commands/version.h"

#include <jansson.h>

#include "io/hdf5_file.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"

enum { LIBRARIES_MOST = ML_KERNELS_LIBRARIES + 3 };

static int find_libraries(ml_library out[LIBRARIES_MOST])
{
    int count = 0;
    ml_grid_library(&out[count++]);
    ml_hdf5_library(&out[count++]);
    count += ml_kernels_libraries(&out[count]);
    if (ml_library_find(&out[count], "ScaLAPACK", "pdgesvd_")) count++;
    return count;
}

static void print_text(const ml_library *libraries, int count, const char *const *paths)
{
    printf("mpilora %s\nbuilt: %s\nvector paths:", ml_version(), ml_build_text());
    for (; *paths; paths++) printf(" %s", *paths);
    putchar('\n');
    for (int i = 0; i < count; i++)
        printf("%-10s %-28s %s\n", libraries[i].name, libraries[i].version,
               *libraries[i].path ? libraries[i].path : "(part of the program)");
}

static ml_status print_json(const ml_library *libraries, int count, const char *const *paths)
{
    json_t *list = json_array(), *vectors = json_array();
    for (; *paths; paths++) json_array_append_new(vectors, json_string(*paths));
    for (int i = 0; i < count; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s}", "name", libraries[i].name, "version",
                                        libraries[i].version, "path", libraries[i].path));
    json_t *all = json_pack("{s:s, s:s, s:o, s:o}", "version", ml_version(), "build",
                            ml_build_text(), "vector_paths", vectors, "libraries", list);
    int failed = all ? json_dumpf(all, stdout, JSON_INDENT(1)) : -1;
    putchar('\n');
    json_decref(all);
    return failed ? ml_fail(ML_RESOURCE, "--version --json: out of memory") : ML_OK;
}

ml_status version_print(bool json)
{
    ml_library libraries[LIBRARIES_MOST];
    const char *paths[ML_KERNELS_VECTOR_PATHS];
    int count = find_libraries(libraries);
    ml_kernels_vector_paths(paths);
    if (json) return print_json(libraries, count, paths);
    print_text(libraries, count, paths);
    return ML_OK;
}
