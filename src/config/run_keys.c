/* The keys of a run configuration: one row says a key's path, type, range, place and meaning.
 * Reading, writing, messages, `--set` and the page docs/configuration.md come from it. */
#include <float.h>

#include "config/table.h"
#include "mpilora/config.h"

/* ---- words of choices, in the order of their enums ----------------------------------------- */

static const char *const biases[] = {"none", "all", "lora_only", NULL};
static const char *const scalings[] = {"standard", "rslora", NULL};
const char *const prefix_init_words[] = {"random", "vocabulary", "text", NULL};
const char *const schedule_words[] = {"constant", "linear", "cosine", NULL};
static const char *const activations[] = {"auto", "full", "selective", "checkpoint", NULL};
static const char *const shares[] = {"auto", "on", "off", NULL};
static const char *const loads[] = {"auto", "map", "read", NULL};
static const char *const precisions[] = {"fp32", "bf16", NULL};
static const char *const numerics[] = {"fast", "grid", NULL};
static const char *const objectives[] = {"sft",    "dpo",         "ipo",    "cpo",      "simpo",
                                         "orpo",   "kto",         "reward", "classify", "regress",
                                         "tokens", "contrastive", "mlm",    NULL};
const char *const pair_order_words[] = {"mixed", "blocks", NULL};
const char *const pooling_words[] = {"base", "mean", "cls", "last", NULL};
static const char *const pair_losses[] = {"sigmoid",
                                          "hinge",
                                          "ipo",
                                          "sigmoid_norm",
                                          "robust",
                                          "exo_pair",
                                          "nca_pair",
                                          "bco_pair",
                                          "sppo_hard",
                                          "apo_zero",
                                          "apo_down",
                                          "discopop",
                                          "aot",
                                          "aot_unpaired",
                                          "sft",
                                          "kto",
                                          "apo_zero_unpaired",
                                          NULL};
static const char *const measures[] = {"once", "always", NULL};
/* All names that the kernels know in any build: a configuration may be written for another
 * processor than that which reads it (plan). */
static const char *const products[] = {"auto",          "native",      "blas",       "onednn",
                                       "onednn-matmul", "native-bf16", "native-amx", "onednn-bf16",
                                       "ref",           NULL};
static const char *const vectors[] = {"auto", "avx512", "avx2", "generic", "ref", NULL};

const char *ml_numerics_name(ml_numerics n) { return numerics[n]; }
const char *ml_objective_name(ml_objective objective) { return objectives[objective]; }
const char *ml_pair_loss_name(ml_pair_loss loss) { return pair_losses[loss]; }

/* ---- keys, section by section -------------------------------------------------------------- */

#define AT(field) offsetof(ml_run_config, field)
#define ANY_INT 9e18

const key run_keys[] = {
    /* ---- run ------------------------------------------------------------------------------- */
    {.path = "run.dir",
     .kind = KEY_TEXT,
     .offset = AT(run_dir),
     .nullable = true,
     .about = "The folder that the run writes to; `train` needs it."},
    {.path = "run.seed",
     .kind = KEY_SEED,
     .offset = AT(seed),
     .about = "Keys initial values, dropout and order; none of them depends on the grid."},
    {.path = "run.time_limit",
     .kind = KEY_SECONDS,
     .offset = AT(time_limit),
     .least = 0,
     .open_least = true,
     .most = 1e9,
     .nullable = true,
     .about = "How long the job may run, as `90m` or `11:30:00`; the run saves and ends with code "
              "75 before. Without it `SLURM_JOB_END_TIME` counts."},
    {.path = "run.wait_limit",
     .kind = KEY_SECONDS,
     .offset = AT(wait_limit),
     .least = 0,
     .open_least = true,
     .most = 1e9,
     .nullable = true,
     .about =
         "How long a rank waits for others in one exchange before it ends the job with code 4, "
         "since a node or the way to it is gone; longer than any step, evaluation and save "
         "takes. `null`: without an end."},
    {.path = "run.prometheus",
     .kind = KEY_TEXT,
     .offset = AT(prometheus),
     .nullable = true,
     .about =
         "A folder in which the run keeps a file with its newest figures, for the collector of "
         "text files of a Prometheus node exporter."},
    {.path = "run.trace",
     .kind = KEY_BOOL,
     .offset = AT(trace),
     .about = "`trace.jsonl` gets hashes of every tensor's gradient by step and rank, before and "
              "after the sum over the grid, for `mpilora verify --same`."},

    /* ---- base ------------------------------------------------------------------------------ */
    {.path = "base",
     .kind = KEY_TEXT,
     .offset = AT(base),
     .about =
         "The base file; for `plan` also a model description as `configs/models/gpt3-175b.yaml`.",
     .absent = "needed"},

    /* ---- method: what trains --------------------------------------------------------------- */
    {.path = "method.name",
     .kind = KEY_CHOICE,
     .offset = AT(method.name),
     .choices = method_words,
     .about = "What trains; see [methods](methods.md)."},
    {.path = "method.rank",
     .kind = KEY_INT,
     .offset = AT(method.rank),
     .least = 1,
     .most = 65536,
     .about = "LoRA: the rank r of A and B."},
    {.path = "method.alpha",
     .kind = KEY_REAL,
     .offset = AT(method.alpha),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "LoRA: the scale is α/r, under `rslora` α/√r."},
    {.path = "method.dropout",
     .kind = KEY_REAL,
     .offset = AT(method.dropout),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "LoRA: dropout of the input of A; not with `dora`."},
    {.path = "method.targets",
     .kind = KEY_TARGETS,
     .offset = AT(method.targets),
     .about =
         "LoRA: which linear layers are adapted; `all` is every one of the model's layers that "
         "tokens go through. The head and the embedding are named apart, also beside `all`, by "
         "their words or as Hugging Face's models have them: `lm_head`, `embed_tokens`, `wte`; and "
         "so are `pos_q` and `pos_k`, [DeBERTa's](encoders.md) projections of distances."},
    {.path = "method.scaling",
     .kind = KEY_CHOICE,
     .offset = AT(method.scaling),
     .choices = scalings,
     .about = "LoRA: α/r or α/√r."},
    {.path = "method.init",
     .kind = KEY_TEXT,
     .offset = AT(method.init),
     .nullable = true,
     .about = "LoRA: an adapter.h5 or a PEFT directory to start from, `pissa`, or `loftq` with "
              "`original`."},
    {.path = "method.original",
     .kind = KEY_TEXT,
     .offset = AT(method.original),
     .nullable = true,
     .about = "LoRA with `init: loftq`: the base before it was rounded to blocks."},
    {.path = "method.dora",
     .kind = KEY_BOOL,
     .offset = AT(method.dora),
     .about = "LoRA: a trained magnitude for every row of W."},
    {.path = "method.lora_plus",
     .kind = KEY_REAL,
     .offset = AT(method.lora_plus),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .nullable = true,
     .about = "LoRA: the learning rate of B is that many times `optim.lr`."},
    {.path = "method.layers",
     .kind = KEY_LAYERS,
     .offset = AT(method.layers),
     .about = "LoRA: only these layers, as `[0, 3, 6-9]`."},
    {.path = "method.rank_pattern",
     .kind = KEY_SITES,
     .offset = AT(method.rank_pattern),
     .least = 1,
     .most = 65536,
     .whole = true,
     .about =
         "LoRA: ranks of single modules by name or end of name, as `{layers.0.attn.q: 4, q: 16}`."},
    {.path = "method.modules_to_save",
     .kind = KEY_NAMES,
     .offset = AT(method.modules_to_save),
     .about = "Modules of the base that train whole beside the method, with fp32 masters: names or "
              "ends of names, as `[head, embed, norm]`, or Hugging Face's, as `[lm_head, "
              "embed_tokens]`. Not with `full`, `top` and `bitfit`."},
    {.path = "method.bias",
     .kind = KEY_CHOICE,
     .offset = AT(method.bias),
     .choices = biases,
     .about =
         "LoRA: biases of the base that train beside it, as PEFT's `bias`: all of them, norms' "
         "among them, or those of adapted modules."},
    {.path = "method.trainable_tokens",
     .kind = KEY_LAYERS,
     .offset = AT(method.trainable_tokens),
     .about =
         "Tokens whose rows of the embedding (of a tied head, too) train beside the method, as "
         "PEFT's `trainable_token_indices`: ids as `[500, 504-511]`. Not with `full`, `top` and "
         "`bitfit`."},
    {.path = "method.trainable_head_tokens",
     .kind = KEY_LAYERS,
     .offset = AT(method.trainable_head_tokens),
     .about = "The same of a head of its own."},
    {.path = "method.alpha_pattern",
     .kind = KEY_SITES,
     .offset = AT(method.alpha_pattern),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "LoRA: α of single modules, likewise."},
    {.path = "method.top",
     .kind = KEY_INT,
     .offset = AT(method.sizes.top),
     .least = 1,
     .most = 1 << 20,
     .about = "`top`: how many of the last layers train."},
    {.path = "method.prefix",
     .kind = KEY_INT,
     .offset = AT(method.sizes.prefix),
     .least = 0,
     .most = 1 << 20,
     .about = "Virtual tokens before the prompt."},
    {.path = "method.infix",
     .kind = KEY_INT,
     .offset = AT(method.sizes.infix),
     .least = 0,
     .most = 1 << 20,
     .about = "Virtual tokens between prompt and completion; not `prefix_kv`."},
    {.path = "method.prefix_init",
     .kind = KEY_CHOICE,
     .offset = AT(method.prefix_init),
     .choices = prefix_init_words,
     .about = "What virtual tokens start as: small random numbers, words of the vocabulary, or "
              "those of `method.prefix_text`."},
    {.path = "method.prefix_text",
     .kind = KEY_TEXT,
     .offset = AT(method.prefix_text),
     .nullable = true,
     .about = "The text to start from, repeated or cut to the number of virtual tokens."},
    {.path = "method.bottleneck",
     .kind = KEY_INT,
     .offset = AT(method.sizes.bottleneck),
     .least = 1,
     .most = 65536,
     .about = "Adapters and `compacter`: the width r inside."},
    {.path = "method.drop",
     .kind = KEY_INT,
     .offset = AT(method.sizes.drop),
     .least = 0,
     .most = 1 << 20,
     .about = "`adapter_drop`: how many of the first layers have no adapter."},
    {.path = "method.factors",
     .kind = KEY_INT,
     .offset = AT(method.sizes.factors),
     .least = 1,
     .most = 256,
     .about = "`compacter`: the number n of Kronecker factors; it divides the width and the "
              "bottleneck."},
    {.path = "method.new_biases",
     .kind = KEY_BOOL,
     .offset = AT(method.sizes.new_biases),
     .about = "`bitfit`: also the biases that the model lacks, as zeros."},

    /* ---- objective: what is minimised ------------------------------------------------------ */
    {.path = "objective.name",
     .kind = KEY_CHOICE,
     .offset = AT(objective.name),
     .choices = objectives,
     .about =
         "What is minimised: `sft` the loss on tokens; `dpo`, `ipo`, `cpo`, `simpo` and `orpo` "
         "compare the two answers of a pair, see [preferences](preferences.md); "
         "`reward` trains a head that tells them apart, `classify`, `regress` and `tokens` one on "
         "labels, see [classification](classification.md); `kto` learns from answers that are "
         "wanted or not; `contrastive` trains vectors of texts, see "
         "[encoders](encoders.md#contrastive); `mlm` predicts tokens that are hidden from an "
         "encoder, see [encoders](encoders.md#masked-tokens).",
     .absent = "what the data are of: labels `classify`, `regress` or `tokens`, rows of an anchor "
               "and its positive `contrastive`; else `sft`"},
    {.path = "objective.loss_type",
     .kind = KEY_WORDS,
     .offset = AT(objective.loss_type),
     .choices = pair_losses,
     .nullable = true,
     .about = "The loss of a pair: of `dpo` any of them, or a list of several, which are added; of "
              "`cpo` `sigmoid`, `hinge` or `ipo`; of `kto` `kto` or `apo_zero_unpaired`.",
     .absent = "`sigmoid`, of `kto` `kto`"},
    {.path = "objective.loss_weights",
     .kind = KEY_NUMBERS,
     .offset = AT(objective.loss_weights),
     .least = 0,
     .most = FLT_MAX,
     .nullable = true,
     .about = "How much each loss of a list counts.",
     .absent = "1 each"},
    {.path = "objective.beta",
     .kind = KEY_REAL,
     .offset = AT(objective.beta),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "β of the loss of a pair."},
    {.path = "objective.label_smoothing",
     .kind = KEY_REAL,
     .offset = AT(objective.label_smoothing),
     .least = 0,
     .most = 0.5,
     .open_most = true,
     .about =
         "How often labels are taken to be the wrong way round, by the loss types `robust`, "
         "`exo_pair`, `aot` and `aot_unpaired`, by `simpo` and by the `sigmoid` of `cpo`, which "
         "alone read it."},
    {.path = "objective.gamma",
     .kind = KEY_REAL,
     .offset = AT(objective.gamma),
     .least = 0,
     .most = FLT_MAX,
     .about = "The margin of `simpo`."},
    {.path = "objective.cpo_alpha",
     .kind = KEY_REAL,
     .offset = AT(objective.cpo_alpha),
     .least = 0,
     .most = FLT_MAX,
     .about = "Of `cpo` and `simpo`: how much of the chosen answers' loss on tokens is added."},
    {.path = "objective.ld_alpha",
     .kind = KEY_REAL,
     .offset = AT(objective.ld_alpha),
     .least = 0,
     .most = 1,
     .about = "Of `dpo` and `ipo`: how much the tokens of an answer count beyond the length of the "
              "shorter answer of its pair."},
    {.path = "objective.sft_weight",
     .kind = KEY_REAL,
     .offset = AT(objective.sft_weight),
     .least = 0,
     .most = FLT_MAX,
     .about = "Of `dpo` and `ipo`: how much of the chosen answers' loss on tokens is added; the "
              "same as the loss type `sft` with this weight."},
    {.path = "objective.center_rewards",
     .kind = KEY_REAL,
     .offset = AT(objective.center_rewards),
     .least = 0,
     .most = FLT_MAX,
     .about = "Of `reward`: this many times the square of the sum of a pair's rewards is added, "
              "which keeps rewards around 0."},
    {.path = "objective.desirable_weight",
     .kind = KEY_REAL,
     .offset = AT(objective.desirable_weight),
     .least = 0,
     .most = FLT_MAX,
     .about = "Of `kto`: how much the loss of an answer that is wanted counts."},
    {.path = "objective.undesirable_weight",
     .kind = KEY_REAL,
     .offset = AT(objective.undesirable_weight),
     .least = 0,
     .most = FLT_MAX,
     .about = "Of `kto`: how much the loss of an answer that is not wanted counts."},
    {.path = "objective.pair_order",
     .kind = KEY_CHOICE,
     .offset = AT(objective.pair_order),
     .choices = pair_order_words,
     .about = "Of `kto` on pairs: `mixed`, each chosen answer and its rejected one, or `blocks`, a "
              "thousand chosen answers and then their rejected ones, which is TRL's order."},
    {.path = "objective.mask_probability",
     .kind = KEY_REAL,
     .offset = AT(objective.mask_probability),
     .least = 0,
     .open_least = true,
     .most = 1,
     .about = "Of `mlm`: how probable it is for a token, or with `whole_words` for a word, to be "
              "chosen. Special tokens never are."},
    {.path = "objective.mask_replace",
     .kind = KEY_REAL,
     .offset = AT(objective.mask_replace),
     .least = 0,
     .most = 1,
     .about = "Of `mlm`: the share of the chosen tokens in whose place the mask token stands."},
    {.path = "objective.random_replace",
     .kind = KEY_REAL,
     .offset = AT(objective.random_replace),
     .least = 0,
     .most = 1,
     .about = "Of `mlm`: the share in whose place a token of the vocabulary stands that is drawn; "
              "the rest stay as they are, and are predicted all the same."},
    {.path = "objective.whole_words",
     .kind = KEY_BOOL,
     .offset = AT(objective.whole_words),
     .about = "Of `mlm`: the pieces of a word are chosen together."},
    {.path = "objective.mask_token",
     .kind = KEY_INT,
     .offset = AT(objective.mask_token),
     .least = -1,
     .most = INT32_MAX,
     .about = "Of `mlm`: the id of the mask token; -1: as the base's tokenizer has it."},
    {.path = "objective.temperature",
     .kind = KEY_REAL,
     .offset = AT(objective.temperature),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "Of `contrastive`: what similarities are divided by; sentence-transformers' `scale` "
              "is 1 over it."},
    {.path = "objective.pooling",
     .kind = KEY_CHOICE,
     .offset = AT(objective.pooling),
     .choices = pooling_words,
     .about =
         "Of `contrastive`: how the states of a text's tokens become its vector: their `mean`, "
         "the first one (`cls`), the `last` one, or as the directory says that the `base` "
         "came from, else the mean."},
    {.path = "objective.normalise",
     .kind = KEY_BOOL,
     .offset = AT(objective.normalise),
     .about = "Of `contrastive`: whether a similarity is a cosine; else it is a dot product."},

    /* ---- loss: how its gradient is computed ------------------------------------------------ */
    {.path = "loss.filter",
     .kind = KEY_LEAST,
     .offset = AT(loss.filter),
     .least = 0,
     .open_least = true,
     .most = 1,
     .open_most = true,
     .about = "Of objectives `sft` and `mlm`: backward leaves out what tokens of the vocabulary "
              "give that are less probable than this in 6 rows and 64 tokens at once, which "
              "metrics.jsonl counts. Faster, and not exact ([performance]"
              "(performance.md#small-probabilities-left-out)); not with `numerics: grid`, label "
              "smoothing, several `runs`, and in `compare`."},

    /* ---- data ------------------------------------------------------------------------------ */
    {.path = "data.train",
     .kind = KEY_FILES,
     .offset = AT(data.train),
     .nullable = true,
     .about = "The data set to train on; `train` needs it. Several are mixed: `[{file: a.h5, "
              "weight: 3}, {file: b.h5, weight: 1}]` takes three of four sequences from a.h5, "
              "each file over and over. `train.epochs` then counts the sequences of all."},
    {.path = "data.valid",
     .kind = KEY_TEXT,
     .offset = AT(data.valid),
     .nullable = true,
     .about = "The data set to evaluate on; without it nothing is evaluated."},
    {.path = "data.max_len",
     .kind = KEY_INT,
     .offset = AT(data.max_len),
     .least = 0,
     .most = ANY_INT,
     .about = "Longer sequences are cut to that many tokens; 0: the model's context."},
    {.path = "data.shuffle",
     .kind = KEY_BOOL,
     .offset = AT(data.shuffle),
     .about = "A new order in each epoch; else the order of the file."},
    {.path = "data.group_prompts",
     .kind = KEY_BOOL,
     .offset = AT(data.group_prompts),
     .about = "Sequences with the same prompt stay together in the order, so that more is shared."},
    {.path = "data.share_prompts",
     .kind = KEY_BOOL,
     .offset = AT(data.share_prompts),
     .about = "What sequences of a micro-batch begin with in common is computed once."},

    /* ---- batch ----------------------------------------------------------------------------- */
    {.path = "batch.sequences",
     .kind = KEY_INT,
     .offset = AT(batch.sequences),
     .least = 1,
     .most = 1 << 30,
     .about = "Sequences of a step, of the whole job; at least dp."},
    {.path = "batch.micro",
     .kind = KEY_INT,
     .offset = AT(batch.micro),
     .least = 1,
     .most = 1 << 30,
     .about = "At most so many sequences at once in each replica; the rest is accumulated.",
     .absent = "the lesser of 8 and `batch.sequences`"},

    /* ---- optim ----------------------------------------------------------------------------- */
    {.path = "optim.lr",
     .kind = KEY_REAL,
     .offset = AT(optim.lr),
     .least = 0,
     .most = FLT_MAX,
     .about = "AdamW's learning rate before the schedule."},
    {.path = "optim.betas",
     .kind = KEY_PAIR,
     .offset = AT(optim.beta1),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "AdamW's decay of the first and second moment."},
    {.path = "optim.eps",
     .kind = KEY_REAL,
     .offset = AT(optim.eps),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "AdamW's ε, outside the root."},
    {.path = "optim.weight_decay",
     .kind = KEY_REAL,
     .offset = AT(optim.weight_decay),
     .least = 0,
     .most = FLT_MAX,
     .about = "Decoupled decay of everything that trains."},
    {.path = "optim.clip_norm",
     .kind = KEY_REAL,
     .offset = AT(optim.clip_norm),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .nullable = true,
     .about = "The norm that gradients are clipped to; null: they are not."},
    {.path = "optim.schedule",
     .kind = KEY_CHOICE,
     .offset = AT(optim.schedule),
     .choices = schedule_words,
     .about = "Of the learning rate after the warm-up: constant, or to 0 at the last step by a "
              "line or a cosine."},
    {.path = "optim.warmup",
     .kind = KEY_INT,
     .offset = AT(optim.warmup),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps in which the learning rate rises from 0."},
    {.path = "optim.label_smoothing",
     .kind = KEY_REAL,
     .offset = AT(optim.label_smoothing),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "The share of the target's probability that is spread over the vocabulary; reported "
              "losses are without it."},

    /* ---- train: how long, what is evaluated and saved -------------------------------------- */
    {.path = "train.steps",
     .kind = KEY_INT,
     .offset = AT(train.steps),
     .least = 1,
     .most = ANY_INT,
     .about = "Updates of the run; may be raised on resume."},
    {.path = "train.epochs",
     .kind = KEY_REAL,
     .offset = AT(train.epochs),
     .least = 0,
     .open_least = true,
     .most = 1e9,
     .nullable = true,
     .about = "In the place of `train.steps`: how often the usable sequences of `data.train` are "
              "gone through; `config.yaml` has the steps that this makes."},
    {.path = "train.eval_every",
     .kind = KEY_INT,
     .offset = AT(train.eval_every),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps between evaluations; 0: at the end only."},
    {.path = "train.save_every",
     .kind = KEY_EVERY,
     .offset = AT(train.save_every),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps between checkpoints as `200`, or a time as `10m`; 0: at the end only."},
    {.path = "train.keep",
     .kind = KEY_INT,
     .offset = AT(train.keep),
     .least = 1,
     .most = ANY_INT,
     .about = "Checkpoints that stay; never fewer than two verified ones."},
    {.path = "train.keep_best",
     .kind = KEY_BOOL,
     .offset = AT(train.keep_best),
     .about = "The checkpoint of the best validation loss stays too, and becomes "
              "`best-adapter.h5`; needs `data.valid`."},
    {.path = "train.eval_first",
     .kind = KEY_BOOL,
     .offset = AT(train.eval_first),
     .about = "Also an evaluation before the first step, as step 0; needs `data.valid`."},
    {.path = "train.early_stop.patience",
     .kind = KEY_INT,
     .offset = AT(train.early_stop.patience),
     .least = 0,
     .most = ANY_INT,
     .about =
         "The run ends after so many evaluations, one after the other, that were not better; 0: "
         "it does not. Needs `data.valid` and `train.eval_every`, and sets `train.keep_best`."},
    {.path = "train.early_stop.min_delta",
     .kind = KEY_REAL,
     .offset = AT(train.early_stop.min_delta),
     .least = 0,
     .most = FLT_MAX,
     .about = "Better is what lies below the value at the last reset by more than this."},
    {.path = "train.samples.file",
     .kind = KEY_TEXT,
     .offset = AT(train.samples.file),
     .nullable = true,
     .about =
         "Lines `{\"prompt\": …}` (or `prompt_ids`) that the model goes on from while it trains, "
         "greedily: `samples.jsonl` in run.dir has a line a prompt and step."},
    {.path = "train.samples.every",
     .kind = KEY_INT,
     .offset = AT(train.samples.every),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps between samples, which the last step has too; 0: none. They need a cache of "
              "keys and values beside what `plan` says."},
    {.path = "train.samples.max_new",
     .kind = KEY_INT,
     .offset = AT(train.samples.max_new),
     .least = 1,
     .most = ANY_INT,
     .about = "New tokens of a sample at most."},

    /* ---- parallel: the grid ---------------------------------------------------------------- */
    {.path = "parallel.tp",
     .kind = KEY_INT,
     .offset = AT(parallel.tp),
     .least = 1,
     .most = 1 << 20,
     .about =
         "Ranks that hold the weights together; it divides the heads, and the key/value heads or "
         "is a multiple of them. dp = ranks / (tp · cp · pp)."},
    {.path = "parallel.cp",
     .kind = KEY_INT,
     .offset = AT(parallel.cp),
     .least = 1,
     .most = 1 << 20,
     .about =
         "Ranks that share out the tokens of each sequence: for sequences that are too long for "
         "one. Each keeps the activations of its tokens alone; keys and values are gathered in "
         "every layer."},
    {.path = "parallel.pp",
     .kind = KEY_INT,
     .offset = AT(parallel.pp),
     .least = 1,
     .most = 1 << 20,
     .about = "Stages of a pipeline, each with some of the layers: at most as many as layers. A "
              "replica's micro-batches go through them one after the other, so batch.micro should "
              "be a small part of its sequences."},

    /* ---- memory ---------------------------------------------------------------------------- */
    {.path = "memory.activations",
     .kind = KEY_CHOICE,
     .offset = AT(memory.activations),
     .choices = activations,
     .about = "What of forward is kept for backward; `auto` takes the fastest mode that fits into "
              "`memory.limit`."},
    {.path = "memory.limit",
     .kind = KEY_BYTES,
     .offset = AT(memory.limit),
     .least = 1,
     .most = ANY_INT,
     .nullable = true,
     .about = "Bytes that a rank may use, as `2.2G` or `512MiB`."},
    {.path = "memory.share_frozen",
     .kind = KEY_CHOICE,
     .offset = AT(memory.share_frozen),
     .choices = shares,
     .about = "One copy of the frozen weights for the replicas of a node; `on` fails where that "
              "cannot be."},
    {.path = "memory.load",
     .kind = KEY_CHOICE,
     .offset = AT(memory.load),
     .choices = loads,
     .about =
         "`map`: frozen weights are the pages of the base file, where it holds them as they are "
         "needed; `read`: copies of it; `auto`: the faster of the two by file system and "
         "memory ([memory-and-plan](memory-and-plan.md#start))."},
    {.path = "memory.shard_optimizer",
     .kind = KEY_BOOL,
     .offset = AT(memory.shard_optimizer),
     .about = "The replicas divide AdamW's moments among them (ZeRO-1)."},

    /* ---- precision, numerics, kernels: how numbers are computed ---------------------------- */
    {.path = "precision",
     .kind = KEY_CHOICE,
     .offset = AT(precision),
     .choices = precisions,
     .about = "Of frozen weights and activations; what trains is fp32 in both."},
    {.path = "numerics",
     .kind = KEY_CHOICE,
     .offset = AT(numerics),
     .choices = numerics,
     .about = "`grid`: losses, gradients and all that trains have the same bits for every number "
              "of replicas, ranks of `parallel` and threads, every `batch.micro` and "
              "`memory.activations` ([reproducibility](reproducibility.md)); what cannot promise "
              "that is refused."},
    {.path = "kernels.product",
     .kind = KEY_TEXT,
     .offset = AT(backend),
     .choices = products,
     .nullable = true,
     .about = "Forces the path of products with a weight; `auto` and `null` do not."},
    {.path = "kernels.vector",
     .kind = KEY_TEXT,
     .offset = AT(vector_path),
     .choices = vectors,
     .nullable = true,
     .about = "Forces the path of everything else."},
    {.path = "kernels.measure",
     .kind = KEY_CHOICE,
     .offset = AT(measure),
     .choices = measures,
     .about = "`once`: the rates that choose a path of products are kept in "
              "`$XDG_CACHE_HOME/mpilora` (`~/.cache/mpilora`), by processor, libraries, vector "
              "path, shapes and threads. `always`: measured at every start."},

    /* ---- runs: several in one job ---------------------------------------------------------- */
    {.path = "runs",
     .kind = KEY_RUNS,
     .offset = AT(runs),
     .nullable = true,
     .about = "Of `train` and `plan`: several runs in one job on one copy of the frozen weights, "
              "`[{dir: runs/a, set: {optim.lr: 1e-4}}, {dir: runs/b, set: {method.rank: 16}}]`. "
              "`dir` is the run's `run.dir`, `set` has what is its own; what belongs to the model "
              "and the job is one for all ([methods](methods.md#several-runs-in-one-job)). `null`: "
              "one run."},
    {.path = NULL},
};
