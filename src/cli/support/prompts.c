/* The prompts and adapters of `mpilora generate` come from the command line or from a file of
 * lines; an adapter has a name there, by which a prompt says which one it is for. */
#include "cli/support/prompts.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/support/unread.h"
#include "io/json.h"
#include "io/line_reader.h"
#include "mpilora/grid.h"

static const int64_t largest_file = (int64_t)1 << 32;

/* ---- adapters ------------------------------------------------------------------------------ */

static int64_t find_adapter(const prompts *p, const char *name)
{
    for (int64_t i = 0; i < p->nadapters; i++)
        if (!strcmp(p->adapters[i].name, name)) return i;
    return -1;
}

static ml_status add_adapter(prompts *p, const char *name, int64_t name_length, const char *path)
{
    ml_status st = ML_OK;
    if (p->nadapters == OPTION_REPEATS)
        return ml_fail(ML_USAGE, "--adapter: more than %d adapters", OPTION_REPEATS);
    named_adapter *a = &p->adapters[p->nadapters++];
    ML_NEW(a->name, name_length + 1, ML_MEM_OTHER, "an adapter's name");
    memcpy(a->name, name, (size_t)name_length);
    a->path = ml_memory_string(path);
    if (!a->path) st = ML_RESOURCE;
done:
    return st;
}

ml_status prompts_name_adapters(prompts *p, const option_list *words)
{
    for (int64_t i = 0; i < words->count; i++) {
        const char *word = words->items[i], *equals = strchr(word, '='), *slash = strchr(word, '/');
        bool named = equals && equals > word && (!slash || equals < slash);
        ml_status st = named ? add_adapter(p, word, equals - word, equals + 1)
                             : add_adapter(p, word, (int64_t)strlen(word), word);
        if (st != ML_OK) return st;
        const char *name = p->adapters[p->nadapters - 1].name;
        if (find_adapter(p, name) != p->nadapters - 1)
            return ml_fail(
                ML_USAGE,
                "--adapter: \"%s\" comes twice; give one of them another name: --adapter NAME=PATH",
                name);
    }
    p->given = p->nadapters;
    return ML_OK;
}

const char *prompts_adapter_name(const prompts *p, int64_t i)
{
    int64_t adapter = p->items[i].adapter;
    return adapter < 0 ? NULL : p->adapters[adapter].name;
}

/* ---- prompts ------------------------------------------------------------------------------- */

static ml_status make_room(prompts *p)
{
    if (p->count < p->capacity) return ML_OK;
    ml_status st = ML_OK;
    int64_t capacity = ml_max(64, 2 * p->capacity);
    ml_prompt *items = NULL;
    char **texts = NULL;
    ML_NEW(items, capacity, ML_MEM_OTHER, "prompts");
    ML_NEW(texts, capacity, ML_MEM_OTHER, "prompts");
    if (p->count > 0) memcpy(items, p->items, (size_t)p->count * sizeof *items);
    if (p->count > 0) memcpy(texts, p->texts, (size_t)p->count * sizeof *texts);
    ml_memory_free(p->items);
    ml_memory_free(p->texts);
    p->items = items;
    p->texts = texts;
    p->capacity = capacity;
    return ML_OK;
done:
    ml_memory_free(items);
    return st;
}

/* line: of the file, or its number on the command line */
static ml_status add_prompt(prompts *p, const char *text, int64_t adapter, int64_t line)
{
    ml_status st = make_room(p);
    if (st != ML_OK) return st;
    char *copy = ml_memory_string(text);
    if (!copy) return ML_RESOURCE;
    p->texts[p->count] = copy;
    p->items[p->count++] = (ml_prompt){.text = copy, .adapter = adapter, .line = line};
    return ML_OK;
}

/* Tokens with nothing added to them; they take the place of the text. */
static ml_status add_ids(prompts *p, const json_t *list, int64_t adapter, int64_t line)
{
    ml_status st = make_room(p);
    int32_t *ids = NULL;
    size_t i;
    json_t *id;
    if (st != ML_OK) return st;
    ML_NEW(ids, (int64_t)json_array_size(list), ML_MEM_OTHER, "a prompt's tokens");
    json_array_foreach(list, i, id)
    {
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX) {
            st = ml_fail(ML_INPUT, "\"prompt_ids\": element %zu is no token's number", i);
            goto done;
        }
        ids[i] = (int32_t)value;
    }
    p->texts[p->count] = (char *)ids;
    p->items[p->count++] = (ml_prompt){
        .ids = ids, .nids = (int64_t)json_array_size(list), .adapter = adapter, .line = line};
    return ML_OK;
done:
    ml_memory_free(ids);
    return st;
}

/* What a line has for the chat template beside what is said. */
static ml_status add_variables(const json_t *line, ml_text *said)
{
    static const char *const keys[] = {"tools", "chat_template_kwargs", "system"};
    ml_status st = ML_OK;
    for (int i = 0; st == ML_OK && i < 3; i++) {
        json_t *value = json_object_get(line, keys[i]);
        char *json =
            value ? ml_json_dump(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17))
                  : NULL;
        if (json)
            st = ml_text_printf(said, ", \"%s\": %s", keys[i], json);
        else if (value)
            st = ml_fail(ML_RESOURCE, "out of memory: a line's JSON");
        free(json);
    }
    return st;
}

/* A text, which in a chat is what the user says. `line`: the object that it is from; NULL: none. */
static ml_status add_words(prompts *p, const char *words, const json_t *line, int64_t adapter,
                           int64_t number)
{
    ml_text said = {0};
    if (!p->chat) return add_prompt(p, words, adapter, number);
    ml_status st = ml_text_printf(&said, "{\"messages\": [{\"role\": \"user\", \"content\": ");
    if (st == ML_OK) st = json_text_add(&said, words, (int64_t)strlen(words));
    if (st == ML_OK) st = ml_text_printf(&said, "}]");
    if (st == ML_OK) st = add_variables(line, &said);
    if (st == ML_OK) st = ml_text_printf(&said, "}");
    if (st == ML_OK) st = add_prompt(p, said.data, adapter, number);
    ml_text_destroy(&said);
    return st;
}

ml_status prompts_add_texts(prompts *p, const option_list *texts)
{
    ml_status st = ML_OK;
    int64_t first = p->nadapters ? 0 : -1, end = p->nadapters ? p->nadapters : 0;
    for (int64_t adapter = first; adapter < end; adapter++)
        for (int64_t i = 0; i < texts->count && st == ML_OK; i++)
            st = add_words(p, texts->items[i], NULL, adapter, i + 1);
    return st;
}

/* ---- a file -------------------------------------------------------------------------------- */

/* The adapter that a line names; *adapter as it was where it names none. */
static ml_status read_adapter(prompts *p, const json_t *line, const char *path, int64_t number,
                              int64_t *adapter)
{
    const json_t *name = json_object_get(line, "adapter");
    if (!name) return ML_OK;
    *adapter = -1;
    if (json_is_null(name)) return ML_OK;
    if (!json_is_string(name) || json_string_length(name) == 0)
        return ml_fail(ML_INPUT, "%s:%" PRId64 ": \"adapter\" is neither a name nor null", path,
                       number);
    const char *text = json_string_value(name);
    *adapter = find_adapter(p, text);
    if (*adapter >= 0) return ML_OK;
    if (access(text, F_OK) != 0)
        return ml_fail(ML_INPUT,
                       "%s:%" PRId64 ": adapter \"%s\" is no name that --adapter gave, and no file",
                       path, number, text);
    *adapter = p->nadapters;
    return add_adapter(p, text, (int64_t)strlen(text), text);
}

static const char *const prompt_members[] = {"prompt", "prompt_ids", "adapter", NULL};
static const char *const chat_members[] = {
    "prompt", "prompt_ids",           "adapter", "messages", "completion", "conversations",
    "tools",  "chat_template_kwargs", "system",  NULL};

/* NULL also where the member is null, as rows of tables have those that they lack. */
static const json_t *find_member(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    return json_is_null(value) ? NULL : value;
}

static ml_status read_line(prompts *p, const char *bytes, int64_t length, const char *path,
                           int64_t number)
{
    ml_status st = ML_OK;
    json_error_t error;
    json_t *line;
    st = ml_json_parse(&line, bytes, length, JSON_REJECT_DUPLICATES, &error);
    const json_t *prompt = find_member(line, "prompt"), *ids = find_member(line, "prompt_ids");
    int64_t adapter = p->given == 1 ? 0 : -1;
    if (!line)
        st = ml_fail_within(st, "%s:%" PRId64 ": no JSON object", path, number);
    else if (ids && (prompt || p->chat || !json_is_array(ids)))
        st = ml_fail(ML_INPUT,
                     "%s:%" PRId64 ": \"prompt_ids\" is no list, or stands beside \"prompt\" or "
                     "--chat",
                     path, number);
    else if (!ids && !json_is_string(prompt) && !p->chat)
        st = ml_fail(ML_INPUT,
                     "%s:%" PRId64
                     ": no text \"prompt\"; expected {\"prompt\": \"…\", \"adapter\": \"…\"}%s",
                     path, number, json_is_array(prompt) ? "; lists of messages take --chat" : "");
    else if (p->chat && json_is_string(prompt) &&
             (find_member(line, "messages") || find_member(line, "conversations")))
        st = ml_fail(ML_INPUT,
                     "%s:%" PRId64 ": a text \"prompt\" beside a list of messages: which of them "
                     "is to be answered?; leave one of them out",
                     path, number);
    else
        st = read_adapter(p, line, path, number, &adapter);
    if (st == ML_OK) st = unread_note(&p->unread, line, p->chat ? chat_members : prompt_members);
    if (st == ML_OK && ids) {
        st = add_ids(p, ids, adapter, number);
        if (st != ML_OK) st = ml_fail_within(st, "%s:%" PRId64, path, number);
    } else if (st == ML_OK)
        st = json_is_string(prompt) ? add_words(p, json_string_value(prompt), line, adapter, number)
                                    : add_prompt(p, bytes, adapter, number);
    json_decref(line);
    return st;
}

ml_status prompts_read(prompts *p, const char *path)
{
    ml_status st = ML_OK;
    const ml_text_kind kind = {"file of prompts", largest_file, ML_INPUT};
    ml_line_reader reader = {0};
    ml_text text = {0};
    bool more;
    ML_TRY(ml_grid_read_text(path, &kind, &text));
    ML_TRY(ml_line_reader_open_text(&reader, path, &text));
    for (;;) {
        ML_TRY(ml_line_reader_next(&reader, &more));
        if (!more) break;
        if (reader.line.length > 0)
            ML_TRY(read_line(p, reader.line.data, reader.line.length, path, reader.number));
    }
    if (p->count == 0)
        st = ml_fail(ML_INPUT,
                     "%s: no prompt in it; expected lines {\"prompt\": \"…\", \"adapter\": \"…\"}",
                     path);
    else
        st = unread_warn(p->unread, path,
                         p->chat
                             ? "a conversation, or {\"prompt\": \"…\"}, with \"adapter\""
                             : "{\"prompt\": \"…\", \"adapter\": \"…\"}, or with \"prompt_ids\"");
done:
    ml_line_reader_close(&reader);
    ml_text_destroy(&text);
    return st;
}

/* ---- chats --------------------------------------------------------------------------------- */

/* On rank 0: [turn_end, text, …]. */
static ml_status render_all(const prompts *p, ml_chat *chat, const char *file, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    int32_t end = -1;
    ML_TRY(ml_chat_end_token(chat, &end));
    ML_TRY(ml_text_printf(out, "[%" PRId32, end));
    for (int64_t i = 0; i < p->count; i++) {
        text.length = 0;
        st = ml_chat_prompt(chat, p->texts[i], (int64_t)strlen(p->texts[i]), &text);
        if (st == ML_OK && text.length > 0 && memchr(text.data, '\0', (size_t)text.length))
            st = ml_fail(ML_INPUT, "the chat template writes a zero byte, which ends a prompt");
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s:%" PRId64, file ? file : "--prompt", p->items[i].line);
            goto done;
        }
        ML_TRY(ml_text_printf(out, ", "));
        ML_TRY(json_text_add(out, text.data, text.length));
    }
    ML_TRY(ml_text_printf(out, "]"));
done:
    ml_text_destroy(&text);
    return st;
}

static ml_status render_here(const prompts *p, const char *path, const chat_given *given,
                             const char *file, ml_text *out)
{
    ml_status st = ML_OK;
    ml_base *base = NULL;
    ml_tokenizer *tokenizer = NULL;
    ml_chat *chat = NULL;
    int64_t length;
    ML_TRY(ml_base_open(&base, path));
    const char *json = ml_base_tokenizer(base, &length);
    if (length) ML_TRY(ml_tokenizer_create(&tokenizer, json, length));
    ML_TRY(chat_template_require(&chat, given, base, path, tokenizer));
    st = render_all(p, chat, file, out);
done:
    ml_chat_destroy(chat);
    ml_tokenizer_destroy(tokenizer);
    ml_base_close(base);
    return st;
}

/* The texts in the place of the conversations. */
static ml_status take_texts(prompts *p, const ml_text *all)
{
    ml_status st = ML_OK;
    json_t *list = NULL;
    json_error_t error;
    ML_TRY(ml_json_parse(&list, all->data, all->length, JSON_ALLOW_NUL, &error));
    p->turn_end = (int32_t)json_integer_value(json_array_get(list, 0));
    for (int64_t i = 0; i < p->count; i++) {
        const char *text = json_string_value(json_array_get(list, (size_t)i + 1));
        char *copy = ml_memory_string(text ? text : "");
        if (!copy) {
            st = ML_RESOURCE;
            goto done;
        }
        ml_memory_free(p->texts[i]);
        p->items[i].text = p->texts[i] = copy;
    }
done:
    json_decref(list);
    return st;
}

ml_status prompts_render(prompts *p, const char *base, const chat_given *given, const char *file)
{
    ml_status st = ML_OK;
    ml_text all = {0};
    if (ml_grid_world_rank() == 0) st = render_here(p, base, given, file, &all);
    ML_TRY(ml_grid_settle(st));
    ML_TRY(ml_grid_share_text(&all));
    ML_TRY(take_texts(p, &all));
done:
    ml_text_destroy(&all);
    return st;
}

void prompts_destroy(prompts *p)
{
    for (int64_t i = 0; i < p->count; i++) ml_memory_free(p->texts[i]);
    for (int64_t i = 0; i < p->nadapters; i++) {
        ml_memory_free(p->adapters[i].name);
        ml_memory_free(p->adapters[i].path);
    }
    json_decref(p->unread);
    ml_memory_free(p->items);
    ml_memory_free(p->texts);
    *p = (prompts){0};
}
