"""`wherry demo`: two small real models, from their weights to an answer, in a few minutes."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.commands.common import variants_table
from wherry.hub import cache_folder
from wherry.pipelines import pipeline
from wherry_exporter.export import export
from wherry_exporter.samples import sample

SENTENCES = (
    "A wherry is a light boat that carries passengers across a river.",
    "The ferry to the island does not run in winter.",
    "Trains to the coast leave every half hour from platform two.",
    "The night bus stops running at four in the morning.",
    "Bicycles may be taken on the underground outside rush hour.",
    "Knead the dough for ten minutes and let it rise overnight.",
    "Add a pinch of salt to the chocolate to bring out its taste.",
    "Tomatoes keep better outside the refrigerator.",
    "Simmer the lentils until they are soft, then add the spinach.",
    "Green tea should not be brewed with boiling water.",
    "Interest rates rose by half a point, and share prices fell.",
    "The company will cut one job in ten by the end of the year.",
    "Put aside three months of wages before you begin to invest.",
    "Inflation eats the value of money that lies in a drawer.",
    "The budget deficit was smaller than the ministry had expected.",
    "Vaccines teach the immune system to recognize a virus.",
    "Walk for half an hour a day to keep your heart healthy.",
    "Drink plenty of water and rest when you have a fever.",
    "Too little sleep makes it harder to concentrate.",
    "The surgeon repaired the torn ligament in the knee.",
    "The telescope found water vapour around a distant planet.",
    "Black holes bend the light of the stars behind them.",
    "The spacecraft entered orbit around Mars after seven months.",
    "A solar eclipse happens when the moon covers the sun.",
    "Meteors burn up when they meet the atmosphere.",
    "The orchestra played the symphony without a conductor.",
    "Her third novel is set in a lighthouse in Norway.",
    "The museum bought a self-portrait that was thought lost.",
    "The band is recording its new album in an old church.",
    "The film tells the story of two brothers on a farm.",
    "The goalkeeper saved two penalties in the final.",
    "She ran the marathon in under three hours.",
    "Rain stopped play after only twenty minutes.",
    "Back up your files before you update the operating system.",
    "The password must have at least twelve characters.",
    "The server answers slowly because its disk is full.",
)

QUESTIONS = (
    "How do I get over the water without a bridge?",
    "What should I do about a high temperature?",
    "How can I protect my computer?",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry demo`."""
    parser.add_argument(
        "--output",
        type=Path,
        default=cache_folder() / "demo",
        metavar="DIR",
        help="where the bundles go (default: %(default)s)",
    )
    parser.epilog = "Downloads about 180 MB on first use; later runs export again but download nothing."


def run(arguments: argparse.Namespace) -> int:
    """Fetch, export, verify, search, chat."""
    folder: Path = arguments.output
    _title("MiniLM: sentence embeddings, float32 and int8")
    minilm = _export("minilm", folder / "minilm", ["fp32", "int8"])
    _search(minilm)
    _title("SmolLM2: a small chat model, float32 and int4")
    smollm2 = _export("smollm2-gguf", folder / "smollm2", ["fp32", "int4"])
    _talk(smollm2)
    _title("What to try next")
    print(f"wherry chat {smollm2.folder} --precision int4")
    print(f'wherry run {minilm.folder} --precision int8 --json "any text of yours"')
    print(f"wherry inspect {smollm2.folder}")
    print("wherry export YOUR_MODEL_FOLDER -o my-bundle")
    return 0


def _export(name: str, folder: Path, precisions: list[str]) -> Bundle:
    if not sys.stderr.isatty():
        print(f"fetching and exporting {name} ...", flush=True)
    source = sample(name)
    bundle = export(source, folder, precision=precisions, overwrite=True)
    print(variants_table(bundle))
    print(f"exported and verified in {bundle.provenance['seconds']:.0f} s: {folder}")
    return bundle


def _search(bundle: Bundle) -> None:
    embed: Any = pipeline(model=bundle.folder, precision="int8")
    library = embed(SENTENCES)
    for question in QUESTIONS:
        scores = library @ embed(question)
        print(f"\n{question}")
        for index in np.argsort(-scores)[:3]:
            print(f"  {scores[index]:.2f}  {SENTENCES[index]}")


def _talk(bundle: Bundle) -> None:
    generate: Any = pipeline(model=bundle.folder, precision="int4")
    question = "What is the capital of France, and which river flows through it?"
    print(f"\n> {question}")
    _show(generate.stream([{"role": "user", "content": question}], max_new_tokens=80))
    print()
    start = "我是一个人工智能模型"
    sys.stdout.write(start)
    _show(generate.stream(start, max_new_tokens=50))


def _show(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _title(text: str) -> None:
    print(f"\n{text}\n{'=' * len(text)}", flush=True)
