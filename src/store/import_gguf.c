#include "store/import_private.h"
ml_status import_open_gguf(import_source *out, const char *path)
{
    (void)out;
    return ml_fail(ML_INPUT, "%s: GGUF is not read yet", path);
}
