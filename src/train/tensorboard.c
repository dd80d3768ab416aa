/* RUN/tb: the curves of metrics.jsonl and evaluations.jsonl as TensorBoard reads them.
 *
 * A file is a row of records: length (8 bytes), its masked CRC-32C, data, their masked CRC-32C, all
 * little-endian; the data are an Event of protocol buffers. Readers take the files in the order of
 * their names, so each start begins a new one whose name begins with the time, or with what comes
 * behind the others' where the clock is slow; its first events are the version and a start of a
 * session, whose step is the first that will be written: what earlier starts wrote from there on is
 * dropped by readers, and a resumed run is one curve. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/crc32c.h"
#include "train/run.h"

static const char folder[] = "tb", prefix[] = "events.out.tfevents.";

static ml_status write_failed(const run *r)
{
    return ml_fail(ML_RESOURCE, "%s/%s: cannot be written: %s", r->config->run_dir, folder,
                   strerror(errno));
}

/* ---- protocol buffers ---------------------------------------------------------------------- */

/* A message of a few fields. */
typedef struct message {
    unsigned char bytes[256];
    size_t length;
} message;

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };

static void put_byte(message *m, unsigned byte) { m->bytes[m->length++] = (unsigned char)byte; }

static void put_varint(message *m, uint64_t value)
{
    for (; value > 0x7f; value >>= 7) put_byte(m, (unsigned)(value & 0x7f) | 0x80);
    put_byte(m, (unsigned)value);
}

static void put_tag(message *m, unsigned field, unsigned type) { put_byte(m, field << 3 | type); }

static void put_little_endian(message *m, uint64_t bits, int bytes)
{
    for (int i = 0; i < bytes; i++) put_byte(m, (unsigned)(bits >> 8 * i) & 0xff);
}

static void put_bytes(message *m, unsigned field, const void *bytes, size_t length)
{
    put_tag(m, field, LENGTH);
    put_varint(m, length);
    memcpy(m->bytes + m->length, bytes, length);
    m->length += length;
}

/* Event: wall_time = 1, step = 2. */
static message begin_event(int64_t step)
{
    message m = {.length = 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    put_tag(&m, 1, FIXED64);
    put_little_endian(&m, bits, 8);
    if (step > 0) {
        put_tag(&m, 2, VARINT);
        put_varint(&m, (uint64_t)step);
    }
    return m;
}

/* ---- records ------------------------------------------------------------------------------- */

static uint32_t mask(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8u; }

static void write_record(FILE *to, const message *event)
{
    message head = {.length = 0}, tail = {.length = 0};
    put_little_endian(&head, event->length, 8);
    put_little_endian(&head, mask(ml_crc32c(head.bytes, head.length)), 4);
    put_little_endian(&tail, mask(ml_crc32c(event->bytes, event->length)), 4);
    fwrite(head.bytes, 1, head.length, to);
    fwrite(event->bytes, 1, event->length, to);
    fwrite(tail.bytes, 1, tail.length, to);
}

/* Summary = 5 of values = 1 of tag = 1 and simple_value = 2. */
static void write_scalar(FILE *to, int64_t step, const char *tag, double value)
{
    message inner = {.length = 0}, summary = {.length = 0}, event = begin_event(step);
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    put_bytes(&inner, 1, tag, strlen(tag));
    put_tag(&inner, 2, FIXED32);
    put_little_endian(&inner, bits, 4);
    put_bytes(&summary, 1, inner.bytes, inner.length);
    put_bytes(&event, 5, summary.bytes, summary.length);
    write_record(to, &event);
}

/* file_version = 3; session_log = 7 with status = 1: START = 1. */
static void write_beginning(FILE *to, int64_t step)
{
    static const char version[] = "brain.Event:2";
    message first = begin_event(0), start = begin_event(step), session = {.length = 0};
    put_bytes(&first, 3, version, sizeof version - 1);
    put_tag(&session, 1, VARINT);
    put_varint(&session, 1);
    put_bytes(&start, 7, session.bytes, session.length);
    write_record(to, &first);
    write_record(to, &start);
}

/* ---- the file of a start ------------------------------------------------------------------- */

static int open_folder(const run *r)
{
    ml_text path = {0};
    int fd = -1;
    if (ml_text_printf(&path, "%s/%s", r->config->run_dir, folder) == ML_OK &&
        (mkdir(path.data, 0777) == 0 || errno == EEXIST))
        fd = open(path.data, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    ml_text_destroy(&path);
    return fd;
}

/* The seconds of a name that comes behind those of earlier starts, though the clock was set back
 * since, or was another node's. */
static long long seconds_behind(int in, long long now)
{
    static const long long most = 999999999998; /* of twelve digits, one less */
    int again = openat(in, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = again >= 0 ? fdopendir(again) : NULL;
    const struct dirent *entry;
    while (list && (entry = readdir(list))) {
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0) continue;
        long long before = strtoll(entry->d_name + sizeof prefix - 1, NULL, 10);
        if (before >= now && before <= most) now = before + 1;
    }
    if (list)
        (void)closedir(list);
    else if (again >= 0)
        (void)close(again);
    return now;
}

ml_status tensorboard_open(run *r)
{
    char name[128], host[64] = "";
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    (void)gethostname(host, sizeof host - 1);
    int in = open_folder(r), fd = -1;
    if (in >= 0) {
        snprintf(name, sizeof name, "%s%012lld.%06ld.%s", prefix,
                 seconds_behind(in, (long long)now.tv_sec), now.tv_nsec / 1000, host);
        fd = openat(in, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    }
    if (fd >= 0) r->tensorboard = fdopen(fd, "wb");
    ml_status st = r->tensorboard ? ML_OK : write_failed(r);
    if (fd >= 0 && !r->tensorboard) (void)close(fd);
    if (in >= 0) (void)close(in);
    if (st != ML_OK) return st;
    write_beginning(r->tensorboard, r->step > 0 ? r->step + 1 : 0);
    return fflush(r->tensorboard) ? write_failed(r) : ML_OK;
}

/* Under TRL's names. */
static void write_figures(const run *r, const char *of, const run_figures *figures)
{
    char tag[64];
    for (int i = 0; i < figures->count; i++) {
        snprintf(tag, sizeof tag, "%s/%s", of, figures->item[i].tag);
        write_scalar(r->tensorboard, r->step, tag, figures->item[i].value);
    }
}

/* transformers' names, so that runs of both lie in one picture. */
ml_status tensorboard_step(const run *r, const step_result *step)
{
    FILE *to = r->tensorboard;
    write_scalar(to, r->step, "train/loss", step->loss);
    write_scalar(to, r->step, "train/learning_rate", step->lr);
    write_scalar(to, r->step, "train/grad_norm", step->grad_norm);
    write_scalar(to, r->step, "train/tokens_per_second", (double)step->tokens / step->seconds);
    const run_figures figures = step_figures(r->config, step);
    write_figures(r, "train", &figures);
    return fflush(to) || ferror(to) ? write_failed(r) : ML_OK;
}

ml_status tensorboard_evaluation(const run *r, double loss, const evaluation_result *result)
{
    const ml_figures *figures = &result->figures;
    const run_figures preferences = preference_figures(r->config, result->compared);
    char tag[64];
    write_scalar(r->tensorboard, r->step, "eval/loss", loss);
    for (int64_t i = 0; i < figures->count; i++) {
        snprintf(tag, sizeof tag, "eval/%s", figures->name[i]);
        if (isfinite(figures->value[i]))
            write_scalar(r->tensorboard, r->step, tag, figures->value[i]);
    }
    write_figures(r, "eval", &preferences);
    return fflush(r->tensorboard) || ferror(r->tensorboard) ? write_failed(r) : ML_OK;
}
