/* adapter.h5: an HDF5 file behind a block of 512 bytes that holds the SHA-256 of the rest, checked before HDF5 sees a byte.
 *
 *   attributes  format, version, scaling (standard | rslora), dropout, base_source_sha256 ("" where unknown)
 *   /pairs/SITE/A [rank, in], /pairs/SITE/B [out, rank], attribute alpha of the group
 */
#include <inttypes.h>

#include "store/adapter.h"
#include "store/durable.h"
#include "store/image.h"

enum { USER_BLOCK = 512, VERSION = 1 };
static const char first_line[] = "mpilora adapter 1\nsha256 ";
static const char format_name[] = "mpilora adapter";
static const int64_t largest_adapter = (int64_t)64 << 30;

/* ---- writing ------------------------------------------------------------------------------------------------------------------- */

static ml_status put_pair(hid_t pairs, const ml_adapter_pair *p)
{
    ml_status st = ML_OK;
    hid_t group = -1;
    ML_TRY(ml_image_make_group(pairs, p->site));
    group = H5Gopen2(pairs, p->site, H5P_DEFAULT);
    ML_TRY(ml_image_put_double(group, "alpha", p->alpha));
    ML_TRY(ml_image_put_matrix(group, "A", p->rank, p->in, p->a));
    ML_TRY(ml_image_put_matrix(group, "B", p->out, p->rank, p->b));
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
    ML_TRY(ml_image_make_group(file, "pairs"));
    pairs = H5Gopen2(file, "pairs", H5P_DEFAULT);
    for (int64_t i = 0; i < adapter->count; i++) ML_TRY(put_pair(pairs, &adapter->pairs[i]));
done:
    H5Gclose(pairs);
    return st;
}

static int64_t expected_bytes(const ml_adapter *adapter)
{
    enum { FILE_OVERHEAD = 64 << 10, PAIR_OVERHEAD = 4096 };
    int64_t bytes = FILE_OVERHEAD;
    for (int64_t i = 0; i < adapter->count; i++) {
        const ml_adapter_pair *p = &adapter->pairs[i];
        bytes += PAIR_OVERHEAD + p->rank * (p->in + p->out) * (int64_t)sizeof(float);
    }
    return bytes;
}

ml_status ml_adapter_write(const ml_adapter *adapter, const char *path)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    char *bytes, hash[ML_SHA256_HEX];
    int64_t count;
    ML_TRY(ml_image_create(&image, expected_bytes(adapter), USER_BLOCK));
    ML_TRY(put_adapter(ml_image_file(image), adapter));
    ML_TRY(ml_image_finish(image, &bytes, &count));
    ml_sha256_of(bytes + USER_BLOCK, (size_t)(count - USER_BLOCK), hash);
    snprintf(bytes, USER_BLOCK, "%s%s\n", first_line, hash);
    ML_TRY(ml_durable_write(path, bytes, count, NULL));
done:
    ml_image_destroy(image);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static ml_status check_hash(const char *path, const char *bytes, int64_t count)
{
    char hash[ML_SHA256_HEX], first[USER_BLOCK] = {0};
    size_t prefix = strlen(first_line);
    if (count <= USER_BLOCK || memcmp(bytes, first_line, prefix) != 0)
        return ml_fail(ML_INPUT, "%s: is not an adapter of mpilora (adapter.h5) and not a PEFT directory", path);
    ml_sha256_of(bytes + USER_BLOCK, (size_t)(count - USER_BLOCK), hash);
    if (memcmp(bytes + prefix, hash, ML_SHA256_HEX - 1) != 0)
        return ml_fail(ML_INPUT, "%s: is damaged: its SHA-256 is %.12s…, its first block says %.12s…", path, hash, bytes + prefix);
    snprintf(first, sizeof first, "%s%s\n", first_line, hash);
    if (memcmp(bytes, first, USER_BLOCK) != 0) return ml_fail(ML_INPUT, "%s: is damaged: its first block is not as it was written", path);
    return ML_OK;
}

static ml_status read_factor(hid_t group, const char *name, int64_t rows, int64_t cols, float *values)
{
    ml_status st = ML_OK;
    int64_t found_rows, found_cols;
    hid_t dataset;
    ML_TRY(ml_image_get_matrix(group, name, &found_rows, &found_cols, &dataset));
    if (found_rows != rows || found_cols != cols)
        st =
            ml_fail(ML_INPUT, "%s is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64, name, found_rows, found_cols, rows, cols);
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

static ml_status get_pair(ml_adapter *out, int64_t *capacity, hid_t pairs, const char *site)
{
    ml_status st = ML_OK;
    ml_adapter_pair *p;
    int64_t rank, in, width;
    hid_t group = -1;
    ML_TRY(ml_image_get_group(pairs, site, &group));
    ML_TRY(get_sizes(group, &rank, &in, &width));
    ML_TRY(ml_adapter_add(out, capacity, site, rank, in, width, &p));
    ML_TRY(ml_image_get_double(group, "alpha", &p->alpha));
    p->scale = ml_adapter_scale(p->alpha, rank, out->rslora);
    ML_TRY(read_factor(group, "A", rank, in, p->a));
    ML_TRY(read_factor(group, "B", width, rank, p->b));
done:
    H5Gclose(group);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", site);
}

static ml_status get_header(ml_adapter *out, hid_t file)
{
    ml_status st = ML_OK;
    char format[32], scaling[16];
    int64_t version;
    ML_TRY(ml_image_get_text(file, "format", format, sizeof format));
    ML_TRY(ml_image_get_int(file, "version", &version));
    if (strcmp(format, format_name) != 0 || version != VERSION)
        return ml_fail(ML_INPUT, "is \"%s\" version %" PRId64 ", expected \"%s\" version %d", format, version, format_name, VERSION);
    ML_TRY(ml_image_get_text(file, "scaling", scaling, sizeof scaling));
    out->rslora = !strcmp(scaling, "rslora");
    if (!out->rslora && strcmp(scaling, "standard") != 0)
        return ml_fail(ML_INPUT, "scaling is \"%s\", expected standard or rslora", scaling);
    ML_TRY(ml_image_get_double(file, "dropout", &out->dropout));
    ML_TRY(ml_image_get_text(file, "base_source_sha256", out->base_source_hash, sizeof out->base_source_hash));
done:
    return st;
}

static ml_status get_adapter(ml_adapter *out, hid_t file)
{
    ml_status st = ML_OK;
    int64_t links, capacity = 0;
    char site[sizeof out->pairs->site];
    hid_t pairs = -1;
    ML_TRY(get_header(out, file));
    ML_TRY(ml_image_get_group(file, "pairs", &pairs));
    ML_TRY(ml_image_links(pairs, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(pairs, i, site, sizeof site));
        ML_TRY(get_pair(out, &capacity, pairs, site));
    }
done:
    H5Gclose(pairs);
    return st;
}

ml_status ml_adapter_read_file(ml_adapter *out, const char *path)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    int64_t count;
    ml_image *image = NULL;
    ML_TRY(ml_durable_read(path, largest_adapter, &bytes, &count));
    ML_TRY(check_hash(path, bytes, count));
    ml_sha256_of(bytes, (size_t)count, out->hash);
    ML_TRY(ml_image_open(&image, path, bytes, count));
    ML_TRY(get_adapter(out, ml_image_file(image)));
done:
    ml_image_destroy(image);
    ml_memory_free(bytes);
    return st;
}
