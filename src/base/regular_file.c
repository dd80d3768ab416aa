/* Opening what must be a regular file. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpilora/base.h"

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "no file";
}

bool ml_file_holds(int fd, int64_t at, const char *text)
{
    char found[256];
    size_t length = strlen(text);
    return length <= sizeof found && pread(fd, found, length, (off_t)at) == (ssize_t)length &&
           !memcmp(found, text, length);
}

/* What a clone without Git LFS has in the place of a large file: a few lines that name it. */
static bool is_pointer(int fd, int64_t bytes)
{
    enum { MOST = 1024 };
    return bytes <= MOST && ml_file_holds(fd, 0, "version https://git-lfs.github.com/spec/");
}

ml_status ml_open_regular(const char *path, int *fd, int64_t *bytes)
{
    struct stat about;
    do *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe waits for its writer else */
    while (*fd < 0 && errno == EINTR);
    if (*fd < 0)
        return ml_fail(ML_INPUT, "%s: cannot be opened for reading: %s", path, strerror(errno));
    ml_status st = ML_OK;
    if (fstat(*fd, &about))
        st = ml_fail(ML_INPUT, "%s: cannot be looked at: %s", path, strerror(errno));
    else if (!S_ISREG(about.st_mode))
        st = ml_fail(ML_INPUT, "%s: is %s, expected a regular file", path, kind_of(about.st_mode));
    else if (is_pointer(*fd, (int64_t)about.st_size))
        st = ml_fail(ML_INPUT,
                     "%s: is a pointer of Git LFS in the place of the file; git lfs pull in its "
                     "folder fetches that",
                     path);
    if (st == ML_OK) {
        *bytes = (int64_t)about.st_size;
        return ML_OK;
    }
    (void)close(*fd);
    *fd = -1;
    return st;
}

ml_status ml_open_regular_stream(const char *path, FILE **out)
{
    int fd;
    int64_t bytes;
    ml_status st = ml_open_regular(path, &fd, &bytes);
    if (st != ML_OK) return st;
    *out = fdopen(fd, "rb");
    if (*out) return ML_OK;
    (void)close(fd);
    return ml_fail(ML_RESOURCE, "%s: out of memory: it cannot be read as a stream", path);
}

/* As /dev/stdout does: a link to a stream of this process, whatever that is at the moment. */
static bool leads_to_stream(const char *path)
{
    static const char streams[] = "/proc/";
    char to[sizeof streams] = "";
    ssize_t n = readlink(path, to, sizeof to - 1);
    return n > 0 && !strcmp(to, streams);
}

ml_status ml_check_replaceable(const char *path)
{
    struct stat about;
    if (leads_to_stream(path))
        return ml_fail(ML_RESOURCE, "%s: is a stream, expected the name of a file to write", path);
    if (stat(path, &about) || S_ISREG(about.st_mode)) return ML_OK;
    return ml_fail(ML_RESOURCE, "%s: is %s, expected the name of a file to write", path,
                   kind_of(about.st_mode));
}
