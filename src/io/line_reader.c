/* Lines come one by one out of a file or a text in memory, of any length, without the line end; a
 * read error names the file. */
#include <errno.h>
#include <inttypes.h>

#include "io/decompress.h"
#include "io/durable.h"
#include "io/line_reader.h"

enum { BUFFER = 1 << 18, LONGEST = 256 << 20 };

static ml_status fill(ml_line_reader *reader)
{
    reader->used = 0;
    reader->filled = fread(reader->buffer, 1, BUFFER, reader->file);
    if (!reader->filled && ferror(reader->file))
        return ml_durable_read_failed(ML_INPUT, reader->path);
    return reader->filled || !reader->program ? ML_OK
                                              : ml_decompress_check(&reader->program, reader->path);
}

/* The contents of a compressed file in the place of the file. */
static ml_status decompress(ml_line_reader *reader, const char *program)
{
    fclose(reader->file);
    ml_status st = ml_decompress_open(&reader->file, &reader->program, reader->path, program);
    return st == ML_OK ? fill(reader) : st;
}

static ml_status begin(ml_line_reader *reader, bool is_file)
{
    ml_status st = ML_OK;
    ML_NEW(reader->buffer, BUFFER, ML_MEM_OTHER, "a read buffer");
    ML_TRY(fill(reader));
    const char *program = ml_decompress_program(reader->buffer, reader->filled);
    if (is_file && program) ML_TRY(decompress(reader, program));
    if (reader->filled >= 2 &&
        (!memcmp(reader->buffer, "\xff\xfe", 2) || !memcmp(reader->buffer, "\xfe\xff", 2))) {
        st = ml_fail(ML_INPUT,
                     "%s: is UTF-16 (it begins with its mark), expected UTF-8: iconv -f UTF-16 -t "
                     "UTF-8 makes it that",
                     reader->path);
        goto done;
    }
    if (reader->filled >= 3 && !memcmp(reader->buffer, "\xef\xbb\xbf", 3)) reader->used = 3;
done:
    if (st != ML_OK) ml_line_reader_close(reader);
    return st;
}

ml_status ml_line_reader_open(ml_line_reader *reader, const char *path)
{
    *reader = (ml_line_reader){.path = path, .file = fopen(path, "rb")};
    if (!reader->file)
        return ml_fail(errno == ENOMEM ? ML_RESOURCE : ML_INPUT,
                       "%s: cannot be opened for reading: %s", path, strerror(errno));
    return begin(reader, true);
}

ml_status ml_line_reader_open_text(ml_line_reader *reader, const char *name, const ml_text *text)
{
    *reader =
        (ml_line_reader){.path = name, .file = fmemopen(text->data, (size_t)text->length, "rb")};
    if (!reader->file) return ml_fail(ML_RESOURCE, "%s: out of memory", name);
    return begin(reader, false);
}

void ml_line_reader_close(ml_line_reader *reader)
{
    ml_decompress_end(&reader->program);
    if (reader->file) fclose(reader->file);
    ml_memory_free(reader->buffer);
    ml_text_destroy(&reader->line);
    *reader = (ml_line_reader){0};
}

/* Appends what the buffer has of the line; *whole where its end was found. */
static ml_status take(ml_line_reader *reader, bool *whole)
{
    const char *start = reader->buffer + reader->used;
    size_t left = reader->filled - reader->used;
    const char *end = memchr(start, '\n', left);
    *whole = end != NULL;
    size_t count = end ? (size_t)(end - start) : left;
    reader->used += count + (end ? 1 : 0);
    if (reader->line.length + (int64_t)count > LONGEST)
        return ml_fail(ML_INPUT, "%s: line %" PRId64 " is longer than %d bytes", reader->path,
                       reader->number, LONGEST);
    return ml_text_add(&reader->line, start, (int64_t)count);
}

ml_status ml_line_reader_next(ml_line_reader *reader, bool *more)
{
    ml_status st = ML_OK;
    *more = true;
    if (reader->again) {
        reader->again = false;
        return ML_OK;
    }
    reader->line.length = 0;
    reader->number++;
    bool whole = false, any = false;
    while (!whole) {
        if (reader->used == reader->filled) ML_TRY(fill(reader));
        if (!reader->filled) break;
        any = true;
        ML_TRY(take(reader, &whole));
    }
    *more = any;
    if (whole && reader->line.length && reader->line.data[reader->line.length - 1] == '\r')
        reader->line.data[--reader->line.length] = '\0';
done:
    return st;
}
