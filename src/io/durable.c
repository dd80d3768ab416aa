/* Durable files: a name holds the old content or the new one, whatever happens in between. */
#include "io/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/unfinished.h"

static const char temporary_mark[] = ".tmp-";
static const size_t piece = (size_t)64 << 20;
enum { OPEN_DIRECTORIES = 16 };

/* A call that a signal has interrupted is made again. */
#define AGAIN(result, call)                     \
    do {                                        \
        do (result) = (call);                   \
        while ((result) < 0 && errno == EINTR); \
    } while (0)

static ml_status cannot(const char *what, const char *path)
{
    return ml_fail(ML_RESOURCE, "%s: cannot %s: %s", path, what, strerror(errno));
}

ml_status ml_durable_path(char out[ML_DURABLE_PATH], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(out, ML_DURABLE_PATH, format, arguments);
    va_end(arguments);
    if (n >= 0 && n < ML_DURABLE_PATH) return ML_OK;
    return ml_fail(ML_USAGE, "%.100s…: the path is longer than %d bytes", out, ML_DURABLE_PATH - 1);
}

static ml_status cannot_read(const char *what, const char *path)
{
    return ml_fail(ML_INPUT, "%s: cannot %s: %s", path, what, strerror(errno));
}

static bool is_absence(int number) { return number == ENOENT || number == ENOTDIR; }

ml_status ml_durable_find(const char *path, bool *there)
{
    struct stat info;
    *there = lstat(path, &info) == 0;
    return *there || is_absence(errno) ? ML_OK : cannot_read("be looked at", path);
}

bool ml_durable_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

bool ml_durable_is_same(const char *one, const char *other)
{
    struct stat a, b;
    return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

ml_status ml_durable_check_apart(const char *out, const char *const *inputs, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (inputs[i] && ml_durable_is_same(inputs[i], out))
            return ml_fail(ML_USAGE,
                           "%s and %s are the same file; what is written needs a name of its own",
                           inputs[i], out);
    return ML_OK;
}

bool ml_durable_is_temporary(const char *name)
{
    const char *mark = strstr(name, temporary_mark);
    if (!mark) return false;
    const char *digits = mark + strlen(temporary_mark);
    return *digits && strspn(digits, "0123456789") == strlen(digits);
}

/* ---- writing ------------------------------------------------------------------------------- */

static int open_new(const char *path)
{
    int fd;
    AGAIN(fd, open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    return fd;
}

static int sync_file(int fd)
{
    int failed;
    AGAIN(failed, fsync(fd));
    return failed;
}

static int remove_file(const char *path)
{
    int failed;
    AGAIN(failed, unlink(path));
    return failed;
}

ml_status ml_durable_temporary(char out[ML_DURABLE_PATH], const char *path)
{
    ml_status st = ml_durable_path(out, "%s%s%ld", path, temporary_mark, (long)getpid());
    if (st == ML_OK) ml_unfinished_begin(out);
    return st;
}

void ml_durable_drop(const char *temporary)
{
    if (!*temporary) return;
    (void)remove_file(temporary);
    ml_unfinished_end(temporary);
}

/* Some file systems know no fallocate; then the writes themselves find a full disk. */
static int reserve(int fd, int64_t count)
{
    if (count == 0) return 0;
    int code;
    do code = posix_fallocate(fd, 0, (off_t)count);
    while (code == EINTR);
    if (code == 0 || code == EOPNOTSUPP || code == EINVAL || code == ENOSYS) return 0;
    errno = code;
    return -1;
}

static int write_all(int fd, const char *bytes, int64_t count)
{
    while (count > 0) {
        ssize_t n = write(fd, bytes, (size_t)count < piece ? (size_t)count : piece);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return -1;
        bytes += n;
        count -= n;
    }
    return 0;
}

/* Reading back is to meet the disk, not the cache, where the kernel lets it. */
static ml_status fill_file(const char *path, const void *bytes, int64_t count)
{
    ml_status st = ML_OK;
    int fd = open_new(path);
    if (fd < 0 && errno == EEXIST) { /* left by a dead process of the same number */
        (void)remove_file(path);
        fd = open_new(path);
    }
    if (fd < 0) return cannot("be created", path);
    if (reserve(fd, count) || write_all(fd, bytes, count))
        st = cannot("be written", path);
    else if (sync_file(fd))
        st = cannot("be synced to disk", path);
    else
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (close(fd) && errno != EINTR && st == ML_OK) st = cannot("be closed", path);
    return st;
}

static ml_status read_back(const char *path, const char *expected)
{
    char found[ML_SHA256_HEX];
    ml_status st = ml_sha256_of_file(path, found);
    if (st != ML_OK) return ml_fail_within(ML_RESOURCE, "reading back what was just written");
    if (strcmp(found, expected) != 0)
        return ml_fail(ML_RESOURCE,
                       "%s: reads back other bytes than were written (SHA-256 %.12s…, expected "
                       "%.12s…): the disk is failing",
                       path, found, expected);
    return ML_OK;
}

static int rename_file(const char *from, const char *to)
{
    int failed;
    AGAIN(failed, rename(from, to));
    return failed;
}

static ml_status sync_parent(const char *path)
{
    char copy[ML_DURABLE_PATH];
    ml_status st = ml_durable_path(copy, "%s", path);
    return st != ML_OK ? st : ml_durable_sync_directory(dirname(copy));
}

ml_status ml_durable_write(const char *path, const void *bytes, int64_t count, char *sha256)
{
    ml_status st = ML_OK;
    char temporary[ML_DURABLE_PATH], hash[ML_SHA256_HEX];
    ml_sha256_of(bytes, (size_t)count, hash);
    ML_TRY(ml_check_replaceable(path));
    ML_TRY(ml_durable_temporary(temporary, path));
    st = fill_file(temporary, bytes, count);
    if (st == ML_OK) st = read_back(temporary, hash);
    if (st == ML_OK && rename_file(temporary, path)) st = cannot("be renamed into place", path);
    if (st != ML_OK) {
        ml_durable_drop(temporary);
        goto done;
    }
    ml_unfinished_end(temporary);
    ML_TRY(sync_parent(path));
    if (sha256) memcpy(sha256, hash, sizeof hash);
done:
    return st;
}

ml_status ml_durable_check_own(const char *path, bool folder)
{
    struct stat info;
    if (lstat(path, &info)) return is_absence(errno) ? ML_OK : cannot_read("be looked at", path);
    if (S_ISLNK(info.st_mode))
        return ml_fail(ML_USAGE,
                       "%s: is a symbolic link, which would lead out of the run's directory; make "
                       "run.dir itself the link, or remove it",
                       path);
    if (!folder) return ml_check_replaceable(path);
    return S_ISDIR(info.st_mode)
               ? ML_OK
               : ml_fail(ML_USAGE, "%s: is there and is not a directory; move it away", path);
}

ml_status ml_durable_may_write(const char *path)
{
    ml_status st = ML_OK;
    char directory[ML_DURABLE_PATH];
    ML_TRY(ml_check_replaceable(path));
    ML_TRY(ml_durable_path(directory, "%s", path));
    char *slash = strrchr(directory, '/');
    if (slash) slash[1] = '\0'; /* with its slash a file is said to be no directory */
    if (access(slash ? directory : ".", W_OK | X_OK) != 0) st = cannot("be created", path);
done:
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

ml_status ml_durable_read_failed(ml_status status, const char *path)
{
    if (errno == EISDIR) return ml_fail(status, "%s: is a directory, expected a file", path);
    return ml_fail(status, "%s: read error: %s", path, strerror(errno));
}

static ml_status read_all(int fd, const char *path, char *bytes, int64_t count)
{
    for (int64_t at = 0; at < count;) {
        ssize_t n = read(fd, bytes + at, (size_t)ml_min(count - at, (int64_t)piece));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ml_durable_read_failed(ML_INPUT, path);
        if (n == 0)
            return ml_fail(ML_INPUT, "%s: ends at byte %lld, expected %lld", path, (long long)at,
                           (long long)count);
        at += n;
    }
    return ML_OK;
}

ml_status ml_durable_measure(const char *path, int64_t *bytes)
{
    struct stat info;
    *bytes = -1;
    if (lstat(path, &info)) return is_absence(errno) ? ML_OK : cannot_read("be looked at", path);
    if (S_ISREG(info.st_mode)) *bytes = info.st_size;
    return ML_OK;
}

ml_status ml_durable_read(const char *path, int64_t limit, char **bytes, int64_t *count)
{
    ml_status st = ML_OK;
    char *data = NULL;
    int64_t size;
    int fd = -1;
    ML_TRY(ml_open_regular(path, &fd, &size));
    if (size > limit) {
        st = ml_fail(ML_INPUT, "%s: has %lld bytes, at most %lld are expected of such a file", path,
                     (long long)size, (long long)limit);
        goto done;
    }
    ML_NEW(data, size + 1, ML_MEM_OTHER, "a file");
    ML_TRY(read_all(fd, path, data, size));
    *bytes = data;
    *count = size;
    data = NULL;
done:
    ml_memory_free(data);
    if (fd >= 0) (void)close(fd);
    return st;
}

/* ---- directories --------------------------------------------------------------------------- */

ml_status ml_durable_sync_directory(const char *path)
{
    int fd;
    AGAIN(fd, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) return cannot("be opened to sync it", path);
    ml_status st = ML_OK;
    if (sync_file(fd) && errno != EINVAL)
        st = cannot("be synced to disk", path); /* EINVAL: this file system syncs no directories */
    (void)close(fd);
    return st;
}

ml_status ml_durable_rename(const char *from, const char *to)
{
    ml_status st = ML_OK;
    if (rename_file(from, to)) return cannot("be moved", from);
    ml_unfinished_end(from);
    ML_TRY(sync_parent(from));
    ML_TRY(sync_parent(to));
done:
    return st;
}

ml_status ml_durable_make_directory(const char *path)
{
    struct stat info;
    int failed;
    AGAIN(failed, mkdir(path, 0777));
    if (failed == 0) return sync_parent(path);
    if (errno != EEXIST) return cannot("be created", path);
    if (stat(path, &info)) return cannot("be looked at", path);
    if (!S_ISDIR(info.st_mode))
        return ml_fail(ML_USAGE, "%s: is there and is not a directory", path);
    return ML_OK;
}

ml_status ml_durable_make_directories(const char *path)
{
    ml_status st = ML_OK;
    char part[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(part, "%s", path));
    for (char *c = part + 1; *c; c++) {
        if (*c != '/') continue;
        *c = '\0';
        if (!ml_durable_exists(part)) ML_TRY(ml_durable_make_directory(part));
        *c = '/';
    }
    ML_TRY(ml_durable_make_directory(part));
done:
    return st;
}

DIR *ml_durable_list(const char *path)
{
    DIR *dir;
    do dir = opendir(path);
    while (!dir && errno == EINTR);
    return dir;
}

ml_status ml_durable_next(DIR *dir, const char *path, const struct dirent **entry)
{
    do {
        errno = 0;
        *entry = readdir(dir);
        if (!*entry && errno) return cannot_read("be listed", path);
    } while (*entry && (!strcmp((*entry)->d_name, ".") || !strcmp((*entry)->d_name, "..")));
    return ML_OK;
}

ml_status ml_durable_clean(const char *directory)
{
    ml_status st = ML_OK;
    const struct dirent *entry;
    DIR *dir = ml_durable_list(directory);
    if (!dir) return is_absence(errno) ? ML_OK : cannot_read("be listed", directory);
    for (;;) {
        int failed;
        ML_TRY(ml_durable_next(dir, directory, &entry));
        if (!entry) break;
        if (!ml_durable_is_temporary(entry->d_name)) continue;
        AGAIN(failed, unlinkat(dirfd(dir), entry->d_name, 0));
        if (failed && errno != ENOENT &&
            errno != EISDIR) { /* a directory of such a name is none of ours */
            st = cannot("be cleared of temporary files", directory);
            goto done;
        }
    }
done:
    (void)closedir(dir);
    return st;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    int failed;
    (void)info;
    (void)place;
    AGAIN(failed, kind == FTW_DP ? rmdir(path) : unlink(path));
    return failed && errno != ENOENT ? -1 : 0;
}

ml_status ml_durable_remove(const char *path)
{
    if (nftw(path, remove_entry, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return ML_OK;
    return cannot("be removed", path);
}
