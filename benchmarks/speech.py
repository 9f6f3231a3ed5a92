"""Sentences spoken by a Piper voice, with their transcripts: rows for `wherry export --verify-data`. See README.md."""

import json
import sys
from pathlib import Path

from wherry import pipeline
from wherry.commands.speak import save
from wherry_exporter.samples import sample

SENTENCES = """\
A wherry is a light boat that carries people and goods across the river.
The captain asked the crew to lower the sails before the storm arrived.
She bought a loaf of bread and three apples at the market.
My brother has been learning to play the violin for two years.
The train to the coast leaves from platform nine every morning.
Please remember to water the plants while we are away.
Scientists measured the temperature of the water at different depths.
He wrote a long letter to his grandmother about the journey.
The museum is closed on Mondays but open every other day.
A small fire broke out in the kitchen, and nobody was hurt.
They walked along the beach until the sun went down.
The new bridge will shorten the way to the city by half an hour.
Could you tell me where the nearest pharmacy is?
The teacher explained the problem again with a simple drawing.
We found an old map hidden behind the mirror in the hall.
It took the workers six months to repair the roof of the church.
The children listened quietly while the old man told his story.
Fresh snow covered the fields and the road to the village.
Her answer surprised everyone who was sitting at the table.
The doctor said that he should rest for a few more days.
"""


def main() -> None:
    """Write the sounds and `speech.jsonl` into the folder that is the one argument."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    voice = pipeline(model=sample("piper"))
    with (folder / "speech.jsonl").open("w") as rows:
        for number, sentence in enumerate(SENTENCES.splitlines()):
            file = folder / f"{number:02}.wav"
            save(voice(sentence, noise_scale=0, noise_w=0), file)  # without noise it is the same in every run
            rows.write(json.dumps({"audio": file.name, "label": sentence}) + "\n")


if __name__ == "__main__":
    main()
