/* Lists of words and of numbers. A list of one is that one. */
#include <inttypes.h>
#include <yaml.h>

#include "config/table.h"

/* Calls `one` for every member; a value that is no list is its own only member. */
static ml_status read_members(const key *k, yaml_document_t *document, yaml_node_t *node,
                              const char *where, int64_t *count, void *item, size_t size)
{
    key member = *k;
    ml_status st = ML_OK;
    int64_t members = node->type == YAML_SEQUENCE_NODE
                          ? node->data.sequence.items.top - node->data.sequence.items.start
                          : 1;
    member.kind = k->kind == KEY_WORDS ? KEY_CHOICE : KEY_REAL;
    member.nullable = false;
    *count = 0;
    if (members < 1 || members > ML_MOST_LISTED)
        return ml_fail(ML_USAGE, "%s: %s: a list of %" PRId64 " members, expected 1 to %d", where,
                       k->path, members, (int)ML_MOST_LISTED);
    for (int64_t i = 0; i < members && st == ML_OK; i++) {
        yaml_node_t *value =
            node->type == YAML_SEQUENCE_NODE
                ? yaml_document_get_node(document, node->data.sequence.items.start[i])
                : node;
        member.offset = (size_t)i * size;
        st = value_read(&member, item, document, value, where);
    }
    if (st == ML_OK) *count = members;
    return st;
}

ml_status words_read(const key *k, void *out, yaml_document_t *document, yaml_node_t *node,
                     const char *where)
{
    ml_words read = {0};
    if (!value_is_null(node)) {
        ml_status st =
            read_members(k, document, node, where, &read.count, read.item, sizeof *read.item);
        if (st != ML_OK) return st;
    }
    for (int64_t i = 0; i < read.count; i++)
        for (int64_t j = 0; j < i; j++)
            if (read.item[i] == read.item[j])
                return ml_fail(ML_USAGE, "%s: %s: %s is named twice", where, k->path,
                               k->choices[read.item[i]]);
    *(ml_words *)out = read;
    return ML_OK;
}

ml_status numbers_read(const key *k, void *out, yaml_document_t *document, yaml_node_t *node,
                       const char *where)
{
    ml_numbers read = {0};
    if (!value_is_null(node)) {
        ml_status st =
            read_members(k, document, node, where, &read.count, read.item, sizeof *read.item);
        if (st != ML_OK) return st;
    }
    *(ml_numbers *)out = read;
    return ML_OK;
}

ml_status words_write(const key *k, const void *in, ml_text *out)
{
    const ml_words *words = in;
    ml_status st = ML_OK;
    if (words->count == 0) return ml_text_printf(out, "null");
    if (words->count == 1) return ml_text_printf(out, "%s", k->choices[words->item[0]]);
    for (int64_t i = 0; i < words->count; i++)
        ML_TRY(ml_text_printf(out, "%s%s", i == 0 ? "[" : ", ", k->choices[words->item[i]]));
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}

ml_status numbers_write(const void *in, ml_text *out)
{
    const ml_numbers *numbers = in;
    ml_status st = ML_OK;
    if (numbers->count == 0) return ml_text_printf(out, "null");
    for (int64_t i = 0; i < numbers->count; i++)
        ML_TRY(ml_text_printf(out, "%s%.17g", i == 0 ? "[" : ", ", numbers->item[i]));
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}
