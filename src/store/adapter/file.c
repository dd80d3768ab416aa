/* adapter.h5: an HDF5 file behind a block of 512 bytes that holds the SHA-256 of the rest, checked
 * before HDF5 sees a byte; its numbers go from the file straight to where they belong.
 *
 *   attributes  format, version, scaling (standard | rslora), dropout, base_source_sha256 ("" where
 *     unknown)
 *   attribute   base_content_sha256, where it belongs to a base in blocks alone (LoftQ)
 *   attribute   label_names, a JSON list, where the classes of a head have names
 *   attributes  pooling and normalised, where vectors of texts were trained
 *   attribute   kernel, where it is known: product/vector path that trained it
 *   attribute   method, where it is not lora; then its sizes: top, prefix, infix, bottleneck, drop,
 *     factors, new_biases
 *   /tensors/NAME [rows, cols], what methods other than LoRA trained, and whole modules beside any
 *   /pairs/SITE/A [rank, in], /pairs/SITE/B [out, rank], attribute alpha of the group;
 *     /pairs/SITE/M [out, 1], DoRA's magnitudes
 */
#include <inttypes.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/image.h"
#include "store/adapter/adapter.h"

enum { VERSION = 1 };
static const char format_name[] = "mpilora adapter";

/* ---- sizes of a method --------------------------------------------------------------------- */

typedef struct size_key {
    const char *name;
    size_t offset;
} size_key;

static const size_key size_keys[] = {{"top", offsetof(ml_method_sizes, top)},
                                     {"prefix", offsetof(ml_method_sizes, prefix)},
                                     {"infix", offsetof(ml_method_sizes, infix)},
                                     {"bottleneck", offsetof(ml_method_sizes, bottleneck)},
                                     {"drop", offsetof(ml_method_sizes, drop)},
                                     {"factors", offsetof(ml_method_sizes, factors)}};
enum { SIZE_KEYS = sizeof size_keys / sizeof *size_keys, MOST_SIZE = 1 << 20 };

static ml_status put_method(hid_t file, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ML_TRY(ml_image_put_text(file, "method", ml_method_name(adapter->method)));
    for (int i = 0; i < SIZE_KEYS; i++) {
        int64_t value;
        memcpy(&value, (const char *)&adapter->sizes + size_keys[i].offset, sizeof value);
        ML_TRY(ml_image_put_int(file, size_keys[i].name, value));
    }
    ML_TRY(ml_image_put_int(file, "new_biases", adapter->sizes.new_biases));
done:
    return st;
}

/* What the method divides by, or has at least one of. */
static ml_status check_sizes(const ml_adapter *adapter)
{
    const ml_method_sizes *s = &adapter->sizes;
    const struct {
        const char *name;
        bool needed;
        int64_t value;
    } sizes[] = {{"top", adapter->method == ML_METHOD_TOP, s->top},
                 {"prefix and infix", ml_method_has_prefix(adapter->method), s->prefix + s->infix},
                 {"bottleneck", ml_method_has_bottleneck(adapter->method), s->bottleneck},
                 {"factors", adapter->method == ML_METHOD_COMPACTER, s->factors}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].needed && sizes[i].value < 1)
            return ml_fail(ML_INPUT, "%s is 0, expected at least 1 for method %s", sizes[i].name,
                           ml_method_name(adapter->method));
    return ML_OK;
}

static ml_status get_method(hid_t file, ml_adapter *out)
{
    ml_status st = ML_OK;
    char method[32];
    int64_t value;
    if (H5Aexists(file, "method") <= 0) return ML_OK;
    ML_TRY(ml_image_get_text(file, "method", method, sizeof method));
    if (!ml_method_find(method, &out->method))
        return ml_fail(ML_INPUT, "method is \"%s\", which this version does not know", method);
    for (int i = 0; i < SIZE_KEYS; i++) {
        ML_TRY(ml_image_get_int(file, size_keys[i].name, &value));
        if (value < 0 || value > MOST_SIZE)
            return ml_fail(ML_INPUT, "%s is %" PRId64 ", expected 0 to %d", size_keys[i].name,
                           value, MOST_SIZE);
        memcpy((char *)&out->sizes + size_keys[i].offset, &value, sizeof value);
    }
    ML_TRY(ml_image_get_int(file, "new_biases", &value));
    out->sizes.new_biases = value != 0;
    ML_TRY(check_sizes(out));
done:
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

static ml_status put_pair(hid_t pairs, const ml_adapter_pair *p)
{
    ml_status st = ML_OK;
    hid_t group = -1;
    ML_TRY(ml_image_make_group(pairs, p->module));
    group = H5Gopen2(pairs, p->module, H5P_DEFAULT);
    ML_TRY(ml_image_put_double(group, "alpha", p->alpha));
    ML_TRY(ml_image_put_matrix(group, "A", p->rank, p->in, p->a));
    ML_TRY(ml_image_put_matrix(group, "B", p->out, p->rank, p->b));
    if (p->m) ML_TRY(ml_image_put_matrix(group, "M", p->out, 1, p->m));
done:
    H5Gclose(group);
    return st;
}

static ml_status put_tensors(hid_t file, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    hid_t group = -1;
    ML_TRY(ml_image_make_group(file, "tensors"));
    group = H5Gopen2(file, "tensors", H5P_DEFAULT);
    for (int64_t i = 0; i < adapter->ntensors; i++) {
        const ml_adapter_tensor *t = &adapter->tensors[i];
        ML_TRY(ml_image_put_matrix(group, t->name, t->rows, t->cols, t->value));
    }
done:
    H5Gclose(group);
    return st;
}

static ml_status put_adapter(hid_t file, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    hid_t pairs = -1;
    ML_TRY(ml_image_put_text(file, "format", format_name));
    ML_TRY(ml_image_put_int(file, "version", VERSION));
    ML_TRY(ml_image_put_text(file, "scaling", adapter->rslora ? "rslora" : "standard"));
    ML_TRY(ml_image_put_double(file, "dropout", adapter->dropout));
    ML_TRY(ml_image_put_text(file, "base_source_sha256", adapter->base_source_hash));
    if (*adapter->base_content_hash)
        ML_TRY(ml_image_put_text(file, "base_content_sha256", adapter->base_content_hash));
    if (*adapter->kernel) ML_TRY(ml_image_put_text(file, "kernel", adapter->kernel));
    if (adapter->label_names) ML_TRY(ml_image_put_text(file, "label_names", adapter->label_names));
    if (*adapter->pooling) {
        ML_TRY(ml_image_put_text(file, "pooling", adapter->pooling));
        ML_TRY(ml_image_put_int(file, "normalised", adapter->normalised));
    }
    if (adapter->method != ML_METHOD_LORA) {
        ML_TRY(put_method(file, adapter));
    }
    if (adapter->method != ML_METHOD_LORA || adapter->ntensors > 0)
        ML_TRY(put_tensors(file, adapter));
    ML_TRY(ml_image_make_group(file, "pairs"));
    pairs = H5Gopen2(file, "pairs", H5P_DEFAULT);
    for (int64_t i = 0; i < adapter->count; i++) ML_TRY(put_pair(pairs, &adapter->pairs[i]));
done:
    H5Gclose(pairs);
    return st;
}

/* At most, with HDF5's own words: of so many pairs and other tensors. */
static int64_t image_bytes(int64_t count, int64_t floats)
{
    enum { FILE_OVERHEAD = 64 << 10, PAIR_OVERHEAD = 4096 };
    return FILE_OVERHEAD + count * PAIR_OVERHEAD + floats * (int64_t)sizeof(float);
}

static int64_t expected_bytes(const ml_adapter *adapter)
{
    int64_t floats = 0;
    for (int64_t i = 0; i < adapter->count; i++) {
        const ml_adapter_pair *p = &adapter->pairs[i];
        floats += p->rank * (p->in + p->out) + (p->m ? p->out : 0);
    }
    for (int64_t i = 0; i < adapter->ntensors; i++)
        floats += adapter->tensors[i].rows * adapter->tensors[i].cols;
    return image_bytes(adapter->count + adapter->ntensors, floats);
}

int64_t ml_adapter_write_bytes(const ml_parameters *p, int64_t times)
{
    int64_t floats = 0, lists = p->count * (int64_t)sizeof(ml_adapter_tensor);
    for (int64_t i = 0; i < p->count; i++) floats += times * p->items[i].rows * p->items[i].cols;
    int64_t values = floats * (int64_t)sizeof(float),
            image = ml_image_room(image_bytes(p->count, floats));
    return values + lists + image + ML_SHA256_PIECE;
}

ml_status ml_adapter_write(const ml_adapter *adapter, const char *path)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    char *bytes, hash[ML_SHA256_HEX];
    int64_t count;
    ML_TRY(ml_image_create(&image, expected_bytes(adapter), ML_ADAPTER_BLOCK));
    ML_TRY(put_adapter(ml_image_file(image), adapter));
    ML_TRY(ml_image_finish(image, &bytes, &count));
    ml_sha256_of(bytes + ML_ADAPTER_BLOCK, (size_t)(count - ML_ADAPTER_BLOCK), hash);
    ml_adapter_seal_make(bytes, hash);
    ML_TRY(ml_durable_write(path, bytes, count, NULL));
done:
    ml_image_destroy(image);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status read_factor(hid_t group, const char *name, int64_t rows, int64_t cols,
                             float *values)
{
    ml_status st = ML_OK;
    int64_t found_rows, found_cols;
    hid_t dataset;
    ML_TRY(ml_image_get_matrix(group, name, &found_rows, &found_cols, &dataset));
    if (found_rows != rows || found_cols != cols)
        st = ml_fail(ML_INPUT, "%s is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64,
                     name, found_rows, found_cols, rows, cols);
    else
        st = ml_image_get_rows(dataset, 0, rows, cols, values);
    H5Dclose(dataset);
done:
    return st;
}

/* Rank and widths come from the datasets themselves. */
static ml_status get_sizes(hid_t group, int64_t *rank, int64_t *in, int64_t *out)
{
    ml_status st = ML_OK;
    hid_t dataset;
    int64_t again;
    ML_TRY(ml_image_get_matrix(group, "A", rank, in, &dataset));
    H5Dclose(dataset);
    ML_TRY(ml_image_get_matrix(group, "B", out, &again, &dataset));
    H5Dclose(dataset);
done:
    return st;
}

static ml_status get_pair(ml_adapter *out, int64_t *capacity, hid_t pairs, const char *module)
{
    ml_status st = ML_OK;
    ml_adapter_pair *p;
    int64_t rank, in, width;
    hid_t group = -1;
    ML_TRY(ml_image_get_group(pairs, module, &group));
    ML_TRY(get_sizes(group, &rank, &in, &width));
    ML_TRY(ml_adapter_add(out, capacity, module, rank, in, width, &p));
    ML_TRY(ml_image_get_double(group, "alpha", &p->alpha));
    p->scale = ml_adapter_scale(p->alpha, rank, out->rslora);
    ML_TRY(read_factor(group, "A", rank, in, p->a));
    ML_TRY(read_factor(group, "B", width, rank, p->b));
    if (H5Lexists(group, "M", H5P_DEFAULT) > 0) {
        ML_TRY(ml_adapter_add_magnitudes(p));
        ML_TRY(read_factor(group, "M", width, 1, p->m));
    }
done:
    H5Gclose(group);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", module);
}

static ml_status get_tensor(ml_adapter *out, hid_t group, const char *name)
{
    ml_status st = ML_OK;
    ml_adapter_tensor *t = &out->tensors[out->ntensors];
    hid_t dataset = -1;
    ML_TRY(ml_image_get_matrix(group, name, &t->rows, &t->cols, &dataset));
    snprintf(t->name, sizeof t->name, "%s", name);
    t->value = ml_memory_alloc(t->rows * t->cols, sizeof *t->value, ML_MEM_OTHER, "an adapter");
    if (!t->value) st = ML_RESOURCE;
    out->ntensors++;
    if (st == ML_OK) st = ml_image_get_rows(dataset, 0, t->rows, t->cols, t->value);
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status get_tensors(ml_adapter *out, hid_t file)
{
    ml_status st = ML_OK;
    int64_t links;
    char name[sizeof out->tensors->name];
    hid_t group = -1;
    if (out->method == ML_METHOD_LORA && H5Lexists(file, "tensors", H5P_DEFAULT) <= 0) return ML_OK;
    ML_TRY(ml_image_get_group(file, "tensors", &group));
    ML_TRY(ml_image_links(group, &links));
    ML_NEW(out->tensors, ml_max(1, links), ML_MEM_OTHER, "an adapter");
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        ML_TRY(get_tensor(out, group, name));
    }
done:
    H5Gclose(group);
    return st;
}

static ml_status get_pooling(hid_t file, ml_adapter *out)
{
    static const char *const words[] = {"mean", "cls", "last", NULL};
    ml_status st = ML_OK;
    int64_t normalised;
    ML_TRY(ml_image_get_text(file, "pooling", out->pooling, sizeof out->pooling));
    ML_TRY(ml_image_get_int(file, "normalised", &normalised));
    out->normalised = normalised != 0;
    if (ml_find_word(out->pooling, words) < 0)
        st = ml_fail(ML_INPUT, "pooling is \"%s\", expected mean, cls or last", out->pooling);
done:
    return st;
}

static ml_status get_header(ml_adapter *out, hid_t file)
{
    ml_status st = ML_OK;
    char format[32], scaling[16];
    int64_t version;
    ML_TRY(ml_image_get_text(file, "format", format, sizeof format));
    ML_TRY(ml_image_get_int(file, "version", &version));
    if (strcmp(format, format_name) != 0 || version != VERSION)
        return ml_fail(ML_INPUT, "is \"%s\" version %" PRId64 ", expected \"%s\" version %d",
                       format, version, format_name, VERSION);
    ML_TRY(ml_image_get_text(file, "scaling", scaling, sizeof scaling));
    out->rslora = !strcmp(scaling, "rslora");
    if (!out->rslora && strcmp(scaling, "standard") != 0)
        return ml_fail(ML_INPUT, "scaling is \"%s\", expected standard or rslora", scaling);
    ML_TRY(ml_image_get_double(file, "dropout", &out->dropout));
    ML_TRY(ml_image_get_text(file, "base_source_sha256", out->base_source_hash,
                             sizeof out->base_source_hash));
    if (H5Aexists(file, "base_content_sha256") > 0)
        ML_TRY(ml_image_get_text(file, "base_content_sha256", out->base_content_hash,
                                 sizeof out->base_content_hash));
    if (H5Aexists(file, "kernel") > 0)
        ML_TRY(ml_image_get_text(file, "kernel", out->kernel, sizeof out->kernel));
    if (H5Aexists(file, "label_names") > 0) {
        enum { MOST = 60000 }; /* an attribute of HDF5 has 64 KiB at most */
        ML_NEW(out->label_names, MOST, ML_MEM_OTHER, "the names of classes");
        ML_TRY(ml_image_get_text(file, "label_names", out->label_names, MOST));
    }
    if (H5Aexists(file, "pooling") > 0) ML_TRY(get_pooling(file, out));
    ML_TRY(get_method(file, out));
done:
    return st;
}

static ml_status get_adapter(ml_adapter *out, hid_t file)
{
    ml_status st = ML_OK;
    int64_t links, capacity = 0;
    char module[sizeof out->pairs->module];
    hid_t pairs = -1;
    ML_TRY(get_header(out, file));
    ML_TRY(get_tensors(out, file));
    ML_TRY(ml_image_get_group(file, "pairs", &pairs));
    ML_TRY(ml_image_links(pairs, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(pairs, i, module, sizeof module));
        ML_TRY(get_pair(out, &capacity, pairs, module));
    }
done:
    H5Gclose(pairs);
    return st;
}

ml_status ml_adapter_read_file(ml_adapter *out, const char *path)
{
    ml_status st = ML_OK;
    int64_t count;
    int fd = -1;
    ml_image *image = NULL;
    ML_TRY(ml_open_regular(path, &fd, &count));
    ML_TRY(ml_adapter_seal_check(fd, path, count, out->hash));
    ML_TRY(ml_image_open_file(&image, path, fd));
    ML_TRY(get_adapter(out, ml_image_file(image)));
done:
    ml_image_destroy(image);
    if (fd >= 0) (void)close(fd);
    return st;
}
