/* Files of outputs and references are small, so they are read at once and then walked line by
 * line; a byte-order mark at the beginning is no part of the text. */
#include "score/text_lines.h"

#include <errno.h>
#include <inttypes.h>

#include "io/durable.h"

static const int64_t largest = (int64_t)1 << 30;

static ml_status read_all(text_lines *file, FILE *from, const char *path)
{
    ml_status st = ML_OK;
    char *buffer = NULL;
    const int64_t size = 1 << 18;
    ML_NEW(buffer, size, ML_MEM_OTHER, "a read buffer");
    for (size_t got = 1; got > 0;) {
        got = fread(buffer, 1, (size_t)size, from);
        ML_TRY(ml_text_add(&file->bytes, buffer, (int64_t)got));
        if (file->bytes.length > largest) {
            st = ml_fail(ML_INPUT,
                         "%s: larger than %" PRId64
                         " bytes, which is more than texts to score can be",
                         path, largest);
            goto done;
        }
    }
    if (ferror(from)) st = ml_durable_read_failed(ML_INPUT, path);
done:
    ml_memory_free(buffer);
    return st;
}

ml_status text_lines_open(text_lines *file, const char *path)
{
    *file = (text_lines){0};
    FILE *from = fopen(path, "rb");
    if (!from)
        return ml_fail(errno == ENOMEM ? ML_RESOURCE : ML_INPUT,
                       "%s: cannot be opened for reading: %s", path, strerror(errno));
    ml_status st = read_all(file, from, path);
    fclose(from);
    if (st == ML_OK && file->bytes.length == 0)
        st = ml_fail(ML_INPUT, "%s: the file is empty; there is nothing to score", path);
    if (st != ML_OK) {
        text_lines_close(file);
        return st;
    }
    if (file->bytes.length >= 3 && !memcmp(file->bytes.data, "\xef\xbb\xbf", 3)) file->next = 3;
    return ML_OK;
}

void text_lines_close(text_lines *file)
{
    ml_text_destroy(&file->bytes);
    *file = (text_lines){0};
}

bool text_lines_next(text_lines *file, const char **line, int64_t *length)
{
    int64_t left = file->bytes.length - file->next;
    if (left <= 0) return false;
    *line = file->bytes.data + file->next;
    const char *end = memchr(*line, '\n', (size_t)left);
    *length = end ? end - *line : left;
    file->next += *length + (end ? 1 : 0);
    file->number++;
    if (end && *length > 0 && (*line)[*length - 1] == '\r') --*length;
    return true;
}
