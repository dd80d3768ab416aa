/* The metadata of a GGUF file: a cursor over its head that never trusts a length, the values that
 * it takes, and the kind that each key which a reader looks at must have. */
#include "store/formats/gguf/metadata.h"

#include <inttypes.h>
#include <stdlib.h>

#include "io/hdf5_file.h"

enum { KEY_LIMIT = 65535 };

/* ---- bytes --------------------------------------------------------------------------------- */

ml_status gguf_take(gguf_cursor *c, void *out, int64_t n)
{
    const gguf_file *f = c->file;
    if (n < 0 || n > f->bytes - c->at)
        return ml_fail(ML_INPUT, "%s: the file ends at byte %" PRId64 " inside its head: truncated",
                       f->path, f->bytes);
    if (n > GGUF_WINDOW) {
        ml_status st = ml_file_read(f->fd, f->path, out, n, c->at);
        c->at += n;
        return st;
    }
    if (c->at < c->window || c->at + n > c->window + c->held) {
        c->window = c->at;
        c->held = ml_min(GGUF_WINDOW, f->bytes - c->at);
        ml_status st = ml_file_read(f->fd, f->path, c->buffer, c->held, c->at);
        if (st != ML_OK) return st;
    }
    memcpy(out, c->buffer + (c->at - c->window), (size_t)n);
    c->at += n;
    return ML_OK;
}

ml_status gguf_take_u32(gguf_cursor *c, int64_t *out)
{
    uint32_t x = 0;
    ml_status st = gguf_take(c, &x, sizeof x);
    *out = x;
    return st;
}

ml_status gguf_take_count(gguf_cursor *c, int64_t size, const char *what, int64_t *out)
{
    uint64_t x = 0;
    ml_status st = gguf_take(c, &x, sizeof x);
    if (st != ML_OK) return st;
    if (x > (uint64_t)((c->file->bytes - c->at) / size))
        return ml_fail(ML_INPUT,
                       "%s: %s: %" PRIu64 " do not fit into the %" PRId64 " bytes that are left",
                       c->file->path, what, x, c->file->bytes - c->at);
    *out = (int64_t)x;
    return ML_OK;
}

ml_status gguf_take_text(gguf_cursor *c, const char *what, char **out)
{
    ml_status st = ML_OK;
    int64_t n = 0;
    ML_TRY(gguf_take_count(c, 1, what, &n));
    ML_NEW(*out, n + 1, ML_MEM_OTHER, "a text");
    ML_TRY(gguf_take(c, *out, n));
    if ((int64_t)strlen(*out) != n)
        st = ml_fail(ML_INPUT, "%s: %s: a text with a zero byte", c->file->path, what);
done:
    return st;
}

/* ---- metadata ------------------------------------------------------------------------------ */

enum {
    T_U8,
    T_I8,
    T_U16,
    T_I16,
    T_U32,
    T_I32,
    T_F32,
    T_BOOL,
    T_TEXT,
    T_ARRAY,
    T_U64,
    T_I64,
    T_F64,
    TYPES
};
static const int64_t type_size[TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

static ml_status take_number(gguf_cursor *c, int64_t type, gguf_value *v)
{
    uint8_t raw[8] = {0};
    ml_status st = gguf_take(c, raw, type_size[type]);
    if (st != ML_OK) return st;
    uint64_t bits = 0;
    for (int i = 7; i >= 0; i--) bits = bits << 8 | raw[i];
    float single;
    uint32_t low = (uint32_t)bits;
    memcpy(&single, &low, sizeof single);
    v->whole = type != T_F32 && type != T_F64;
    if (type == T_BOOL && bits > 1)
        return ml_fail(ML_INPUT, "%s: %s: a truth value of %" PRIu64 ", expected 0 or 1",
                       c->file->path, v->key, bits);
    switch (type) {
    case T_I8:
        v->integer = (int8_t)bits;
        break;
    case T_I16:
        v->integer = (int16_t)bits;
        break;
    case T_I32:
        v->integer = (int32_t)bits;
        break;
    case T_F32:
        v->real = (double)single;
        return ML_OK;
    case T_F64:
        memcpy(&v->real, &bits, sizeof v->real);
        return ML_OK;
    default:
        if (bits > INT64_MAX && type == T_U64) v->whole = false;
        v->integer = (int64_t)(bits > INT64_MAX && type == T_U64 ? INT64_MAX : bits);
    }
    v->real = (double)v->integer;
    return ML_OK;
}

static ml_status take_array(gguf_cursor *c, gguf_value *v)
{
    ml_status st = ML_OK;
    int64_t type;
    ML_TRY(gguf_take_u32(c, &type));
    if (type >= TYPES || type == T_ARRAY)
        return ml_fail(ML_INPUT, "%s: %s: an array of type %" PRId64 "; nested arrays are refused",
                       c->file->path, v->key, type);
    ML_TRY(gguf_take_count(c, type_size[type], v->key, &v->count));
    if (type == T_TEXT) {
        v->kind = GGUF_TEXTS;
        ML_NEW(v->texts, v->count, ML_MEM_OTHER, "an array of texts");
        for (int64_t i = 0; i < v->count; i++) ML_TRY(gguf_take_text(c, v->key, &v->texts[i]));
        return ML_OK;
    }
    v->kind = GGUF_NUMBERS;
    v->whole = type != T_F32 && type != T_F64 && type != T_BOOL;
    ML_NEW(v->reals, v->count, ML_MEM_OTHER, "an array of numbers");
    for (int64_t i = 0; i < v->count; i++) {
        gguf_value element = {.key = v->key};
        ML_TRY(take_number(c, type, &element));
        v->reals[i] = element.real;
    }
done:
    return st;
}

/* The shortest decimal number that is this fp32: what a configuration said before it was rounded,
 * 1e-05 and not 9.99999975e-06. */
static double shortest(float value)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        double decimal = strtod(text, NULL);
        if ((float)decimal == value) return decimal;
    }
    return (double)value;
}

ml_status gguf_take_value(gguf_cursor *c, gguf_value *v)
{
    ml_status st = ML_OK;
    int64_t type;
    const char *path = c->file->path;
    ML_TRY(gguf_take_text(c, "a key", &v->key));
    if (!*v->key || strlen(v->key) > KEY_LIMIT)
        return ml_fail(ML_INPUT, "%s: a key is empty or longer than %d bytes", path,
                       (int)KEY_LIMIT);
    ML_TRY(gguf_take_u32(c, &type));
    if (type >= TYPES)
        return ml_fail(ML_INPUT, "%s: %s: type %" PRId64 " is not known", path, v->key, type);
    if (type == T_ARRAY) return take_array(c, v);
    v->kind = type == T_TEXT ? GGUF_TEXT : type == T_BOOL ? GGUF_FLAG : GGUF_NUMBER;
    if (type == T_TEXT) return gguf_take_text(c, v->key, &v->text);
    ML_TRY(take_number(c, type, v));
    if (type == T_F32) v->real = shortest((float)v->real);
done:
    return st;
}

/* ---- kinds --------------------------------------------------------------------------------- */

static const char *const kind_names[] = {[GGUF_NUMBER] = "a number",
                                         [GGUF_TEXT] = "a text",
                                         [GGUF_TEXTS] = "an array of texts",
                                         [GGUF_NUMBERS] = "an array of numbers",
                                         [GGUF_FLAG] = "a truth value"};

/* Every key that is read by its name alone; those of an architecture, behind its name and a dot,
 * are in its family's table, but for the last ones here. */
const gguf_key gguf_keys[] = {{"general.alignment", GGUF_NUMBER, true},
                              {"general.architecture", GGUF_TEXT, false},
                              {"tokenizer.ggml.model", GGUF_TEXT, false},
                              {"tokenizer.ggml.pre", GGUF_TEXT, false},
                              {"tokenizer.ggml.tokens", GGUF_TEXTS, false},
                              {"tokenizer.ggml.merges", GGUF_TEXTS, false},
                              {"tokenizer.ggml.token_type", GGUF_NUMBERS, true},
                              {"tokenizer.ggml.bos_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.eos_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.unknown_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.seperator_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.padding_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.cls_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.mask_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.scores", GGUF_NUMBERS, false},
                              {"tokenizer.ggml.precompiled_charsmap", GGUF_NUMBERS, true},
                              {"tokenizer.ggml.eot_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.eom_token_id", GGUF_NUMBER, true},
                              {"tokenizer.ggml.add_bos_token", GGUF_FLAG, false},
                              {"tokenizer.chat_template", GGUF_TEXT, false},
                              {"tokenizer.chat_template.tool_use", GGUF_TEXT, false},
                              {"tokenizer.ggml.add_eos_token", GGUF_FLAG, false},
                              {"tokenizer.ggml.add_space_prefix", GGUF_FLAG, false},
                              {"tokenizer.ggml.remove_extra_whitespaces", GGUF_FLAG, false},
                              {"tokenizer.ggml.normalizer.lowercase", GGUF_FLAG, false},
                              {".attention.value_length", GGUF_NUMBER, true},
                              {".pooling_type", GGUF_NUMBER, true},
                              {".rope.scale_linear", GGUF_NUMBER, false},
                              {".rope.dimension_count", GGUF_NUMBER, true},
                              {".rope.scaling.type", GGUF_TEXT, false},
                              {".rope.scaling.factor", GGUF_NUMBER, false},
                              {".rope.scaling.attn_factor", GGUF_NUMBER, false},
                              {".rope.scaling.original_context_length", GGUF_NUMBER, true},
                              {NULL, GGUF_NUMBER, false}};

static bool is_key(const gguf_value *v, const gguf_key *k)
{
    size_t length = strlen(v->key), end = strlen(k->key);
    const char *from = *k->key == '.' && length > end ? v->key + length - end : v->key;
    return strcmp(from, k->key) == 0;
}

ml_status gguf_check_kind(const gguf_file *f, const gguf_value *v, gguf_kind kind, bool whole)
{
    static const char *const whole_names[] = {
        [GGUF_NUMBER] = "a whole number", [GGUF_NUMBERS] = "an array of whole numbers"};
    if (v->kind == kind && (!whole || v->whole)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: key %s is %s, expected %s", f->path, v->key, kind_names[v->kind],
                   whole ? whole_names[kind] : kind_names[kind]);
}

ml_status gguf_check_kinds(const gguf_file *f)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < f->nvalues; i++)
        for (const gguf_key *k = gguf_keys; k->key; k++)
            if (is_key(&f->values[i], k))
                ML_TRY(gguf_check_kind(f, &f->values[i], k->kind, k->whole));
done:
    return st;
}
