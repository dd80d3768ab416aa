/* Readers of heads and labels. A success is looked at: a head has as many labels as its base file's
 * names of classes say, an adapter's head is that of the model it is put on. */
#include "heads.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "mpilora/data.h"
#include "mpilora/import.h"
#include "mpilora/score.h"
#include "mpilora/store.h"
#include "session/sentence_encoder.h"

static ml_status import_to(ml_base **base, const char *path, const char *out)
{
    ml_status st = ml_import(path, &(ml_import_options){.dtype = ML_BF16}, out);
    return st == ML_OK ? ml_base_open(base, out) : st;
}

static int64_t length_of(const char *list)
{
    json_t *json = json_loads(list, 0, NULL);
    int64_t n = (int64_t)json_array_size(json);
    json_decref(json);
    return n;
}

/* The names of classes are those of the head's labels. */
static ml_status check_names(const ml_base *base)
{
    const ml_model_spec *spec = ml_base_spec(base);
    ml_label_names names = {0};
    ml_text text = {0};
    ml_status st = ml_base_read_file(base, "config.json", &text);
    if (st == ML_OK && text.length) st = ml_label_names_of_config(&names, text.data, text.length);
    int64_t named = names.base ? length_of(names.base) : names.unnamed;
    if (st == ML_OK && spec->head != ML_HEAD_LANGUAGE && spec->labels < 1)
        st = ml_fail(ML_INTERNAL, "a head of %d labels", (int)spec->labels);
    if (st == ML_OK && spec->head != ML_HEAD_LANGUAGE && named > 0 && named != spec->labels)
        st = ml_fail(ML_INTERNAL, "a head of %d labels, of which %d have names", (int)spec->labels,
                     (int)named);
    ml_label_names_destroy(&names);
    ml_text_destroy(&text);
    return st;
}

ml_status read_headed_model(const char *path, const char *out)
{
    ml_base *base = NULL;
    ml_status st = import_to(&base, path, out);
    if (st == ML_OK) st = check_names(base);
    ml_base_close(base);
    (void)unlink(out);
    return st;
}

ml_status read_headed_adapter(const char *path, const char *file)
{
    ml_base *base = NULL;
    ml_adapter adapter = {0};
    ml_status st = ml_base_open(&base, file);
    if (st != ML_OK) return ML_INTERNAL;
    ml_model_spec spec = *ml_base_spec(base);
    st = ml_adapter_read_for(&adapter, path, base);
    if (st == ML_OK) st = ml_adapter_take_head(&adapter, &spec);
    if (st == ML_OK && spec.head != ML_HEAD_LANGUAGE && spec.labels < 1)
        st = ml_fail(ML_INTERNAL, "a head of %d labels", (int)spec.labels);
    ml_adapter_destroy(&adapter);
    ml_base_close(base);
    return st;
}

ml_status read_sentence_directory(const char *path, const char *out)
{
    ml_base *base = NULL;
    ml_pooling pooling;
    bool normalised;
    int64_t length;
    ml_text prompt = {0};
    ml_status st = import_to(&base, path, out);
    if (st == ML_OK) st = sentence_encoder_pooling(base, &pooling, &normalised);
    if (st == ML_OK) st = sentence_encoder_prompt(base, &prompt);
    if (st == ML_OK) st = sentence_encoder_length(base, &length);
    if (st == ML_OK && (length < 1 || length > ml_base_spec(base)->context))
        st = ml_fail(ML_INTERNAL, "texts of %d tokens", (int)length);
    ml_text_destroy(&prompt);
    ml_base_close(base);
    (void)unlink(out);
    return st;
}

ml_status read_predictions(const char *path)
{
    ml_predictions *set = NULL;
    ml_class_scores scores;
    ml_status st = ml_predictions_read(&set, path, ML_PREDICT_CLASS);
    if (st == ML_OK) st = ml_predictions_score(set, NULL, NULL, &scores);
    ml_predictions_destroy(set);
    return st;
}
