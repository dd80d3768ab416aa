/* The runs of a job that trains several: a list of {dir: …, set: {key: value}}. What a run sets is
 * kept as the words that --set would take. */
#include <yaml.h>

#include "config/table.h"
#include "mpilora/config.h"

void runs_free(void *in)
{
    ml_run_list *runs = in;
    for (int64_t i = 0; i < runs->count; i++) {
        for (int64_t j = 0; j < runs->item[i].sets; j++) ml_memory_free(runs->item[i].set[j]);
        ml_memory_free(runs->item[i].set);
    }
    ml_memory_free(runs->item);
    *runs = (ml_run_list){0};
}

/* ---- values as YAML in one line ------------------------------------------------------------ */

static ml_status write_node(yaml_document_t *document, yaml_node_t *node, ml_text *out);

static ml_status write_scalar(const yaml_node_t *node, ml_text *out)
{
    const char *text = (const char *)node->data.scalar.value;
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return plain ? ml_text_printf(out, "%s", text) : text_write(text, out);
}

static ml_status write_list(yaml_document_t *document, yaml_node_t *node, ml_text *out)
{
    ml_status st = ML_OK;
    const yaml_node_item_t *first = node->data.sequence.items.start;
    ML_TRY(ml_text_printf(out, "["));
    for (const yaml_node_item_t *item = first; item < node->data.sequence.items.top; item++) {
        ML_TRY(ml_text_printf(out, "%s", item == first ? "" : ", "));
        ML_TRY(write_node(document, yaml_document_get_node(document, *item), out));
    }
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}

static ml_status write_mapping(yaml_document_t *document, yaml_node_t *node, ml_text *out)
{
    ml_status st = ML_OK;
    const yaml_node_pair_t *first = node->data.mapping.pairs.start;
    ML_TRY(ml_text_printf(out, "{"));
    for (const yaml_node_pair_t *pair = first; pair < node->data.mapping.pairs.top; pair++) {
        ML_TRY(ml_text_printf(out, "%s", pair == first ? "" : ", "));
        ML_TRY(write_node(document, yaml_document_get_node(document, pair->key), out));
        ML_TRY(ml_text_printf(out, ": "));
        ML_TRY(write_node(document, yaml_document_get_node(document, pair->value), out));
    }
    ML_TRY(ml_text_printf(out, "}"));
done:
    return st;
}

static ml_status write_node(yaml_document_t *document, yaml_node_t *node, ml_text *out)
{
    if (node->type == YAML_SCALAR_NODE) return write_scalar(node, out);
    return node->type == YAML_SEQUENCE_NODE ? write_list(document, node, out)
                                            : write_mapping(document, node, out);
}

/* ---- one run ------------------------------------------------------------------------------- */

static ml_status add_set(ml_run_item *item, const char *key, yaml_document_t *document,
                         yaml_node_t *value)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    ML_TRY(ml_text_printf(&text, "%s=", key));
    ML_TRY(write_node(document, value, &text));
    item->set[item->sets] = ml_memory_string(text.data);
    if (!item->set[item->sets++]) st = ML_RESOURCE;
done:
    ml_text_destroy(&text);
    return st;
}

static ml_status refuse(const char *where, const char *found)
{
    return ml_fail(ML_USAGE,
                   "%s: runs: expected a list of {dir: …, set: {key: value}}, found %s in it",
                   where, found);
}

static const char *kind_of(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE     ? "a scalar"
           : node->type == YAML_SEQUENCE_NODE ? "a list"
                                              : "a mapping";
}

/* The value of `word` in the mapping, or NULL. */
static yaml_node_t *find(yaml_document_t *document, const yaml_node_t *mapping, const char *word)
{
    for (yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
         pair < mapping->data.mapping.pairs.top; pair++) {
        const yaml_node_t *name = yaml_document_get_node(document, pair->key);
        if (name->type == YAML_SCALAR_NODE && !strcmp((const char *)name->data.scalar.value, word))
            return yaml_document_get_node(document, pair->value);
    }
    return NULL;
}

/* What `set:` has, a mapping of dotted keys. */
static ml_status read_sets(ml_run_item *item, yaml_document_t *document, yaml_node_t *node,
                           const char *where)
{
    ml_status st = ML_OK;
    if (node->type != YAML_MAPPING_NODE) return refuse(where, kind_of(node));
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name = yaml_document_get_node(document, pair->key);
        if (name->type != YAML_SCALAR_NODE) return refuse(where, kind_of(name));
        const char *key = (const char *)name->data.scalar.value;
        if (!strcmp(key, "run.dir") || !strncmp(key, "runs", strlen("runs")))
            return ml_fail(ML_USAGE,
                           "%s: runs: set: %s does not belong there; a run's directory is "
                           "its dir",
                           where, key);
        if (find(document, node, key) != yaml_document_get_node(document, pair->value))
            return ml_fail(ML_USAGE, "%s: runs: set: %s: given twice; leave one of them out", where,
                           key);
        ML_TRY(add_set(item, key, document, yaml_document_get_node(document, pair->value)));
    }
done:
    return st;
}

static int64_t pairs_of(const yaml_node_t *node)
{
    return node && node->type == YAML_MAPPING_NODE
               ? node->data.mapping.pairs.top - node->data.mapping.pairs.start
               : 0;
}

static ml_status read_run(ml_run_item *item, yaml_document_t *document, yaml_node_t *node,
                          const char *where)
{
    ml_status st = ML_OK;
    if (node->type != YAML_MAPPING_NODE) return refuse(where, kind_of(node));
    yaml_node_t *dir = find(document, node, "dir"), *set = find(document, node, "set");
    if (!dir || dir->type != YAML_SCALAR_NODE || !dir->data.scalar.value[0])
        return ml_fail(ML_USAGE, "%s: runs: a run has no dir; name the directory that it writes to",
                       where);
    if (pairs_of(node) != 1 + (set ? 1 : 0))
        return ml_fail(ML_USAGE, "%s: runs: a run has dir and set, each once, and nothing else",
                       where);
    ML_NEW(item->set, 1 + pairs_of(set), ML_MEM_OTHER, "what a run sets");
    ML_TRY(add_set(item, "run.dir", document, dir));
    if (set) ML_TRY(read_sets(item, document, set, where));
done:
    return st;
}

ml_status runs_read(const key *k, void *out, yaml_document_t *document, yaml_node_t *node,
                    const char *where)
{
    ml_status st = ML_OK;
    ml_run_list read = {0};
    (void)k;
    bool none = value_is_null(node);
    if (!none && node->type != YAML_SEQUENCE_NODE) return refuse(where, kind_of(node));
    int64_t count = none ? 0 : node->data.sequence.items.top - node->data.sequence.items.start;
    if (!none && (count < 1 || count > ML_MOST_RUNS))
        return ml_fail(ML_USAGE, "%s: runs: %lld runs, expected 1 to %d", where, (long long)count,
                       (int)ML_MOST_RUNS);
    if (count > 0) ML_NEW(read.item, count, ML_MEM_OTHER, "runs");
    while (read.count < count) {
        yaml_node_t *item =
            yaml_document_get_node(document, node->data.sequence.items.start[read.count]);
        ML_TRY(read_run(&read.item[read.count++], document, item, where));
    }
    runs_free(out);
    *(ml_run_list *)out = read;
    read = (ml_run_list){0};
done:
    runs_free(&read);
    return st;
}

/* What is written is what a run of its own has resolved: none. */
ml_status runs_write(ml_text *out) { return ml_text_printf(out, "null"); }
