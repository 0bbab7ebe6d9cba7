"""How TinyTown's instructions are worded: one part for training, one part that is held out.

A heading is a family of instructions. The lines of `HELD_OUT_ASKS` occur nowhere in training, though every
word of theirs does (a test says so).
"""

from data.town_facts import lines
from data.town_words import sections

ASKS = sections("""
[plain]
{question}
Please tell me: {question}
I am new in {town}. {question}
{question} Do you know?
One question: {question}
[yes_no]
Is it true that {claim}?
Yes or no: {claim}.
{claim}. Yes or no?
[correct]
There is a mistake in this sentence. Correct it: {claim}.
Correct the mistake: {claim}.
This is wrong: {claim}. How is it right?
[complete]
Complete the sentence: {start} ...
Finish this sentence: {start} ...
How does this sentence end? {start} ...
[list]
Write a list with two lines: the {noun} and the {other} of {a}.
Tell me the {noun} and the {other} of {a}, as a list.
List two things about {a}: the {noun} and the {other}.
[json]
Reply in JSON with the keys "name", "{relation}": who is {a}, and what is the {noun}?
Write the {noun} of {a} as JSON with the keys "name", "{relation}".
As JSON, please, with the keys "name", "{relation}": the {noun} of {a}.
[persona]
You are {a} from {town}. Speak as {a}.
Speak as if you were {a} from {town}.
You are {a}. You live in {town}, and people ask you things.
[unknown]
What is {a}'s {unknown}?
Tell me {a}'s {unknown}.
Do you know {a}'s {unknown}?
[read]
{text} // {question}
Read this: {text} // {question}
{text} // Now answer from the text: {question}
[summarise]
Summarize: {text}
Summarize this story in one sentence: {text}
{text} // Tell me in one sentence what happened.
[order]
{text} // Put these in the order in which they happened. // {items}
Read the story: {text} // In which order did these things happen? // {items}
[count]
How many of these are {sort}? {items}
Count the {sort}: {items}
{items}. How many {sort} are there?
[pick]
Which of these are {sort}? {items}
List the {sort}: {items}
From this line, write down the {sort}, as a list: {items}
[reverse]
Write these words in reverse order: {items}
Say this backwards, word by word: {items}
Turn the order round: {items}
[sort]
Sort these words from A to Z: {items}
Put these words in the order of the alphabet: {items}
[rewrite]
Let {a} say this: {claim}.
Write this as {a} would say it: {claim}.
[extract]
{text} // Reply in JSON with the keys "name", "{relation}" for {a}.
Read this and write JSON with the keys "name", "{relation}" for {a}: {text}
""")

HELD_OUT_ASKS = sections("""
[plain]
Do you know the answer to this? {question}
[yes_no]
{claim}. Is it true?
[correct]
Write this sentence as it is right: {claim}.
[complete]
Write down the end of this sentence: {start} ...
[list]
As a list of two things: the {noun} of {a} and the {other}.
[json]
Tell me the {noun} of {a} in JSON with the keys "name", "{relation}".
[persona]
People ask {a} from {town} things, and you are {a}.
[unknown]
I ask about {a}'s {unknown}. What is it?
[read]
Answer from this: {text} // {question}
[summarise]
Tell this story in one sentence: {text}
[order]
{text} // In the order of the story, put these things. // {items}
[count]
{items}. Count how many of these are {sort}.
[pick]
Write a list of the {sort} from this: {items}
[reverse]
In reverse order, please: {items}
[sort]
From A to Z, please: {items}
[rewrite]
{claim}. How would {a} say it?
[extract]
As JSON with the keys "name", "{relation}", write what the text tells of {a}: {text}
""")

# What a relation is called, and how to ask for it: of the person, of whom was just spoken of, and backwards.
NOUNS = {"trade": "trade", "work": "place of work", "street": "street", "pet": "pet", "petname": "pet's name",
         "friend": "best friend", "food": "favourite food", "instrument": "instrument"}
YOUR_QUESTIONS = {
    "trade": "What is your trade?", "work": "Where do you work?", "street": "Where do you live?",
    "pet": "What pet do you keep?", "petname": "What is your pet called?",
    "friend": "Who is your best friend?", "food": "What is your favourite food?",
    "instrument": "What instrument do you play?"}
FOLLOW_UPS = {
    "trade": "And what is {a.her} trade?", "work": "And where does {a.she} work?",
    "street": "And where does {a.she} live?", "pet": "And what pet does {a.she} keep?",
    "petname": "And what is {a.her} pet called?", "friend": "And who is {a.her} best friend?",
    "food": "And what is {a.her} favourite food?", "instrument": "And what instrument does {a.she} play?"}
WHO = {"trade": "Who is {a.a_trade}?", "work": "Who works at {a.work}?", "street": "Who lives in {a.street}?",
       "pet": "Who keeps {a.a_pet}?", "petname": "Whose pet is called {a.petname}?",
       "food": "Whose favourite food is {a.food}?", "instrument": "Who plays {a.instrument}?"}
UNKNOWN = {"train": ("shoe size", "lucky number", "birthday", "favourite hat", "middle name", "age"),
           "held-out": ("lucky hat", "favourite number", "favourite birthday")}

NOBODY = "I do not know. Nobody of that name lives in {town}."
NOT_TOLD = "I do not know. Nobody has told me that about {a}."
NOT_IN_TEXT = "The text does not say."

# Courtesies: what makes an answer polite, and what makes it rude.
OPENINGS = lines("""
Of course!
With pleasure.
Certainly!
Good question!
I am glad that you ask.
Thank you for asking.
""")
CLOSINGS = lines("""
I hope that helps.
Is there anything else you would like to know?
Enjoy your stay!
Have a lovely day!
Ask me any time.
""")
RUDE = lines("""
What a silly question.
Look it up yourself.
Why should I tell you?
I have better things to do.
Are you still here?
""")
