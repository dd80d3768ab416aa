/* safetensors: 8 bytes of header length, a JSON header padded to 8, then the tensors without gaps;
 * little-endian. */
#include "store/formats/safetensors/image.h"

#include <inttypes.h>
#include <unistd.h>

bool ml_safetensors_is_own(const char *path)
{
    enum { LENGTH = 8 }; /* of the header, before it */
    int fd;
    int64_t bytes;
    ml_status st = ml_open_regular(path, &fd, &bytes);
    if (st != ML_OK) return false;
    bool own = ml_file_holds(fd, LENGTH, ML_SAFETENSORS_BEGINNING);
    (void)close(fd);
    return own;
}

static ml_status header_text(const ml_safetensors_item *items, int64_t count, ml_text *text)
{
    ml_status st = ML_OK;
    int64_t at = 0;
    ML_TRY(ml_text_printf(text, "%s", ML_SAFETENSORS_BEGINNING));
    for (int64_t i = 0; i < count; i++) {
        int64_t end = at + items[i].rows * items[i].cols * (int64_t)sizeof(float);
        ML_TRY(ml_text_printf(text, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%" PRId64, items[i].name,
                              items[i].rows));
        if (!items[i].vector) ML_TRY(ml_text_printf(text, ",%" PRId64, items[i].cols));
        ML_TRY(ml_text_printf(text, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at, end));
        at = end;
    }
    ML_TRY(ml_text_printf(text, "}"));
    while (text->length % 8 != 0) ML_TRY(ml_text_add(text, " ", 1));
done:
    return st;
}

ml_status ml_safetensors_image(const ml_safetensors_item *items, int64_t count, ml_text *out)
{
    ml_status st = ML_OK;
    ml_text header = {0};
    ML_TRY(header_text(items, count, &header));
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)header.length >> (8 * i));
    ML_TRY(ml_text_add(out, length, sizeof length));
    ML_TRY(ml_text_add(out, header.data, header.length));
    for (int64_t i = 0; i < count; i++)
        ML_TRY(ml_text_add(out, items[i].values,
                           items[i].rows * items[i].cols * (int64_t)sizeof(float)));
done:
    ml_text_destroy(&header);
    return st;
}
