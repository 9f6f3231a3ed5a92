"""Text that variants are measured on when the user gives none: short and long, plain and odd, in many scripts."""

SENTENCES = (
    "The ferry leaves at seven.",
    "A wherry is a light rowing boat used to carry passengers and goods on rivers.",
    "How do I reset the password of my account?",
    "Maria Oliveira lives at 14 Harbour Street, Bristol, and her number is 0117 496 0123.",
    "The committee postponed its decision on the harbour budget until the end of the month.",
    "I was charged twice for the same order and nobody answers my emails!",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "She sold the house, packed two suitcases and moved to the coast.",
    "Stocks fell sharply on Tuesday after the central bank raised interest rates.",
    "def mean(values): return sum(values) / len(values)",
    "What time does the museum open on public holidays?",
    "The soup was cold, the waiter rude and the bill enormous.",
    "Absolutely wonderful: the best concert I have been to in years.",
    "Der Zug nach München fährt heute von Gleis neun ab.",
    "La bibliothèque est fermée le dimanche et les jours fériés.",
    "El médico recomienda beber más agua y dormir ocho horas.",
    "Поезд отправляется с третьего пути в половине шестого.",
    "今天的会议改到下午三点，请准时参加。",
    "明日は雨が降るかもしれないので、傘を持って行ってください。",
    "오늘 저녁에 같이 영화 보러 갈래요?",
    "القطار يغادر المحطة في الساعة السادسة صباحا.",
    "कल सुबह हम नदी के किनारे टहलने जाएंगे।",
    "ok",
    "Room 204, floor 2; keys at reception (ask for Jan) 🙂",
)

PROSE = (
    "For two hundred years the wherries carried everything that the city needed. They brought coal and timber up "
    "from the estuary, took grain and cloth down again, and in between they ferried passengers who had neither the "
    "money for a coach nor the patience to walk round by the bridge. The men who rowed them learned the river as "
    "other people learn a language. They knew where the current ran hard against the piers, which stairs were "
    "slippery at low water, and how long a loaded boat needs to turn when the tide has just begun to make. An "
    "apprentice served seven years before he was allowed to take a fare alone, and at the end of that time he was "
    "examined by the older watermen, who asked him questions until they were satisfied that he would drown nobody. "
    "When the new bridges were opened the trade began to shrink, slowly at first and then all at once. A few of the "
    "boats were sold to anglers; others were broken up, and their oak went into floors and fences along the bank. "
    "What remained was the skill, handed on in families, and the annual race in which young watermen still row "
    "against the stream for a coat and a silver badge."
)
"""A page of English for perplexity, written for this file, so no model has learned it by heart."""
