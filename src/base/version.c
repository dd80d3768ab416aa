/* The version, the build, and where the loader found a library. */
#include "mpilora/version.h"

#include <dlfcn.h>

const char *ml_version(void) { return MPILORA_VERSION; }

const char *ml_build_text(void) { return MPILORA_BUILD; }

bool ml_library_find(ml_library *out, const char *name, const char *symbol)
{
    Dl_info where;
    *out = (ml_library){0};
    snprintf(out->name, sizeof out->name, "%s", name);
    void *address = dlsym(RTLD_DEFAULT, symbol);
    if (!address || !dladdr(address, &where) || !where.dli_fname) return false;
    snprintf(out->path, sizeof out->path, "%s", where.dli_fname);
    return true;
}
