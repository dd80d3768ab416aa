/* What exports to a directory share: they never write over somebody else's files. */
#include "store/formats/huggingface/export_directory.h"

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/unfinished.h"
#include "store/formats/safetensors/image.h"

/* Of an export that was killed, or no file of the directory. */
static bool counts_for_nothing(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..") || ml_durable_is_temporary(name);
}

static bool is_own(const char *name, const char *const *names)
{
    for (; *names; names++) { /* a file, or the folder of one */
        size_t n = strcspn(*names, "/");
        if (strlen(name) == n && !strncmp(name, *names, n)) return true;
    }
    return false;
}

/* Weights are written first, so that an export that was killed has them, too. */
static bool has_own_weights(const char *directory, const char *const *names)
{
    char path[ML_DURABLE_PATH];
    for (; *names; names++)
        if (strstr(*names, ".safetensors") &&
            ml_durable_path(path, "%s/%s", directory, *names) == ML_OK &&
            ml_safetensors_is_own(path))
            return true;
    return false;
}

ml_status export_directory_check(const char *directory, const char *const *names)
{
    ml_status st = ML_OK;
    if (!ml_durable_exists(directory)) return ML_OK;
    DIR *dir = opendir(directory);
    if (!dir)
        return ml_fail(ML_USAGE, "%s: is there and cannot be listed as a directory: %s", directory,
                       strerror(errno));
    const struct dirent *entry;
    bool empty = true;
    while (st == ML_OK && (entry = readdir(dir))) {
        if (counts_for_nothing(entry->d_name)) continue;
        empty = false;
        if (!is_own(entry->d_name, names))
            st = ml_fail(ML_USAGE,
                         "%s: holds %s; an export is written into a new or empty directory, or "
                         "over an earlier export",
                         directory, entry->d_name);
    }
    (void)closedir(dir);
    if (st != ML_OK || empty || has_own_weights(directory, names)) return st;
    return ml_fail(ML_USAGE,
                   "%s: holds files that another program has written; an export is written into a "
                   "new or empty directory, or over an earlier export",
                   directory);
}

/* Each of `names` in the directory, with the folders of those that have one, and the directory. */
static void each_path(const char *directory, const char *const *names, void (*act)(const char *))
{
    char path[ML_DURABLE_PATH];
    for (; *names; names++) {
        if (ml_durable_path(path, "%s/%s", directory, *names) != ML_OK) continue;
        act(path);
        if (!strchr(*names, '/')) continue;
        *strrchr(path, '/') = '\0';
        act(path);
    }
    act(directory);
}

static void take_away(const char *path)
{
    if (unlink(path)) (void)rmdir(path);
}

ml_status export_directory_make(const char *directory, const char *const *names, bool *made)
{
    *made = !ml_durable_exists(directory);
    if (*made) each_path(directory, names, ml_unfinished_begin);
    return ml_durable_make_directories(directory);
}

ml_status export_directory_end(ml_status st, const char *directory, const char *const *names)
{
    if (st != ML_OK) each_path(directory, names, take_away);
    each_path(directory, names, ml_unfinished_end);
    return st;
}

ml_status export_directory_put(const char *directory, const char *name, const ml_text *content)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_durable_path(path, "%s/%s", directory, name);
    return st == ML_OK ? ml_durable_write(path, content->data, content->length, NULL) : st;
}
