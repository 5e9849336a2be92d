"""Finds the core of a question: the text without greeting, thanks, sign-off and faces.

What is left out must never change an answer. So phrases and emoji are closed lists, a text about
words is left whole, and in doubt nothing is left out: the text is then compared as it is.
"""

import re
from dataclasses import dataclass
from functools import cache

_LONGEST = 1_000
"""Characters: longer texts are beyond what a model reads, and stay whole."""
_LONGEST_END = 160
_FEWEST_WORDS = 3
"""With fewer, the greeting may be what is asked about: "Good morning, Vietnam"."""

# Faces, hands and sparks with their variants: a mood changes no answer. No object, heart, flag or
# thumb: those can be what is asked about.
_EMOJI = (
    "(?:[\U0001f600-\U0001f64f\U0001f910-\U0001f917\U0001f91d\U0001f91e\U0001f920-\U0001f92f"
    "\U0001f970-\U0001f976\U0001f979\U0001f97a\U0001fae0-\U0001fae8\U0001f44b\U0001f937\U0001f926"
    "\U0001f389\u2728\u2639\u263a\u2753-\u2755\u2757\u203c\u2049]"
    "\ufe0f?[\U0001f3fb-\U0001f3ff]?(?:\u200d[\u2640\u2642]\ufe0f?)?(?![\u200d\ufe0f]))"
)
_SMILEY = r"(?<=[\s.?!])[:;]-?\)"
_SMILES = rf"\s*(?:{_EMOJI}|{_SMILEY})(?:{_EMOJI}|{_SMILEY}|\s)*"
_STOP = (
    rf"[ \t]*(?:[,.!;\n]|[-\u2013\u2014](?=\s)|{_EMOJI})"
    rf"(?:[\s,.!;]|[-\u2013\u2014](?=\s)|{_EMOJI})*(?=[^\s,.!;])"
)
_NAME = (
    r"(?-i:[A-Z\u00c0-\u00de](?:[\w'\u2019-]+|\.)(?: [A-Z\u00c0-\u00de](?:[\w'\u2019-]+|\.)){0,2})"
)
_IDENTITY = (
    rf"(?:my name(?: is|'s) {_NAME}"
    r"|(?:my )?(?:customer|client|member|membership|user) (?:number|no\.?|id)(?: is|:)? #?"
    r"[\w-]*\d[\w-]*)"
)
_ADDRESSED = (
    r"(?:there|again|all|everyone|everybody|folks|guys|team|support(?: team)?"
    r"|customer (?:service|support|care)|sir(?: or madam)?|madam)"
)
_GREETING = (
    rf"(?:(?:hi|hello|hey|greetings|good (?:morning|afternoon|evening|day))(?: {_ADDRESSED})?"
    rf"|dear {_ADDRESSED}){_STOP}"
    # "Hello, Dolly! ...": who is spoken to may be what is asked about
    r"(?!(?-i:[A-Z]\w*)(?: (?-i:[A-Z]\w*)){0,2}[,.!:;])"
)
_ANNOUNCEMENT = (
    r"(?:(?!question)(?:(?:i(?:'ve| have)(?: got)?|just|only|here's|here is) )*"
    r"(?:(?:a|one|another|my|just|more|quick|short|small|brief|simple|little|silly|stupid|dumb"
    r"|easy|basic|general|last) )*question(?: for you| please| is)?"
    r"|(?:can|could|may) i (?:just )?ask (?:you )?(?:a (?:quick )?question|something))"
    rf"(?:[ \t]*[:?]\s*(?=\S)|{_STOP})"
)
_THANKS = (
    r"(?:(?:many )?(?:thanks|thank you|thx|cheers)"
    r"(?: so much| very much| a lot| again| in advance"
    r"| for (?:your|the|any) (?:help|time|support))*"
    r"|(?:(?:kind|best|warm|many) )?regards|best wishes|(?:yours )?sincerely"
    r"|yours (?:truly|faithfully)|have a (?:nice|good|great) (?:day|one|weekend)"
    r"|(?:any )?help (?:is|would be) (?:much |greatly |very )?appreciated|please (?:help|advise))"
)
_FRONT = rf"(?i)\s*(?:{_GREETING}|{_ANNOUNCEMENT})"
_END = (
    rf"(?i)(?:(?<=[.?!\n])\s*|{_SMILES}){_THANKS}"
    rf"(?P<person>(?:,|,?[ \t]*\n)\s*{_NAME})?(?:[\s.,!]|{_EMOJI}|{_SMILEY})*$"
)
_FRONT_IDENTITY = rf"(?i)\s*(?P<person>(?:{_IDENTITY}{_STOP})+)"
_END_IDENTITY = rf"(?i)(?<=[.?!\n])\s*(?P<person>{_IDENTITY})[\s.!]*$"
_FRONT_SMILES = (
    rf"{_SMILES}(?!(?:is|are|was|or|and|vs|versus|means?|in|as|for|with|has|looks?)\b)(?=\w)"
)
_ONE = f"{_EMOJI}|{_SMILEY}"
_END_SMILES = rf"{_SMILES}$"
_INNER_SMILES = rf"(?<=[.?!]){_SMILES}(?=[A-Z])"

# One of these is in every text of which a part is left out. Nearly all questions have none, and a
# search for plain words takes a fifth of the time of a regular expression.
_STARTS = ("hi", "hello", "hey", "greetings", "good", "dear")
_HINTS = (
    "question/i ask /just ask /name/customer/client/member/user /thank/thx/cheers/regards/wishes"
    "/sincerely/yours/have a /appreciated/please help/please advise/:)/;)/:-)/;-)"
).split("/")

# In a text about words or emoji, or with words to work on, any word may be what is asked about.
_QUOTES = re.compile('["`\u2018\u201c\u201d\u00ab\u00bb]')
_ABOUT_WORDS = frozenset(
    "caption captions characters comment comments draft grammar greeting greetings icon icons mean "
    "meaning means message messages mood phrase phrases poem poems react reacts replies reply "
    "respond said say says sentence sentences song songs lyrics sticker stickers symbol symbols "
    "text texted texting texts tone unicode word words write arabic chinese dutch english french "
    "german greek hindi italian japanese korean latin polish portuguese russian spanish "
    "turkish".split()
)
_ABOUT_STEMS = tuple(
    "translat rewrit rephras paraphras proofread spell pronounc summar classif sentiment polite "
    "formal informal feel emoji emoticon smiley".split()
)
_WORD = re.compile(r"[a-z]+")
_ASKS = (
    r"(?i)\?|^\W*(?:how|what|where|when|why|who|which|can|could|do|does|did|is|are|will|would|should"
    r"|may)\b|[\n.,!:;] *(?:how|what|where|when|why|who|which|can|could|do|does|did|is|are)\b"
)
# before an emoji that belongs to the sentence: "how do I type :)", "the meaning of :)"
_OPEN = frozenset(
    "of in with a an the to for and or is are was by as at on from than vs versus does do use "
    "using type insert add put make get draw find send sends sent called about like one two".split()
)
# Questions that everybody gets the same answer to, with or without a customer number.
_GENERAL = (
    r"(?i)\s*(?:how (?:do|can|could|should|would) (?:i|we) |how to |what are your |what is your "
    r"|where (?:do|can|could|should) (?:i|we) (?:find|see|get|change|download|enter|check|view|buy"
    r"|report|send|set|update|upload|cancel|manage)\b)"
)
_SELF = r"me|myself|mine|names?|who|called?|introduce|sign"
_REFERS_TO_SELF = rf"(?i)\b(?:{_SELF})\b"
_REFERS = (
    rf"(?i)\b(?:{_SELF}|its?|this|that|these|those|numbers?|ids?|customers?|clients?|members?"
    r"|users?)\b"
)
# in such a text an emoji at its end may be what is asked about: "What is this? :)"
_POINTS = (
    r"(?i)\b(?:this|that|these|those|it|here|above|below|following|which|better|best|favou?rite|pick"
    r"|choose|emotions?|expressions?|faces?|pictures?|see|looks?|shows?|meant|guess|riddle|decode"
    r"|interpret|identify|describe)\b"
)
_DETAIL = (
    r"\b(?=[A-Z\u00c0-\u00de]|\w*\d)(?!(?i:my|customer|client|member|membership|user)\b)"
    r"\w[\w'\u2019-]+"
)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """At its first use: together they take 7 ms, and most texts need none of them."""
    return re.compile(pattern)


@dataclass(frozen=True)
class Core:
    """The core of a question, and the names and numbers of the person that were left out."""

    text: str
    person: tuple[str, ...] = ()


def core_of(text: str) -> Core:
    """The core of `text`, which is never empty unless `text` is; `text` itself in most cases.

    >>> core_of("Hi there, quick question: how do I reset my password? Thanks, Anna").text
    'how do I reset my password?'
    """
    if len(text) > _LONGEST or not _may_have_some(text):
        return Core(text)
    rest = text
    person: tuple[str, ...] = ()
    while (cut := _cut(rest)) is not None:
        rest, details = cut
        person += details
    if rest == text or len(rest.split()) < _FEWEST_WORDS or _is_about_words(text):
        return Core(text)
    return Core(rest, person)


def _may_have_some(text: str) -> bool:
    lowered = text.lower()
    return (
        not text.isascii()
        or lowered.lstrip().startswith(_STARTS)
        or any(map(lowered.__contains__, _HINTS))
    )


def _is_about_words(text: str) -> bool:
    words = _WORD.findall(text.lower())
    return (
        _QUOTES.search(text) is not None
        or not _ABOUT_WORDS.isdisjoint(words)
        or any(word.startswith(_ABOUT_STEMS) for word in words)
    )


def _cut(text: str) -> tuple[str, tuple[str, ...]] | None:
    """`text` with one part fewer, and the person's details in that part; None: nothing to cut."""
    if found := _compiled(_FRONT).match(text):
        return text[found.end() :], ()
    if found := _compiled(_FRONT_IDENTITY).match(text):
        rest = text[found.end() :]
        if _same_for_all(rest):
            return rest, _details(found)
    end = max(0, len(text) - _LONGEST_END)
    if found := _compiled(_END).search(text, end):
        rest = text[: found.start()].rstrip(" \t\r\n,;")
        if rest and not (found["person"] and _compiled(_REFERS_TO_SELF).search(rest)):
            return rest, _details(found)
    if found := _compiled(_END_IDENTITY).search(text, end):
        rest = text[: found.start()]
        if _same_for_all(rest):
            return rest, _details(found)
    rest = _without_smiles(text, end)
    return (rest, ()) if rest and rest != text else None


def _same_for_all(question: str) -> bool:
    """Whether the answer is general: "What is my balance?" after a customer number is not."""
    return bool(_compiled(_GENERAL).match(question)) and not _compiled(_REFERS).search(question)


def _details(found: re.Match[str]) -> tuple[str, ...]:
    return tuple(_compiled(_DETAIL).findall(found["person"] or ""))


def _without_smiles(text: str, end: int) -> str:
    different = set(_compiled(_ONE).findall(text))
    if len(different) != 1 or not _compiled(_ASKS).search(text) or _compiled(_POINTS).search(text):
        return text
    if found := _compiled(_FRONT_SMILES).match(text):
        return text[found.end() :]
    if found := _compiled(_END_SMILES).search(text, end):
        *_, before = ("", *text[: found.start()].split())
        if before.lower() not in _OPEN and not before[-1:].isdigit():
            return text[: found.start()]
    return _compiled(_INNER_SMILES).sub(" ", text)


def draws_on_person(stored: Core, asked: str, answer: str) -> bool:
    """Whether `answer` holds a name or number of the person who asked first and not of this one.

    It was left out of the stored question, and is not in `asked`.
    """
    return any(_holds(answer, detail) for detail in stored.person if not _holds(asked, detail))


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
