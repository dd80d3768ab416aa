#include "cli/support/unread.h"

#include <string.h>

static bool is_one_of(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (!strcmp(*names, name)) return true;
    return false;
}

ml_status unread_note(json_t **names, const json_t *line, const char *const *read)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)line, key, value)
    {
        if (is_one_of(read, key) || json_is_null(value)) continue;
        if (!*names) *names = json_object();
        if (json_object_set_new(*names, key, json_null()))
            return ml_fail(ML_RESOURCE, "out of memory: names of members");
    }
    return ML_OK;
}

ml_status unread_warn(const json_t *names, const char *path, const char *expected)
{
    ml_status st = ML_OK;
    ml_text all = {0};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)names, key, value)
        ML_TRY(ml_text_printf(&all, "%s\"%s\"", all.length ? ", " : "", key));
    if (all.length) ml_warn("%s: not read: %s; a line is %s", path, all.data, expected);
done:
    ml_text_destroy(&all);
    return st;
}
