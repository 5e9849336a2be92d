"""Draw the demo's questions from Banking77's test split (CC BY 4.0): 20 each of 20 intents.

python scripts/sample_banking77.py BANKING77_TEST.csv
"""

import csv
import random
import sys
from pathlib import Path

INTENTS = 20
PER_INTENT = 20
SEED = 77
OUT = Path(__file__).parents[1] / "shared/semcache_core/data/banking77_sample.csv"


def main(source: Path) -> None:
    with source.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
    chooser = random.Random(SEED)
    intents = chooser.sample(sorted({intent for _, intent in rows}), INTENTS)
    with OUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question", "intent"])
        for intent in intents:
            questions = sorted({text for text, label in rows if label == intent})
            for text in chooser.sample(questions, PER_INTENT):
                writer.writerow([" ".join(text.split()), intent])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
