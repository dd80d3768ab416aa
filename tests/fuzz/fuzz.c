/* fuzz: gives damaged inputs to one reader, one after the other, in one process.
 *
 *   fuzz READER FOLDER COUNT [FIRST]
 *
 * FOLDER holds valid inputs (test_fuzz.py makes them). Mutation number N of a reader is always the
 * same. Whatever comes, a reader answers with a status that is good, usage, input or resource,
 * within ten seconds, gives back all memory that it accounts for, and takes no more than a limit
 * that follows from the input's size. FOLDER/current holds the number in work, so that a crash
 * names it; the input that caused it stays in place.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "heads.h"
#include "mpilora/config.h"
#include "mpilora/data.h"
#include "mpilora/grid.h"
#include "mpilora/import.h"
#include "mpilora/inspect.h"
#include "mpilora/store.h"
#include "mutate.h"

enum { SECONDS = 10, PATH = 4096, LARGEST = 8 << 20 };
static const int64_t memory_base = 160 << 20,
                     memory_per_byte =
                         64; /* an import has buffers of 128 MiB, whatever it imports */
static const char *folder;

/* A path in the folder; good for the next call, too. */
static const char *at(const char *name)
{
    static char path[2][PATH];
    static int which;
    which = 1 - which;
    snprintf(path[which], PATH, "%s/%s", folder, name);
    return path[which];
}

/* ---- readers: each gets the path of the input (a file, or the directory that it lies in) ---- */

/* What an import made must be readable. */
static ml_status read_model_as(const char *path, bool keep)
{
    ml_base *base = NULL;
    const char *out = at("out.h5");
    ml_status st = ml_import(path, &(ml_import_options){.dtype = ML_BF16, .keep = keep}, out);
    if (st == ML_OK) st = ml_base_open(&base, out);
    if (st == ML_OK) {
        int64_t length;
        ml_tokenizer *tokenizer = NULL;
        ml_ids ids = {0};
        const char *json = ml_base_tokenizer(base, &length),
                   text[] = "a line, 12 words & \xe2\x82\xac\n  and <|endoftext|>";
        if (length) st = ml_tokenizer_create(&tokenizer, json, length);
        if (tokenizer && st == ML_OK)
            st = ml_tokenizer_encode(tokenizer, text, (int64_t)strlen(text), true, &ids);
        ml_ids_destroy(&ids);
        ml_tokenizer_destroy(tokenizer);
    }
    ml_base_close(base);
    (void)unlink(out);
    return st;
}

static ml_status read_model(const char *path) { return read_model_as(path, false); }

/* Packed matrices: widened, and kept in blocks, which usage says where none can be. */
static ml_status read_packed(const char *path)
{
    ml_status st = read_model_as(path, false);
    if (st == ML_OK && (st = read_model_as(path, true)) == ML_USAGE) st = ML_OK;
    return st;
}

/* A tokenizer alone, and what it makes of a text, there and back. */
static ml_status read_tokenizer(const char *path)
{
    static const char text[] =
        "A l\u00edne, 12 words & \u20ac\n  <user> and <|endoftext|> \u6d77\xff";
    ml_text json = {0}, back = {0};
    ml_tokenizer *tokenizer = NULL;
    ml_ids ids = {0};
    bool found = false;
    ml_status st = ml_tokenizer_from_directory(path, &json, &found);
    if (st == ML_OK && found) st = ml_tokenizer_create(&tokenizer, json.data, json.length);
    if (tokenizer) st = ml_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids);
    if (tokenizer && st == ML_OK) st = ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back);
    ml_ids_destroy(&ids);
    ml_text_destroy(&json);
    ml_text_destroy(&back);
    ml_tokenizer_destroy(tokenizer);
    return st;
}

static ml_status read_adapter(const char *path)
{
    ml_base *base = NULL;
    ml_adapter adapter = {0};
    ml_status st = ml_base_open(&base, at("base.h5"));
    if (st != ML_OK) return ML_INTERNAL;
    st = ml_adapter_read(&adapter, path, ml_base_spec(base), ml_base_source_hash(base));
    ml_adapter_destroy(&adapter);
    ml_base_close(base);
    return st;
}

static ml_status read_run_yaml(const char *path)
{
    ml_run_config config = {0};
    ml_status st = ml_run_config_read(&config, path, NULL, 0);
    if (st == ML_OK) ml_run_config_destroy(&config);
    return st;
}

static ml_status read_model_yaml(const char *path)
{
    ml_model_spec spec;
    return ml_model_spec_read(&spec, path);
}

static ml_status read_table(const char *path, ml_text_format format, const char *task)
{
    const char *base = at("base.h5"), *out = at("out.h5");
    ml_tokenize_report report;
    ml_base *model = NULL;
    ml_tokenizer *tokenizer = NULL;
    int64_t length;
    ml_status st = ml_base_open(&model, base);
    const char *json = st == ML_OK ? ml_base_tokenizer(model, &length) : NULL;
    if (!json || ml_tokenizer_create(&tokenizer, json, length) != ML_OK) return ML_INTERNAL;
    const ml_tokenize_options options = {.in = path,
                                         .out = out,
                                         .format = format,
                                         .tokenizer = tokenizer,
                                         .tokenizer_hash = ml_base_tokenizer_hash(model),
                                         .vocab = ml_base_spec(model)->vocab,
                                         .context = 64,
                                         .task = task};
    st = ml_tokenize_file(&options, &report);
    ml_tokenizer_destroy(tokenizer);
    ml_base_close(model);
    (void)unlink(out);
    return st;
}

static ml_status read_lines(const char *path, ml_text_format format)
{
    return read_table(path, format, NULL);
}

static ml_status read_jsonl(const char *path) { return read_lines(path, ML_FORMAT_JSONL); }
static ml_status read_e2e(const char *path) { return read_lines(path, ML_FORMAT_E2E); }
static ml_status read_text(const char *path) { return read_lines(path, ML_FORMAT_TEXT); }
static ml_status read_ids(const char *path) { return read_lines(path, ML_FORMAT_IDS); }

static ml_status read_conll(const char *path) { return read_lines(path, ML_FORMAT_CONLL); }
static ml_status read_qqp(const char *path) { return read_table(path, ML_FORMAT_GLUE, "qqp"); }

static ml_status read_mnli(const char *path) { return read_table(path, ML_FORMAT_GLUE, "mnli"); }
static ml_status read_stsb(const char *path) { return read_table(path, ML_FORMAT_GLUE, "stsb"); }
static ml_status read_cola(const char *path) { return read_table(path, ML_FORMAT_GLUE, "cola"); }

static ml_status read_headed(const char *path) { return read_headed_model(path, at("out.h5")); }
static ml_status read_sentences(const char *path)
{
    return read_sentence_directory(path, at("out.h5"));
}
static ml_status read_class_adapter(const char *path)
{
    return read_headed_adapter(path, at("encoder.h5"));
}
static ml_status read_token_adapter(const char *path)
{
    return read_headed_adapter(path, at("base.h5"));
}

static ml_status read_names(const char *path)
{
    ml_label_names names = {0};
    ml_status st = ml_label_names_read(&names, path);
    ml_label_names_destroy(&names);
    return st;
}

static ml_status read_dataset(const char *path)
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_open(&data, path);
    for (int64_t i = 0; st == ML_OK && i < ml_dataset_sequences(data); i++) {
        int32_t token[64];
        uint8_t mask[64];
        float *label = ml_memory_alloc(ml_max(1, ml_dataset_label_count(data)), sizeof *label,
                                       ML_MEM_OTHER, "a label");
        st = ml_dataset_read(data, i, 64, token, mask);
        if (st == ML_OK) st = ml_dataset_read_label(data, i, label);
        if (st == ML_OK) st = ml_dataset_read_token_labels(data, i, 64, token);
        if (st == ML_OK) st = ml_dataset_read_types(data, i, 64, mask);
        ml_memory_free(label);
    }
    ml_dataset_destroy(data);
    return st;
}

static ml_status read_base(const char *path)
{
    ml_base *base = NULL;
    ml_text text = {0};
    ml_status st = ml_base_open(&base, path);
    ml_base_close(base);
    if (st == ML_OK) st = ml_inspect(path, &text);
    ml_text_destroy(&text);
    return st;
}

/* inspect reads manifest and state of a checkpoint as a resumed run does: hashes first. */
static ml_status read_checkpoint(const char *path)
{
    ml_text text = {0};
    ml_status st = ml_inspect(path, &text);
    ml_text_destroy(&text);
    return st;
}

typedef struct reader {
    const char *name, *file, *path; /* what is damaged, what the reader is given */
    mutate_kind kind;
    ml_status (*read)(const char *path);
} reader;

static const reader readers[] = {
    {"safetensors", "hf/model.safetensors", "hf", MUTATE_SAFETENSORS, read_model},
    {"index", "sharded/model.safetensors.index.json", "sharded", MUTATE_TEXT, read_model},
    {"config", "hf/config.json", "hf", MUTATE_TEXT, read_model},
    {"tokenizer", "hf/tokenizer.json", "hf", MUTATE_TEXT, read_model},
    {"tokenizer-llama", "llama/tokenizer.json", "llama", MUTATE_TEXT, read_tokenizer},
    {"tokenizer-unigram", "unigram/tokenizer.json", "unigram", MUTATE_TEXT, read_tokenizer},
    {"tokenizer-bert", "bert/tokenizer.json", "bert", MUTATE_TEXT, read_tokenizer},
    {"tokenizer-suffix", "suffix/tokenizer.json", "suffix", MUTATE_TEXT, read_tokenizer},
    {"sentencepiece-bpe", "sentencepiece-bpe/tokenizer.model", "sentencepiece-bpe", MUTATE_BINARY,
     read_tokenizer},
    {"sentencepiece-unigram", "sentencepiece-unigram/tokenizer.model", "sentencepiece-unigram",
     MUTATE_BINARY, read_tokenizer},
    {"words", "words.d/vocab.txt", "words.d", MUTATE_TEXT, read_tokenizer},
    {"vocab", "vocab/vocab.json", "vocab", MUTATE_TEXT, read_model},
    {"merges", "vocab/merges.txt", "vocab", MUTATE_TEXT, read_model},
    {"packed-fp8", "packed-fp8/model.safetensors", "packed-fp8", MUTATE_SAFETENSORS, read_packed},
    {"packed-nf4", "packed-nf4/model.safetensors", "packed-nf4", MUTATE_SAFETENSORS, read_packed},
    {"packed-int4", "packed-int4/model.safetensors", "packed-int4", MUTATE_SAFETENSORS,
     read_packed},
    {"packed-int6", "packed-int6/model.safetensors", "packed-int6", MUTATE_SAFETENSORS,
     read_packed},
    {"packed-mxfp4", "packed-mxfp4/model.safetensors", "packed-mxfp4", MUTATE_SAFETENSORS,
     read_packed},
    {"packed-nvfp4", "packed-nvfp4/model.safetensors", "packed-nvfp4", MUTATE_SAFETENSORS,
     read_packed},
    {"packed-awq", "packed-awq/model.safetensors", "packed-awq", MUTATE_SAFETENSORS, read_packed},
    {"packed-gptq", "packed-gptq/model.safetensors", "packed-gptq", MUTATE_SAFETENSORS,
     read_packed},
    {"packed-config", "packed-int4/config.json", "packed-int4", MUTATE_TEXT, read_packed},
    {"gguf", "model.gguf", "model.gguf", MUTATE_BINARY, read_model},
    {"peft-config", "peft/adapter_config.json", "peft", MUTATE_TEXT, read_adapter},
    {"peft-weights", "peft/adapter_model.safetensors", "peft", MUTATE_SAFETENSORS, read_adapter},
    {"adapter", "adapter.h5", "adapter.h5", MUTATE_BINARY, read_adapter},
    {"base", "other.h5", "other.h5", MUTATE_BINARY, read_base},
    {"dataset", "data.h5", "data.h5", MUTATE_BINARY, read_dataset},
    {"dataset-labels", "labels.h5", "labels.h5", MUTATE_BINARY, read_dataset},
    {"manifest", "run/checkpoints/step-00000002/MANIFEST.json", "run/checkpoints/step-00000002",
     MUTATE_TEXT, read_checkpoint},
    {"state", "run/checkpoints/step-00000002/state.h5", "run/checkpoints/step-00000002",
     MUTATE_BINARY, read_checkpoint},
    {"run-yaml", "run.yaml", "run.yaml", MUTATE_TEXT, read_run_yaml},
    {"model-yaml", "model.yaml", "model.yaml", MUTATE_TEXT, read_model_yaml},
    {"jsonl", "lines.jsonl", "lines.jsonl", MUTATE_TEXT, read_jsonl},
    {"e2e", "lines.e2e", "lines.e2e", MUTATE_TEXT, read_e2e},
    {"text", "lines.txt", "lines.txt", MUTATE_TEXT, read_text},
    {"ids", "lines.ids", "lines.ids", MUTATE_TEXT, read_ids},
    {"labels", "labels.jsonl", "labels.jsonl", MUTATE_TEXT, read_jsonl},
    {"labels-ids", "labels.ids", "labels.ids", MUTATE_TEXT, read_ids},
    {"glue", "qqp.tsv", "qqp.tsv", MUTATE_TEXT, read_qqp},
    {"conll", "words.conll", "words.conll", MUTATE_TEXT, read_conll},
    {"names", "names.txt", "names.txt", MUTATE_TEXT, read_names},
    {"glue-mnli", "mnli.tsv", "mnli.tsv", MUTATE_TEXT, read_mnli},
    {"glue-stsb", "stsb.tsv", "stsb.tsv", MUTATE_TEXT, read_stsb},
    {"glue-cola", "cola.tsv", "cola.tsv", MUTATE_TEXT, read_cola},
    {"related", "related.jsonl", "related.jsonl", MUTATE_TEXT, read_jsonl},
    {"predictions", "predictions.jsonl", "predictions.jsonl", MUTATE_TEXT, read_predictions},
    {"dataset-classes", "classes.h5", "classes.h5", MUTATE_BINARY, read_dataset},
    {"dataset-bits", "bits.h5", "bits.h5", MUTATE_BINARY, read_dataset},
    {"dataset-related", "related.h5", "related.h5", MUTATE_BINARY, read_dataset},
    {"head-config", "headed/config.json", "headed", MUTATE_TEXT, read_headed},
    {"head-weights", "headed/model.safetensors", "headed", MUTATE_SAFETENSORS, read_headed},
    {"masked-config", "masked/config.json", "masked", MUTATE_TEXT, read_headed},
    {"masked-weights", "masked/model.safetensors", "masked", MUTATE_SAFETENSORS, read_headed},
    {"head-adapter", "classes-adapter.h5", "classes-adapter.h5", MUTATE_BINARY, read_class_adapter},
    {"head-peft-config", "classes-peft/adapter_config.json", "classes-peft", MUTATE_TEXT,
     read_class_adapter},
    {"head-peft-weights", "classes-peft/adapter_model.safetensors", "classes-peft",
     MUTATE_SAFETENSORS, read_class_adapter},
    {"token-peft-weights", "tokens-peft/adapter_model.safetensors", "tokens-peft",
     MUTATE_SAFETENSORS, read_token_adapter},
    {"sentence-modules", "sentences/modules.json", "sentences", MUTATE_TEXT, read_sentences},
    {"sentence-pooling", "sentences/1_Pooling/config.json", "sentences", MUTATE_TEXT,
     read_sentences},
    {"sentence-length", "sentences/sentence_bert_config.json", "sentences", MUTATE_TEXT,
     read_sentences},
    {"sentence-prompts", "sentences/config_sentence_transformers.json", "sentences", MUTATE_TEXT,
     read_sentences},
};

/* ---- the loop ------------------------------------------------------------------------------ */

static void stop(const char *name, long number, const char *what)
{
    fprintf(stderr, "%s, mutation %ld: %s\n", name, number, what);
    exit(1);
}

static void too_slow(int signal)
{
    static const char text[] = "fuzz: a reader took too long\n";
    (void)signal;
    (void)!write(2, text, sizeof text - 1);
    _exit(1);
}

static size_t load(const char *path, unsigned char *bytes, size_t most)
{
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(bytes, 1, most, file) : 0;
    if (!file || size == most) stop(path, 0, "cannot be read, or is larger than expected");
    fclose(file);
    return size;
}

static void store(const char *path, const unsigned char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file))
        stop(path, 0, "cannot be written");
}

static int64_t accounted(void)
{
    int64_t bytes = 0;
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) bytes += ml_memory_current((ml_category)c);
    return bytes;
}

static void check(const reader *r, long number, ml_status st, int64_t before, size_t size)
{
    char text[256];
    const char *said = ml_error_text();
    if (st != ML_OK && st != ML_USAGE && st != ML_INPUT && st != ML_RESOURCE) {
        snprintf(text, sizeof text, "status %d: %.200s", (int)st, said);
        stop(r->name, number, text);
    }
    if (st != ML_OK && (!*said || strchr(said, '\n')))
        stop(r->name, number, "the message is not one line");
    if (accounted() != before) stop(r->name, number, "memory was not given back");
    if (ml_memory_peak_total() > memory_base + memory_per_byte * (int64_t)size) {
        snprintf(text, sizeof text, "%lld bytes were taken for an input of %zu",
                 (long long)ml_memory_peak_total(), size);
        stop(r->name, number, text);
    }
}

static void run(const reader *r, long count, long first)
{
    static unsigned char good[LARGEST], bytes[LARGEST + MUTATE_ROOM];
    char file[PATH], path[PATH], current[PATH];
    long answers[8] = {0};
    snprintf(file, sizeof file, "%s/%s", folder, r->file);
    snprintf(path, sizeof path, "%s/%s", folder, r->path);
    snprintf(current, sizeof current, "%s/current", folder);
    size_t size = load(file, good, LARGEST);
    ml_status st = r->read(path);
    if (st != ML_OK) stop(r->name, -1, ml_error_text());
    for (long number = first; number < first + count; number++) {
        char text[32];
        memcpy(bytes, good, size);
        size_t damaged = mutate(r->kind, (uint64_t)number, bytes, size);
        store(file, bytes, damaged);
        store(current, (unsigned char *)text, (size_t)snprintf(text, sizeof text, "%ld\n", number));
        int64_t before = accounted();
        alarm(SECONDS);
        st = r->read(path);
        alarm(0);
        check(r, number, st, before, damaged > size ? damaged : size);
        answers[st & 7]++;
    }
    store(file, good, size);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%s: %ld mutations: %ld read, %ld usage, %ld input, %ld resource; %ld MiB at most\n",
           r->name, count, answers[ML_OK], answers[ML_USAGE], answers[ML_INPUT],
           answers[ML_RESOURCE], usage.ru_maxrss >> 10);
}

int main(int argc, char **argv)
{
    if (argc < 4) return ML_USAGE;
    folder = argv[2];
    ml_log_enable(false);
    signal(SIGALRM, too_slow);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        if (strcmp(readers[i].name, argv[1]) != 0) continue;
        run(&readers[i], atol(argv[3]), argc > 4 ? atol(argv[4]) : 1);
        return 0;
    }
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) printf("%s\n", readers[i].name);
    return argc > 1 && !strcmp(argv[1], "list") ? 0 : ML_USAGE;
}
