/* Cutting a metrics file back to a checkpoint's step. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <unistd.h>

#include "io/durable.h"
#include "mpilora/checkpoint.h"

static const int64_t largest_metrics = (int64_t)16 << 30;

/* Whether the line (without its end) belongs to a later step. A line that says no step is left
 * alone. */
static bool is_later(const char *line, size_t length, int64_t step)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *at = json_object_get(object, "step");
    bool later = json_is_integer(at) && json_integer_value(at) > step;
    json_decref(object);
    return later;
}

static int64_t bytes_to_keep(const char *bytes, int64_t count, int64_t step)
{
    int64_t at = 0;
    while (at < count) {
        const char *end = memchr(bytes + at, '\n', (size_t)(count - at));
        if (!end || is_later(bytes + at, (size_t)(end - bytes - at), step)) break;
        at = end + 1 - bytes;
    }
    return at;
}

static ml_status cut(const char *path, int64_t bytes)
{
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    bool done = fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 && fsync(fd) == 0;
    ml_status st = done ? ML_OK
                        : ml_fail(ML_RESOURCE, "%s: cannot be cut to %lld bytes: %s", path,
                                  (long long)bytes, strerror(errno));
    if (fd >= 0) (void)close(fd);
    return st;
}

ml_status ml_metrics_cut(const char *path, int64_t step)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    int64_t count;
    bool there;
    ML_TRY(ml_durable_find(path, &there));
    if (!there) return ML_OK;
    ML_TRY(ml_durable_read(path, largest_metrics, &bytes, &count));
    int64_t keep = bytes_to_keep(bytes, count, step);
    if (keep < count) ML_TRY(cut(path, keep));
done:
    ml_memory_free(bytes);
    return st;
}
