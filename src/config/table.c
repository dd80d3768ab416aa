/* A YAML document is read by a table of keys, and written by it again. Each value that stands in
 * the document finds its row by its path; what no row names is refused with the nearest key, and
 * what stands twice is refused with the line where it stood first. */
#include "config/table.h"

#include <yaml.h>

#include "mpilora/grid.h"

enum { FILE_LIMIT = 1 << 20, DEPTH_LIMIT = 8, WHERE = 512, PATH = 128, KEYS = 128 };

/* Length of the section's name in a path; 0 where there is none. A section may stand in a section:
 * this is the inner one's with the outer's before it. */
static size_t section_length(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? (size_t)(dot - path) : 0;
}

static bool is_section(const key *table, const char *path)
{
    size_t length = strlen(path);
    for (; table->path; table++)
        if (!strncmp(table->path, path, length) && table->path[length] == '.') return true;
    return false;
}

static const key *find_key(const key *table, const char *path)
{
    for (; table->path; table++)
        if (!strcmp(table->path, path)) return table;
    return NULL;
}

/* The nearest key goes with the message; with `sections`, as at the top of a file, it may be the
 * name of a section, too. */
static ml_status unknown_key(const key *table, const char *where, const char *path, bool sections)
{
    char section[KEYS][PATH];
    const char *words[2 * KEYS + 1] = {NULL};
    int n = 0;
    for (int i = 0; i < KEYS && table[i].path; i++) {
        int length = (int)section_length(table[i].path);
        words[n++] = table[i].path;
        if (!sections || !length) continue;
        snprintf(section[i], PATH, "%.*s", length, table[i].path);
        words[n++] = section[i];
    }
    const char *near = ml_nearest_word(path, words);
    return ml_fail(ML_USAGE, "%s: %s: unknown key%s%s%s", where, path,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* ---- one document -------------------------------------------------------------------------- */

typedef struct reader {
    const key *table;
    void *out;
    int *line; /* of each key of the table */
    yaml_document_t document;
    const char *name; /* of the file, or "--set" */
    bool from_file;
} reader;

static void place(const reader *r, const yaml_node_t *node, char where[WHERE])
{
    if (r->from_file)
        snprintf(where, WHERE, "%s:%zu", r->name, node->start_mark.line + 1);
    else
        snprintf(where, WHERE, "%s", r->name);
}

static ml_status read_value(reader *r, const char *path, yaml_node_t *node, const char *where)
{
    const key *k = find_key(r->table, path);
    if (!k) return unknown_key(r->table, where, path, r->from_file && !strchr(path, '.'));
    ml_status st = value_read(k, r->out, &r->document, node, where);
    if (st == ML_OK)
        r->line[k - r->table] = r->from_file ? (int)node->start_mark.line + 1 : SET_LINE;
    return st;
}

static ml_status check_repeated(reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair,
                                const char *word, const char *where)
{
    for (const yaml_node_pair_t *other = mapping->data.mapping.pairs.start; other < pair; other++) {
        const yaml_node_t *node = yaml_document_get_node(&r->document, other->key);
        if (strcmp((const char *)node->data.scalar.value, word) != 0) continue;
        return ml_fail(ML_USAGE, "%s: %s: given twice in one mapping, first in line %zu", where,
                       word, node->start_mark.line + 1);
    }
    return ML_OK;
}

/* The text of a key; NULL after ml_fail. A dot would let one key be given twice: as `a.b: …` and
 * inside `a:`. */
static const char *key_word(const yaml_node_t *name, const char *where)
{
    const char *word = (const char *)name->data.scalar.value;
    if (name->type != YAML_SCALAR_NODE)
        (void)ml_fail(ML_USAGE, "%s: a key is a word, not a list or a mapping", where);
    else if (strlen(word) != name->data.scalar.length)
        (void)ml_fail(ML_USAGE, "%s: %s: a key with a zero byte", where, word);
    else if (strchr(word, '.'))
        (void)ml_fail(ML_USAGE,
                      "%s: %s: unknown key; in a file a key stands inside its section, only --set "
                      "joins the two with a dot",
                      where, word);
    else
        return word;
    return NULL;
}

static ml_status read_mapping(reader *r, yaml_node_t *mapping, const char *section)
{
    ml_status st = ML_OK;
    for (yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
         pair < mapping->data.mapping.pairs.top; pair++) {
        yaml_node_t *name = yaml_document_get_node(&r->document, pair->key),
                    *value = yaml_document_get_node(&r->document, pair->value);
        char where[WHERE], path[PATH];
        place(r, name, where);
        const char *word = key_word(name, where);
        if (!word) return ML_USAGE;
        ML_TRY(check_repeated(r, mapping, pair, word, where));
        snprintf(path, sizeof path, "%s%s%s", section, *section ? "." : "", word);
        if (!is_section(r->table, path)) {
            ML_TRY(read_value(r, path, value, where));
        } else if (value->type == YAML_MAPPING_NODE) {
            ML_TRY(read_mapping(r, value, path));
        } else {
            return ml_fail(ML_USAGE, "%s: %s: expected a mapping of keys, found a %s", where, path,
                           value->type == YAML_SCALAR_NODE ? "scalar" : "list");
        }
    }
done:
    return st;
}

/* By how much a token changes the depth of lists and mappings. */
static int depth_step(yaml_token_type_t type)
{
    switch (type) {
    case YAML_BLOCK_SEQUENCE_START_TOKEN:
    case YAML_BLOCK_MAPPING_START_TOKEN:
    case YAML_FLOW_SEQUENCE_START_TOKEN:
    case YAML_FLOW_MAPPING_START_TOKEN:
        return 1;
    case YAML_BLOCK_END_TOKEN:
    case YAML_FLOW_SEQUENCE_END_TOKEN:
    case YAML_FLOW_MAPPING_END_TOKEN:
        return -1;
    default:
        return 0;
    }
}

static ml_status check_token(const char *name, const yaml_token_t *token, int *depth)
{
    size_t line = token->start_mark.line + 1;
    if (token->type == YAML_ALIAS_TOKEN || token->type == YAML_ANCHOR_TOKEN ||
        token->type == YAML_TAG_TOKEN)
        return ml_fail(ML_USAGE,
                       "%s:%zu: anchors, aliases and tags are not accepted; write the value out",
                       name, line);
    *depth += depth_step(token->type);
    if (*depth > DEPTH_LIMIT)
        return ml_fail(ML_USAGE, "%s:%zu: lists and mappings nested deeper than %d", name, line,
                       (int)DEPTH_LIMIT);
    return ML_OK;
}

static ml_status yaml_status(const yaml_parser_t *parser)
{
    return parser->error == YAML_MEMORY_ERROR || !parser->problem ? ML_RESOURCE : ML_USAGE;
}

/* Anchors, aliases, tags and deep nesting have no place here; refused before the loader could
 * follow one (its time grows with the square of the depth). */
static ml_status scan(const char *name, const unsigned char *text, size_t length)
{
    yaml_parser_t parser;
    ml_status st = ML_OK;
    bool more = true;
    int depth = 0;
    if (!yaml_parser_initialize(&parser)) return ml_fail(ML_RESOURCE, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, text, length);
    while (more && st == ML_OK) {
        yaml_token_t token;
        if (!yaml_parser_scan(&parser, &token)) {
            st = ml_fail(yaml_status(&parser), "%s:%zu: not YAML: %s", name,
                         parser.problem_mark.line + 1,
                         parser.problem ? parser.problem : "out of memory");
            break;
        }
        st = check_token(name, &token, &depth);
        more = token.type != YAML_STREAM_END_TOKEN;
        yaml_token_delete(&token);
    }
    yaml_parser_delete(&parser);
    return st;
}

/* The one document of the text; destroy it where ML_OK. */
static ml_status load(const char *name, const unsigned char *text, size_t length,
                      yaml_document_t *out)
{
    yaml_parser_t parser;
    yaml_document_t second;
    ml_status st = scan(name, text, length);
    if (st != ML_OK) return st;
    if (!yaml_parser_initialize(&parser)) return ml_fail(ML_RESOURCE, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, text, length);
    if (!yaml_parser_load(&parser, out)) {
        st = ml_fail(yaml_status(&parser), "%s:%zu: not YAML: %s", name,
                     parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "out of memory");
    } else {
        bool loaded = yaml_parser_load(&parser, &second);
        if (loaded && yaml_document_get_root_node(&second))
            st = ml_fail(ML_USAGE, "%s: more than one YAML document; give one", name);
        if (loaded) yaml_document_delete(&second);
        if (st != ML_OK) yaml_document_delete(out);
    }
    yaml_parser_delete(&parser);
    return st;
}

ml_status table_get_text(const char *path, ml_text *out)
{
    const ml_text_kind kind = {"configuration", FILE_LIMIT, ML_USAGE};
    return ml_grid_read_text(path, &kind, out);
}

ml_status table_read_text(const key *table, void *out, int *line, const char *path,
                          const ml_text *text)
{
    ml_status st = ML_OK;
    reader r = {.table = table, .out = out, .line = line, .name = path, .from_file = true};
    ML_TRY(load(path, (const unsigned char *)text->data, (size_t)text->length, &r.document));
    yaml_node_t *root = yaml_document_get_root_node(&r.document);
    st = root && root->type == YAML_MAPPING_NODE
             ? read_mapping(&r, root, "")
             : ml_fail(ML_USAGE, "%s: expected a mapping of keys", path);
    yaml_document_delete(&r.document);
done:
    return st;
}

ml_status table_read_file(const key *table, void *out, int *line, const char *path)
{
    ml_text text = {0};
    ml_status st = table_get_text(path, &text);
    if (st == ML_OK) st = table_read_text(table, out, line, path, &text);
    ml_text_destroy(&text);
    return st;
}

ml_status table_read_set(const key *table, void *out, int *line, const char *assignment)
{
    ml_status st = ML_OK;
    const char *equals = strchr(assignment, '=');
    char path[PATH];
    reader r = {.table = table, .out = out, .line = line, .name = "--set"};
    if (!equals || equals == assignment || (size_t)(equals - assignment) >= sizeof path)
        return ml_fail(ML_USAGE, "--set: \"%s\" is not key=value", assignment);
    snprintf(path, sizeof path, "%.*s", (int)(equals - assignment), assignment);
    if (is_section(table, path))
        return ml_fail(ML_USAGE,
                       "--set: %s: is a section; name one of its keys, as in %s.key=value", path,
                       path);
    if (!find_key(table, path)) return unknown_key(table, "--set", path, false);
    ML_TRY(load("--set", (const unsigned char *)equals + 1, strlen(equals + 1), &r.document));
    yaml_node_t *root = yaml_document_get_root_node(&r.document);
    st = root ? read_value(&r, path, root, "--set")
              : ml_fail(ML_USAGE, "--set: %s: its value is missing", path);
    yaml_document_delete(&r.document);
done:
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* The sections that a key's path enters and the one before it did not, each by its name; *indent is
 * how deep the key stands. */
static ml_status open_sections(const char *before, const char *path, ml_text *out, int *indent)
{
    ml_status st = ML_OK;
    const char *name = path;
    *indent = 0;
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(name, '.')) {
        size_t length = (size_t)(dot - path) + 1;
        if (strncmp(before, path, length) != 0)
            ML_TRY(ml_text_printf(out, "%*s%.*s:\n", *indent, "", (int)(dot - name), name));
        name = dot + 1;
        *indent += 2;
    }
done:
    return st;
}

ml_status table_write(const key *table, const void *in, ml_text *out)
{
    ml_status st = ML_OK;
    const char *before = "";
    int indent;
    for (; table->path; table++) {
        size_t length = section_length(table->path);
        ML_TRY(open_sections(before, table->path, out, &indent));
        before = table->path;
        ML_TRY(ml_text_printf(out, "%*s%s: ", indent, "", table->path + (length ? length + 1 : 0)));
        ML_TRY(value_write(table, in, out));
        ML_TRY(ml_text_printf(out, "\n"));
    }
done:
    return st;
}

void table_free_values(const key *table, void *in)
{
    for (; table->path; table++) {
        void *place = (char *)in + table->offset;
        if (table->kind == KEY_LAYERS || table->kind == KEY_SITES || table->kind == KEY_NAMES)
            modules_free(table, place);
        if (table->kind == KEY_FILES) files_free(place);
        if (table->kind == KEY_RUNS) runs_free(place);
        if (table->kind != KEY_TEXT) continue;
        char **text = place;
        ml_memory_free(*text);
        *text = NULL;
    }
}
