/* Classes, small letters and normal forms by utf8proc. */
#include "data/tokenizer/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

/* ---- what older tables do not know --------------------------------------------------------- */

/* Marks, punctuation and format characters that unicode_categories (Unicode 8) does not have as
 * such, and of these the marks that unicode_normalization_alignments (Unicode 9) lacks as well. */
typedef enum lacking { EIGHT = 1, BOTH } lacking;
typedef struct later_range {
    int32_t first, last;
    lacking tables;
} later_range;
static const later_range later[] = {
    {0x61d, 0x61d, EIGHT},     {0x7fd, 0x7fd, BOTH},      {0x890, 0x891, EIGHT},
    {0x898, 0x89f, BOTH},      {0x8ca, 0x8d3, BOTH},      {0x8d4, 0x8e2, EIGHT},
    {0x9fd, 0x9fd, EIGHT},     {0x9fe, 0x9fe, BOTH},      {0xa76, 0xa76, EIGHT},
    {0xafa, 0xaff, BOTH},      {0xb55, 0xb55, BOTH},      {0xc04, 0xc04, BOTH},
    {0xc3c, 0xc3c, BOTH},      {0xc77, 0xc77, EIGHT},     {0xc84, 0xc84, EIGHT},
    {0xcf3, 0xcf3, BOTH},      {0xd00, 0xd00, BOTH},      {0xd3b, 0xd3c, BOTH},
    {0xd81, 0xd81, BOTH},      {0xeba, 0xeba, BOTH},      {0xece, 0xece, BOTH},
    {0x1715, 0x1715, BOTH},    {0x180f, 0x180f, BOTH},    {0x1885, 0x1886, EIGHT},
    {0x1abf, 0x1ace, BOTH},    {0x1b7d, 0x1b7e, EIGHT},   {0x1cf7, 0x1cf7, BOTH},
    {0x1df6, 0x1dfa, BOTH},    {0x1dfb, 0x1dfb, EIGHT},   {0x2e43, 0x2e4f, EIGHT},
    {0x2e52, 0x2e5d, EIGHT},   {0xa82c, 0xa82c, BOTH},    {0xa8c5, 0xa8c5, EIGHT},
    {0xa8ff, 0xa8ff, BOTH},    {0xa9bd, 0xa9bd, EIGHT},   {0x10d24, 0x10d27, BOTH},
    {0x10eab, 0x10eac, BOTH},  {0x10ead, 0x10ead, EIGHT}, {0x10efd, 0x10eff, BOTH},
    {0x10f46, 0x10f50, BOTH},  {0x10f55, 0x10f59, EIGHT}, {0x10f82, 0x10f85, BOTH},
    {0x10f86, 0x10f89, EIGHT}, {0x11070, 0x11070, BOTH},  {0x11073, 0x11074, BOTH},
    {0x110c2, 0x110c2, BOTH},  {0x110cd, 0x110cd, EIGHT}, {0x11145, 0x11146, BOTH},
    {0x111c9, 0x111c9, BOTH},  {0x111ce, 0x111cf, BOTH},  {0x1123e, 0x1123e, EIGHT},
    {0x11241, 0x11241, BOTH},  {0x1133b, 0x1133b, BOTH},  {0x11438, 0x1143f, EIGHT},
    {0x11442, 0x11444, EIGHT}, {0x11446, 0x11446, EIGHT}, {0x1144b, 0x1144f, EIGHT},
    {0x1145a, 0x1145b, EIGHT}, {0x1145d, 0x1145d, EIGHT}, {0x1145e, 0x1145e, BOTH},
    {0x11660, 0x1166c, EIGHT}, {0x116b9, 0x116b9, EIGHT}, {0x1182c, 0x1183a, BOTH},
    {0x1183b, 0x1183b, EIGHT}, {0x11930, 0x11935, BOTH},  {0x11937, 0x11938, BOTH},
    {0x1193b, 0x1193e, BOTH},  {0x11940, 0x11940, BOTH},  {0x11942, 0x11943, BOTH},
    {0x11944, 0x11946, EIGHT}, {0x119d1, 0x119d7, BOTH},  {0x119da, 0x119e0, BOTH},
    {0x119e2, 0x119e2, EIGHT}, {0x119e4, 0x119e4, BOTH},  {0x11a01, 0x11a0a, BOTH},
    {0x11a33, 0x11a39, BOTH},  {0x11a3b, 0x11a3e, BOTH},  {0x11a3f, 0x11a46, EIGHT},
    {0x11a47, 0x11a47, BOTH},  {0x11a51, 0x11a5b, BOTH},  {0x11a8a, 0x11a99, BOTH},
    {0x11a9a, 0x11a9c, EIGHT}, {0x11a9e, 0x11aa2, EIGHT}, {0x11b00, 0x11b09, EIGHT},
    {0x11c30, 0x11c36, EIGHT}, {0x11c38, 0x11c3d, EIGHT}, {0x11c3f, 0x11c3f, EIGHT},
    {0x11c41, 0x11c45, EIGHT}, {0x11c70, 0x11c71, EIGHT}, {0x11c92, 0x11ca7, EIGHT},
    {0x11caa, 0x11cb0, EIGHT}, {0x11cb2, 0x11cb3, EIGHT}, {0x11cb5, 0x11cb6, EIGHT},
    {0x11d31, 0x11d36, BOTH},  {0x11d3a, 0x11d3a, BOTH},  {0x11d3c, 0x11d3d, BOTH},
    {0x11d3f, 0x11d45, BOTH},  {0x11d47, 0x11d47, BOTH},  {0x11d8a, 0x11d8e, BOTH},
    {0x11d90, 0x11d91, BOTH},  {0x11d93, 0x11d97, BOTH},  {0x11ef3, 0x11ef6, BOTH},
    {0x11ef7, 0x11ef8, EIGHT}, {0x11f00, 0x11f01, BOTH},  {0x11f03, 0x11f03, BOTH},
    {0x11f34, 0x11f3a, BOTH},  {0x11f3e, 0x11f42, BOTH},  {0x11f43, 0x11f4f, EIGHT},
    {0x11fff, 0x11fff, EIGHT}, {0x12ff1, 0x12ff2, EIGHT}, {0x13430, 0x1343f, EIGHT},
    {0x13440, 0x13440, BOTH},  {0x13447, 0x13455, BOTH},  {0x16e97, 0x16e9a, EIGHT},
    {0x16f4f, 0x16f4f, BOTH},  {0x16f7f, 0x16f87, BOTH},  {0x16fe2, 0x16fe2, EIGHT},
    {0x16fe4, 0x16fe4, BOTH},  {0x16ff0, 0x16ff1, BOTH},  {0x1cf00, 0x1cf2d, BOTH},
    {0x1cf30, 0x1cf46, BOTH},  {0x1e000, 0x1e006, EIGHT}, {0x1e008, 0x1e018, EIGHT},
    {0x1e01b, 0x1e021, EIGHT}, {0x1e023, 0x1e024, EIGHT}, {0x1e026, 0x1e02a, EIGHT},
    {0x1e08f, 0x1e08f, BOTH},  {0x1e130, 0x1e136, BOTH},  {0x1e2ae, 0x1e2ae, BOTH},
    {0x1e2ec, 0x1e2ef, BOTH},  {0x1e4ec, 0x1e4ef, BOTH},  {0x1e944, 0x1e94a, EIGHT},
    {0x1e95e, 0x1e95f, EIGHT}};

static lacking lacking_of(int32_t c)
{
    size_t low = 0, high = sizeof later / sizeof *later;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > later[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof later / sizeof *later && c >= later[low].first ? later[low].tables : 0;
}

/* Characters whose decompositions came after Unicode 9. */
static bool is_left_whole(int32_t c)
{
    return c == 0x32ff || (c >= 0xa7f2 && c <= 0xa7f4) || c == 0xab69 ||
           (c >= 0x10781 && c <= 0x107ba) || c == 0x11938 || c == 0x1f16c ||
           (c >= 0x1fbf0 && c <= 0x1fbf9);
}

/* ---- classes ------------------------------------------------------------------------------- */

bool ml_char_is_space(int32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool ml_char_is_word(int32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '_';
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        break;
    }
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
           c == 0x200d; /* letters in circles and squares are Alphabetic */
}

bool ml_char_is_number(int32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool ml_char_is_punctuation(int32_t c)
{
    if (c < 0x80)
        return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) ||
               (c >= 0x7b && c <= 0x7e);
    if (c == 0x166d || c == 0x111c9) return true; /* their categories changed */
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO && !lacking_of(c);
}

bool ml_char_is_control(int32_t c)
{
    if (c < 0x80) return c < 0x20 || c == 0x7f;
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CO ||
           (category == UTF8PROC_CATEGORY_CF && !lacking_of(c));
}

bool ml_char_is_accent(int32_t c)
{
    if (c < 0x300) return false;
    if (c == 0x1734) return true;
    return utf8proc_category(c) == UTF8PROC_CATEGORY_MN && !lacking_of(c);
}

bool ml_char_is_mark(int32_t c)
{
    if (c < 0x300) return false;
    if (c == 0x1cf2 || c == 0x1cf3) return true;
    utf8proc_category_t category = utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME &&
           lacking_of(c) != BOTH;
}

bool ml_char_is_chinese(int32_t c)
{
    return c >= 0x3400 &&
           ((c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfaff) ||
            (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) ||
            (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0x2f800 && c <= 0x2fa1f));
}

size_t ml_char_lower(int32_t c, char out[8])
{
    if (c < 0x80) {
        out[0] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        return 1;
    }
    if (c == 0x130) { /* İ: the only small letter of two characters */
        static const char dotted[3] = {'i', '\xcc', '\x87'};
        memcpy(out, dotted, sizeof dotted);
        return sizeof dotted;
    }
    return ml_utf8_put(utf8proc_tolower(c), out);
}

/* ---- normal forms -------------------------------------------------------------------------- */

/* Whether a text can be taken over as it is: below U+0300 nothing composes or is ordered, and below
 * U+00C0 (U+00A0 where compatibility counts) nothing decomposes. */
static bool is_plain(ml_normal_form form, const char *text, int64_t length)
{
    int32_t limit = form == ML_NFC ? 0x300 : form == ML_NFD ? 0xc0 : 0xa0;
    unsigned char lead = form == ML_NFC ? 0xcc : form == ML_NFD ? 0xc3 : 0xc2;
    int size;
    for (int64_t at = 0; at < length; at += size) {
        size = 1;
        if ((unsigned char)text[at] < 0x80) continue;
        if ((unsigned char)text[at] > lead) return false;
        if (ml_utf8_next(text, length, at, &size) >= limit) return false;
    }
    return true;
}

typedef struct mark {
    int32_t character, class, place;
} mark;

static int compare_marks(const void *a, const void *b)
{
    const mark *x = a, *y = b;
    return x->class != y->class ? (x->class > y->class) - (x->class < y->class)
                                : (x->place > y->place) - (x->place < y->place);
}

static int32_t class_of(int32_t c)
{
    if (c < 0x300) return 0;
    utf8proc_propval_t class = utf8proc_get_property(c)->combining_class;
    return class && lacking_of(c) == BOTH ? 0 : class;
}

/* Puts every run of marks into the order of its combining classes. utf8proc does this by swapping
 * neighbours, whose time grows with the square of a run's length. */
static ml_status order_marks(utf8proc_int32_t *points, int64_t count)
{
    ml_status st = ML_OK;
    mark *run = NULL;
    int64_t capacity = 0, n = 0;
    bool unordered = false;
    for (int64_t i = 0; i <= count; i++) {
        int32_t class = i < count ? class_of(points[i]) : 0;
        if (class) {
            ML_GROW(run, n, capacity, ML_MEM_OTHER, "a run of combining marks");
            unordered = unordered || (n && run[n - 1].class > class);
            run[n] = (mark){points[i], class, (int32_t)n};
            n++;
            continue;
        }
        if (unordered) qsort(run, (size_t)n, sizeof *run, compare_marks);
        for (int64_t j = 0; unordered && j < n; j++) points[i - n + j] = run[j].character;
        n = 0;
        unordered = false;
    }
done:
    ml_memory_free(run);
    return st;
}

static ml_status decompose(ml_normal_form form, const char *text, int64_t length,
                           utf8proc_int32_t **points, int64_t *count)
{
    enum { LONGEST = 32 }; /* the longest decomposition has 18 characters */
    ml_status st = ML_OK;
    int size, boundary;
    int64_t capacity = 0, n = 0;
    bool compatible = form == ML_NFKC || form == ML_NFKD;
    utf8proc_option_t options =
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    for (int64_t at = 0; at < length; at += size) {
        int32_t c = ml_utf8_next(text, length, at, &size);
        if (n + LONGEST > capacity) {
            int64_t wanted = ml_max(length - at + LONGEST, 2 * capacity);
            utf8proc_int32_t *grown =
                *points ? ml_memory_resize(*points, wanted, sizeof **points, "a normal form")
                        : ml_memory_alloc(wanted, sizeof **points, ML_MEM_OTHER, "a normal form");
            if (!grown) return ML_RESOURCE;
            *points = grown;
            capacity = wanted;
        }
        boundary = 0;
        utf8proc_ssize_t made =
            is_left_whole(c) ? 0
                             : utf8proc_decompose_char(c, *points + n, LONGEST, options, &boundary);
        if (made < 1 || made > LONGEST) {
            (*points)[n] = c;
            made = 1;
        }
        n += made;
    }
    *count = n;
    return st;
}

ml_status ml_normal_form_add(ml_normal_form form, const char *text, int64_t length, ml_text *out)
{
    ml_status st = ML_OK;
    utf8proc_int32_t *points = NULL;
    int64_t count = 0;
    if (is_plain(form, text, length)) return ml_text_add(out, text, length);
    ML_TRY(decompose(form, text, length, &points, &count));
    ML_TRY(order_marks(points, count));
    if (form == ML_NFC || form == ML_NFKC)
        count = utf8proc_normalize_utf32(points, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (int64_t i = 0; i < count; i++) {
        char one[4];
        ML_TRY(ml_text_add(out, one, (int64_t)ml_utf8_put(points[i], one)));
    }
done:
    ml_memory_free(points);
    return st;
}

int64_t ml_grapheme_end(const char *text, int64_t length, int64_t at)
{
    int size;
    utf8proc_int32_t state = 0, c = ml_utf8_next(text, length, at, &size);
    for (at += size; at < length; at += size) {
        utf8proc_int32_t next = ml_utf8_next(text, length, at, &size);
        if (c < 0x80 && next < 0x80 && c != '\r') break;
        if (utf8proc_grapheme_break_stateful(c, next, &state)) break;
        c = next;
    }
    return at;
}
