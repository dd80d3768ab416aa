/* One YAML value to C and back. Scalars are typed strictly: numbers are plain, finite and in
 * range; booleans and null are those of YAML 1.2's core schema: true, True, TRUE; null, ~. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <yaml.h>

#include "config/table.h"
#include "mpilora/config.h"

static ml_status wrong(const key *key, const char *where, const char *expected, const char *found)
{
    return ml_fail(ML_USAGE, "%s: %s: expected %s, found %s", where, key->path, expected, found);
}

/* The text of a scalar node; NULL (after ml_fail) where it is a list or a mapping. */
static const char *scalar(const key *key, const yaml_node_t *node, const char *where,
                          const char *expected)
{
    if (node->type == YAML_SCALAR_NODE) {
        const char *text = (const char *)node->data.scalar.value;
        if (strlen(text) == node->data.scalar.length) return text;
        (void)wrong(key, where, expected, "a text with a zero byte");
        return NULL;
    }
    (void)wrong(key, where, expected, node->type == YAML_SEQUENCE_NODE ? "a list" : "a mapping");
    return NULL;
}

static bool is_plain(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

bool value_is_null(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;
    return is_plain(node) && (!*text || !strcmp(text, "null") || !strcmp(text, "Null") ||
                              !strcmp(text, "NULL") || !strcmp(text, "~"));
}

static ml_status out_of_range(const key *key, const char *where, const char *found)
{
    bool no_least = key->least <= -HUGE_VAL, no_most = key->most >= HUGE_VAL;
    int digits = key->kind == KEY_INT ? 17 : 6; /* all of a whole number */
    char range[128];
    if (no_most)
        snprintf(range, sizeof range, "a number %s %.*g", key->open_least ? ">" : ">=", digits,
                 key->least);
    else if (no_least)
        snprintf(range, sizeof range, "a number %s %.*g", key->open_most ? "<" : "<=", digits,
                 key->most);
    else
        snprintf(range, sizeof range, "a number in %c%.*g, %.*g%c", key->open_least ? '(' : '[',
                 digits, key->least, digits, key->most, key->open_most ? ')' : ']');
    size_t used = strlen(range);
    if (key->nullable) snprintf(range + used, sizeof range - used, ", or null, which turns it off");
    return wrong(key, where, range, found);
}

static bool in_range(const key *key, double x)
{
    return (key->open_least ? x > key->least : x >= key->least) &&
           (key->open_most ? x < key->most : x <= key->most);
}

/* Also as the fp32 that it becomes where it is computed with: 1e-60 is not above 0 then, 1 − 1e-12
 * not below 1, 1e39 no number. */
static bool real_in_range(const key *key, double x)
{
    return isfinite(x) && in_range(key, x) && in_range(key, (double)(float)x);
}

static ml_status read_int(const key *key, void *out, const yaml_node_t *node, const char *where)
{
    const char *text = scalar(key, node, where, "a whole number");
    if (!text) return ML_USAGE;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!is_plain(node) || end == text || *end) return wrong(key, where, "a whole number", text);
    if (errno || !in_range(key, (double)value)) return out_of_range(key, where, text);
    *(int64_t *)out = value;
    return ML_OK;
}

static ml_status read_bytes(const key *key, int64_t *out, const yaml_node_t *node,
                            const char *where)
{
    static const char *const units[] = {"", "K", "M", "G", "T", "KiB", "MiB", "GiB", "TiB"};
    static const double sizes[] = {1, 1e3, 1e6, 1e9, 1e12, 0x1p10, 0x1p20, 0x1p30, 0x1p40};
    const char *expected = "a size as 2200000000, 2.2G or 512MiB",
               *text = scalar(key, node, where, expected);
    if (!text) return ML_USAGE;
    if (key->nullable && value_is_null(node)) {
        *out = 0;
        return ML_OK;
    }
    size_t digits = strspn(text, ".0123456789"), unit = 0;
    char *end;
    double value = strtod(text, &end);
    while (unit < sizeof sizes / sizeof *sizes && strcmp(text + digits, units[unit]) != 0) unit++;
    if (!is_plain(node) || digits == 0 || end != text + digits ||
        unit == sizeof sizes / sizeof *sizes)
        return wrong(key, where, expected, text);
    if (!in_range(key, value * sizes[unit])) return out_of_range(key, where, text);
    *out = (int64_t)(value * sizes[unit]);
    return ML_OK;
}

static ml_status read_seconds(const key *key, double *out, const yaml_node_t *node,
                              const char *where)
{
    const char *expected = "a time as 90, 15m, 2h or 11:30:00",
               *text = scalar(key, node, where, expected);
    double value = 0.0;
    if (!text) return ML_USAGE;
    bool null = key->nullable && value_is_null(node);
    if (!null && (!is_plain(node) || !duration_read(text, &value)))
        return wrong(key, where, expected, text);
    if (!null && !in_range(key, value)) return out_of_range(key, where, text);
    *out = value;
    return ML_OK;
}

static ml_status read_every(const key *key, ml_interval *out, const yaml_node_t *node,
                            const char *where)
{
    const char *expected = "a number of steps as 200, or a time as 30s, 10m, 1h",
               *text = scalar(key, node, where, expected);
    static const double least = 1e-3, most = 1e9;
    double seconds;
    if (!text) return ML_USAGE;
    if (!text[strspn(text, "+-.0123456789")]) {
        ml_status st = read_int(key, &out->steps, node, where);
        if (st == ML_OK) out->seconds = 0.0;
        return st;
    }
    if (!duration_read(text, &seconds))
        return wrong(key, where, expected, text); /* in quotes, too: JSON has no other way */
    if (seconds < least || seconds > most)
        return wrong(key, where, "a time from 0.001s to 1000000000s", text);
    *out = (ml_interval){.seconds = seconds};
    return ML_OK;
}

static ml_status read_seed(const key *key, void *out, const yaml_node_t *node, const char *where)
{
    const char *expected = "a whole number from 0 to 2^64 - 1",
               *text = scalar(key, node, where, expected);
    if (!text) return ML_USAGE;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!is_plain(node) || end == text || *end || errno || text[0] == '-')
        return wrong(key, where, expected, text);
    *(uint64_t *)out = value;
    return ML_OK;
}

/* A plain number of these characters alone. */
static bool is_number(const yaml_node_t *node, const char *text, const char *characters,
                      double *value)
{
    char *end;
    *value = strtod(text, &end);
    return is_plain(node) && end != text && !*end && !text[strspn(text, characters)];
}

static const char of_reals[] = "+-.0123456789eE";

static ml_status read_real(const key *key, double *out, const yaml_node_t *node, const char *where)
{
    const char *text = scalar(key, node, where, "a number");
    if (!text) return ML_USAGE;
    if (key->nullable && value_is_null(node)) {
        *out = 0.0;
        return ML_OK;
    }
    double value;
    if (!is_number(node, text, of_reals, &value)) return wrong(key, where, "a number", text);
    if (!real_in_range(key, value)) return out_of_range(key, where, text);
    *out = value;
    return ML_OK;
}

/* 2^-16, whose bits can be read, or a number. */
static ml_status read_least(const key *key, double *out, const yaml_node_t *node, const char *where)
{
    static const char power_of[] = "2^-";
    const char *expected = "off, or a number as 2^-16 or 1e-5",
               *text = scalar(key, node, where, expected);
    if (!text) return ML_USAGE;
    if (is_plain(node) && !strcmp(text, "off")) {
        *out = 0.0;
        return ML_OK;
    }
    bool is_power = !strncmp(text, power_of, strlen(power_of));
    const char *digits = is_power ? text + strlen(power_of) : text;
    double value;
    if (!is_number(node, digits, is_power ? "0123456789" : of_reals, &value))
        return wrong(key, where, expected, text);
    if (is_power) value = exp2(-value);
    if (!real_in_range(key, value)) return out_of_range(key, where, text);
    *out = value;
    return ML_OK;
}

static ml_status read_bool(const key *key, bool *out, const yaml_node_t *node, const char *where)
{
    const char *text = scalar(key, node, where, "true or false");
    if (!text) return ML_USAGE;
    bool yes = !strcmp(text, "true") || !strcmp(text, "True") || !strcmp(text, "TRUE"),
         no = !strcmp(text, "false") || !strcmp(text, "False") || !strcmp(text, "FALSE");
    if (!is_plain(node) || (!yes && !no)) return wrong(key, where, "true or false", text);
    *out = yes;
    return ML_OK;
}

static ml_status unknown_word(const key *key, const char *where, const char *word,
                              const char *const *words)
{
    char list[256] = "";
    size_t used = 0;
    for (const char *const *w = words; *w && used < sizeof list; w++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", *w);
    const char *near = ml_nearest_word(word, words);
    return ml_fail(ML_USAGE, "%s: %s: \"%s\" is not one of %s%s%s%s", where, key->path, word, list,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static ml_status read_text(const key *key, char **out, const yaml_node_t *node, const char *where)
{
    const char *text = scalar(key, node, where, "a text");
    if (!text) return ML_USAGE;
    bool null = value_is_null(node);
    if (null && !key->nullable) return wrong(key, where, "a text", "null");
    if (!null && !*text) return wrong(key, where, "a text", "an empty one");
    if (!null && key->choices && ml_find_word(text, key->choices) < 0)
        return unknown_word(key, where, text, key->choices);
    char *copy = null ? NULL : ml_memory_string(text);
    if (!null && !copy) return ML_RESOURCE;
    ml_memory_free(*out);
    *out = copy;
    return ML_OK;
}

static ml_status read_choice(const key *key, int *out, const yaml_node_t *node, const char *where)
{
    const char *text = scalar(key, node, where, "a word");
    if (!text) return ML_USAGE;
    int found = ml_find_word(text, key->choices);
    if (found < 0) return unknown_word(key, where, text, key->choices);
    *out = found;
    return ML_OK;
}

static ml_status read_pair(const key *key, double *out, yaml_document_t *document,
                           const yaml_node_t *node, const char *where)
{
    if (node->type != YAML_SEQUENCE_NODE ||
        node->data.sequence.items.top - node->data.sequence.items.start != 2)
        return wrong(key, where, "a list of two numbers", "something else");
    double pair[2];
    for (int i = 0; i < 2; i++) {
        ml_status st =
            read_real(key, &pair[i],
                      yaml_document_get_node(document, node->data.sequence.items.start[i]), where);
        if (st != ML_OK) return st;
    }
    memcpy(out, pair, sizeof pair);
    return ML_OK;
}

static ml_status add_target(const key *key, unsigned *bits, const yaml_node_t *node,
                            const char *where)
{
    const char *word = scalar(key, node, where, "a target's name");
    if (!word) return ML_USAGE;
    unsigned bit = target_bit(word, strlen(word));
    if (!bit) return unknown_word(key, where, word, target_words);
    if (*bits & bit) return ml_fail(ML_USAGE, "%s: %s: %s is named twice", where, key->path, word);
    *bits |= bit;
    return ML_OK;
}

static ml_status read_targets(const key *key, unsigned *out, yaml_document_t *document,
                              const yaml_node_t *node, const char *where)
{
    unsigned bits = 0;
    ml_status st = ML_OK;
    if (node->type != YAML_SEQUENCE_NODE) {
        st = add_target(key, &bits, node, where);
    } else {
        for (const yaml_node_item_t *item = node->data.sequence.items.start;
             st == ML_OK && item < node->data.sequence.items.top; item++)
            st = add_target(key, &bits, yaml_document_get_node(document, *item), where);
        if (st == ML_OK && !bits) st = wrong(key, where, "at least one target", "an empty list");
    }
    if (st == ML_OK) *out = bits;
    return st;
}

ml_status value_read(const key *key, void *out, yaml_document_t *document, yaml_node_t *node,
                     const char *where)
{
    void *place = (char *)out + key->offset;
    switch (key->kind) {
    case KEY_INT:
        return read_int(key, place, node, where);
    case KEY_SEED:
        return read_seed(key, place, node, where);
    case KEY_BYTES:
        return read_bytes(key, place, node, where);
    case KEY_SECONDS:
        return read_seconds(key, place, node, where);
    case KEY_EVERY:
        return read_every(key, place, node, where);
    case KEY_REAL:
        return read_real(key, place, node, where);
    case KEY_LEAST:
        return read_least(key, place, node, where);
    case KEY_BOOL:
        return read_bool(key, place, node, where);
    case KEY_TEXT:
        return read_text(key, place, node, where);
    case KEY_CHOICE:
        return read_choice(key, place, node, where);
    case KEY_PAIR:
        return read_pair(key, place, document, node, where);
    case KEY_TARGETS:
        return read_targets(key, place, document, node, where);
    case KEY_LAYERS:
        return layers_read(key, place, document, node, where);
    case KEY_SITES:
        return modules_read(key, place, document, node, where);
    case KEY_NAMES:
        return names_read(key, place, document, node, where);
    case KEY_FILES:
        return files_read(key, place, document, node, where);
    case KEY_WORDS:
        return words_read(key, place, document, node, where);
    case KEY_NUMBERS:
        return numbers_read(key, place, document, node, where);
    case KEY_RUNS:
        return runs_read(key, place, document, node, where);
    }
    return ml_fail(ML_INTERNAL, "%s: a key of no kind", key->path);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Double-quoted, as YAML and JSON both read it. */
ml_status text_write(const char *text, ml_text *out)
{
    ml_status st = ML_OK;
    if (!text) return ml_text_printf(out, "null");
    ML_TRY(ml_text_printf(out, "\""));
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            ML_TRY(ml_text_printf(out, "\\%c", *c));
        else if (*c < 0x20)
            ML_TRY(ml_text_printf(out, "\\x%02x", *c));
        else
            ML_TRY(ml_text_add(out, c, 1));
    }
    ML_TRY(ml_text_printf(out, "\""));
done:
    return st;
}

static ml_status write_targets(unsigned bits, ml_text *out)
{
    ml_status st = ML_OK;
    const char *before = "[";
    for (int i = 0; target_words[i]; i++) {
        if (!(bits & target_bit(target_words[i], strlen(target_words[i])))) continue;
        ML_TRY(ml_text_printf(out, "%s%s", before, target_words[i]));
        before = ", ";
    }
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}

static ml_status write_every(const ml_interval *every, ml_text *out)
{
    return every->seconds > 0.0 ? ml_text_printf(out, "%.17gs", every->seconds)
                                : ml_text_printf(out, "%" PRId64, every->steps);
}

ml_status value_write(const key *key, const void *in, ml_text *out)
{
    const void *place = (const char *)in + key->offset;
    const double *real = place;
    const int64_t *whole = place;
    switch (key->kind) {
    case KEY_INT:
        return ml_text_printf(out, "%" PRId64, *whole);
    case KEY_BYTES:
        return key->nullable && *whole == 0 ? ml_text_printf(out, "null")
                                            : ml_text_printf(out, "%" PRId64, *whole);
    case KEY_SEED:
        return ml_text_printf(out, "%" PRIu64, *(const uint64_t *)place);
    case KEY_SECONDS:
    case KEY_REAL:
        return key->nullable && *real == 0.0 ? ml_text_printf(out, "null")
                                             : ml_text_printf(out, "%.17g", *real);
    case KEY_LEAST:
        return *real == 0.0 ? ml_text_printf(out, "off") : ml_text_printf(out, "%.17g", *real);
    case KEY_EVERY:
        return write_every(place, out);
    case KEY_BOOL:
        return ml_text_printf(out, "%s", *(const bool *)place ? "true" : "false");
    case KEY_TEXT:
        return text_write(*(char *const *)place, out);
    case KEY_CHOICE:
        return ml_text_printf(out, "%s", key->choices[*(const int *)place]);
    case KEY_PAIR:
        return ml_text_printf(out, "[%.17g, %.17g]", real[0], real[1]);
    case KEY_TARGETS:
        return write_targets(*(const unsigned *)place, out);
    case KEY_LAYERS:
        return ml_layer_ranges_write(place, out);
    case KEY_SITES:
        return ml_module_patterns_write(place, out);
    case KEY_NAMES:
        return ml_module_names_write(place, out);
    case KEY_FILES:
        return files_write(place, out);
    case KEY_WORDS:
        return words_write(key, place, out);
    case KEY_NUMBERS:
        return numbers_write(place, out);
    case KEY_RUNS:
        return runs_write(out);
    }
    return ml_fail(ML_INTERNAL, "%s: a key of no kind", key->path);
}
