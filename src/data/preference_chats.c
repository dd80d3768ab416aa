/* Rows of preferences whose prompt and answers are lists of messages. The chat template renders the
 * prompt with the beginning of an answer behind it, and the prompt with each answer's messages; the
 * tokens that all of them begin with are the prompt's, what each has behind these its answer's.
 *
 * A row without a prompt has one all the same: what chosen and rejected begin with in common. */
#include <inttypes.h>

#include "data/chat_private.h"
#include "data/tokenize_private.h"

/* ---- rows without a prompt ------------------------------------------------------------------ */

/* The messages in common, of which the last one of either is none: an answer is left. */
static int64_t common_messages(const json_t *a, const json_t *b)
{
    size_t least =
               json_array_size(a) < json_array_size(b) ? json_array_size(a) : json_array_size(b),
           n = 0;
    while (n + 1 < least && json_equal(json_array_get(a, n), json_array_get(b, n))) n++;
    return (int64_t)n;
}

/* Bytes in common, whole characters, less a blank at their end, which belongs to the answers, and
 * less a character where one text is the other's beginning. */
static int64_t common_text(const json_t *a, const json_t *b)
{
    const char *x = json_string_value(a), *y = json_string_value(b);
    int64_t least = ml_min((int64_t)json_string_length(a), (int64_t)json_string_length(b)), n = 0;
    while (n < least && x[n] == y[n]) n++;
    bool whole = n == least;
    if (whole && n > 0) n--;
    while (n > 0 && (((unsigned char)x[n] & 0xc0) == 0x80 || ((unsigned char)y[n] & 0xc0) == 0x80))
        n--;
    return !whole && n > 0 && x[n - 1] == ' ' ? n - 1 : n;
}

static json_t *slice(const json_t *list, int64_t first, int64_t end)
{
    json_t *out = json_array();
    for (int64_t i = first; i < end; i++)
        if (json_array_append(out, json_array_get(list, (size_t)i))) break;
    return out;
}

static json_t *text_slice(const json_t *text, int64_t first, int64_t end)
{
    return json_stringn(json_string_value(text) + first, (size_t)(end - first));
}

ml_status ml_tokenize_find_prompt(const json_t *row, json_t **out)
{
    const json_t *chosen = json_object_get(row, "chosen"),
                 *rejected = json_object_get(row, "rejected");
    bool lists = json_is_array(chosen) && json_is_array(rejected),
         texts = json_is_string(chosen) && json_is_string(rejected);
    if (!lists && !texts)
        return ml_fail(ML_INPUT, "chosen and rejected are neither two texts nor two lists of "
                                 "messages");
    int64_t n = lists ? common_messages(chosen, rejected) : common_text(chosen, rejected);
    if (n < 1)
        return ml_fail(ML_INPUT, "there is no prompt, and chosen and rejected do not begin alike");
    json_t *(*part)(const json_t *, int64_t, int64_t) = lists ? slice : text_slice;
    int64_t c = lists ? (int64_t)json_array_size(chosen) : (int64_t)json_string_length(chosen),
            r = lists ? (int64_t)json_array_size(rejected) : (int64_t)json_string_length(rejected);
    json_t *copy = json_copy((json_t *)(uintptr_t)row);
    if (!copy || json_object_set_new(copy, "prompt", part(chosen, 0, n)) ||
        json_object_set_new(copy, "chosen", part(chosen, n, c)) ||
        json_object_set_new(copy, "rejected", part(rejected, n, r))) {
        json_decref(copy);
        return ml_fail(ML_RESOURCE, "out of memory: a row of preferences");
    }
    *out = copy;
    return ML_OK;
}

/* A message of the user, or of a tool, in which they differ would be learnt as an answer. */
ml_status ml_tokenize_check_prompts(const json_t *row)
{
    const json_t *lists[] = {json_object_get(row, "chosen"), json_object_get(row, "rejected")};
    size_t n = 0;
    while (n < json_array_size(lists[0]) &&
           json_equal(json_array_get(lists[0], n), json_array_get(lists[1], n)))
        n++;
    if (n >= json_array_size(lists[0]) || n >= json_array_size(lists[1])) return ML_OK;
    for (int i = 0; i < 2; i++) {
        const char *role = ml_message_role(json_array_get(lists[i], n));
        if (role && strcmp(role, "assistant") != 0)
            return ml_fail(ML_INPUT,
                           "chosen and rejected differ first in their message %zu, which is no "
                           "answer (%.40s): a pair has one prompt, and these have two",
                           n + 1, role);
    }
    return ML_OK;
}

/* ---- messages ------------------------------------------------------------------------------- */

ml_status ml_tokenize_part(const json_t *row, const char *key, json_t **out)
{
    static const char *const kept[] = {"tools", "chat_template_kwargs"};
    const json_t *prompt = json_object_get(row, "prompt");
    json_t *messages = slice(prompt, 0, (int64_t)json_array_size(prompt)), *object = json_object(),
           *answer = key ? json_object_get(row, key) : NULL;
    bool good = messages && object && json_object_set(object, "messages", messages) == 0;
    if (good && answer) good = json_array_extend(messages, answer) == 0;
    for (int i = 0; good && i < 2; i++) {
        json_t *value = json_object_get(row, kept[i]);
        good = !value || json_object_set(object, kept[i], value) == 0;
    }
    json_decref(messages);
    if (good) {
        *out = object;
        return ML_OK;
    }
    json_decref(object);
    return ml_fail(ML_RESOURCE, "out of memory: a row of preferences");
}

/* The i-th part of a row: as it was rendered ahead, else now. */
static ml_status render(ml_tokenize_job *job, const json_t *row, const char *const *keys, int64_t i,
                        ml_ids *out)
{
    ml_status st = ML_OK;
    ml_chat *chat = job->options->chat;
    const json_t *ahead = job->ahead ? ml_ahead_rendered(job->ahead) : NULL;
    json_t *part = NULL, *answer = json_incref((json_t *)(uintptr_t)ahead),
           *text = json_array_get(json_object_get(ahead, "texts"), (size_t)i);
    ML_TRY(ml_chat_check_rendered(ahead));
    if (!text) {
        ML_TRY(ml_tokenize_part(row, i > 0 ? keys[i] : NULL, &part));
        json_decref(answer);
        answer = NULL;
        ML_TRY(ml_chat_render_text(ml_chat_get_renderer(chat), part, i == 0, &answer));
        text = json_object_get(answer, "text");
    }
    const ml_chat_found found = ml_tokenize_find_rendered(job, text);
    st = ml_chat_encode_text(chat, text, json_is_true(json_object_get(answer, "dated")), &found,
                             out);
    const json_t *const values[] = {json_object_get(row, keys[0]), json_object_get(row, keys[i]),
                                    json_object_get(row, "tools"),
                                    json_object_get(row, "chat_template_kwargs")};
    ml_chat_note_nulls(chat, values, 4, json_string_value(text), (int64_t)json_string_length(text),
                       job->line);
done:
    json_decref(part);
    json_decref(answer);
    return st;
}

static int64_t common_ids(const ml_ids *a, const ml_ids *b)
{
    int64_t n = 0, least = ml_min(a->count, b->count);
    while (n < least && a->data[n] == b->data[n]) n++;
    return n;
}

static void drop_first(ml_ids *ids, int64_t n)
{
    ids->count -= n;
    memmove(ids->data, ids->data + n, (size_t)ids->count * sizeof *ids->data);
}

/* Where the template writes the prompt otherwise once an answer follows, the rest of it belongs to
 * the answers, which are learnt. */
static void warn_of_rest(ml_tokenize_job *job, int64_t rest)
{
    if (job->warned_of_prompts || rest == 0) return;
    job->warned_of_prompts = true;
    ml_warn("%s: line %" PRId64 ": the chat template, or a token across the border, changes the "
            "last %" PRId64 " tokens of a prompt once an answer follows: what stands there instead "
            "counts as answer (this is said once)",
            job->options->in, job->line, rest);
}

ml_status ml_tokenize_render_parts(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                                   int64_t count, ml_ids *part)
{
    ml_status st = ML_OK;
    int64_t common;
    if (!job->options->chat) return ml_tokenize_no_chat(job, "lists of messages");
    for (int64_t i = 0; i < count; i++) {
        const json_t *list = json_object_get(row, keys[i]);
        if (!json_is_array(list) || json_array_size(list) == 0)
            return ml_fail(ML_INPUT, "\"%s\" %s; the other parts of the row are lists of messages",
                           keys[i],
                           !list                 ? "is missing"
                           : json_is_array(list) ? "has no message"
                                                 : "is no list of messages");
    }
    ML_TRY(render(job, row, keys, 0, &part[0]));
    common = part[0].count;
    for (int64_t i = 1; i < count; i++) {
        ML_TRY(render(job, row, keys, i, &part[i]));
        common = ml_min(common, common_ids(&part[0], &part[i]));
    }
    warn_of_rest(job, part[0].count - common);
    part[0].count = common;
    for (int64_t i = 1; i < count; i++) drop_first(&part[i], common);
done:
    return st;
}
