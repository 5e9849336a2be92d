"""Tells whether a question is in English, the language that the shipped model reads."""

import re

from semcache_core.embedding.spelling import is_word

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ENOUGH = 1_000
"""Characters."""
# the commonest little words of other languages in Latin letters, but for those of English
_LITTLE = frozenset(
    """
    aan aber ai al ale alla als anche ao aos apa att au auch auf aus aux av avec avere bagaimana
    bei benim bij bir bist bu ce ces cette che chi ci comment como con cosa cual cuando cuanto
    cuál cuánto czy cómo da dal dalla dan dans dari das dass dat de degli dei dein deine del
    della delle dem den dengan der des det deze di din dit dla doch donde dos dove du durch
    dónde een efter ein eine einem einen einer eines el ela ele ella elle elles ellos em en er
    es essa esse est esta este está están et ett eu eux faço foi fra från för für gdzie geen
    gegen gli haben har hat hay heb heeft het ho hoe hun ich ihr ihre ik ikke il ile ils im ini
    inte io isso ist isto itu için ja jag jak jaka jaki je jeg jest jestem jouw já kan kann kein
    keine kiedy kunnen können la las le lei les leur leurs lo loro los lui ma maar mag mais mam
    mas med mein meine meinem meinen meiner mes meu meus mi mia mich mie miei mijn min minha
    minhas mio mir mis mit mitt mnie moet mogę moi moja moje mon można mu muito muy más mój mı
    na naar nach nas nasıl ne neden nej nel nella nem nerede nicht nie niet noch nog nos notre
    nous num numa nur não när och od oder og ogni ohne om onde ook os ou où par para pas pela
    pelo perche perché pero peut peux più po por porque posso pour pourquoi puedo på qu quais
    qual quale quand quando quanto que quel quelle quelles quels quero questa questo qui quien
    quiero qué sa sans saya schon se sei sein ses seu si sich sie sin sind się sobre som sono
    sont su sua suo sur sus são så są ta también também te tem tengo tenho tes tidak tiene till
    toi tra tu uit um uma un una und une uns unser unter untuk uw vad van var ve veux vi você
    voglio vom von voor vos votre vous waar waarom wann wanneer warum wat wel welke wenn werden
    wie wieder wij wird wo wordt wurde ya yang yo yok za ze zijn zu zum zur zurück à è że
    """.split()
)
# those of English, but for the ones that others have too, such as "no", "is" and "in"
_ENGLISH = frozenset(
    """
    about and are been before but can could did does for from get have him how if into it its my
    not our out she should than that the their them then there these they this those were what
    when where which who why with without would you your
    """.split()
)


def is_english(text: str) -> bool:
    """Whether `text` reads as English; in doubt it does. An empty text and one of numbers too.

    A text is in another language if most of its letters are not Latin, if its words are mostly in
    no English dictionary, or if it has more little words of other languages than of English.
    """
    written = _WORD.findall(text[:_ENOUGH])
    words = [word.lower() for word in written]
    if not words:
        return True
    if not text.isascii() and _mostly_other_letters(words):
        return False
    english = sum(word in _ENGLISH for word in words)
    if english * 3 >= len(words):
        return True  # most questions end here
    other = sum(word in _LITTLE for word in words)
    unknown = sum(map(_is_unknown, (words[0], *written[1:])))
    if other > english and (other > 1 or unknown):
        return False
    return unknown < 2 or 2 * unknown <= len(words)


def _is_unknown(word: str) -> bool:
    """Three letters are as likely a short form, and a capital begins a name."""
    return len(word) > 3 and word[0].islower() and not is_word(word.lower())


def _mostly_other_letters(words: list[str]) -> bool:
    letters = "".join(words)
    return 2 * sum(letter > "\u024f" for letter in letters) > len(letters)
