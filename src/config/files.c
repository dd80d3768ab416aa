/* The data sets of data.train: one file, or a list of files with weights, {file: …, weight: …}. A
 * list of one file is that file. */
#include <math.h>
#include <yaml.h>

#include "config/table.h"
#include "mpilora/config.h"

static const double least_share = 1e-3;

void files_free(void *in)
{
    ml_data_files *files = in;
    for (int64_t i = 0; i < files->count; i++) ml_memory_free(files->item[i].file);
    ml_memory_free(files->item);
    *files = (ml_data_files){0};
}

static ml_status read_file(const key *k, yaml_document_t *document, yaml_node_t *node,
                           const char *where, char **out)
{
    const key text = {.path = k->path, .kind = KEY_TEXT, .nullable = k->nullable};
    return value_read(&text, out, document, node, where);
}

static ml_status read_weight(const key *k, yaml_document_t *document, yaml_node_t *node,
                             const char *where, double *out)
{
    char path[128];
    snprintf(path, sizeof path, "%s: weight", k->path);
    const key weight = {
        .path = path, .kind = KEY_REAL, .least = 0.0, .most = HUGE_VAL, .open_least = true};
    return value_read(&weight, out, document, node, where);
}

/* {file: …, weight: …}; without a weight it is 1. */
static ml_status read_item(const key *k, yaml_document_t *document, yaml_node_t *node,
                           const char *where, ml_data_file *item)
{
    ml_status st = ML_OK;
    const key file = {.path = k->path};
    bool weighted = false;
    item->weight = 1.0;
    if (node->type != YAML_MAPPING_NODE)
        return ml_fail(ML_USAGE,
                       "%s: %s: expected a list of {file: …, weight: …}, found a %s in it", where,
                       k->path, node->type == YAML_SCALAR_NODE ? "scalar" : "list");
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name = yaml_document_get_node(document, pair->key),
                    *value = yaml_document_get_node(document, pair->value);
        const char *word =
            name->type == YAML_SCALAR_NODE ? (const char *)name->data.scalar.value : "a list";
        bool is_file = !strcmp(word, "file"), is_weight = !strcmp(word, "weight");
        if (!is_file && !is_weight)
            return ml_fail(ML_USAGE, "%s: %s: expected file and weight, found the key %s", where,
                           k->path, word);
        if (is_file ? item->file != NULL : weighted)
            return ml_fail(ML_USAGE, "%s: %s: %s is given twice", where, k->path, word);
        weighted = weighted || is_weight;
        if (is_file)
            ML_TRY(read_file(&file, document, value, where, &item->file));
        else
            ML_TRY(read_weight(k, document, value, where, &item->weight));
    }
    if (!item->file)
        st = ml_fail(ML_USAGE, "%s: %s: a member of the list has no file", where, k->path);
done:
    return st;
}

static ml_status check_shares(const key *k, const ml_data_files *files, const char *where)
{
    double sum = 0.0;
    for (int64_t i = 0; i < files->count; i++) sum += files->item[i].weight;
    for (int64_t i = 0; i < files->count; i++)
        if (!(files->item[i].weight >= least_share * sum))
            return ml_fail(ML_USAGE,
                           "%s: %s: the weight %g of %s is less than a thousandth of all together, "
                           "%g; expected a larger one",
                           where, k->path, files->item[i].weight, files->item[i].file, sum);
    return ML_OK;
}

static ml_status read_list(const key *k, yaml_document_t *document, yaml_node_t *node,
                           const char *where, ml_data_files *out)
{
    ml_status st = ML_OK;
    int64_t count = node->data.sequence.items.top - node->data.sequence.items.start;
    if (count < 1 || count > ML_MOST_DATA_FILES)
        return ml_fail(ML_USAGE, "%s: %s: a list of %lld files, expected 1 to %d", where, k->path,
                       (long long)count, (int)ML_MOST_DATA_FILES);
    ML_NEW(out->item, count, ML_MEM_OTHER, "names of data sets");
    while (out->count < count) {
        yaml_node_t *item =
            yaml_document_get_node(document, node->data.sequence.items.start[out->count]);
        ML_TRY(read_item(k, document, item, where, &out->item[out->count++]));
    }
    ML_TRY(check_shares(k, out, where));
    if (count == 1) out->item[0].weight = 1.0;
done:
    return st;
}

ml_status files_read(const key *k, void *out, yaml_document_t *document, yaml_node_t *node,
                     const char *where)
{
    ml_status st = ML_OK;
    ml_data_files read = {0};
    char *file = NULL;
    if (node->type == YAML_SEQUENCE_NODE) {
        ML_TRY(read_list(k, document, node, where, &read));
    } else {
        ML_TRY(read_file(k, document, node, where, &file));
        if (file) {
            ML_NEW(read.item, 1, ML_MEM_OTHER, "names of data sets");
            read.count = 1;
            read.item[0] = (ml_data_file){file, 1.0};
            file = NULL;
        }
    }
    files_free(out);
    *(ml_data_files *)out = read;
    read = (ml_data_files){0};
done:
    ml_memory_free(file);
    files_free(&read);
    return st;
}

ml_status files_write(const void *in, ml_text *out)
{
    ml_status st = ML_OK;
    const ml_data_files *files = in;
    if (files->count < 2) return text_write(files->count ? files->item[0].file : NULL, out);
    for (int64_t i = 0; i < files->count; i++) {
        ML_TRY(ml_text_printf(out, "%s{file: ", i ? ", " : "["));
        ML_TRY(text_write(files->item[i].file, out));
        ML_TRY(ml_text_printf(out, ", weight: %.17g}", files->item[i].weight));
    }
    ML_TRY(ml_text_printf(out, "]"));
done:
    return st;
}
