/* What a model is: checks of a specification, and its tensors in their fixed order. */
#include <inttypes.h>

#include "mpilora/model.h"

/* ---- checks -------------------------------------------------------------------------------- */

enum { LARGEST = 1 << 26 };

static ml_status check_size(ml_status bad, const char *field, int64_t value)
{
    if (value >= 1 && value <= LARGEST) return ML_OK;
    return ml_fail(bad, "model: %s is %" PRId64 ", expected 1 to %d", field, value, (int)LARGEST);
}

static ml_status check_sizes(const ml_model_spec *s, ml_status bad)
{
    const struct {
        const char *field;
        int64_t value;
    } sizes[] = {{"layers", s->layers}, {"width", s->width},       {"mlp_width", s->mlp_width},
                 {"heads", s->heads},   {"kv_heads", s->kv_heads}, {"head_dim", s->head_dim},
                 {"vocab", s->vocab},   {"context", s->context}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ml_status st = check_size(bad, sizes[i].field, sizes[i].value);
        if (st != ML_OK) return st;
    }
    if (s->layers > 10000)
        return ml_fail(bad, "model: layers is %" PRId64 ", expected at most 10000", s->layers);
    if (s->head_dim > 1024)
        return ml_fail(bad, "model: head_dim is %" PRId64 ", expected at most 1024", s->head_dim);
    return ML_OK;
}

static ml_status check_family(const ml_model_spec *s, ml_status bad)
{
    if (s->family == ML_FAMILY_GPT2) {
        if (s->kv_heads != s->heads)
            return ml_fail(
                bad,
                "model: the GPT-2 family has as many key/value heads as heads, found %" PRId64
                " and %" PRId64,
                s->kv_heads, s->heads);
        if (s->heads * s->head_dim != s->width)
            return ml_fail(bad,
                           "model: in the GPT-2 family width = heads x head_dim, found %" PRId64
                           " and %" PRId64 " x %" PRId64,
                           s->width, s->heads, s->head_dim);
        if (!s->qkv_bias || !s->o_bias || !s->mlp_bias)
            return ml_fail(bad, "model: every linear layer of the GPT-2 family has a bias");
        return ML_OK;
    }
    if (s->head_dim % 2 != 0)
        return ml_fail(bad, "model: rotary embedding needs an even head_dim, found %" PRId64,
                       s->head_dim);
    if (!(s->rope_theta > 0.0))
        return ml_fail(bad, "model: rope_theta is %g, expected > 0", s->rope_theta);
    const ml_rope_scaling *r = &s->rope_scaling;
    if (r->factor != 0.0 && !(r->factor >= 1.0 && r->low_freq_factor > 0.0 &&
                              r->high_freq_factor > r->low_freq_factor && r->original_context > 0))
        return ml_fail(bad,
                       "model: rope_scaling {factor %g, low_freq_factor %g, high_freq_factor %g, "
                       "original_context %" PRId64
                       "}: expected factor >= 1, 0 < low < high, context > 0",
                       r->factor, r->low_freq_factor, r->high_freq_factor, r->original_context);
    return ML_OK;
}

ml_status ml_model_spec_check(const ml_model_spec *s, ml_status bad)
{
    ml_status st = check_sizes(s, bad);
    if (st != ML_OK) return st;
    if (s->heads % s->kv_heads != 0)
        return ml_fail(bad,
                       "model: %" PRId64 " heads are not a multiple of %" PRId64 " key/value heads",
                       s->heads, s->kv_heads);
    if (!(s->norm_eps > 0.0 && s->norm_eps < 1.0))
        return ml_fail(bad, "model: norm_eps is %g, expected between 0 and 1", s->norm_eps);
    return check_family(s, bad);
}

/* ---- tensors ------------------------------------------------------------------------------- */

typedef struct shape {
    const char *word; /* within its layer, or whole */
    int64_t rows, cols;
    bool vector;
} shape;

/* The tensors of one layer, weight before bias; returns their number. */
static int64_t layer_shapes(const ml_model_spec *s, shape out[16])
{
    int64_t d = s->width, q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, n = 0;
    bool gpt2 = s->family == ML_FAMILY_GPT2;
    out[n++] = (shape){"norm1.weight", d, 1, true};
    if (gpt2) out[n++] = (shape){"norm1.bias", d, 1, true};
    out[n++] = (shape){"attn.q.weight", q, d, false};
    out[n++] = (shape){"attn.k.weight", kv, d, false};
    out[n++] = (shape){"attn.v.weight", kv, d, false};
    if (s->qkv_bias) out[n++] = (shape){"attn.q.bias", q, 1, true};
    if (s->qkv_bias) out[n++] = (shape){"attn.k.bias", kv, 1, true};
    if (s->qkv_bias) out[n++] = (shape){"attn.v.bias", kv, 1, true};
    out[n++] = (shape){"attn.o.weight", d, q, false};
    if (s->o_bias) out[n++] = (shape){"attn.o.bias", d, 1, true};
    out[n++] = (shape){"norm2.weight", d, 1, true};
    if (gpt2) out[n++] = (shape){"norm2.bias", d, 1, true};
    return n;
}

static int64_t mlp_shapes(const ml_model_spec *s, shape out[6])
{
    int64_t d = s->width, f = s->mlp_width, n = 0;
    bool gpt2 = s->family == ML_FAMILY_GPT2;
    out[n++] = (shape){gpt2 ? "mlp.fc.weight" : "mlp.gate.weight", f, d, false};
    if (!gpt2) out[n++] = (shape){"mlp.up.weight", f, d, false};
    if (s->mlp_bias) out[n++] = (shape){gpt2 ? "mlp.fc.bias" : "mlp.gate.bias", f, 1, true};
    if (s->mlp_bias && !gpt2) out[n++] = (shape){"mlp.up.bias", f, 1, true};
    out[n++] = (shape){gpt2 ? "mlp.proj.weight" : "mlp.down.weight", d, f, false};
    if (s->mlp_bias) out[n++] = (shape){gpt2 ? "mlp.proj.bias" : "mlp.down.bias", d, 1, true};
    return n;
}

static int64_t all_layer_shapes(const ml_model_spec *s, shape out[22])
{
    int64_t n = layer_shapes(s, out);
    return n + mlp_shapes(s, out + n);
}

static int64_t front_shapes(const ml_model_spec *s, shape out[2])
{
    int64_t n = 0;
    out[n++] = (shape){"embed.weight", s->vocab, s->width, false};
    if (s->family == ML_FAMILY_GPT2)
        out[n++] = (shape){"position.weight", s->context, s->width, false};
    return n;
}

static int64_t back_shapes(const ml_model_spec *s, shape out[3])
{
    int64_t n = 0;
    out[n++] = (shape){"norm.weight", s->width, 1, true};
    if (s->family == ML_FAMILY_GPT2) out[n++] = (shape){"norm.bias", s->width, 1, true};
    if (!s->tied_head) out[n++] = (shape){"head.weight", s->vocab, s->width, false};
    return n;
}

int64_t ml_model_tensor_count(const ml_model_spec *spec)
{
    shape unused[22];
    return front_shapes(spec, unused) + spec->layers * all_layer_shapes(spec, unused) +
           back_shapes(spec, unused);
}

void ml_model_tensor_at(const ml_model_spec *spec, int64_t index, ml_model_tensor *out)
{
    shape front[2], layer[22], back[3];
    int64_t nfront = front_shapes(spec, front), nlayer = all_layer_shapes(spec, layer);
    back_shapes(spec, back);
    const shape *found;
    int64_t in_layers = index - nfront;
    if (in_layers < 0)
        found = &front[index];
    else if (in_layers < spec->layers * nlayer)
        found = &layer[in_layers % nlayer];
    else
        found = &back[in_layers - spec->layers * nlayer];
    *out = (ml_model_tensor){.rows = found->rows,
                             .cols = found->cols,
                             .vector = found->vector,
                             .norm_or_bias = found->vector};
    if (in_layers >= 0 && in_layers < spec->layers * nlayer)
        snprintf(out->name, sizeof out->name, "layers.%" PRId64 ".%s", in_layers / nlayer,
                 found->word);
    else
        snprintf(out->name, sizeof out->name, "%s", found->word);
}

int64_t ml_model_parameters_total(const ml_model_spec *spec)
{
    shape shapes[22];
    int64_t total = 0, n = front_shapes(spec, shapes);
    for (int64_t i = 0; i < n; i++) total += shapes[i].rows * shapes[i].cols;
    n = all_layer_shapes(spec, shapes);
    for (int64_t i = 0; i < n; i++) total += spec->layers * shapes[i].rows * shapes[i].cols;
    n = back_shapes(spec, shapes);
    for (int64_t i = 0; i < n; i++) total += shapes[i].rows * shapes[i].cols;
    return total;
}
