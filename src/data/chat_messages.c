/* Conversations as people have them, read into one form: messages with role and content. */
#include <inttypes.h>

#include "data/chat_private.h"

static const char function_call[] = "function_call";

/* ShareGPT's names of roles, and what templates call them. */
static const char *const share_gpt_roles[][2] = {
    {"human", "user"},
    {"user", "user"},
    {"gpt", "assistant"},
    {"chatgpt", "assistant"},
    {"bing", "assistant"},
    {"bard", "assistant"},
    {"assistant", "assistant"},
    {"system", "system"},
    {"tool", "tool"},
    {"observation", "tool"},
    {function_call, "assistant"},
    {NULL, NULL},
};

bool ml_conversation_is(const json_t *object)
{
    return json_object_get(object, "messages") || json_object_get(object, "conversations") ||
           json_is_array(json_object_get(object, "prompt")) ||
           json_is_array(json_object_get(object, "completion"));
}

/* ---- contents ------------------------------------------------------------------------------ */

static ml_status check_part(const json_t *part)
{
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
    if (json_is_string(type) && strcmp(json_string_value(type), "text") != 0)
        return ml_fail(ML_INPUT, "a part of type \"%.40s\" in its content; only text is read",
                       json_string_value(type));
    if (!json_is_string(type) || !json_is_string(text))
        return ml_fail(ML_INPUT,
                       "a part of its content is not {\"type\": \"text\", \"text\": \"…\"}");
    return ML_OK;
}

static ml_status check_content(const json_t *content)
{
    size_t i;
    json_t *part;
    if (!content || json_is_string(content)) return ML_OK;
    if (!json_is_array(content))
        return ml_fail(ML_INPUT, "its content is neither a text nor a list of parts");
    json_array_foreach(content, i, part)
    {
        ml_status st = check_part(part);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- messages ------------------------------------------------------------------------------ */

/* What ShareGPT's name of a role is to templates; NULL: it is none. */
static const char *share_gpt_role(const char *from)
{
    int i = 0;
    while (from && share_gpt_roles[i][0] && strcmp(share_gpt_roles[i][0], from) != 0) i++;
    return from ? share_gpt_roles[i][1] : NULL;
}

const char *ml_message_role(const json_t *message)
{
    const json_t *role = json_object_get(message, "role");
    return role ? json_string_value(role)
                : share_gpt_role(json_string_value(json_object_get(message, "from")));
}

/* One function that is called, as {"type", "function"}; NULL: it has no name. */
static json_t *wrap_function(json_t *function)
{
    return json_is_string(json_object_get(function, "name"))
               ? json_pack("{s:s, s:O}", "type", "function", "function", function)
               : NULL;
}

/* LLaMA-Factory's turn of a function call: its text is {"name", "arguments"}, or a list of these.
 */
static json_t *from_function_call(const json_t *message)
{
    const json_t *value = json_object_get(message, "value");
    json_t *given = NULL, *list = NULL, *calls = json_array(), *call;
    json_error_t error;
    size_t i;
    bool good = json_is_string(value) &&
                ml_json_parse(&given, json_string_value(value), (int64_t)json_string_length(value),
                              0, &error) == ML_OK;
    list = json_is_array(given) ? json_incref(given) : json_pack("[O]", given);
    good = good && json_array_size(list) > 0;
    json_array_foreach(list, i, call)
    {
        good = good && json_array_append_new(calls, wrap_function(call)) == 0;
    }
    json_t *out = good ? json_pack("{s:s, s:O}", "role", "assistant", "tool_calls", calls) : NULL;
    if (!out)
        (void)ml_fail(ML_INPUT, "\"value\" of a function_call is no JSON {\"name\": …, "
                                "\"arguments\": {…}}, nor a list of these");
    json_decref(given);
    json_decref(list);
    json_decref(calls);
    return out;
}

static json_t *from_turn(const json_t *message, const char *role)
{
    json_t *out =
        json_pack("{s:s, s:O}", "role", role, "content", json_object_get(message, "value"));
    if (!out) (void)ml_fail(ML_INPUT, "\"value\" is missing, or null");
    return out;
}

/* {"from", "value"} as {"role", "content"}; further keys stay. */
static json_t *from_share_gpt(const json_t *message)
{
    const char *from = json_string_value(json_object_get(message, "from")),
               *own = share_gpt_role(from);
    if (!own) {
        (void)ml_fail(ML_INPUT,
                      "\"from\" is %s%.40s%s; expected human, gpt, system, tool, observation or "
                      "function_call",
                      from ? "\"" : "", from ? from : "no text", from ? "\"" : "");
        return NULL;
    }
    json_t *out =
        strcmp(from, function_call) != 0 ? from_turn(message, own) : from_function_call(message);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)message, key, value)
    {
        if (!out || !strcmp(key, "from") || !strcmp(key, "value")) continue;
        if (!json_object_get(out, key) && json_object_set(out, key, value) == 0) continue;
        (void)ml_fail(ML_INPUT, "\"%s\" stands beside \"value\": leave one of them out", key);
        json_decref(out);
        out = NULL;
    }
    return out;
}

/* OpenAI's mark of an answer that is not learnt from. */
static ml_status check_weight(const json_t *weight)
{
    double value = json_number_value(weight);
    if (!weight) return ML_OK;
    if (json_is_number(weight) && (value == 0.0 || value == 1.0)) return ML_OK;
    return ml_fail(ML_INPUT, "its \"weight\" is neither 0 nor 1");
}

static ml_status read_message(ml_conversation *c, json_t *message)
{
    ml_status st = ML_OK;
    json_t *own = NULL;
    if (!json_is_object(message)) return ml_fail(ML_INPUT, "is not an object");
    if (json_object_get(message, "from") && !json_object_get(message, "role")) {
        own = message = from_share_gpt(message);
        if (!own) return ML_INPUT;
    }
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role) || json_string_length(role) == 0)
        st =
            ml_fail(ML_INPUT, "it has no \"role\"; expected {\"role\": \"…\", \"content\": \"…\"}");
    if (st == ML_OK) st = check_content(json_object_get(message, "content"));
    if (st == ML_OK) st = check_weight(json_object_get(message, "weight"));
    if (st == ML_OK && json_array_append(c->messages, message))
        st = ml_fail(ML_RESOURCE, "out of memory");
    json_decref(own);
    return st;
}

static ml_status read_messages(ml_conversation *c, const json_t *object, const char *key)
{
    json_t *list = json_object_get(object, key), *message;
    size_t i;
    if (!json_is_array(list)) return ml_fail(ML_INPUT, "\"%s\" is not a list of messages", key);
    json_array_foreach(list, i, message)
    {
        ml_status st = read_message(c, message);
        if (st != ML_OK) return ml_fail_within(st, "%s, message %zu", key, i + 1);
    }
    c->count = (int64_t)json_array_size(c->messages);
    return ML_OK;
}

/* ShareGPT's sets have functions without the object around them that templates expect, as
 * LLaMA-Factory's readers put it there. */
static ml_status wrap_tools(ml_conversation *c)
{
    json_t *tools = json_array(), *tool;
    size_t i;
    bool good = tools;
    json_array_foreach(c->tools, i, tool)
    {
        const bool whole = json_object_get(tool, "type") || json_object_get(tool, "function");
        json_t *wrapped = whole ? NULL : wrap_function(tool);
        good = good && json_array_append_new(tools, wrapped ? wrapped : json_incref(tool)) == 0;
    }
    json_decref(c->tools);
    c->tools = tools;
    return good ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: tools");
}

/* A list, or a text that holds one, as data sets in columns have it; an empty text says nothing. */
static ml_status read_tools(ml_conversation *c, const json_t *object, bool share_gpt)
{
    const json_t *tools = json_object_get(object, "tools");
    json_error_t error;
    if (!tools || (json_is_string(tools) && !json_string_length(tools))) return ML_OK;
    if (json_is_string(tools)) {
        ml_status st = ml_json_parse(&c->tools, json_string_value(tools),
                                     (int64_t)json_string_length(tools), 0, &error);
        if (st != ML_OK) return ml_fail_within(st, "tools");
    } else {
        c->tools = json_incref((json_t *)tools);
    }
    size_t i;
    json_t *tool;
    bool good = json_is_array(c->tools);
    json_array_foreach(c->tools, i, tool) good = good && json_is_object(tool);
    if (!good) return ml_fail(ML_INPUT, "\"tools\" is not a list of objects");
    return share_gpt ? wrap_tools(c) : ML_OK;
}

static ml_status read_variables(ml_conversation *c, const json_t *object)
{
    static const char *const own[] = {"messages",      "conversation",          "tools",
                                      "chat_template", "add_generation_prompt", NULL};
    c->variables = json_object_get(object, "chat_template_kwargs");
    if (c->variables && !json_is_object(c->variables))
        return ml_fail(ML_INPUT, "\"chat_template_kwargs\" is not an object of variables");
    for (int i = 0; own[i]; i++)
        if (json_object_get(c->variables, own[i]))
            return ml_fail(ML_INPUT,
                           "\"chat_template_kwargs\" has \"%s\", which is no variable of its "
                           "own: the row says that, or the command does",
                           own[i]);
    return ML_OK;
}

/* ShareGPT's column of what the system says, which goes before all messages. Where a message says
 * it as well, LLaMA-Factory and Axolotl drop the column; which of them is meant is a guess. */
static ml_status read_system(ml_conversation *c, const json_t *object, bool share_gpt)
{
    static const char role[] = "system";
    const json_t *text = json_object_get(object, role);
    if (!text || (json_is_string(text) && !json_string_length(text))) return ML_OK;
    if (!share_gpt)
        return ml_fail(ML_INPUT, "\"system\" changes what is trained and is read beside "
                                 "\"conversations\" alone; expected the system prompt as the first "
                                 "message");
    if (!json_is_string(text)) return ml_fail(ML_INPUT, "\"system\" is not a text");
    for (int64_t i = 0; i < c->count; i++)
        if (!strcmp(ml_conversation_role(c, i), role))
            return ml_fail(ML_INPUT,
                           "\"system\" stands beside message %" PRId64 ", which is the system's, "
                           "too: leave one of them out",
                           i + 1);
    json_t *message = json_pack("{s:s, s:O}", "role", role, "content", text);
    if (!message || json_array_insert_new(c->messages, 0, message))
        return ml_fail(ML_RESOURCE, "out of memory");
    c->count++;
    return ML_OK;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static ml_status read_prompt_and_completion(ml_conversation *c, const json_t *object)
{
    ml_status st = ML_OK;
    if (!json_object_get(object, "prompt") || !json_object_get(object, "completion"))
        return ml_fail(ML_INPUT, "there is a prompt or a completion of messages, but not both");
    ML_TRY(read_messages(c, object, "prompt"));
    c->given = c->count;
    ML_TRY(read_messages(c, object, "completion"));
    if (c->given == 0) st = ml_fail(ML_INPUT, "prompt has no message");
done:
    return st;
}

/* Sets with a column of messages often have their first question once more as a text. Where it is
 * that, nothing is lost by passing over it. */
static ml_status check_repeated_prompt(const ml_conversation *c, const json_t *prompt)
{
    for (int64_t i = 0; i < c->count; i++)
        if (!strcmp(ml_conversation_role(c, i), "user")) {
            const json_t *message = json_array_get(c->messages, (size_t)i);
            if (json_equal(json_object_get(message, "content"), prompt)) return ML_OK;
            break;
        }
    return ml_fail(ML_INPUT, "\"prompt\" is a text beside \"messages\" and not what the first "
                             "message of the user says: leave one of them out");
}

ml_status ml_conversation_read(ml_conversation *out, const json_t *object)
{
    ml_status st = ML_OK;
    const json_t *prompt = json_object_get(object, "prompt"),
                 *completion = json_object_get(object, "completion");
    const bool messages = json_object_get(object, "messages"),
               share_gpt = json_object_get(object, "conversations"),
               repeated = messages && json_is_string(prompt) && !completion,
               pair = (prompt || completion) && !repeated;
    *out = (ml_conversation){.messages = json_array()};
    if (!out->messages) return ml_fail(ML_RESOURCE, "out of memory");
    if (messages + share_gpt + pair > 1) {
        st = ml_fail(ML_INPUT, "more than one conversation: expected one of messages, "
                               "conversations, or prompt and completion");
    } else if (pair) {
        st = read_prompt_and_completion(out, object);
    } else {
        st = read_messages(out, object, messages ? "messages" : "conversations");
    }
    if (st == ML_OK && !out->count) st = ml_fail(ML_INPUT, "a conversation without a message");
    if (st == ML_OK && repeated) st = check_repeated_prompt(out, prompt);
    if (st == ML_OK) st = read_system(out, object, share_gpt);
    if (st == ML_OK) st = read_tools(out, object, share_gpt);
    if (st == ML_OK) st = read_variables(out, object);
    if (st != ML_OK) ml_conversation_destroy(out);
    return st;
}

void ml_conversation_destroy(ml_conversation *c)
{
    json_decref(c->messages);
    json_decref(c->tools);
    *c = (ml_conversation){0};
}

const char *ml_conversation_role(const ml_conversation *c, int64_t i)
{
    return json_string_value(json_object_get(json_array_get(c->messages, (size_t)i), "role"));
}
