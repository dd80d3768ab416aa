/* What /proc/cpuinfo says of the first processor, whose lines end with an empty one. */
#include <stdlib.h>

#include "kernels/kernels_private.h"

ml_status ml_processor_lines(ml_processor_line *each, void *self)
{
    ml_status st = ML_OK;
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (st == ML_OK && file && getline(&line, &size, file) > 1)
        st = each(self, line, strcspn(line, "\t:"));
    free(line);
    if (file) fclose(file);
    return st;
}
