"""A grammar of short stories about bees: an opening, a plot of beats, an ending.

Templates are those of `phrases`; `{flower}`, `{place}` and `{hive}` are filled once per story. Each plot has its own
two bees, so that names stay the same from the first sentence to the last.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from daemons.models.demo.phrases import expand

_FLOWERS = (
    "clover",
    "lavender",
    "sunflowers",
    "thyme",
    "poppies",
    "heather",
    "daisies",
    "linden blossoms",
    "apple blossoms",
    "dandelions",
    "borage",
    "wild roses",
)
_PLACES = (
    "the meadow",
    "the old orchard",
    "the hill",
    "the river bank",
    "the village garden",
    "the edge of the forest",
    "the valley",
    "the field behind the mill",
    "the quiet lane",
    "the castle garden",
)
_HIVES = (
    "in a hollow oak",
    "in a small wooden hive",
    "in a straw basket",
    "behind an old stone wall",
    "under a red roof",
    "in a white box by the fence",
    "high in a lime tree",
)


@dataclass(frozen=True)
class Plot:
    """One plot: its two bees, what `hero` is known for, `beats` in order, its own `endings`.

    `short` numbers the beats that still make sense without the others.
    """

    hero: str
    friend: str
    known_for: str
    beats: tuple[str, ...]
    endings: tuple[str, ...]
    short: tuple[int, ...]


OPENINGS: tuple[str, ...] = (
    "Once upon a time there was a [little|young|small|curious] bee. "
    "She lived {hive}[ with many sisters|, close to {place}|].",
    "Once upon a time, {hive}, there lived a [brave|small|cheerful|shy] bee.",
    "Once upon a time, a [little|young|clever] bee lived {hive} near {place}.",
    "The queen bee ruled a [small|large|busy] colony {hive}. "
    "[She was wise and kind.|Her daughters loved her.|She knew every bee by name.]",
    "The queen bee lived {hive} near {place}. "
    "[Every morning she greeted her workers.|She was proud of her hive.|She was old, but her eyes were bright.]",
    "The queen bee looked out of the hive and called her [youngest|bravest|quickest] worker.",
    "The queen bee was [worried|happy|tired|awake early] that morning. "
    "She called for [a small worker|a young scout|her best scout].",
    "The [little|young|old|small] bee lived {hive}. She [loved|knew] every flower near {place}.",
    "[A|One] [little|young|curious|small] bee lived {hive}[| with her sisters].",
    "In a hive near {place} lived a [worker|scout|guard|young] bee. "
    "[She was the smallest of all.|She was always the first to fly.|She asked a question every day.]",
    "The hive stood near {place}. In it lived a [small|brave|patient] bee[| with bright wings].",
    "Near {place} there was a hive full of [busy|cheerful|sleepy] bees. "
    "One of them was [small but brave|always late|very curious|never tired].",
    "Long ago, when {place} was [still wild|full of flowers|green and quiet], a [little|young] bee lived {hive}.",
    "There was once a bee who [loved {flower}|wanted to see the world|was afraid of the dark|could not sit still].",
    "Deep in [the forest|the old forest|the valley|the green wood] there lived a [little|young|wise] bee.",
    "It was a [warm|bright|windy|quiet] morning in [spring|summer|May|June]. "
    "A [young|small] bee [woke|sat at the door of the hive|stretched her wings].",
    "One [warm|sunny|bright|cool] [day|morning] a [little|young] bee "
    "[left the hive|looked out of the hive|woke early].",
    "Bees never sleep long in summer. One [small|young] bee was [awake|up] before all the others.",
    "Every bee in the hive knew her. She was [small|young|old], but [brave|clever|kind|quick].",
    "My grandmother told me about a bee who lived {hive}.",
    "This is the story of a [little|small|young] bee who lived {hive}.",
)
"""First sentences. They name nobody: the name comes with the plot, since a model this small cannot carry it over."""

NAMING = "[Her name was|They called her|She was called] {hero}, and "

PLOTS: tuple[Plot, ...] = (
    Plot(
        "Mira",
        "Bella",
        "[this is how she got lost|once she lost her way in the fog].",
        (
            "[One day|One morning|That day] {hero} flew [far|too far|farther than ever] to find {flower}.",
            "She [drank sweet nectar|filled her baskets with pollen|went from flower to flower] and forgot the time.",
            "[Then|Suddenly|Soon] a [thick|grey|cold] fog [came down|rolled over {place}|hid everything], and {hero} "
            "[did not know the way home|could not see the hive|was lost].",
            "She [was afraid|felt very small], but she [stayed calm|sat on a leaf and listened|remembered what the "
            "queen had taught her].",
            "[Far away|Somewhere in the fog] she heard a [soft|low] hum. It was {friend}, who [was looking for her|"
            "had come to search for her|was calling her name].",
            "{hero} [followed the sound|flew toward the hum] until she saw {friend}.",
            "[Together|Side by side] they flew home [through the fog|slowly|under the first stars].",
        ),
        (
            "From that day on {hero} never flew [out |]alone.",
            "{hero} [learned|knew] that a friend is the best map.",
            "The hive was [happy|glad] to have {hero} back.",
        ),
        (0, 2, 4, 6),
    ),
    Plot(
        "Tilda",
        "Juno",
        "[she saved her hive in a dry summer|this is how she saved the hive].",
        (
            "[That year|That summer|One year] [it did not rain for weeks|the sun burned for many weeks|the rain "
            "did not come], and the flowers [dried|faded|closed].",
            "The honey [jars|combs|cells] were almost empty, and the bees [were hungry|began to worry].",
            '"[Somebody must find|We need] new flowers," said [the old guard|{friend}|the wise bee].',
            "{hero} [flew over hill and field|looked everywhere|flew all day], but she found [only dust|nothing|only "
            "dry grass].",
            "[In the evening|At last|Then] she [smelled|saw] something [sweet|bright] behind [a wall|the trees|the "
            "mill]: a garden full of {flower}.",
            "She hurried home and danced [in circles|on the comb|the way to the garden], and {friend} [understood|"
            "followed the dance].",
            "[Soon|By noon|The next day] the whole hive [flew to the garden|gathered nectar there|worked among the "
            "{flower}].",
        ),
        (
            "[When winter came|In winter] there was honey enough for all.",
            "Since then the bees [call it|have called it] the garden of {hero}.",
            "[So|And so] one small bee saved the hive.",
        ),
        (0, 4, 5, 6),
    ),
    Plot(
        "Poppy",
        "Greta",
        "[she once met a thief|this is how she met a thief in the night].",
        (
            "[One night|One evening|That night] a [hungry|big|clumsy] [bear|mouse|badger] came [to the hive|close] "
            "and [wanted|smelled] the honey.",
            "The guards were [asleep|tired|few], and [nobody heard it|only {hero} heard the steps].",
            "{hero} [did not want to sting|had an idea|thought quickly]. She [flew to its ear|landed on its nose].",
            '"[Please|Wait]," she said, "[we need this honey for the winter|our children will be hungry without it]."',
            'The [animal|visitor|stranger] was [surprised|ashamed]. "[I am hungry too|Nobody ever asked me kindly|I '
            'did not know]," it said.',
            "{hero} [called|woke] {friend}, and they [showed it a bush full of berries|brought it some berries|led it "
            "to a tree full of pears].",
            "The [animal|visitor|stranger] ate [until it was full|everything|happily] and [thanked them|went away "
            "quietly].",
        ),
        (
            "It never [came to steal|took the honey] again.",
            "[After that|From then on] it [guarded the hive at night|was a friend of the hive].",
            "{hero} smiled, because a kind word can be stronger than a sting.",
        ),
        (0, 2, 3, 4),
    ),
    Plot(
        "Hazel",
        "Nell",
        "[she was not afraid of any storm|this is what she did in the great storm].",
        (
            "[One afternoon|That afternoon|One day] [dark clouds|black clouds] [came over the hill|gathered above "
            "{place}], and the wind [grew strong|began to howl].",
            "[Many bees|{friend} and the others|The young bees] were still [outside|among the {flower}|far from the "
            "hive].",
            "{hero} [saw the storm first|heard the thunder|felt the rain] and [flew out|raised the alarm|called the "
            "others].",
            "[A gust of wind threw {friend} into a puddle.|{friend} was caught under a wet leaf.|The rain pushed "
            "{friend} to the ground.]",
            "{hero} [did not leave her|turned back at once]. She [pulled her out|lifted the leaf|held out a blade of "
            "grass].",
            "[Together|Wing to wing] they [crawled under a mushroom|hid in an empty snail shell|waited under a large "
            "leaf] until the storm was over.",
            "[When the sun came back|After the rain] they [dried their wings|flew home|shook the drops from their "
            "wings].",
        ),
        (
            "The queen [thanked|praised] {hero} in front of the whole hive.",
            "That night they [told the story|slept] [side by side|in the warm hive].",
            "{friend} never forgot it.",
        ),
        (0, 3, 4, 5),
    ),
    Plot(
        "Luna",
        "Ivy",
        "[she had a great wish|she had one big dream].",
        (
            "She wanted to [see the sea|find the tallest flower|dance like the old bees|see the moon].",
            "The [others|older bees] [laughed|shook their heads] and said that [it was too far|a bee should work|she "
            "was too small].",
            '[Only|But] {friend} [believed in her.|said, "Let us try."|packed some honey for the way.]',
            "[So|The next morning|At dawn] they [left the hive|flew over {place}|set out together].",
            "The way was [long|hard], and [the wind was against them|the nights were cold|a spider nearly got them].",
            "When {hero} [wanted to give up|was tired], {friend} [shared her honey|sang a song|carried her pollen].",
            "[On the third day|At last|In the end] they [reached it|were there|saw it with their own eyes], and it "
            "was [more beautiful than any story|bright and wonderful].",
        ),
        (
            "Then they flew home and told everybody about it.",
            "[After that|From that day on] nobody laughed [at {hero}|in the hive] again.",
            "{hero} was [happy|proud], and {friend} was too.",
        ),
        (0, 2, 3, 6),
    ),
    Plot(
        "Fern",
        "Rosa",
        "[she liked to collect things|she loved to find things].",
        (
            "[One day|One morning] {hero} found a [strange|shiny|tiny] [seed|key|stone] [among the {flower}|near "
            "{place}|under a leaf].",
            "She [carried it home|rolled it to the hive|showed it to {friend}], and nobody knew what it was.",
            '"[Throw it away|It is of no use]," said [the others|an old bee]. But {hero} [kept it|was curious].',
            "She [put it in the earth in front of the hive|hid it in warm soil|laid it in the sun] and [watered it|"
            "watched it] every day.",
            "For [a long time|many days] nothing happened, [and|but] {friend} [helped her wait|brought water too].",
            "[Then one morning|At last|One warm day] there was [a green leaf|something green|a small plant], and "
            "[soon|a week later] a [golden|huge|blue] flower opened.",
            "It had [more nectar than a whole meadow|the sweetest nectar of all].",
        ),
        (
            "Patience, said {hero}, tastes like honey.",
            "The whole hive [came|danced] and thanked {hero}.",
            "[So|And] every spring they plant a new one.",
        ),
        (0, 3, 5, 6),
    ),
    Plot(
        "Maya",
        "Wanda",
        "[she had a best friend, {friend}|{friend} was her best friend].",
        (
            "[One day|One morning|That morning] {hero} and {friend} [had a quarrel|argued] about [the best flower|who "
            "flies faster|a drop of nectar].",
            '"[I found it first|I am right]," said {hero}. "[No, I did|No, I am]," said {friend}.',
            "They [did not speak|worked apart] [all day|until the evening], and the [work went badly|day was long and "
            "grey].",
            "In the evening {hero} [saw that {friend} was missing|found {friend} in a spider's web|heard {friend} "
            "call for help].",
            "She [forgot the quarrel|did not think twice] and [flew as fast as she could|hurried to {place}].",
            "She [cut the threads|pulled with all her strength|called the guards], and soon {friend} was free.",
            '"[I am sorry|Let us never fight again]," said {friend}. "[So am I|I am sorry too]," said {hero}.',
        ),
        (
            "They shared the last drop of nectar.",
            "[Since then|After that] they have been the best of friends.",
            "And the next day they found enough {flower} for two.",
        ),
        (0, 3, 4, 5),
    ),
    Plot(
        "Ada",
        "Willa",
        "[she was the best scout|nobody knew the land as she did].",
        (
            "[One spring|One day|That spring] the hive [became too small|was too full], and the bees [needed a new "
            "home|had to move].",
            "The queen [asked|chose] {hero} to [find a good place|look for a new home].",
            "{hero} looked [into a tree, but it was wet|under a roof, but it was too hot|into a cave, but a bat lived "
            "there].",
            "Then she looked [at an old chimney, but it smelled of smoke|into a boot, but a mouse slept in it|behind "
            "a wall, but the wind came through].",
            "She was [almost ready to turn back|tired], when {friend} [called her|waved from a branch|pointed to "
            "{place}].",
            "There stood [an empty hive|a hollow tree|a dry old barrel], [warm and dry|just large enough|full of "
            "light], with {flower} all around.",
            "{hero} danced [the news|for joy], and the swarm [followed her|rose like a golden cloud].",
        ),
        (
            "[That evening|Before night] everybody slept in the new home.",
            "The queen [named|called] the place after {hero}.",
            "They live there to this day.",
        ),
        (0, 1, 4, 5),
    ),
)

CLOSINGS: tuple[str, ...] = (
    "And they all lived happily.",
    "[And in the hive there was|That night there was] honey for everyone.",
    "The [stars|moon] shone over the hive, and all was quiet.",
    "The end.",
    "And if you listen [closely|on a summer day], you can still hear {hero} hum.",
    "{hero} fell asleep with a smile.",
    "And so the day ended well.",
)


def _fill(template: str, names: dict[str, str], rng: random.Random) -> str:
    text = expand(template, rng)
    for slot, value in names.items():
        text = text.replace("{" + slot + "}", value)
    return text[0].upper() + text[1:]


def _names(plot: Plot, rng: random.Random) -> dict[str, str]:
    return {
        "hero": plot.hero,
        "friend": plot.friend,
        "hive": rng.choice(_HIVES),
        "place": rng.choice(_PLACES),
        "flower": rng.choice(_FLOWERS),
    }


def story(rng: random.Random, short: bool = False) -> str:
    """One story in one paragraph: about 60 words when short, else about 105."""
    plot = rng.choice(PLOTS)
    names = _names(plot, rng)
    beats = tuple(plot.beats[index] for index in plot.short) if short else plot.beats
    sentences = [rng.choice(OPENINGS), NAMING + plot.known_for, *beats, rng.choice(plot.endings)]
    if not short or rng.random() < 0.3:
        sentences.append(rng.choice(CLOSINGS))
    return " ".join(_fill(sentence, names, rng) for sentence in sentences)
