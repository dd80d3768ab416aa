"""Makes tests/golden/score.json: figures of well-kept Python libraries for some texts. For developers: `python3 check_score.py` with sacrebleu, rouge-score, nltk and
pycocoevalcap installed, and java for the last one's tokenizer and METEOR. The first set's texts are of lower-case words and simple signs, the second's of everything that the
tokenisations treat in a way of their own; the libraries cut all texts themselves."""

import json
import os
import random
import subprocess

import nltk.translate.meteor_score
import pycocoevalcap.meteor.meteor
import rouge_score.rouge_scorer
import sacrebleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

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


SIGNS = """The eagle's can't DON'T they'll I'd gonna cannot 'tis rock 'n' roll '90s O'Neil's l'eau students' "The Mill" “quoted” ‘so’ (cheap) [sic] {x} <b> &amp; &quot; & A&B AT&T
£20-25 £20 -£25 20£-25 $3.50 €5 1,000 10:30 ½ 10%-20% +7 -5 #1 5* 1990s 7 p.m. U.K. e.g. Mr. Smith St. Inc. No. 5 a.b.c end.Start yes,no centre., wait... what?! Hello! so-so; -- – — …
child-friendly and/or 5-star a_b x=y a@b.org www.a.org/b?c=1 http://x.org/a @home Café ÉCLAIR İstanbul Straße ΑΘΗΝΑ Москва 東京 😀 rating ratings rated families family restaurants""".split()


def signs():
    source, out = random.Random(8), []
    for i in range(40):
        references = [" ".join(source.choice(SIGNS) for _ in range(source.randint(1, 16))) + source.choice((".", " .", "")) for _ in range(source.randint(1, 4))]
        words = source.choice(references).split()
        for _ in range(source.randint(0, 3)):
            words[source.randrange(len(words))] = source.choice(SIGNS)
        at = source.randrange(len(words))
        out.append(("" if i == 7 else " ".join(words[at:] + words[:at] if i % 3 == 0 else words), references))
    return out


class NoWordNet:
    def synsets(self, word):
        return []


def nltk_meteor(truths, guesses):
    cut = lambda line: [word for word in line.split(" ") if word]
    of = lambda i: nltk.translate.meteor_score.meteor_score([cut(line) for line in truths[i]], cut(guesses[i][0]), wordnet=NoWordNet())
    return sum(map(of, truths)) / len(truths)


def meteor(truths, guesses):
    """METEOR 1.5, exact and stem, every word with the same weight: of the set, and the mean."""
    command = ["java", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-m", "exact stem", "-w", "1.0 0.6", "-p", "0.85 0.2 0.6 0.5"]
    folder = os.path.dirname(pycocoevalcap.meteor.meteor.__file__)
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        def ask(*words):
            process.stdin.write(" ||| ".join(words) + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        counts = [ask("SCORE", *truths[i], guesses[i][0]) for i in truths]
        scores = [float(ask("EVAL", *counts))] + [float(process.stdout.readline()) for _ in counts]
        process.stdin.close()
    return scores[-1], sum(scores[:-1]) / len(counts)


def figures_of(made):
    outputs = [output for output, _ in made]
    most = max(len(references) for _, references in made)
    streams = [[references[i] if i < len(references) else None for _, references in made] for i in range(most)]
    figures = {"bleu": sacrebleu.corpus_bleu(outputs, streams, smooth_method="none", lowercase=True).score / 100}
    guesses = PTBTokenizer().tokenize({i: [{"caption": output}] for i, (output, _) in enumerate(made)})
    truths = PTBTokenizer().tokenize({i: [{"caption": reference} for reference in references] for i, (_, references) in enumerate(made)})
    figures["cider"] = float(Cider().compute_score(truths, guesses)[0])
    figures["rouge_l"] = float(Rouge().compute_score(truths, guesses)[0])
    figures["meteor"], figures["meteor_mean"] = meteor(truths, guesses)
    figures["meteor_nltk"] = nltk_meteor(truths, guesses)
    for stem in (False, True):
        scorer = rouge_score.rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
        for name in ("rouge1", "rouge2", "rougeL"):
            best = [max(scorer.score(reference, output)[name].fmeasure for reference in references) for output, references in made]
            figures[f"{name}_f1" + ("_stem" if stem else "")] = sum(best) / len(best)
    return {"items": made, "figures": figures}


def main():
    sets = [figures_of(items()), figures_of(signs())]
    with open(GOLDEN, "w") as file:
        json.dump(sets, file, indent=1)
        file.write("\n")
    print([one["figures"] for one in sets])


main()
