/* ml_grid_stop leaves the code of all libraries where it is: threads of MPI may still be in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mpilora/grid.h"

enum { LINE = 4096, MOST = 512 };

/* The files of which code is mapped, each once. */
static int list_code(char *names[MOST])
{
    char line[LINE];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        char *name = strchr(line, '/');
        if (!name || !strstr(line, " r-xp ") || count == MOST) continue;
        name[strcspn(name, "\n")] = '\0';
        if (count > 0 && !strcmp(names[count - 1], name)) continue;
        names[count] = malloc(strlen(name) + 1);
        assert_non_null(names[count]);
        memcpy(names[count++], name, strlen(name) + 1);
    }
    fclose(maps);
    return count;
}

static void what_was_loaded_stays(void **state)
{
    (void)state;
    char *before[MOST], *after[MOST];
    const int loaded = list_code(before);
    ml_grid_stop();
    const int kept = list_code(after);
    for (int i = 0; i < loaded; i++) {
        bool found = false;
        for (int j = 0; j < kept; j++) found = found || !strcmp(before[i], after[j]);
        if (!found) fail_msg("%s is gone after ml_grid_stop", before[i]);
    }
    for (int i = 0; i < loaded; i++) free(before[i]);
    for (int i = 0; i < kept; i++) free(after[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_loaded_stays)};
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
