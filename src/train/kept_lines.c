/* What earlier starts of a run wrote into its files of lines, before a start goes on: what belongs
 * to later steps than the checkpoint's is cut off, and what stays is not touched.
 *
 * A file that somebody has deleted, shortened or garbled since is no reason to give a run up whose
 * checkpoint is whole: nothing is computed from these lines. But it is said. What is no line leaves
 * the file, which then stays beside it as it was found, and steps that have no line are counted. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/durable.h"
#include "train/run.h"

/* A file from its beginning to its end. */
typedef struct survey {
    int64_t kept, last;          /* bytes of lines that stay; the step of the newest, or −1 */
    int64_t damaged, first;      /* lines that are none, or stand where they do not belong; the
                                    number of the first */
    int64_t lacking, first_step; /* steps that should have a line; the first of them */
} survey;

/* The step of a line without its end; −1: it is none. */
static int64_t step_of(const char *line, size_t length, bool rows)
{
    static const char head[] = "step,"; /* the names of the columns, which go before every step */
    if (rows) {
        char *end;
        if (length >= strlen(head) && !memcmp(line, head, strlen(head))) return 0;
        if (length == 0 || *line < '0' || *line > '9') return -1;
        errno = 0;
        long long step = strtoll(line, &end, 10);
        return errno == 0 && end < line + length && *end == ',' ? (int64_t)step : -1;
    }
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *at = json_object_get(object, "step");
    int64_t step = json_is_integer(at) ? (int64_t)json_integer_value(at) : -1;
    json_decref(object);
    return ml_max(step, -1);
}

static void note_damage(survey *s, int64_t count, int64_t number)
{
    if (count == 0) return;
    s->first = s->damaged > 0 ? ml_min(s->first, number) : number;
    s->damaged += count;
}

/* The steps in front of `next` that should have a line and have none. */
static void note_gap(survey *s, int64_t next, int64_t every)
{
    if (every == 0) return;
    int64_t before = ml_max(s->last, 0) / every, count = ml_max(next - 1, 0) / every - before;
    if (count <= 0) return;
    if (s->lacking == 0) s->first_step = (before + 1) * every;
    s->lacking += count;
}

/* Lines of later steps are no damage where nothing that stays follows them: a start that was killed
 * has left them. to: where the lines that stay are moved to, one behind the other, or NULL. */
static survey look(const char *bytes, int64_t count, const ml_metrics_lines *lines, int64_t step,
                   char *to)
{
    survey s = {.last = -1};
    int64_t number = 1, gone = 0, first_gone = 0, length;
    for (int64_t at = 0; at < count; at += length, number++) {
        const char *end = memchr(bytes + at, '\n', (size_t)(count - at));
        if (!end) break; /* a line in work when its start was killed */
        int64_t of = step_of(bytes + at, (size_t)(end - bytes - at), lines->rows);
        length = end + 1 - bytes - at;
        if (of < 0) {
            note_damage(&s, 1, number);
        } else if (of > step || of < s.last + lines->once) {
            if (gone++ == 0) first_gone = number;
        } else {
            note_damage(&s, gone, first_gone);
            gone = 0;
            note_gap(&s, of, lines->every);
            s.last = of;
            if (to) memmove(to + s.kept, bytes + at, (size_t)length);
            s.kept += length;
        }
    }
    note_gap(&s, step + 1, lines->every);
    return s;
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

/* The file as it was found becomes PATH.damaged before it becomes what stays of it. */
static ml_status mend(const char *path, char *bytes, int64_t count, const ml_metrics_lines *lines,
                      int64_t step, const survey *found)
{
    ml_status st = ML_OK;
    char aside[ML_DURABLE_PATH];
    ML_TRY(ml_durable_path(aside, "%s.damaged", path));
    ML_TRY(ml_durable_write(aside, bytes, count, NULL));
    (void)look(bytes, count, lines, step, bytes);
    ML_TRY(ml_durable_write(path, bytes, found->kept, NULL));
    ml_warn("%s: %" PRId64 " of its lines are none of a run, or not in the order of steps (the "
            "first is line %" PRId64 "): left out; the file as it was found is %s",
            path, found->damaged, found->first, aside);
done:
    return st;
}

ml_status ml_metrics_cut(const char *path, const ml_metrics_lines *lines, int64_t step)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    int64_t count = 0;
    bool there;
    ML_TRY(ml_durable_check_own(path, false));
    ML_TRY(ml_durable_find(path, &there));
    if (there) ML_TRY(ml_durable_read(path, largest_lines, &bytes, &count));
    const survey found = look(bytes, count, lines, step, NULL);
    if (found.damaged > 0)
        ML_TRY(mend(path, bytes, count, lines, step, &found));
    else if (found.kept < count)
        ML_TRY(cut(path, found.kept));
    if (found.lacking > 0)
        ml_warn("%s: %" PRId64 " of the steps up to the checkpoint's, %" PRId64
                ", have no line there, the first is step %" PRId64
                ": they were lost since, or not asked for then; the run goes on without them",
                path, found.lacking, step, found.first_step);
done:
    ml_memory_free(bytes);
    return st;
}
