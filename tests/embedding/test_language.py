"""A question in a language that the shipped model does not read is only matched exactly."""

import pytest
from conftest import Bench
from semcache_core import Request, SemanticCache, last_lookup
from semcache_core.embedding.language import is_english

# two questions each that ask for different answers and look alike
LOOK_ALIKES = {
    "Spanish": [
        ("¿Cómo activo mi tarjeta?", "¿Cómo desactivo mi tarjeta?"),
        ("como activo la cuenta", "como desactivo la cuenta"),
        ("¿Cuál es el límite diario de retiro?", "¿Cuál es el límite mensual de retiro?"),
        ("quiero cancelar mi pedido", "quiero cambiar mi pedido"),
        ("donde esta mi factura de mayo", "donde esta mi factura de junio"),
        ("no me llega el pedido a casa", "no me llega el pedido a la tienda"),
    ],
    "German": [
        ("Wie aktiviere ich meine Karte?", "Wie deaktiviere ich meine Karte?"),
        ("Kann ich das Ticket stornieren?", "Kann ich das Ticket nicht stornieren?"),
        ("wie hoch ist das limit pro tag", "wie hoch ist das limit pro monat"),
        ("ich moechte mein konto schliessen", "ich moechte mein konto eroeffnen"),
        ("Warum wurde die Zahlung abgelehnt?", "Warum wurde die Zahlung angenommen?"),
    ],
    "French": [
        ("Comment activer ma carte ?", "Comment désactiver ma carte ?"),
        ("je veux annuler mon abonnement", "je veux renouveler mon abonnement"),
        ("Quel est le plafond par jour ?", "Quel est le plafond par mois ?"),
        ("comment changer mon adresse", "comment changer mon mot de passe"),
        ("Où est ma commande ?", "Où est ma facture ?"),
    ],
    "Portuguese": [
        ("Como faço para ativar o cartão?", "Como faço para desativar o cartão?"),
        ("quero cancelar a minha assinatura", "quero renovar a minha assinatura"),
        ("onde esta o meu pedido", "onde esta a minha fatura"),
        ("Qual é o limite diário?", "Qual é o limite mensal?"),
    ],
    "Italian": [
        ("Come posso attivare la mia carta?", "Come posso disattivare la mia carta?"),
        ("voglio annullare il mio abbonamento", "voglio rinnovare il mio abbonamento"),
        ("dove si trova il mio ordine", "dove si trova la mia fattura"),
        ("Qual è il limite giornaliero?", "Qual è il limite mensile?"),
    ],
    "Dutch": [
        ("Hoe kan ik mijn kaart activeren?", "Hoe kan ik mijn kaart deactiveren?"),
        ("ik wil mijn abonnement opzeggen", "ik wil mijn abonnement verlengen"),
        ("waar is mijn bestelling", "waar is mijn factuur"),
        ("Wat is de limiet per dag?", "Wat is de limiet per maand?"),
        ("is de app in het nederlands", "is de app in het engels"),
    ],
    "Polish": [("Jak aktywować kartę?", "Jak dezaktywować kartę?")],
    "Turkish": [("Kartımı nasıl etkinleştiririm?", "Kartımı nasıl iptal ederim?")],
    "Russian": [("Как активировать карту?", "Как деактивировать карту?")],
    "Chinese": [("如何激活我的卡？", "如何停用我的卡？")],
    "Japanese": [("カードを有効にするには？", "カードを無効にするには？")],
    "Arabic": [("كيف أفعل بطاقتي؟", "كيف أوقف بطاقتي؟")],
    "Hindi": [("मैं अपना कार्ड कैसे चालू करूं?", "मैं अपना कार्ड कैसे बंद करूं?")],
}
PAIRS = [pair for pairs in LOOK_ALIKES.values() for pair in pairs]
ENGLISH = [
    "How do I reset my password?",
    "forgot pw",
    "GMAT vs GRE?",
    "Deleting FB acc.",
    "Is Café de Flore open?",
    "new york weather",
    "hotel de paris address",
    "Making gmail text strikethrough.",
    "how to enalbe two-fatcor authentification",
    "error in kubernetes",
    "What does ibuprofen do?",
    "Where is Kraków?",
    "Is bestinternship.com a legit website?",
    "42?",
    "",
]


@pytest.mark.parametrize("text", [text for pair in PAIRS for text in pair])
def test_another_language_is_told_from_english(text: str) -> None:
    assert not is_english(text)


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_english_with_names_slips_and_short_forms_in_it(text: str) -> None:
    assert is_english(text)


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "asked"), PAIRS)
def test_the_shipped_model_serves_other_languages_exactly_only(stored: str, asked: str) -> None:
    with SemanticCache(path=None, max_error_rate=0.2) as cache:
        cache.update(Request(stored), "an answer")
        cache.update(Request("How do I activate my card?"), "in English")
        assert cache.lookup(Request(asked)) is None
        hit = cache.lookup(Request(stored))
        assert hit is not None and hit.kind == "exact"


@pytest.mark.slow
def test_the_miss_says_that_it_is_the_language() -> None:
    with SemanticCache(path=None) as cache:
        cache.update(Request("How do I activate my card?"), "in English")
        assert cache.lookup(Request("Wie aktiviere ich meine Karte?")) is None
        found = last_lookup()
        assert found is not None and found.code == "other_language"
        assert "not in English" in str(cache.explain("Wie aktiviere ich meine Karte?"))


def test_a_model_of_ones_own_is_asked_in_any_language(bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("wie hoch ist das limit bitte"), "10")
    hit = cache.lookup(Request("wie hoch ist das limit"))
    assert hit is not None and hit.kind == "semantic"
