/* Rendering by the child process, src/data/chat_template.py, which is part of the program's text.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "data/chat_private.h"

/* For one conversation: seconds of processor time, and of waiting where the machine is busy; bytes
 * of text, and of an answer with all beginnings; and the memory of the process. */
enum { CPU_SECONDS = 5, SILENCE_SECONDS = 120, TEXT_BYTES = 64 << 20, ANSWER_BYTES = 1 << 30 };
static const int64_t memory_bytes = (int64_t)1 << 30;

static const char script[] = {
#include "data/chat_template.inc"
    , '\0'};

static ml_status frame_of(json_t *value, char **out)
{
    *out = value ? ml_json_dump(value, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(value);
    return *out ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: a conversation's JSON");
}

ml_status ml_chat_renderer_copy(ml_chat_renderer *out, const ml_chat_renderer *of,
                                int64_t most_bytes)
{
    *out = (ml_chat_renderer){
        .trial = of->trial, .setup = strdup(of->setup), .most_bytes = most_bytes};
    return out->setup ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: a chat template");
}

ml_status ml_chat_renderer_create(ml_chat_renderer *out, const ml_chat_options *o, const char *date,
                                  const json_t *tokens)
{
    ml_status st = ML_OK;
    *out = (ml_chat_renderer){.most_bytes = ANSWER_BYTES};
    ML_NEW(out->trial, 1, ML_MEM_OTHER, "a chat template");
    pthread_mutex_init(&out->trial->mutex, NULL);
    out->owns_trial = true;
    json_t *setup = json_pack("{s:s, s:O, s:s, s:i, s:I, s:i}", "template", o->template_text,
                              "tokens", tokens, "now", date, "cpu_seconds", CPU_SECONDS,
                              "memory_bytes", (json_int_t)memory_bytes, "output_bytes", TEXT_BYTES);
    if (setup && o->tool_template_text)
        json_object_set_new(setup, "tool_template", json_string(o->tool_template_text));
    if (!setup) return ml_fail(ML_INPUT, "the chat template is not valid UTF-8");
    st = frame_of(setup, &out->setup);
done:
    return st;
}

void ml_chat_renderer_destroy(ml_chat_renderer *r)
{
    ml_child_end(&r->child);
    ml_text_destroy(&r->frame);
    free(r->setup);
    if (r->owns_trial) {
        pthread_mutex_destroy(&r->trial->mutex);
        ml_memory_free(r->trial);
    }
    *r = (ml_chat_renderer){0};
}

/* One question and its answer, an object; {"error": …} is left to the caller. */
static ml_status ask(ml_chat_renderer *r, const char *question, json_t **answer)
{
    ml_status st = ML_OK;
    json_error_t error;
    ML_TRY(ml_child_send(&r->child, question, (int64_t)strlen(question)));
    st = ml_child_receive(&r->child, &r->frame, r->most_bytes, SILENCE_SECONDS);
    if (st != ML_OK) {
        st = ml_fail_within(st, "the process that renders the chat template");
        goto done;
    }
    ML_TRY(ml_json_parse(answer, r->frame.data, r->frame.length, JSON_ALLOW_NUL, &error));
done:
    return st;
}

static ml_status start_child(ml_chat_renderer *r)
{
    ml_status st = ML_OK;
    json_t *answer = NULL;
    const char *python = getenv("MPILORA_PYTHON");
    char program[4096], option[] = "-c";
    snprintf(program, sizeof program, "%s", python && *python ? python : "python3");
    char *const argv[] = {program, option, (char *)script, NULL};
    st = ml_child_start(&r->child, argv);
    if (st != ML_OK)
        return ml_fail_within(
            st, "chat templates are rendered by Python with jinja2 (Debian: python3-jinja2)");
    st = ask(r, r->setup, &answer);
    if (st != ML_OK && r->child.exited)
        st = ml_fail(st, "%s; does %s -c 'import jinja2' run? MPILORA_PYTHON names another Python",
                     ml_error_text(), program);
    if (st != ML_OK) goto done;
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (error)
        st = ml_fail(strstr(error, "has no jinja2") ? ML_USAGE : ML_INPUT, "chat template: %s",
                     error);
done:
    json_decref(answer);
    if (st != ML_OK) ml_child_end(&r->child);
    return st;
}

/* The first child of all threads is started while the others wait for what comes of it, the rest
 * beside each other. */
static ml_status start(ml_chat_renderer *r)
{
    ml_status st = ML_OK;
    ml_chat_trial *t = r->trial;
    pthread_mutex_lock(&t->mutex);
    bool first = t->result == ML_TRIAL_NONE;
    if (first) {
        st = start_child(r);
        t->result = st == ML_OK ? ML_TRIAL_GOOD : ML_TRIAL_FAILED;
        t->status = st;
        if (st != ML_OK) snprintf(t->text, sizeof t->text, "%s", ml_error_text());
    } else if (t->result == ML_TRIAL_FAILED) {
        st = ml_fail(t->status, "%s", t->text);
    }
    pthread_mutex_unlock(&t->mutex);
    return first || st != ML_OK ? st : start_child(r);
}

static json_t *question_of(const ml_conversation *c, bool prompt, const ml_beginning *beginnings,
                           int64_t count)
{
    json_t *list = json_array(),
           *variables = c->variables ? json_incref(c->variables) : json_object();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("[I, b]", (json_int_t)beginnings[i].count, (int)beginnings[i].prompt));
    return json_pack("{s:O, s:O?, s:o, s:b, s:o}", "messages", c->messages, "tools", c->tools,
                     "variables", variables, "prompt", (int)prompt, "beginnings", list);
}

ml_status ml_chat_render(ml_chat_renderer *r, const ml_conversation *c, bool prompt,
                         const ml_beginning *beginnings, int64_t count, json_t **out)
{
    ml_status st = ML_OK;
    char *question = NULL;
    *out = NULL;
    if (!r->child.pid) ML_TRY(start(r));
    ML_TRY(frame_of(question_of(c, prompt, beginnings, count), &question));
    ML_TRY(ask(r, question, out));
    const char *error = json_string_value(json_object_get(*out, "error"));
    if (error) {
        json_int_t at = json_integer_value(json_object_get(*out, "message"));
        const char *role = ml_conversation_role(c, at - 1);
        st = ml_fail(ML_INPUT,
                     "the chat template fails at message %" JSON_INTEGER_FORMAT " (%s): %s", at,
                     role ? role : "?", error);
        json_decref(*out);
        *out = NULL;
    }
done:
    free(question);
    return st;
}
