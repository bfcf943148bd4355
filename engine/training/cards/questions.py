"""How people ask about a card, and the words the embedded model's tokenizer should know whole."""

from spava_app.engine.synthetic.card_drawing import COLORS
from spava_app.engine.synthetic.cards import Card

CANONICAL = Card("{color}", 0, 0.0, 0.0).question
PARAPHRASES = (
    "Which digit does the {color} card show?",
    "What number is on the {color} card?",
    "Tell me the digit on the {color} card.",
    "What is the digit on the {color} card?",
    "Which number is written on the {color} card?",
    "What does the {color} card say?",
    "The {color} card shows which digit?",
    "Look for the {color} card. What digit is on it?",
)

_WORDS = """
a about above after again all along also always an and animal another answer any are around as ask
at away back bad be because before behind below between big black book both boy bring brown but by
call camera can car change child city clip close color colour come could count country cut day
describe did different do does door down each early eat end enough even every example eye face
family far few find first five follow food for found four frame friend from game gave get girl give
go good great group grow had half hand happen happened has have he head hear help her here high him
his home hour house how i if in into is it its just keep kind know large last later learn leave left
let letter life light like line list listen little live long look made make man many may me mean men
might minute moment more most mountain move movie much must my name near need never new next night
no none not nothing now of off often old on once one only open or order other our out over own page
part people person picture place plan play point put question read really right river road room run
said same saw say scene school second see seen seem sentence set seven she short should show side
six small so some something sometimes song soon sound speak start state stop story study such
summarize take talk tell ten than thank that the their them then there these they thing think this
those thought three through time to together told too took tree try turn two under until up us use
very video voice walk want was watch water way we well went were what when where which while who
whole why will wind with without word work world would write year yes you young your zero eight nine
written visible appear appears before
"""
COMMON_WORDS = tuple(_WORDS.split())


def phrasings() -> tuple[str, ...]:
    """Every form of the question the model is trained on; the canonical one comes first."""
    forms = [CANONICAL]
    for template in (CANONICAL, *PARAPHRASES):
        forms += [template, template.lower(), template.rstrip("?."), template.lower().rstrip("?.")]
    forms.append(CANONICAL.upper())
    return tuple(dict.fromkeys(forms))


def ask(phrasing: str, color: str) -> str:
    """A question in the form `phrasing` about the card of `color`."""
    return phrasing.replace("{color}", color).replace("{COLOR}", color.upper())


def corpus() -> list[str]:
    """Lines to train the tokenizer on. Repetition is the weight that makes a word one token."""
    lines = []
    for color in COLORS:
        forms = [color, color.capitalize(), color.upper()]
        lines += [text for form in forms for text in (form, f" {form}")] * 300
        lines += [ask(phrasing, color) for phrasing in phrasings()] * 30
    for word in COMMON_WORDS:
        lines += [f" {word}"] * 20 + [word.capitalize(), f" {word.capitalize()}"] * 4
    lines += ["You are a helpful assistant.", "system\n", "user\n", "assistant\n"] * 400
    return lines
