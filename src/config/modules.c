/* Values of a configuration that name parts of a model are read and written here: lists of layers
 * as [0, 3, 6-9], numbers by the names of modules as {layers.0.attn.q: 4}, and names alone. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <yaml.h>

#include "config/table.h"
#include "mpilora/config.h"

enum { MOST_LAYERS = 1 << 20 };

/* ---- layers -------------------------------------------------------------------------------- */

/* A number without a sign from *text on, which moves behind it. */
static bool read_layer(const char **text, int64_t *layer)
{
    char *end;
    if (**text < '0' || **text > '9') return false;
    *layer = strtoll(*text, &end, 10);
    *text = end;
    return *layer < MOST_LAYERS;
}

static ml_status read_range(const key *key, const yaml_node_t *node, const char *where,
                            ml_layer_ranges *out)
{
    bool scalar = node->type == YAML_SCALAR_NODE;
    const char *text = scalar ? (const char *)node->data.scalar.value : "a list or a mapping",
               *rest = text;
    int64_t first = 0, last = 0;
    bool good = scalar && strlen(text) == node->data.scalar.length && read_layer(&rest, &first);
    last = first;
    if (good && *rest == '-') {
        rest++;
        good = read_layer(&rest, &last) && last >= first;
    }
    if (!good || *rest)
        return ml_fail(ML_USAGE, "%s: %s: expected numbers from 0 as 5 or 2-7, found %.40s", where,
                       key->path, text);
    out->range[out->count].first = first;
    out->range[out->count++].last = last;
    return ML_OK;
}

static int by_first(const void *a, const void *b)
{
    const int64_t *x = a, *y = b; /* a range begins with its first layer */
    return (*x > *y) - (*x < *y);
}

/* Ascending, neighbours and what overlaps joined: one way to say one thing. */
static void tidy(ml_layer_ranges *r)
{
    int64_t kept = 0;
    qsort(r->range, (size_t)r->count, sizeof *r->range, by_first);
    for (int64_t i = 1; i < r->count; i++) {
        if (r->range[i].first <= r->range[kept].last + 1)
            r->range[kept].last = ml_max(r->range[kept].last, r->range[i].last);
        else
            r->range[++kept] = r->range[i];
    }
    r->count = kept + 1;
}

ml_status layers_read(const key *key, void *out, yaml_document_t *document, yaml_node_t *node,
                      const char *where)
{
    ml_status st = ML_OK;
    ml_layer_ranges read = {0};
    bool list = node->type == YAML_SEQUENCE_NODE;
    if (!list && value_is_null(node)) goto done;
    int64_t count = list ? node->data.sequence.items.top - node->data.sequence.items.start : 1;
    if (count == 0)
        return ml_fail(ML_USAGE, "%s: %s: expected at least one number, or null", where, key->path);
    ML_NEW(read.range, count, ML_MEM_OTHER, "a list of layers");
    if (!list) ML_TRY(read_range(key, node, where, &read));
    for (int64_t i = 0; list && i < count; i++)
        ML_TRY(read_range(key, yaml_document_get_node(document, node->data.sequence.items.start[i]),
                          where, &read));
    tidy(&read);
done:
    if (st != ML_OK) {
        ml_memory_free(read.range);
        return st;
    }
    modules_free(key, out);
    *(ml_layer_ranges *)out = read;
    return ML_OK;
}

ml_status ml_layer_ranges_write(const ml_layer_ranges *layers, ml_text *out)
{
    ml_status st = ML_OK;
    if (layers->count == 0) return ml_text_printf(out, "null");
    for (int64_t i = 0; i < layers->count; i++) {
        int64_t first = layers->range[i].first, last = layers->range[i].last;
        ML_TRY(ml_text_printf(out, "%s%" PRId64, i ? ", " : "[", first));
        if (last > first) ML_TRY(ml_text_printf(out, "-%" PRId64, last));
    }
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}

/* ---- patterns ------------------------------------------------------------------------------ */

static ml_status read_name(const key *key, const yaml_node_t *node, const char *where,
                           ml_module_patterns *out)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_.";
    bool scalar = node->type == YAML_SCALAR_NODE;
    const char *text = scalar ? (const char *)node->data.scalar.value : "";
    size_t length = strlen(text);
    if (length == 0 || length >= sizeof out->item->module ||
        strspn(text, letters) != node->data.scalar.length)
        return ml_fail(
            ML_USAGE,
            "%s: %s: expected the name of a module or its end, as layers.0.attn.q, attn.q "
            "or q, found \"%.80s\"",
            where, key->path, text);
    for (int64_t i = 0; i < out->count; i++)
        if (!strcmp(out->item[i].module, text))
            return ml_fail(ML_USAGE, "%s: %s: %s is named twice", where, key->path, text);
    snprintf(out->item[out->count].module, sizeof out->item->module, "%s", text);
    return ML_OK;
}

static ml_status read_number(const key *of, double *out, yaml_document_t *document,
                             yaml_node_t *node, const char *where)
{
    key number = *of;
    int64_t whole;
    number.offset = 0;
    number.kind = of->whole ? KEY_INT : KEY_REAL;
    ml_status st =
        value_read(&number, of->whole ? (void *)&whole : (void *)out, document, node, where);
    if (st == ML_OK && of->whole) *out = (double)whole;
    return st;
}

ml_status modules_read(const key *key, void *out, yaml_document_t *document, yaml_node_t *node,
                       const char *where)
{
    ml_status st = ML_OK;
    ml_module_patterns read = {0};
    if (value_is_null(node)) goto done;
    if (node->type != YAML_MAPPING_NODE)
        return ml_fail(
            ML_USAGE,
            "%s: %s: expected a mapping of modules to numbers, as {layers.0.attn.q: 4, q: 16}",
            where, key->path);
    int64_t count = node->data.mapping.pairs.top - node->data.mapping.pairs.start;
    if (count > 0) ML_NEW(read.item, count, ML_MEM_OTHER, "a pattern");
    for (int64_t i = 0; i < count; i++) {
        const yaml_node_pair_t *pair = &node->data.mapping.pairs.start[i];
        ML_TRY(read_name(key, yaml_document_get_node(document, pair->key), where, &read));
        ML_TRY(read_number(key, &read.item[read.count].value, document,
                           yaml_document_get_node(document, pair->value), where));
        read.count++;
    }
done:
    if (st != ML_OK) {
        ml_memory_free(read.item);
        return st;
    }
    modules_free(key, out);
    *(ml_module_patterns *)out = read;
    return ML_OK;
}

ml_status names_read(const key *key, void *out, yaml_document_t *document, yaml_node_t *node,
                     const char *where)
{
    ml_status st = ML_OK;
    ml_module_patterns read = {0};
    bool list = node->type == YAML_SEQUENCE_NODE;
    if (!list && value_is_null(node)) goto done;
    int64_t count = list ? node->data.sequence.items.top - node->data.sequence.items.start : 1;
    if (count > 0) ML_NEW(read.item, count, ML_MEM_OTHER, "names of modules");
    for (; read.count < count; read.count++) {
        yaml_node_t *item =
            list ? yaml_document_get_node(document, node->data.sequence.items.start[read.count])
                 : node;
        ML_TRY(read_name(key, item, where, &read));
    }
done:
    if (st != ML_OK) {
        ml_memory_free(read.item);
        return st;
    }
    modules_free(key, out);
    *(ml_module_patterns *)out = read;
    return ML_OK;
}

ml_status ml_module_names_write(const ml_module_patterns *names, ml_text *out)
{
    ml_status st = ML_OK;
    if (names->count == 0) return ml_text_printf(out, "null");
    for (int64_t i = 0; i < names->count; i++)
        ML_TRY(ml_text_printf(out, "%s\"%s\"", i ? ", " : "[", names->item[i].module));
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}

ml_status ml_module_patterns_write(const ml_module_patterns *p, ml_text *out)
{
    ml_status st = ML_OK;
    if (p->count == 0) return ml_text_printf(out, "null");
    for (int64_t i = 0; i < p->count; i++)
        ML_TRY(ml_text_printf(out, "%s\"%s\": %.17g", i ? ", " : "{", p->item[i].module,
                              p->item[i].value));
    ML_TRY(ml_text_printf(out, "}"));
done:
    return st;
}

void modules_free(const key *key, void *in)
{
    if (key->kind == KEY_LAYERS) {
        ml_layer_ranges *layers = in;
        ml_memory_free(layers->range);
        *layers = (ml_layer_ranges){0};
    } else {
        ml_module_patterns *patterns = in;
        ml_memory_free(patterns->item);
        *patterns = (ml_module_patterns){0};
    }
}
