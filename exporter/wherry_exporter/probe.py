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

CALIBRATION = (
    "The harbour master keeps a ledger of every vessel that enters, with its draught, its cargo and its last port. "
    "On the first of March 1911 he wrote down forty-one names, and beside eleven of them the word 'ice'.",
    "Please cancel my subscription; the invoice from June (EUR 49.90) was paid twice, and I would like a refund.",
    "In a distributed system, a message may arrive twice or not at all. A receiver that is asked to do the same thing "
    "twice should do it once, and remember its answer.",
    "Preheat the oven to 190 degrees. Rub the butter into the flour, add two eggs and a pinch of salt, and let the "
    "dough rest for half an hour before rolling it out.",
    "The patient reports headaches since Monday, no fever, blood pressure 128 over 82; she takes no medication.",
    "for row in rows:\n    if row.total > limit:\n        print(f'{row.name}: {row.total:.2f}')\n",
    "Q: Why is the sky dark at night although there are so many stars? A: Because the universe is neither infinitely "
    "old nor standing still, the light of most of them has not reached us.",
    "Dr. Amina Yusuf joined the University of Leeds in 2014 and now leads a group of nine people; write to her at "
    "a.yusuf@example.org or call +44 113 496 0000.",
    "Shares of Northwind rose 3.2% after the company said it would buy back stock worth $1.5 billion.",
    "I loved the first half of the film, but the ending felt rushed and the music was far too loud.",
    "Im Herbst werden die Boote aus dem Wasser geholt, gereinigt und in der Halle am Fluss gelagert.",
    "Le gouvernement a annoncé mardi une baisse de la taxe sur les transports publics à partir du mois de janvier.",
    "Los vecinos del barrio antiguo piden más árboles y menos coches en las calles estrechas.",
    "La ricetta originale prevede soltanto farina, acqua, lievito e un filo d'olio.",
    "O comboio das oito parte com vinte minutos de atraso por causa da chuva.",
    "Учёные нашли в озере новый вид рачков, который живёт только на большой глубине.",
    "这本书讲述了一个渔村三代人的故事，语言朴素而有力量。",
    "新しい駅ができてから、町を訪れる人の数は二倍になりました。",
    "도서관은 평일 오전 아홉 시부터 저녁 여덟 시까지 문을 엽니다.",
    "تعلمت القراءة من جدتي التي كانت تحفظ مئات القصائد.",
    "गाँव के स्कूल में अब तीन सौ बच्चे पढ़ते हैं।",
    "yes",
    "A light year is about 9.46 trillion kilometres; the nearest star beyond the sun is 4.2 of them away.",
    "Dear all, the meeting on Thursday is moved to room 3.14 at 10:30. Agenda: budget, hiring, any other business.",
)
"""Text whose activations decide how weights are rounded, where the user gives none; none of it is measured on."""
