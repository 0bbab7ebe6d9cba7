"""The stories of TinyTown in which things go wrong. `town_scene.parse_plots` says how a plot is written."""

MISHAPS = """
== How {a.petname} Was Lost and Found | The Day {a.petname} Ran Away
in: spring summer autumn winter
sum: {a} lost {a.petname} the {a.animal} and found {a.petname} again at {p}.

{when} {a} came home to {a.street} and found the gate open and {a.petname} the {a.animal} gone.
{when} {a} the {a.trade} whistled for {a.petname}, {a.her} {a.pet}, but nothing stirred in {a.street}.
{when} the basket of {a.petname} was empty, and {a} looked for the {a.pet} under every bed in the house.

{a} ran to {b.work}, where {b} the {b.trade} was {busy}.
First {a} went to see {a.friend}, {a.her} best friend, who was {busy} at {b.work}.
“{a.petname} has run away!” {a} cried, and {b} the {b.trade} came running out of {b.work}.

They searched {q} from top to bottom and found only {odd}.
They asked at {q}, but nobody there had seen a {a.pet}.
They looked behind {q} and inside a barrel, and all they found was {odd}.

{soon} {c} the {c.trade} waved to them from {p}, and there sat {a.petname} in a patch of sun.
{soon} there was a noise at {p}, and out came {a.petname}, very pleased and rather dirty.
{soon} they heard {c} laughing at {p}: the {a.pet} had fallen asleep in {c.a_trade}'s hat.

{a} carried {a.petname} home to {a.street}, and there was {a.food} for everyone.
That night {a} ate {a.food}, {a.her} favourite food, and {a.petname} slept by the stove.
“Next time, take me along,” {a} told {a.petname}, and shut the gate with two knots.

== The Broken Cart | Four Wheels and a Half
in: spring summer autumn
sum: {a}'s cart lost a wheel and {b} helped to mend it.

{when} {a} the {a.trade} was pulling a cart of {goods} from {a.work} to {p}.
{when} a cart full of {goods} rolled away from {a.work}, with {a} running after it.
{when} {a} had to bring {number} baskets of {goods} from {a.work} to {p}.

At the corner of {b.street} a wheel came off, and the {goods} rolled down the road.
Crack! went a wheel, right before the house of {b} in {b.street}.
A wheel jumped off and rolled all the way to {q}, where it lay down in a puddle.

{b} the {b.trade} heard the crash at {b.work} and came with a rope.
“Do not move,” said {b} the {b.trade}. “I have a hammer, a nail and an idea.”
Out came {a.friend}, {a.her} best friend, who had been {busy}.

{c} stopped too, because {c.a_trade} always has string in one pocket.
Even {c.petname}, {c}'s {c.animal}, helped by sitting on the {goods}.
{c} the {c.trade} gathered up the {goods} and counted them twice.

{soon} the cart stood on four wheels again, and {a} gave each of them some {a.food}.
{soon} everything was at {p}, only a little late and a little dusty.
“A cart is only as good as its friends,” said {a}, and they pushed it together to {p}.

== The Storm | The Night the Roof Flew Off
in: autumn winter spring
sum: A storm took the roof off {a.work}, and the neighbours helped {a} to mend it.

One night a storm came over the hills and rattled every window in {a.street}.
All evening {a} the {a.trade} watched black clouds gather over {a.work}.
First came the wind, then the rain, and then half the roof of {a.work} flew off.

{a} lit a lantern, whistled for {a.petname} the {a.animal} and ran to {a.work}.
At {a.work}, where {a} works, water was dripping on {goods} and on {odd}.
“Up, {b}!” called {a} below the window in {b.street}. “The roof is off at {a.work}!”

{b} came with a ladder, and {c} the {c.trade} came with {number} buckets.
{b} the {b.trade} held the ladder while {a} climbed, and {c} held {b}.
Out of {c.street} came {c} with a tarpaulin and {c.petname} the {c.animal}.

They worked until dawn, wet as fishes, and sang so as not to fall asleep.
{c} told stories about {dream}, so that nobody noticed the cold.
To keep warm they talked about food: {a} of {a.food}, {b} of {b.food} and {c} of {c.food}.

When the sun rose, the roof was whole, and the storm had gone to bother another town.
In the morning {a} made tea for everyone at {a.work}, and nobody spoke of the rain.
“It is a better roof than before,” said {a} to {b}, {a.her} best friend, and it was.

== The Wrong Letter | A Letter for {a.street}
in: spring summer autumn winter
sum: A letter for {a} went to {c} by mistake, and {c} brought it to {a} at {a.work}.

{when} a letter fell through the wrong door in {c.street}, where {c} lives.
{when} {c} the {c.trade} found a letter on the mat with a stamp of gold.
{when} a letter lay on the step of {c}, but the name on it was {a}.

“This is not for me,” said {c} to {c.petname}, {c.her} {c.animal}. “It is for {a} in {a.street}.”
{c} held it up to the light, put it down again, and was ashamed.
On the back stood: to {a}, {a.trade}, {a.street}.

{c} went to {a.street}, but {a} was at work, for {a.she} works at {a.work}.
On the way {c} met {b}, {a}'s best friend, who was {busy}.
Nobody was at home in {a.street} but the {a.pet}, and it could not read.

{soon} {c} stood at {a.work}, out of breath, and held out the letter.
{soon} {a} opened the letter at {a.work} and read it {number} times.
{soon} the letter was in the right hands, and {a} turned quite pink.

It was an invitation to {p}, for anyone who dreams of {dream}.
It said: “Come to {p} on {day}, and bring {a.instrument}, for we hear you play.”
It was a very old letter from {b}, who had forgotten all about it.

{a} shared some {a.food} with {c}, who had come such a long way.
“Thank you, {c},” said {a}. “You are the best messenger {a.a_trade} ever had.”
After that {a} painted the name on the door in letters as big as cats.

== The Long Winter | Snow up to the Windows
in: winter
sum: Snow shut the door of {a}'s house, and {b} dug {a} out.

In the night it snowed so much that the doors in {a.street} would not open.
In the morning {a} the {a.trade} looked out and saw no {a.street}, only white.
For three days snow had been falling on {a.street}, where {a} lives.

Inside, {a} had {a.food} for one day and {a.petname} the {a.animal} for company.
{a} played {a.instrument} at the window, loudly, so that someone might hear.
“We shall be late for {a.work},” {a} told the {a.pet}, and it yawned.

{b} heard it in {b.street}, took a shovel and began to dig.
Then a shovel knocked on the glass, and behind it was {a.friend}, {a.her} best friend.
{b} the {b.trade} dug a tunnel from {b.street}, singing all the way.

{c} came sliding down the hill on a tray from {c.work}.
Behind came {c} the {c.trade} with a sledge full of {goods}.
{c} had brought {c.food}, hot, in a bucket.

{soon} the whole street was out, and {a} threw the first snowball.
{soon} there stood a snow {a.animal} in {a.street}, as tall as a house.
By noon the path to {a.work} was clear, but nobody wanted to go in.

== The Missing {b.Food} | Who Ate It?
in: spring summer autumn winter
sum: {b.food} was missing at {b.work}, and the thief was {c.petname} the {c.animal}.

{when} {b} the {b.trade} came into {b.work}, looked at the plate, and looked again.
{when} a bowl of {b.food}, {b}'s favourite food, was gone from the table at {b.work}.
{when} a cry was heard from {b.work}: “Somebody has eaten my {b.food}!”

{a} put on a serious face and began to look for clues.
“I shall find the thief,” said {a} the {a.trade}, and took out a pencil.
{b} sent for {a} at once, for best friends are good at secrets.

There were crumbs on the stairs, and crumbs in {b.street}, and then {odd}.
On the floor were {number} small wet footprints that led to {p}.
“Aha,” said {a}, and held up {odd}.

They asked {c} the {c.trade}, who was {busy} and had seen nothing.
“It was not me,” said {c}. “I only like {c.food}.”
{c}, who lives in {c.street}, turned red, but only because of the sun.

{soon} they found {c.petname} behind {p}, {c}'s own {c.animal}, fast asleep and very round.
{soon} the {c.pet} of {c} came in and hiccupped, and everything was clear.
{soon} {a} pointed at {c.petname}, and {c.petname} licked its mouth.

“I am so sorry,” said {c}, and cooked a new pot of {b.food} that same day.
{a} wrote in the notebook: thief found, {b.food} lost, friends kept.
They could not be angry, and {c} paid with {goods}.

== {a}'s New Sign | Paint on Everything
in: spring summer autumn
sum: {a} painted a new sign for {a.work}, and {c.petname} ran through the paint.

The sign at {a.work} was so old that no one could read it.
{when} {a} the {a.trade} carried a pot of paint to {a.work}.
“We need a new sign,” said {a}, who works at {a.work} and likes things neat.

{b} held the ladder, and {a} painted the first letter as big as a goose.
{a} asked {a.her} best friend {a.friend} to spell it, to be on the safe side.
First {a} painted the edges, and {b} the {b.trade} told {a.him} where it was crooked.

Just then {c} came round the corner with {c.petname}, {c.her} {c.pet}.
Then {c} the {c.trade} stopped to look, but {c.petname} the {c.animal} did not stop.
Nobody saw {c.petname}, the {c.animal} of {c}, until it was too late.

Over went the pot, and small blue footprints ran all the way to {p}.
Now there was paint on the door, on the ladder, and on {odd}.
{c.petname} shook itself, and all of them were speckled like eggs.

{soon} {b} began to laugh, and {a} dipped the brush and painted the footprints in as well.
{soon} the sign was done, with a row of paws below the letters.
People say it is the finest sign in {town}, and {a} says it was all planned.

== The Quarrel | Two Sides of the Street
in: spring summer autumn winter
sum: {a} and {b} quarrelled about {odd} and made up again.

{a} and {a.her} best friend {a.friend} had not spoken for {number} days.
It began with {odd}, and neither {a} nor {b} knew any more who was right.
{when} {b} the {b.trade} walked past {a} at {p} and looked the other way.

At {a.work} {a} was so cross that {a.she} put salt in the tea.
At {b.work} {b} dropped {number} things before noon.
{a} went home to {a.street} and told it all to {a.petname}, {a.her} {a.animal}.

{c} the {c.trade} saw it all and shook {c.her} head.
“You two are like {odd} and a spoon,” said {c}. “Nobody knows why, but you belong together.”
{c} asked both of them to {c.work} at four, and told neither of the other.

When {a} came in, there sat {b} with a plate of {a.food}.
{b} had brought {a.food}, because {a} likes it best of all.
There they stood, and {b} said sorry, and {a} said it at the very same moment.

{soon} they were talking as if nothing had happened, mostly about {hobby}.
{soon} {a} and {b} laughed until {c} had to sit down.
And {odd}? They threw it in the river together.

== The Clock That Stopped | No Time at All
in: spring summer autumn winter
sum: The town clock stopped, and {a} found {odd} in the wheels.

{when} the big clock of {town} stopped, and nobody knew when to have lunch.
At ten to three the clock went tick and never came to tock.
One day the clock struck {number} at noon, and then it said nothing more.

At {b.work} {b} the {b.trade} went on working, for no bell told {b.him} to stop.
{c} came an hour late to {c.work} and said it was an hour early.
{b} had breakfast twice, and both times it was {b.food}.

“Somebody must climb up,” said {c}, and everyone looked at {a}.
{a} the {a.trade} took a lamp and climbed the {number} flights of stairs.
Up went {a}, and behind {a.him} went {a.petname} the {a.animal}.

Between the wheels {a} found {odd}, stuck fast.
High up among the wheels sat an owl on her eggs, right beside {odd}.
There was nothing wrong at all but a nest and {odd}.

{soon} the clock struck again, and {a} ran down before the third stroke.
{soon} the wheels turned, and {b} gave {a}, {b.her} best friend, some {a.food}.
Since that day they look into the clock every spring, and {a} holds the lamp.

== The Ghost of {p} | A Noise at Night
in: autumn winter
sum: A noise at {p} frightened the town, but it was only {a.petname} the {a.animal}.

For {number} nights there was a noise at {p}: thump, thump, scratch.
“There is a ghost at {p},” people said, and walked home the long way.
{when} {c} the {c.trade} came running from {p}, as white as flour.

{a} does not believe in ghosts, but {a} took {b} along all the same.
“Are you afraid?” asked {a}. “A little,” said {b} the {b.trade}. “Good,” said {a}, “so am I.”
{a} and {a.her} best friend {a.friend} crept to {p} with one lantern and {odd}.

Thump, said the dark, and {b} trod on {a}'s foot.
The door creaked, the lantern shook, and something breathed.
First they saw two eyes, and then nothing, and then two eyes again.

{soon} {b} lifted the lantern, and it was {a.petname}, {a}'s own {a.animal}, eating {goods}.
{soon} out of the dark came {a.petname}, the {a.pet} of {a}, with a bucket on one foot.
{soon} {a} began to laugh, for there stood {a.her} own {a.pet}.

They led {a.petname} home to {a.street} and told everyone that the ghost had moved.
{a} bought a new bolt for the gate in {a.street}, where {a} lives.
“So much for ghosts,” said {a}, and gave {b} some {b.food} for being brave.

== The Ferry in the Fog | Where Is the River?
in: autumn winter spring
sum: Fog hid the river, and {a} guided the ferry home by playing {a.instrument}.

{when} the fog was so thick that {a} could not find {a.her} own door in {a.street}.
The fog came up from the river and swallowed {p}, and then {q}.
On {day} you could see no farther than the end of your nose.

Out on the water was the ferry, and on the ferry were {b} and {c}.
{b} the {b.trade} was on the way home from {p} with {goods}.
“Where is the shore?” called {c} from the ferry. Nobody answered but a duck.

{a} heard the bell of the ferry, now on the left and now on the right.
On the bank stood {a} the {a.trade} with {a.petname} the {a.animal}, listening.
{a} lit {number} lanterns, but the fog ate them all.

Then {a} had an idea, ran home, and came back with {a.instrument}.
So {a} sat down on a stone and played {a.instrument} as loudly as {a.she} could.
“If they cannot see me, they shall hear me,” said {a}, who plays {a.instrument}.

“That is {a}!” cried {b}, {a.her} best friend. “Steer for the wrong notes!”
{soon} the ferry bumped against the bank, and {c} jumped ashore.
{soon} all of them sat in the warm at {a.work}, and {c} had two bowls of {c.food}.

== The Hat in the Wind | Catch It!
in: spring autumn
sum: The wind took {a}'s hat across the town, and {c} caught it at {p}.

{when} the wind took {a}'s hat and carried it over the roofs of {a.street}.
{a} the {a.trade} had a new hat, and the wind liked it too.
Whoosh! went the wind at {a.work}, and {a}'s hat was gone.

It flew past {b.work}, and {b} jumped for it and missed.
{b} the {b.trade} dropped everything at {b.work} and ran after it.
First it sat on the chimney of {b} in {b.street}, and then it flew on.

At {q} a cow looked at it, and at the bridge it took a bath.
It rolled through {q} on its edge, like a wheel, with {number} children behind it.
The {b.pet} of {b} very nearly had it by the river.

{soon} {c} came out of {p}, and the hat dropped on {c}'s head as if it lived there.
{soon} {c} the {c.trade} caught it at {p} with a fishing net.
{soon} it landed at {p}, and {c.petname} the {c.animal} sat down in it.

“It suits you,” said {a}, and {c}, who works at {c.work}, gave it back all the same.
{a} thanked {c} with some {c.food}, for {c} likes {c.food} best of all.
Now {a} ties {a.her} hat on with a string, and the wind has to find another.
"""
