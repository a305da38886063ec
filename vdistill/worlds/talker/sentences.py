"""What talkers say: a small grammar that never runs out, and sentences rich in sounds that lips show."""

from __future__ import annotations

from ...core.rng import Rng

BALANCED = (
    "Five brave painters move above the wide blue bay.",
    "Please put both of my maps back behind the beam.",
    "We saw a huge yellow moon rise over the wood.",
    "Many people prefer fresh bread from the village baker.",
    "Who would you choose to show the new school room?",
    "The thirsty father thought about the smooth path north.",
    "Her purple umbrella floated up beyond the pier.",
    "Joyful children should watch the bright parade at noon.",
    "Bob may buy a pound of plums before we leave.",
    "The old boat rolled slowly over open water.",
    "I often hear loud voices outside around four.",
    "Few foxes venture very far from the forest.",
    "Charlie reached for the orange jar on the shelf.",
    "Mama and papa both wave from the warm porch.",
    "Each evening she teaches me these simple verses.",
    "How now does the brown mouse get out of the house?",
    "Pam bought a big map of Peru by mail.",
    "Usually the pleasure of a good book is enough.",
    "Fifty heavy vans drove off before half past five.",
    "A cool blue pool, a full spoon, a loose shoe.",
    "The boy enjoys the noise of coins in the toy.",
    "My mother makes marvellous apple pie in summer.",
    "They breathe together, then bathe in the southern sea.",
    "Paul saw small balls fall all along the hall.",
    "Every winter we build a warm fire by the river.",
    "Beep, boop, said the robot, and opened the pod.",
    "Sally sees six steep streets in this city.",
    "You knew the rule, so why do you argue?",
    "Wolves howl while owls watch the white woods.",
    "Maybe the bishop might improve upon that problem.",
    "I like to ride my bike on high, dry, sunny days.",
    "Put your foot on the hook and look at the book.",
    "Pepper, butter, vinegar, and a full cup of beer.",
    "The judge pushed the large package through the passage.",
    "Ah, the far car park is calm and dark.",
    "We wove a wavy web of very vivid wool.",
)

TIMES = ("today", "this morning", "before noon", "after five", "on Monday", "every evening", "in the summer", "at home")
PEOPLE = (
    "my father",
    "the baker",
    "our neighbour",
    "a famous poet",
    "the whole family",
    "her brother",
    "Bob",
    "Molly",
    "everybody",
    "the old farmer",
    "a young woman",
    "the weather man",
)
VERBS = (
    "moved",
    "showed me",
    "bought",
    "wove",
    "found",
    "may prefer",
    "would paint",
    "opened",
    "believed in",
    "should fix",
    "cooked",
    "remembers",
    "gave away",
    "loves",
    "shipped",
)
THINGS = (
    "a blue boat",
    "the map of the village",
    "five apples",
    "some warm bread",
    "the big umbrella",
    "a purple lamp",
    "my favourite movie",
    "two open windows",
    "the weather report",
    "a box of paper",
    "both piano books",
    "the yellow moon",
    "a few wild mushrooms",
    "my whole house",
)
PLACES = (
    "by the river",
    "over the bridge",
    "from the market",
    "in a small room",
    "near the beach",
    "above the shop",
    "for the first time",
    "with a smile",
    "before we arrived",
    "and forgot about it",
)
OPENERS = ("Well", "Good morning", "Oh yes", "Maybe", "Of course", "Wow", "Now", "Listen")


def sentence(rng: Rng, name: str) -> str:
    """One sentence of 5 to 15 words: a balanced one in one case of three, else a made one."""
    if rng.integer(f"{name}/kind", 3) == 0:
        return BALANCED[rng.integer(f"{name}/balanced", len(BALANCED))]
    parts = [PEOPLE, VERBS, THINGS, PLACES, TIMES, OPENERS]
    person, verb, thing, place, time, opener = (
        part[rng.integer(f"{name}/{i}", len(part))] for i, part in enumerate(parts)
    )
    form = rng.integer(f"{name}/form", 4)
    if form == 0:
        words = f"{person} {verb} {thing} {place}."
    elif form == 1:
        words = f"{time}, {person} {verb} {thing}."
    elif form == 2:
        words = f"{opener}, {person} {verb} {thing}."
    else:
        words = f"did you hear that {person} {verb} {thing}?"
    return words[0].upper() + words[1:]
