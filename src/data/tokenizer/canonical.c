/* Reading and writing the canonical text. */
#include "data/tokenizer/canonical.h"

#include <inttypes.h>

#include "io/json.h"
#include "mpilora/data.h"

static const char format[] = "mpilora-tokenizer";

ml_status ml_canonical_write(const ml_canonical *c, ml_text *out)
{
    ml_status st = ML_OK;
    ml_tokenizer *trial = NULL;
    int64_t before = out->length;
    ML_TRY(ml_text_printf(
        out, "{\"format\": \"%s\", \"version\": 2, \"begin\": %" PRId64 ", \"end\": %" PRId64 "}\n",
        format, c->begin, c->end));
    ML_TRY(ml_text_add(out, c->json, c->length));
    ML_TRY(ml_tokenizer_create(&trial, out->data + before, out->length - before));
done:
    ml_tokenizer_destroy(trial);
    return st;
}

static bool is_format(const json_t *header, json_int_t *version)
{
    const char *name = json_string_value(json_object_get(header, "format"));
    *version = json_integer_value(json_object_get(header, "version"));
    return name && !strcmp(name, format);
}

static ml_status read_header(ml_canonical *c, const json_t *header)
{
    static const ml_json_key keys[] = {
        {"begin", ML_JSON_INTEGER}, {"end", ML_JSON_INTEGER}, {NULL, 0}};
    ml_status st = ml_json_check(header, keys);
    const json_t *begin = json_object_get(header, "begin"), *end = json_object_get(header, "end");
    if (st == ML_OK && (!begin || !end))
        st = ml_fail(ML_INPUT, "its \"begin\" or \"end\" is missing");
    c->begin = json_integer_value(begin);
    c->end = json_integer_value(end);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "tokenizer");
}

/* The tokenizer.json, or what is left of it. */
static ml_status read_root(const ml_canonical *c, json_t **root, ml_plain_model *plain)
{
    ml_status st = plain ? ml_plain_model_cut(plain, c->json, c->length) : ML_OK;
    if (st != ML_OK) return st;
    return plain && plain->vocab.text
               ? ml_json_read(root, "tokenizer", plain->rest.data, plain->rest.length)
               : ml_json_read(root, "tokenizer", c->json, c->length);
}

ml_status ml_canonical_read(ml_canonical *c, json_t **root, ml_plain_model *plain, const char *text,
                            int64_t length)
{
    ml_status st = ML_OK;
    json_t *header = NULL;
    json_int_t version;
    const char *line = memchr(text, '\n', (size_t)length);
    int64_t first = line ? line - text : length;
    *root = NULL;
    *c = (ml_canonical){.begin = -1, .end = -1};
    ML_TRY(ml_json_read(&header, "tokenizer", text, first));
    if (!is_format(header, &version) || version < 1 || version > 2) {
        st = ml_fail(ML_INPUT, "tokenizer: it is not a mpilora-tokenizer of version 1 or 2");
        goto done;
    }
    if (version == 1) {
        st = ml_canonical_convert_v1(c, root, header);
        goto done;
    }
    ML_TRY(read_header(c, header));
    c->json = text + ml_min(first + 1, length);
    c->length = length - ml_min(first + 1, length);
    ML_TRY(read_root(c, root, plain));
done:
    json_decref(header);
    return st;
}
