/* Which MPI this is. */
#include "grid/grid_private.h"

void ml_grid_library(ml_library *out)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    ml_library_find(out, "MPI", "MPI_Init_thread");
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] =
        '\0'; /* "Open MPI v4.1.4, package: …", "MPICH Version:\t4.0.2\n…" */
    for (char *c = text; *c; c++)
        if (*c == '\t') *c = ' ';
    snprintf(out->version, sizeof out->version, "%.*s", (int)sizeof out->version - 1, text);
}
