"""Makes tests/golden/score.json: figures of well-kept Python libraries for some texts. For developers: `python3 check_score.py` with sacrebleu, rouge-score and
pycocoevalcap installed. Texts are of lower-case words and simple signs, so that tokenisations agree; the libraries' own scorers see the same tokens."""

import json
import os
import random
import re

import rouge_score.rouge_scorer
import sacrebleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "score.json")
WORDS = "the a restaurant pub near by river serves serving cheap food italian indian family friendly rated rating customers with and it is has high low price range".split()


def text(source):
    words = [source.choice(WORDS) for _ in range(source.randint(6, 18))]
    return " ".join(words) + " ."


def items():
    source, out = random.Random(4), []
    for _ in range(24):
        references = [text(source) for _ in range(source.randint(1, 5))]
        words = source.choice(references).split()
        for _ in range(4):
            words[source.randrange(len(words) - 1)] = source.choice(WORDS)
        out.append((" ".join(words[source.randint(0, 2) :]), references))
    return out


def words(line):
    return re.sub(r" \.$", "", line)


def main():
    made = items()
    outputs = [output for output, _ in made]
    most = max(len(references) for _, references in made)
    streams = [[references[i] if i < len(references) else None for _, references in made] for i in range(most)]
    figures = {"bleu": sacrebleu.corpus_bleu(outputs, streams, smooth_method="none", lowercase=True).score / 100}
    guesses = {i: [words(output)] for i, (output, _) in enumerate(made)}
    truths = {i: [words(reference) for reference in references] for i, (_, references) in enumerate(made)}
    figures["cider"] = float(Cider().compute_score(truths, guesses)[0])
    figures["rouge_l"] = float(Rouge().compute_score(truths, guesses)[0])
    for stem in (False, True):
        scorer = rouge_score.rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
        for name in ("rouge1", "rouge2", "rougeL"):
            best = [max(scorer.score(reference, output)[name].fmeasure for reference in references) for output, references in made]
            figures[f"{name}_f1" + ("_stem" if stem else "")] = sum(best) / len(best)
    with open(GOLDEN, "w") as file:
        json.dump({"items": made, "figures": figures}, file, indent=1)
        file.write("\n")
    print(figures)


main()
