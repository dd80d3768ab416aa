/* Names and meanings are llama.cpp's (llama-vocab.cpp). Where its patterns are its own way to say
 * what a model's tokenizer.json says, the latter stand here. "default" is its compromise for models
 * whose pattern was not known. */
#include "data/tokenizer/gguf_patterns.h"

#include <stdio.h>
#include <string.h>

#include "data/tokenizer/scanners.h"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS_OR_MARKS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
/* words by their capitals, as o200k has them */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(tail)                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*" tail
#define MARKS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
#define GPT4O CASED(CONTRACTION "?") "|\\p{N}{1,3}" MARKS BLANKS
/* what DeepSeek-V3's family cuts by after numbers and Han */
#define DEEPSEEK3_HAN "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define DEEPSEEK3_REST(marks)                                                        \
    "[!\"#$%&'()*+,\\-./"                                                            \
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+" marks
#define DEEPSEEK_LETTERS                                                                      \
    "A-Za-z"                                                                                  \
    "\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}" \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"     \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"            \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"                \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}"            \
    "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"            \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"    \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"   \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"            \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"    \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}"    \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"              \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"             \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"            \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"            \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"        \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"    \
    "\\x{1e900}-\\x{1e943}"
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
#define HAN_OR_LATER "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define KIMI_HAN "(?:(?!\\p{Han})"
#define KIMI(upper, lower) \
    "[^\\r\\n\\p{L}\\p{N}]?" KIMI_HAN UPPER ")" upper KIMI_HAN LOWER ")" lower CONTRACTION "?"

static const ml_gguf_pre known[] = {
    {" gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
     "jina-v1-en jina-v2-code roberta-bpe mpt olmo jais exaone4 trillion granite-docling ",
     false,
     false,
     {ML_PATTERN_GPT2}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ",
     false,
     false,
     {ML_PATTERN_DIGIT, ML_PATTERN_GPT2}},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
     true,
     true,
     {ML_PATTERN_LLAMA3}},
    {" dbrx smaug-bpe glm4 chatglm-bpe ", false, false, {ML_PATTERN_LLAMA3}},
    {" qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2 ",
     false,
     false,
     {ML_PATTERN_QWEN2}},
    {" qwen35 ",
     false,
     false,
     {CONTRACTION
      "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" BLANKS}},
    {" ufakzeka ",
     false,
     false,
     {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS}},
    {" tekken ", true, true, {CASED("") "|\\p{N}" MARKS BLANKS}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", false, false, {GPT4O}},
    {" granite-embed-multi-97m ", true, false, {GPT4O}},
    {" tiny_aya cohere2moe ", false, false, {"\\d{1,3}(?=(?:\\d{3})*\\b)", GPT4O}},
    {" jais-2 ",
     false,
     false,
     {CONTRACTION WORDS_OR_MARKS
      "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|"
      "\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|"
      "\\s{1,2}(?!\\S)|\\s{1}"}},
    {" deepseek-llm ",
     false,
     false,
     {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
      "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      "\\s+$", HAN_OR_LATER, "\\p{N}+"}},
    {" deepseek-coder ",
     false,
     false,
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN_OR_LATER, "\\p{N}"}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     false,
     false,
     {"\\p{N}{1,3}", DEEPSEEK3_HAN, DEEPSEEK3_REST("[\\r\\n]*" BLANKS)}},
    {" spark2_5 ",
     false,
     false,
     {"\\p{N}{1,3}", DEEPSEEK3_HAN, DEEPSEEK3_REST("|[\\r\\n]|\\s+(?!\\S)|\\s+"), "\\p{N}"}},
    {" youtu ",
     true,
     false,
     {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{"
      "2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}"
      "\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|[\\x{4e00}-\\x{9fa5}\\x{"
      "3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
      CASED(CONTRACTION "?") "|\\p{N}" MARKS BLANKS}},
    {" falcon ", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", ML_PATTERN_GPT2, "[0-9][0-9][0-9]"}},
    {" bloom poro-chat gpt3-finnish ", false, false, {BLOOM}},
    {" viking ", false, false, {BLOOM, "\\p{N}"}},
    {" chameleon ",
     false,
     true,
     {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
      "[\\p{P}!-/:-@\\[-`{-~]", ML_PATTERN_GPT2}},
    {" kimi-k2 ",
     false,
     false,
     {"[\\p{Han}]+|" KIMI("*", "+") "|" KIMI(
         "+", "*") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS}},
    {" superbpe ", false, false, {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {" bailingmoe bailingmoe2 llada-moe ",
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {" seed-coder ",
     false,
     false,
     {CONTRACTION WORDS_OR_MARKS "\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" BLANKS}},
    {" afmoe ",
     false,
     false,
     {"\\p{Nd}{1,3}(?=(?:\\p{Nd}{3})*(?!\\p{Nd}))",
      "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{f900}-\\x{faff}\\x{3040}-\\x{309f}\\x{30a0}-\\x{"
      "30ff}\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}"
      "\\x{e40}-\\x{e7f}\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}"
      "\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}"
      "\\x{1100}-\\x{11ff}]+",
      DEEPSEEK3_REST("[\\r\\n]*" BLANKS)}},
    {" laguna ", false, false, {"[^\\n]+|[\\n]+", ML_PATTERN_QWEN2}},
    {" exaone-moe ",
     false,
     false,
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| "
                  "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {" minicpm5 ",
     true,
     false,
     {"\\p{N}{1,3}", CONTRACTION WORDS_OR_MARKS "\\p{N}+| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" BLANKS}},
    {" default ",
     false,
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", ML_PATTERN_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

const ml_gguf_pre *ml_gguf_find_pre(const char *name)
{
    size_t length = strlen(name);
    if (!length || strchr(name, ' ')) return NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (const char *at = known[i].names; (at = strstr(at, name)) != NULL; at++)
            if (at[-1] == ' ' && at[length] == ' ') return &known[i];
    return NULL;
}

/* \x{4e00} of a pattern, as the character that tokenizer.json has there. */
static const char *take_code(const char *at, unsigned *code)
{
    int read = 0;
    if (sscanf(at, "\\x{%x}%n", code, &read) == 1 && read > 0) return at + read;
    return NULL;
}

static int put_character(unsigned code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (int i = length - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(lead[length] | code);
    return length;
}

/* Whether two patterns are the same text, codes written out. */
static bool same_pattern(const char *ours, const char *theirs)
{
    char one[4];
    unsigned code;
    while (*ours) {
        const char *behind = take_code(ours, &code);
        int length = behind ? put_character(code, one) : 1;
        if (behind && strncmp(theirs, ours, (size_t)(behind - ours)) == 0)
            length = (int)(behind - ours);
        else if (strncmp(theirs, behind ? one : ours, (size_t)length) != 0)
            return false;
        ours = behind ? behind : ours + 1;
        theirs += length;
    }
    return !*theirs;
}

const char *ml_gguf_name_pre(const char *const *patterns, int count, bool whole_pieces,
                             char out[ML_GGUF_PRE_NAME])
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int n = 0;
        while (n < count && n < ML_GGUF_PATTERNS && known[i].patterns[n] &&
               same_pattern(known[i].patterns[n], patterns[n]))
            n++;
        bool all = n == count && (n == ML_GGUF_PATTERNS || !known[i].patterns[n]);
        if (!all || known[i].whole_pieces != whole_pieces) continue;
        const char *first = known[i].names + 1;
        snprintf(out, ML_GGUF_PRE_NAME, "%.*s", (int)(strchr(first, ' ') - first), first);
        return out;
    }
    return NULL;
}
