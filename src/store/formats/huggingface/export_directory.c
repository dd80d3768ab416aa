/* What exports to a directory share: they never write over somebody else's files. */
#include "store/formats/huggingface/export_directory.h"

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "io/durable.h"

static bool is_own(const char *name, const char *const *names)
{
    if (!strcmp(name, ".") || !strcmp(name, "..") || ml_durable_is_temporary(name)) return true;
    for (; *names; names++) { /* a file, or the folder of one */
        size_t n = strcspn(*names, "/");
        if (strlen(name) == n && !strncmp(name, *names, n)) return true;
    }
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
    while (st == ML_OK && (entry = readdir(dir)))
        if (!is_own(entry->d_name, names))
            st = ml_fail(ML_USAGE,
                         "%s: holds %s; an export is written into a new or empty directory, or "
                         "over an earlier export",
                         directory, entry->d_name);
    (void)closedir(dir);
    return st;
}

ml_status export_directory_make(const char *directory, bool *made)
{
    *made = !ml_durable_exists(directory);
    return ml_durable_make_directories(directory);
}

void export_directory_unmake(const char *directory, const char *const *names)
{
    char path[ML_DURABLE_PATH];
    for (; *names; names++) {
        if (ml_durable_path(path, "%s/%s", directory, *names) == ML_OK) (void)unlink(path);
        if (!strchr(*names, '/')) continue; /* the folder of a file */
        *strrchr(path, '/') = '\0';
        (void)rmdir(path);
    }
    (void)rmdir(directory);
}

ml_status export_directory_put(const char *directory, const char *name, const ml_text *content)
{
    char path[ML_DURABLE_PATH];
    ml_status st = ml_durable_path(path, "%s/%s", directory, name);
    return st == ML_OK ? ml_durable_write(path, content->data, content->length, NULL) : st;
}
