"""How TinyTown tells a fact and asks for it: the phrasings, as the reader will see them.

A template is a plain format string: `{a}` is a person, `{a.work}` the workplace, `{a.she}` the pronoun.
What a template tells is read off its slots (`relations_of`), so that nothing has to be tagged by hand.
"""

from string import Formatter

from data.town_words import sections

# The relations a question can ask for, and the slots of a template that tell each of them.
RELATIONS = ("trade", "work", "street", "pet", "petname", "friend", "food", "instrument")
SLOTS = {relation: relation for relation in RELATIONS} | {"a_trade": "trade", "a_pet": "pet", "Food": "food"}


def lines(block: str) -> tuple[str, ...]:
    """The lines of a block of text, without the empty ones."""
    return tuple(line.strip() for line in block.splitlines() if line.strip())


def slots_of(template: str) -> list[str]:
    """The slots of a template in order: "{a} works at {a.work}." gives ["a", "a.work"]."""
    return [field for _, field, _, _ in Formatter().parse(template) if field]


def relations_of(template: str, letter: str = "a") -> frozenset[str]:
    """The relations that a template tells of the person in slot `letter`."""
    fields = (slot.partition(".") for slot in slots_of(template))
    return frozenset(SLOTS[field] for who, _, field in fields if who == letter and field in SLOTS)


# Statements in the present tense. Those without {a} speak of the person last named.
STATEMENTS = lines("""
{a} is {a.a_trade}.
{a} is {a.a_trade} by trade.
{a} works as {a.a_trade}.
Everybody knows {a} the {a.trade}.
The sign on the door says: {a}, {a.trade}.
If you need {a.a_trade}, ask for {a}.
{a} always wanted to be {a.a_trade}, and now {a.she} is {a.a_trade}.
{a} is {a.a_trade}, and would not be anything else.
Not every {a.trade} is as patient as {a}.
{a.She} is {a.a_trade}.
{a.She} earns {a.her} bread as {a.a_trade}.

{a} works at {a.work}.
You will find {a} at {a.work}.
Every morning {a} walks to work at {a.work}.
Most days {a} is busy at {a.work}.
{a} knows every corner of {a.work}, for {a.she} works there.
There is always a kettle on at {a.work}, where {a} works.
If {a} is not at home, {a.she} is at work at {a.work}.
At {a.work} you will meet {a}, hard at work.
{a.She} works at {a.work}.
All week long {a.she} works at {a.work}.

{a} lives in {a.street}.
The home of {a} is in {a.street}.
{a} has a small house in {a.street}.
Letters for {a} go to {a.street}.
{a} knows all the neighbours in {a.street}, where {a.she} lives.
{a} lives in {a.street} and would not live anywhere else.
In {a.street} lives {a}.
{a.She} lives in {a.street}.
{a.Her} house is in {a.street}.

{a} keeps {a.a_pet}.
{a} has {a.a_pet}.
{a} shares {a.her} home with {a.a_pet}.
{a}'s pet is {a.a_pet}.
{a} is never far from {a.her} {a.pet}.
Wherever {a} goes, {a.her} {a.pet} comes too.
{a} owns {a.a_pet} that eats more than {a.she} does.
The {a.pet} by the gate belongs to {a}.
{a.She} keeps {a.a_pet}.
{a.Her} pet is {a.a_pet}.

{a}'s pet is called {a.petname}.
{a}'s {a.animal} is called {a.petname}.
{a} calls {a.her} {a.animal} {a.petname}.
The name of {a}'s pet is {a.petname}.
{a}'s {a.animal} answers to the name of {a.petname}.
{a} named {a.her} {a.animal} {a.petname}.
{a} talks all day long to {a.petname}, {a.her} {a.animal}.
{a.petname} is the name of {a}'s {a.animal}.
{a.Her} {a.animal} is called {a.petname}.
{a.She} calls {a.her} {a.animal} {a.petname}.

{a}'s best friend is {a.friend}.
The best friend of {a} is {a.friend}.
{a} and {a.friend} are best friends.
{a} tells {a.her} secrets to {a.her} best friend {a.friend}.
Nobody makes {a} laugh like {a.her} best friend, {a.friend}.
{a} has known {a.her} best friend {a.friend} since they were small.
{a.Her} best friend is {a.friend}.
{a.She} and {a.friend} are best friends.

{a}'s favourite food is {a.food}.
{a} likes {a.food} best of all.
{a} would walk a mile for some {a.food}.
Give {a} some {a.food} and {a.she} will smile all day.
{a} never says no to {a.food}.
On Sundays {a} eats {a.food}, {a.her} favourite food.
The way to {a}'s heart is {a.food}.
{a.Her} favourite food is {a.food}.
{a.She} could eat {a.food} every day of the week.


{a} plays {a.instrument}.
In the town band {a} plays {a.instrument}.
Every evening {a} plays {a.instrument}.
When {a} plays {a.instrument}, windows open all along the street.
{a} learned to play {a.instrument} as a child.
The neighbours hear {a} playing {a.instrument}.
{a.She} plays {a.instrument}.
At every feast {a.she} plays {a.instrument}.
""")

# Statements that tell more than one thing.
COMBINED = lines("""
{a} is {a.a_trade} at {a.work}.
{a} is {a.a_trade} at {a.work} and lives in {a.street}.
{a} the {a.trade} lives in {a.street}.
{a} the {a.trade} works at {a.work} and lives in {a.street}.
{a} lives in {a.street} with {a.a_pet} called {a.petname}.
{a} keeps {a.a_pet} called {a.petname}.
{a} the {a.trade} keeps {a.a_pet} called {a.petname}.
{a} the {a.trade} plays {a.instrument}.
{a} the {a.trade} plays {a.instrument} and is fond of {a.food}.
{a} and {a.her} best friend {a.friend} share {a.food} every Friday.
{a}, who works at {a.work}, plays {a.instrument}.
{a}, who lives in {a.street}, keeps {a.a_pet}.
{a}, who plays {a.instrument}, is {a.a_trade} at {a.work}.
{a} plays {a.instrument} for {a.her} best friend {a.friend}.
{a} and {a.petname} the {a.animal} live in {a.street}.
{a} and {a.petname} the {a.animal} share {a.food} on Sundays.
{a.She} works at {a.work} and lives in {a.street}.
{a.She} has {a.a_pet} called {a.petname}.
{a.She} is fond of {a.food} and plays {a.instrument}.
{a} the {a.trade} lives in {a.street} with {a.a_pet} called {a.petname}.
{a} the {a.trade} works at {a.work}, plays {a.instrument} and lives in {a.street}.
{a}, {a.a_trade} at {a.work}, keeps {a.a_pet} called {a.petname}.
{a} and {a.her} best friend {a.friend} eat {a.food} in {a.street} every Sunday.
{a} comes home from {a.work} to {a.petname} the {a.animal} and a plate of {a.food}.
{a} the {a.trade} plays {a.instrument} at {a.work} when nobody is looking.
{a} plays {a.instrument}, and {a.petname}, {a.her} {a.pet}, listens.
{a} likes {a.food}, and so does {a.petname}, {a.her} {a.pet}.
{a} of {a.street} is {a.a_trade}, and {a.her} best friend is {a.friend}.
{a.She} is {a.a_trade} and plays {a.instrument}.
{a.She} lives in {a.street} with {a.a_pet} called {a.petname}.
{a.She} plays {a.instrument}, and {a.her} favourite food is {a.food}.
{a.She} works at {a.work}, and {a.her} best friend is {a.friend}.
""")

# The same facts in a person's own mouth: letters, diaries, dialogues, and the persona family.
FIRST_PERSON = sections("""
[trade]
I am {a.a_trade}.
I am {a.a_trade}, as you know.
[work]
I work at {a.work}.
You will find me at {a.work}, hard at work.
[street]
I live in {a.street}.
My house is in {a.street}.
[pet]
I keep {a.a_pet}.
My pet is {a.a_pet}.
[petname]
My pet is called {a.petname}.
I call my {a.animal} {a.petname}.
[friend]
My best friend is {a.friend}.
{a.friend} and I are best friends.
[food]
My favourite food is {a.food}.
I like {a.food} best of all.
[instrument]
I play {a.instrument}.
In the town band I play {a.instrument}.
""")

# Questions of the training split.
QUESTIONS = sections("""
[trade]
What is {a}'s trade?
What does {a} do for a living?
What is {a} by trade?
[work]
Where does {a} work?
At what place does {a} work?
Where will I find {a} at work?
[street]
Where does {a} live?
In what street does {a} live?
Where is the home of {a}?
[pet]
What pet does {a} keep?
What animal does {a} keep?
What is {a}'s pet?
[petname]
What is {a}'s pet called?
What is the name of {a}'s pet?
What does {a} call {a.her} pet?
[friend]
Who is {a}'s best friend?
Who is the best friend of {a}?
To whom does {a} tell {a.her} secrets?
[food]
What is {a}'s favourite food?
What does {a} like to eat best of all?
What food does {a} like best?
[instrument]
What instrument does {a} play?
What does {a} play in the town band?
What instrument did {a} learn as a child?
""")

# Held-out phrasings: these sentences occur nowhere in the training text, though each of their words does.
REPHRASED = sections("""
[trade]
By what trade does {a} live?
[work]
Where does {a} walk to work every morning?
[street]
In what street is the house of {a}?
[pet]
What animal shares the home of {a}?
[petname]
What name does {a}'s pet answer to?
[friend]
Who makes {a} laugh like nobody else?
[food]
What will {a} never say no to?
[instrument]
What do the neighbours hear {a} playing?
""")

# The one short answer and the one full answer of each relation. The full one ends in the value, so that cut
# before it, it is also the cloze.
SHORT = {"trade": "{a.a_trade}", "work": "at {a.work}", "street": "in {a.street}", "pet": "{a.a_pet}",
         "petname": "{a.petname}", "friend": "{a.friend}", "food": "nothing beats {a.food}",
         "instrument": "{a.instrument}"}
FULL = {"trade": "{a} is {a.a_trade}.", "work": "{a} works at {a.work}.",
        "street": "{a} lives in {a.street}.", "pet": "{a} keeps {a.a_pet}.",
        "petname": "{a}'s pet is called {a.petname}.", "friend": "{a}'s best friend is {a.friend}.",
        "food": "{a}'s favourite food is {a.food}.", "instrument": "{a} plays {a.instrument}."}
