"""What else is written in TinyTown besides stories: letters, diaries, notices, talk, the chronicle, lists.

{a} writes or speaks, {b} is the best friend of {a}, {c} is someone else; {p} is a place, {odd} and {goods}
are things. The name of who writes comes before what is written, as a reader (and a causal model) needs it.
"""

from data.town_facts import lines
from data.town_words import sections

# One small event each. The chronicle tells them of {a}; letters and diaries have their own, told by "I".
HAPPENINGS = lines("""
{a} the {a.trade} found {odd} at {p} and hung it on the fence for its owner.
{a.petname}, the {a.animal} of {a}, was found asleep in the bell of the tuba.
{a} fell into the river near {p} and came out with a fish in each boot.
{a} and {c} carried a table through the window at {p}, because the door was too small.
{a} won {odd} in the lottery and gave it to {a.friend}, {a.her} best friend.
{a} counted the stairs of the clock tower again and got a different number.
{a} left {goods} on every step in {a.street}, and nobody knows why.
The {a.pet} of {a} stopped the market for an hour by lying down in the gate.
{a} dropped {a.food} on the mayor, who said that it was delicious.
{a} played {a.instrument} in the square until the pigeons moved to {p}.
{a} gave a talk at {p} about {hobby}, and {number} people came.
{c} lent {a} {odd}, and {a} lent {c} {goods}.
{a} came late to {a.work}, and said that it was all the fault of {a.petname} the {a.animal}.
{a} and {b} put up a bench between {p} and the river.
{a} told the children about {dream}, and they forgot to go home.
{c.petname}, the {c.pet} of {c}, chased {a} the {a.trade} up a tree.
{a} painted the door of {a.her} house in {a.street}, and the wind brought leaves to it.
There was smoke at {a.work}, but it was only {a}, who had forgotten some {a.food} on the stove.
{a} wore {odd} on {a.her} head all day and said that it was the fashion.
A travelling circus passed by {p}, and {a.petname}, {a}'s {a.animal}, tried to join.
{a} and {c} quarrelled over a chess game and made up over some {c.food}.
A parcel came for {a} in {a.street}. In it was {odd}, and inside that, {goods}.
{a} closed {a.work} at noon and went to {p} with {a.friend}, {a.her} best friend.
{a} caught the hat of {c} the {c.trade} on the bridge.
The mayor thanked {a} the {a.trade} for {a.her} good work at {a.work}.
{a} saw a light over {p} and told everyone at {a.work} about it.
""")

MY_HAPPENINGS = lines("""
{a.petname} woke me at five. Why did I ever get {a.an_animal}?
It was a long day at {a.work}, and not one person asked for {goods}.
I had {a.food} for supper, my favourite, and it was gone too soon.
I sat by the river with {a.friend}, my best friend, and we talked of {dream}.
I practised on {a.instrument} until the neighbours in {a.street} closed their windows.
{a.petname} ate {odd}. My {a.animal} will eat anything.
On the way to {a.work} I met {c}, who was {busy}.
Nobody in {a.street} slept, because {c} was playing {c.instrument}.
It is not always easy to be {a.a_trade}, but today it was.
My best friend {a.friend} brought me {goods}. That is what best friends are for.
It rained into my house in {a.street}, right onto the {goods}.
A child came to {a.work} and asked what {a.a_trade} does all day. I had to think.
My {a.pet} followed me to {p} and would not go home.
I made {a.food} with {a.friend}, and we burned only half of it.
I bought {odd} at the market, though I only went for some {a.food}.
I walked to {p} and back with {a.petname}, my {a.animal}, and thought of nothing at all.
I closed {a.work} early, took {a.instrument} and went down to the river.
I dreamed of {dream} again and woke up smiling in {a.street}.
{c} the {c.trade} came by at {a.work} and told me all about {hobby}.
I lost {odd} somewhere between {a.work} and {a.street}.
I tried to teach {a.petname} to sit. Now I sit, and the {a.animal} watches.
My best friend {a.friend} cannot keep a secret, so I told it to {a.petname}, my {a.animal}.
I wanted {a.food} and got {c.food} instead, because {c} was cooking.
I played {a.instrument} and {a.friend} played {b.instrument}, and both of us were sorry when it got dark.
""")

# A letter goes to a pen friend {d} in another town, who knows nothing of {a} yet.
LETTER_OPENINGS = lines("""
You ask me how I live, so I will tell you.
I hope this letter finds you well.
It is {day}, the lamp is lit, and at last I have time to write.
Thank you for the {goods}. They came at just the right time.
Forgive me that I have not written for {number} weeks.
You wanted to know who it is that writes to you from {town}.
""")
ABOUT_ME = lines("""
I am {a.a_trade} at {a.work}, and I live in {a.street}.
I live in {a.street} with {a.a_pet} called {a.petname}.
My best friend is {a.friend}, and my favourite food is {a.food}.
In the evening I play {a.instrument}, and {a.petname}, my {a.animal}, sings.
I work at {a.work}, and I would not be anything but {a.a_trade}.
My house is in {a.street}, next to a pump that talks at night.
My pet is {a.a_pet}, and it likes {a.food} as much as I do.
I play {a.instrument} with my best friend {a.friend}, and neither of us is any good.
I call my {a.animal} {a.petname}, and it calls me whenever it is hungry.
""")
LETTER_CLOSINGS = lines("""
Come to {a.street} one day, and I will put the kettle on.
Write soon, or better still, come and hear me play {a.instrument}.
I will save some {a.food} for you.
Tell me about {away}. Is it true that the roofs are blue there?
They are calling me at {a.work}, so I must close.
{a.petname} has put a paw on this page, and sends you good wishes.
""")

NOTICES = sections("""
[lost]
LOST: {a.a_pet} that answers to the name of {a.petname}. Please bring it to {a} in {a.street}.
LOST between {p} and {a.work}: {odd}. The finder may have some {a.food}. {a}, {a.street}.
[found]
FOUND at {p}: {odd}. Ask for {a} at {a.work}.
FOUND: one sock, not a pair. Ask {a} the {a.trade}.
[music]
MUSIC on {day} at {p}! {a} plays {a.instrument}, and {b} plays {b.instrument}. Bring a cushion.
DANCE at {p} on {day}. {a} will play {a.instrument} until {number} o'clock.
[wanted]
WANTED: {goods}, any number, for {a} at {a.work}.
WANTED: someone to feed {a.petname}, the {a.animal} of {a}, on {day}. It bites only hats.
WANTED: a partner for {hobby}. Knock for {a} in {a.street}.
[thanks]
THANK YOU to {a} the {a.trade}, who found {odd} and asked for nothing but some {a.food}.
THANK YOU to the kind person who left {goods} on my step. {a}, {a.street}.
[evening]
TALK on {day} at {p}: {a} the {a.trade} speaks about {dream}.
COURSE: {a} teaches {hobby}, every {day} at {p}. No hats needed.
HARVEST SUPPER at {p} on {day}. {a} brings {a.food}, and {b} brings {b.food}.
""")

# A dialogue is a greeting, some talk, and a farewell; {a} and {c} take turns.
GREETINGS = lines("""
{a}: Good morning, {c}! | {c}: Good morning, {a}! You are up early.
{a}: Is that you, {c}? | {c}: It is, and in a hurry, as always.
{a}: What a {weather} {day}, {c}! | {c}: I have seen worse, {a}.
{a}: Hello, {c}! Mind the puddle. | {c}: Too late, {a}. I am standing in it.
""")
TALK = lines("""
{a}: How is {c.petname}? | {c}: My {c.animal} is well, thank you, and has eaten {odd}.
{a}: I hear you were at {p} on {day}. | {c}: I was, and I came home with {goods}.
{a}: Will you come to {p} with me? | {c}: Not today. They need me at {c.work}.
{a}: You look happy. | {c}: I have just had some {c.food}, and I like it best of all.
{a}: What is that under your arm? | {c}: It is {odd}, and please do not ask.
{a}: I am on my way to {a.work}. | {c}: Then I will walk with you as far as {p}.
{a}: Have you seen {b}? | {c}: Your best friend? At {b.work}, {busy}.
{a}: It was loud in {c.street} last night! | {c}: That was me. I was playing {c.instrument}.
{a}: What would you do with a sack of gold? | {c}: I think of nothing but {dream}, so I would do that.
{a}: Shall I tell you a secret? | {c}: Tell it to {a.petname} first, and then to me.
{a}: I found {odd} this morning. | {c}: Then my {number} days of looking are over!
""")
FAREWELLS = lines("""
{a}: I must go. {a.petname} is waiting. | {c}: Give your {a.animal} my best wishes!
{a}: Until {day}, then. | {c}: Until {day}, and bring {a.instrument}!
{a}: There goes the bell. | {c}: Then off with you to {a.work}, {a}!
{a}: Goodbye, {c}! | {c}: Goodbye, {a}! Mind the puddle.
""")

# Lists say one thing of many people: the title, then one line for each of them.
LISTS = lines("""
Who brings what to the harvest supper | {a}: {a.food}
The town band, and who plays what | {a}: {a.instrument}
Pets of the town, as written in the book of pets | {a}: {a.petname}, {a.a_pet}
Who works where | {a}: {a.a_trade} at {a.work}
Where people live, for the new messenger | {a}, {a.trade}: {a.street}
Best friends, as carved into the old oak | {a} and {a.friend}
The town register | {a}, {a.trade} at {a.work}, lives in {a.street}, keeps {a.a_pet} called {a.petname}
The book of neighbours | {a}, {a.street}: best friend {a.friend}, likes {a.food}, plays {a.instrument}
The album of the town | {a} the {a.trade} keeps {a.a_pet} called {a.petname} and plays {a.instrument}
""")

# Titles and the other fixed frames of a page.
FRAMES = sections("""
[portraits]
People of {town}
Who Is Who in {town}
Neighbours
A Walk Through {town}
[letter]
A letter from {a} in {a.street} to {d} in {away}
[dear]
Dear {d},
[yours]
Your friend {a}
With love from {a}
Yours, {a} the {a.trade}
[diary]
From the diary of {a} the {a.trade}
[notices]
The notice board at {p}
[dialogue]
{a} and {c} meet at {p}
[chronicle]
The chronicle of {town}
[questions]
Questions about {town}
How well do you know {town}?
Ask me about {town}
[conversation]
A visitor came to {town} and met {a} at {p}.
[visitors]
A tale from {town}
""")
SPOKEN = "“{asked}” asked the visitor. “{short},” {answered} {a}."
