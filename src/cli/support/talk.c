/* Conversations line by line: every turn is rendered anew with all that was said before. */
#include "cli/support/talk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/json.h"
#include "io/utf8.h"
#include "mpilora/grid.h"

static ml_status open_here(talk *t, const char *path, const chat_given *given)
{
    ml_status st = ML_OK;
    int64_t length;
    t->messages = json_array();
    if (!t->messages) return ml_fail(ML_RESOURCE, "out of memory: a conversation");
    ML_TRY(ml_base_open(&t->base, path));
    const char *json = ml_base_tokenizer(t->base, &length);
    if (length) ML_TRY(ml_tokenizer_create(&t->tokenizer, json, length));
    ML_TRY(chat_template_require(&t->chat, given, t->base, path, t->tokenizer));
    st = ml_chat_end_token(t->chat, &t->turn_end);
done:
    return st;
}

ml_status talk_open(talk *t, const char *base, const chat_given *given)
{
    ml_status st = ML_OK;
    ml_text end = {0};
    *t = (talk){.turn_end = -1};
    if (ml_grid_world_rank() == 0) st = open_here(t, base, given);
    ML_TRY(ml_grid_settle(st));
    ML_TRY(ml_text_printf(&end, "%" PRId32, t->turn_end));
    ML_TRY(ml_grid_share_text(&end));
    t->turn_end = (int32_t)strtol(end.data, NULL, 10);
done:
    ml_text_destroy(&end);
    return st;
}

void talk_close(talk *t)
{
    ml_chat_destroy(t->chat);
    ml_tokenizer_destroy(t->tokenizer);
    ml_base_close(t->base);
    json_decref(t->messages);
    ml_text_destroy(&t->line);
}

/* *more false at the end of the input. */
static ml_status read_line(talk *t, bool *more)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    size_t room = 0;
    ssize_t length = getline(&bytes, &room, stdin);
    t->line.length = 0;
    *more = length > 0;
    if (*more && bytes[length - 1] == '\n') length--;
    if (*more && memchr(bytes, '\0', (size_t)length))
        st = ml_fail(ML_INPUT, "standard input: a line has a zero byte, which ends a prompt");
    else if (length > 0)
        st = ml_text_add(&t->line, bytes, length);
    free(bytes);
    return st;
}

static ml_status add_message(talk *t, const char *role, const ml_text *text)
{
    json_t *message = json_pack("{s:s, s:s%}", "role", role, "content",
                                text->data ? text->data : "", (size_t)text->length);
    if (message && json_array_append_new(t->messages, message) == 0) return ML_OK;
    return ml_fail(ML_INPUT, "what the %s says is not valid UTF-8", role);
}

static ml_status render(talk *t, ml_text *prompt)
{
    json_t *root = json_pack("{s:O}", "messages", t->messages);
    char *json = root ? ml_json_dump(root, JSON_COMPACT) : NULL;
    ml_status st = json ? ml_chat_prompt(t->chat, json, (int64_t)strlen(json), prompt)
                        : ml_fail(ML_RESOURCE, "out of memory: a conversation");
    free(json);
    json_decref(root);
    return st;
}

ml_status talk_next(void *self, const ml_text *answer, ml_text *prompt, bool *more)
{
    talk *t = self;
    ml_status st = ML_OK;
    ml_text said = {0};
    if (answer) {
        fwrite(answer->data, 1, (size_t)answer->length, stdout);
        fputs("\n", stdout);
        if (fflush(stdout)) return ml_fail(ML_RESOURCE, "standard output: cannot be written");
        ML_TRY(ml_utf8_add(&said, answer->data, answer->length)); /* it may end in a letter */
        ML_TRY(add_message(t, "assistant", &said));
    }
    do {
        if (isatty(STDIN_FILENO)) fputs("> ", stderr);
        ML_TRY(read_line(t, more));
    } while (*more && t->line.length == 0);
    if (!*more) goto done;
    ML_TRY(add_message(t, "user", &t->line));
    ML_TRY(render(t, prompt));
done:
    ml_text_destroy(&said);
    return st;
}
