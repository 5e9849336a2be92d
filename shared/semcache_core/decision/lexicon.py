"""Words that decide an answer: opposites, units, numbers in words, negations, question words."""

from collections import defaultdict
from itertools import combinations

# the first word of a group is the opposite of each that follows
_OPPOSITES = """
accept/reject/decline/refuse accepted/rejected/declined/refused active/inactive
add/remove/delete/subtract advantage/disadvantage advantages/disadvantages after/before
agree/disagree alive/dead allow/block/forbid/prohibit/prevent allowed/forbidden/prohibited/banned
always/never ancient/modern appear/disappear approve/deny/reject approved/denied/rejected
arrival/departure arrive/depart/leave ascend/descend ascending/descending asc/desc asleep/awake
attach/detach attack/defend backward/forward bad/good beautiful/ugly begin/end below/above/over
benefit/drawback benefits/drawbacks/risks best/worst better/worse big/small bigger/smaller
biggest/smallest birth/death bitter/sweet black/white borrow/lend bottom/top boy/girl boys/girls
bride/groom bright/dark/dim brother/sister brothers/sisters build/destroy/demolish buy/sell
buyer/seller buying/selling calm/anxious cats/dogs cause/cure/prevent/treat
causes/effects/symptoms/treatments cheap/expensive cheaper/dearer cheapest/dearest clean/dirty
client/server close/open closed/opened/open cold/hot/warm colder/hotter/warmer
compress/decompress/extract connect/disconnect correct/incorrect/wrong create/delete/destroy/drop
credit/debit daily/weekly/monthly/yearly/annual/annually/hourly day/night days/nights deep/shallow
decode/encode decrease/increase/raise decreased/increased decreasing/increasing decrypt/encrypt
deposit/withdraw/withdrawal deposits/withdrawals deposited/withdrawn die/live/survive
difficult/easy/simple dislike/like domestic/international downgrade/upgrade download/upload
downloaded/uploaded downloading/uploading dry/wet early/late earlier/later east/west
eastern/western employ/fire/dismiss employee/employer empty/full enable/disable enabled/disabled
enter/exit/leave even/odd everybody/nobody everyone/nobody everything/nothing export/import
exported/imported exporting/importing external/internal fail/pass/succeed failure/success false/true
fast/slow faster/slower fastest/slowest fat/thin father/mother female/male females/males fewer/more
fewest/most find/lose first/last follow/unfollow forget/remember freeze/unfreeze/thaw/melt
friend/enemy front/back frontend/backend future/past gain/lose gained/lost gentle/rough
give/take/receive grow/shrink guilty/innocent half/double happy/sad/unhappy hard/soft/easy hate/love
head/tail healthy/ill/sick/unhealthy heaven/hell heavy/light hello/goodbye hide/show high/low
higher/lower highest/lowest hire/fire horizontal/vertical host/guest husband/wife
hyperglycemia/hypoglycemia hypertension/hypotension hyperthyroidism/hypothyroidism ignore/notice
in/out inbound/outbound include/exclude included/excluded incoming/outgoing income/expense/expenses
indoor/outdoor indoors/outdoors inner/outer input/output inside/outside install/uninstall/remove
introvert/extrovert join/leave/quit/split junior/senior kept/lost king/queen landlord/tenant
large/small larger/smaller largest/smallest lazy/diligent lead/follow least/most left/right
legal/illegal lender/borrower less/more lock/unlock locked/unlocked long/short longer/shorter
longest/shortest loose/tight loss/profit/gain losses/profits loud/quiet major/minor man/woman
married/single/divorced/unmarried max/min maximise/minimise maximize/minimize maximum/minimum
men/women merge/split morning/afternoon/evening/night mount/unmount multiply/divide mute/unmute
narrow/wide natural/artificial near/far negative/positive nephew/niece new/old newer/older
newest/oldest noisy/silent north/south northern/southern off/on offline/online old/young
older/younger oldest/youngest optional/required/mandatory/compulsory parent/child parents/children
part/whole patient/doctor pause/resume/continue peace/war permanent/temporary physical/virtual
pin/unpin plural/singular poor/rich/wealthy poorest/richest predator/prey presence/absence
present/absent prince/princess private/public pro/con pros/cons pull/push raw/cooked read/write
reader/writer receive/send received/sent receiving/sending refund/charge remote/local retire/work
rise/fall/set rising/falling rural/urban safe/dangerous/unsafe/harmful save/spend/discard/lose
saving/spending sender/recipient/receiver serial/parallel shut/open sink/float slow/quick/rapid
smooth/rough sober/drunk son/daughter sons/daughters spring/summer/autumn/winter
start/stop/finish/end started/stopped/finished/ended starting/stopping/ending static/dynamic
stereo/mono strength/weakness strengths/weaknesses strict/lenient strong/weak stronger/weaker
subscribe/unsubscribe sunrise/sunset supply/demand supporter/opponent sync/async
synchronous/asynchronous take/bring/give tall/short taller/shorter tallest/shortest teacher/student
teachers/students thick/thin tie/untie today/tomorrow/yesterday together/apart/separately uncle/aunt
up/down upper/lower upstairs/downstairs useful/useless valid/invalid vegan/carnivore victory/defeat
visible/hidden/invisible win/lose winner/loser winners/losers winning/losing with/without won/lost
active/passive acute/chronic adult/kid/infant aisle/window am/pm and/or append/prepend
asset/liability assets/liabilities bearish/bullish boarding/landing book/cancel business/economy
checkin/checkout checking/savings column/row columns/rows default/custom/maximum/minimum
defendant/plaintiff delivery/pickup/collection denominator/numerator diastolic/systolic
double/single/triple/twin downstream/upstream evening/morning exchange/return exclusive/inclusive
extend/shorten fixed/variable/floating full/part/partial/half gross/net half/quarter
hypercalcemia/hypocalcemia hyperkalemia/hypokalemia hypernatremia/hyponatremia increment/decrement
intersection/union keep/discard/remove/delete landing/takeoff lessee/lessor login/logout lower/raise
lowercase/uppercase next/previous over/under pop/push postpaid/prepaid postpone/cancel
protected/public/private renew/cancel/terminate return/single/oneway roundtrip/oneway
saturday/weekdays serialize/deserialize sum/average/count sunday/weekdays
synchronously/asynchronously under/above weekday/weekend weekdays/weekends
yes/no
""".split()

# of a group each word excludes the others
_ALTERNATIVES = """
adult/child/senior/student/teacher adults/children/seniors/students/teachers android/ios
average/maximum/median/minimum/total amex/mastercard/paypal/visa breakfast/dinner/lunch
bacterial/fungal/viral bus/flight/hotel/train chat/email/phone chrome/edge/firefox/safari
csv/json/pdf/xml/yaml dict/list/tuple first/second/third/fourth float/integer/string
intravenous/oral/topical last/next/this linux/mac/windows linux/macos/windows once/thrice/twice
primary/secondary/tertiary refund/repair/replace/exchange today/tomorrow/tonight/yesterday
winter/summer/autumn/spring
""".split()

# each unit with its other names, by what it measures; no bare letters: "I'm" holds an m
_UNITS = {
    "time": "second/sec minute/min hour/hr day week month year/yr decade century millisecond",
    "mass": "gram/gramme kilogram/kg/kilo pound/lb/lbs ounce/oz ton/tonne milligram/mg "
    "microgram/mcg/ug",
    "length": "metre/meter kilometre/kilometer/km centimetre/centimeter/cm "
    "millimetre/millimeter/mm mile foot/feet/ft inch/inches yard",
    "volume": "litre/liter millilitre/milliliter/ml gallon pint cup tablespoon/tbsp teaspoon/tsp",
    "money": "dollar/usd/$ euro/eur/€ pound/gbp/£ rupee/inr yen/jpy yuan/cny franc/chf "
    "cent/pence bitcoin/btc",
    "temperature": "celsius fahrenheit kelvin",
    "data": "byte kilobyte/kb megabyte/mb gigabyte/gb terabyte/tb bit",
    "weekday": "monday/mon tuesday/tue wednesday/wed thursday/thu friday/fri saturday/sat "
    "sunday/sun",
    "month": "january/jan february/feb march april/apr may june/jun july/jul august/aug "
    "september/sep october/oct november/nov december/dec",
}

NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
} | {
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
}  # fmt: skip
NEGATIONS = frozenset(
    "not no never none neither nor cannot cant wont dont doesnt didnt isnt arent wasnt werent "
    "shouldnt wouldnt couldnt havent hasnt hadnt".split()
)
NEGATING_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis")
LITTLE_WORDS = frozenset(
    "do does did is are was were be been am can could will would should shall may might must have "
    "has had it i you we they he she there this that to a an the so ever".split()
)
"""Words that come and go with a negation and an inversion, and say nothing by themselves."""

ASKING = {word: word for word in ("why", "when", "where", "who", "how", "what")} | {
    "which": "what",
    "whom": "who",
    "whose": "who",
}
MEASURES = frozenset("long often much many far old big soon tall fast high deep wide heavy".split())
DIRECTED = frozenset(
    "from into than before after against convert converting translate translating switch switching "
    "owe owes beat beats defeat defeats replace replaces follow follows versus".split()
)
"""Around these, changing places changes what is asked: from A to B, A bigger than B."""

CONNECTING = frozenset(
    "to in on onto for by at of but while as against under over behind per owe owes".split()
)
"""Between two words, these say that it matters which comes first."""


def _opposite_table() -> dict[str, frozenset[str]]:
    table: dict[str, set[str]] = defaultdict(set)
    stars = [(first, others) for first, *others in (group.split("/") for group in _OPPOSITES)]
    pairs = [pair for group in _ALTERNATIVES for pair in combinations(group.split("/"), 2)]
    for first, others in (*stars, *((one, [other]) for one, other in pairs)):
        for other in others:
            table[first].add(other)
            table[other].add(first)
    return {word: frozenset(found) for word, found in table.items()}


def _unit_table() -> dict[str, frozenset[tuple[str, str]]]:
    table: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for kind, units in _UNITS.items():
        for unit in units.split():
            first, *others = unit.split("/")
            for name in (first, *others):
                for form in (name, f"{name}s") if len(name) > 2 else (name,):
                    table[form].add((kind, first))
    return {name: frozenset(found) for name, found in table.items()}


OPPOSITES = _opposite_table()
"""Each word with those that ask for the contrary."""

UNITS = _unit_table()
"""Each name of a unit: what it measures and the unit's first name; a pound measures two things."""
