#!/usr/bin/env bash
# tokenizers 0.23.3: an added token with normalized=false is found before one with normalized=true,
# even where the other begins further left and is longer.
#
# The two kinds are looked for in two passes: first all normalized=false tokens in the raw text, then
# the others in what lies between them. A leftmost-longest search over all added tokens differs.
# Expected: in "abcd" the token "abc" stands further left and wins over "cd". Seen: "cd" does.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with tokenizers==0.23.3
"$python" - <<'PYTHON'
from tokenizers import AddedToken, Tokenizer, models


def tokens(first, second):
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("abcd")}, merges=[]))
    tokenizer.add_tokens([AddedToken("abc", normalized=first), AddedToken("cd", normalized=second)])
    return tokenizer.encode("abcd").tokens


same, mixed = tokens(True, True), tokens(True, False)
print("both normalized:", same, " the second one not:", mixed)
assert same == ["abc", "d"] and mixed == ["a", "b", "cd"], "this has changed"
PYTHON
