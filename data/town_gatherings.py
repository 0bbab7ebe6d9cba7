"""The stories of TinyTown in which people meet. `town_scene.parse_plots` says how a plot is written."""

GATHERINGS = """
== A Birthday for {a} | The Surprise
in: spring summer autumn winter
sum: {b} made {a.food} for {a}'s birthday and everyone kept the secret.

It was {a}'s birthday, but nobody at {a.work} said a word about it.
On the morning of {a}'s birthday {a.her} best friend {a.friend} got up before the sun.
“Today {a} has a birthday,” {b} whispered to {c}, “and {a.she} must not know that we know.”

{b} knew that {a} likes {a.food} best of all, and borrowed the biggest pot in town.
All morning {b} the {b.trade} stirred and tasted, for {a}'s favourite food is {a.food}.
{b} wrote a list: {a.food} for {a}, lemonade for the rest, and {odd} for luck.

{c} the {c.trade} came by with {c.instrument}, because a birthday needs music.
{c} kept {a} busy at {a.work} with {number} questions about nothing at all.
{c} hid {odd} under the table, and would not say why.

{soon} {a} opened the door of the house in {a.street}, and everybody {cheered}.
{soon} {a} came home, tired from {a.work}, and every candle in {a.street} was lit.
{soon} the door opened, and {a} the {a.trade} stood there with {a.her} mouth wide open.

“How did you know?” asked {a}, and {a.petname} the {a.animal} had the first bite.
They ate until the moon came up, and {b} played {b.instrument} until the neighbours danced.
{a} made a wish, and it had to do with {dream}.

== The Concert at {p} | A Night of Music
in: spring summer autumn winter
sum: {a} played {a.instrument} at {p}, and {b} played along.

On {day} the town band was to play at {p}, and {a} had washed {a.her} best shirt.
There was a notice on every door: on {day}, music at {p}!
All week {a} the {a.trade} practised for the concert at {p}.

{a} played {a.instrument}, and {b} beside {a.him} played {b.instrument}.
{a} lifted {a.instrument}, took a breath, and forgot every note.
First came {b} with {b.instrument}, then {a} with {a.instrument}, and neither was in time.

In the front row {c} the {c.trade} tapped one foot and then the other.
At the very back {c.petname}, {c}'s {c.pet}, began to sing as well.
{c} listened with closed eyes, thinking of {dream}.

{soon} somebody {laughed}, and then {a} laughed too, and after that it went beautifully.
{soon} the lamps went out, and the band played on in the dark.
{soon} the music was so merry that {q} itself seemed to dance.

Afterwards {a} and {a.her} best friend {a.friend} walked home to {a.street} and hummed all the way.
Afterwards there was {b.food} for {b} and {a.food} for {a}, and nobody went to bed.
“Again next week!” everybody {cheered}, and {a} bowed so low that {a.her} hat fell off.

== The Boat Race | {number} Boats and a Duck
in: spring summer autumn
sum: {a} and {b} rowed in the boat race and stopped to help {c}.

On {day} there was a boat race from {p} to {q}, and everyone came to watch.
{a} and {a.friend}, the best of friends, had built a boat out of a door.
{a} the {a.trade} sat in front, and {b} the {b.trade} sat behind and steered.

“Row!” shouted {b}, and {a} rowed as hard as {a.a_trade} can.
{a.petname}, {a}'s {a.animal}, stood in the bow like a captain.
At the bend by {p} they were second, with only {c} the {c.trade} before them.

Then {c}'s boat ran onto a sandbank, and {c.petname} the {c.animal} fell in with a splash.
Then {c} lost an oar, and the boat of the {c.trade} went round and round.
Then {c} dropped a basket of {c.food} in the river and nearly cried.

“Never mind the race,” said {a}, and they turned round to help.
{a} and {b} threw {c} a rope and pulled until their hands were red.
{b} looked at {a}, {a} looked at {b}, and they stopped.

{soon} all three came in last, and the whole town {cheered}.
They won no cup, but {c} brought them {goods} every week for a year.
That evening {a} was too tired for {hobby} and fell asleep over some {a.food}.

== Market Day | The Bargain
in: spring summer autumn
sum: {a} went to market for {a.food} and came home with {odd}.

On {day} the market was so full that you could not see your own feet.
On market day {a} left {a.street} with a basket and a list.
Every {day} {a} the {a.trade} goes to market, and every time something happens.

{a} wanted nothing but {a.food}, which is {a.her} favourite food.
“Only {a.food},” {a} said to {a.petname}, {a.her} {a.animal}, “and nothing else this time.”
In {a.her} basket were {number} coins and a note from {a.friend}, {a.her} best friend.

At the first stall {b} the {b.trade} was selling {goods}, and at the second {c} was selling {odd}.
{c} the {c.trade} held up {odd} and called out that it was the last one in the land.
{b} had taken up {hobby} that week, and had brought everything one needs for it.

{a} shook {a.her} head, walked on, stopped, and walked back again.
{a} offered three coins, {c} asked for five, and they shook hands on four.
They talked about the weather, then about {hobby}, and then about the price.

{soon} the coins were gone, and {a} carried {odd} home to {a.street}.
There was no money left for {a.food}, so {b} shared a bowl of {b.food}.
“It will be useful one day,” said {a}, and {a.petname} the {a.animal} did not believe it.

== The Lantern Walk | Lights in {a.street}
in: autumn winter
sum: {a}'s lantern went out on the lantern walk, and {c} shared a light.

When the evenings grow long, the whole town walks with lanterns from {p} to {q}.
On {day} everyone in {a.street} was folding paper and glueing and spilling glue.
It was the night of the lanterns, and the wind was up.

{a} the {a.trade} had made a lantern in the shape of {a.a_pet}.
{a}'s lantern looked like {a.petname} the {a.animal}, only rounder.
{b} had painted stars on {b.her} lantern, and {b.petname} the {b.animal} had licked off half of them.

At the corner of {b.street} a gust of wind blew out {a}'s light.
Puff! went the wind, and {a} stood in the dark with a cold lantern.
By {p} {a} stumbled, and the little flame was gone.

{c} came by, who works at {c.work} and is never without a match.
“Take mine,” said {c} the {c.trade}. “A light gets no smaller when you share it.”
Out of the dark came {c}, swinging a lantern shaped like {c.a_pet}.

{soon} two lights went on together, and {b} came running to make it three.
They walked on side by side and sang, and {b} played {b.instrument}.
At {q} there was {a.food} for {a} and a bench for all of them.

== A Visit to the School | The Question
in: spring autumn winter
sum: {a} went to the school and told the children about the work of {a.a_trade}.

On {day} {a} the {a.trade} was asked to come to the school and tell about {a.her} work.
The children wanted to know what {a.a_trade} does all day, so {a} came to tell them.
“Today we have a guest,” said the teacher, and in came {a} with {odd}.

“I am {a.a_trade},” said {a}, “and I work at {a.work}.”
{a} showed them {goods} from {a.work}, and everyone might touch one.
{a} told them how it is at {a.work} at five in the morning, and they groaned.

A small boy asked what {a} does when {a.she} is not at work.
“And what do you eat?” asked a girl at the back.
“Have you got an animal?” someone called from the window.

“In the evening I play {a.instrument},” said {a}, “and on Sundays I sleep.”
“I like {a.food},” said {a}, “and I could eat it every day.”
“I keep {a.a_pet} called {a.petname},” said {a}, “and it is waiting outside.”

{soon} every child wanted to be {a.a_trade}, except one, who wanted to be {a.an_animal}.
{soon} the bell rang, and nobody moved.
They waved from the windows until {a} was back at {a.work}.

== The Picnic | A Blanket for Four
in: summer spring
sum: {a}, {b} and {c} had a picnic by the river until the rain came.

{when} {a} packed a basket with {a.food} and took {a.petname} the {a.animal} along.
On a hot {day} {a} and {a.her} best friend {a.friend} carried a blanket to the river.
It was too fine a day for work, so {a} closed {a.work} and {b} closed {b.work}.

{b} brought {b.food}, and {c} the {c.trade} brought {c.food}, so there was plenty.
{c} came too, with {c.food} in a hat, because the basket was broken.
There was {a.food} for {a}, {b.food} for {b}, and a gherkin that no one wanted.

Afterwards they lay in the grass and talked about {hobby} and about {dream}.
{a} played {a.instrument}, and the swans came nearer to hear it.
“One day,” said {a}, who was dreaming of {dream}, “you will all come with me.”

Then a cloud sat down on the hill, and the first drop fell on {c}'s nose.
Then it began to rain, first a little, and then all at once.
Nobody saw the cloud but {c.petname}, {c}'s {c.animal}, who was already under the blanket.

{soon} they were running to {p} with the blanket over their heads.
{soon} they sat dry at {p}, ate what was left, and thought it the best part.
They came home to {a.street} as wet as frogs and just as merry.

== The Pet Show | First Prize
in: spring summer autumn
sum: At the pet show {a.petname}, {a}'s {a.animal}, won first prize by accident.

On {day} all the animals in town were washed, which none of them liked.
There was to be a pet show at {p}, and {a} tied a ribbon on {a.petname}, {a.her} {a.animal}.
{a} the {a.trade} brushed {a.her} {a.pet} until it shone like a spoon.

{b} led {b.petname}, {b.her} {b.pet}, and {c} came with {c.petname}, {c.her} {c.pet}.
Before them went {c} with {c.petname} the {c.animal}, who was a little too proud.
{b.petname}, the {b.animal} of {b}, sat down in the middle and would not move.

The judge walked up and down and wrote in a little book.
Each animal was to do one trick, and the first {number} forgot theirs.
“And what can yours do?” the judge asked {a}, and {a} did not know.

Just then {a.petname} sneezed, and the judge's hat flew into a tree.
Then {a.petname} took the judge's list and ate it, slowly, to the end.
All at once {a.petname} lay down upon the judge's shoes and fell asleep.

Everyone {cheered}, and the prize went to the {a.pet}.
“First prize,” said the judge, “for an honest animal,” and {a} {laughed}.
The prize was a pot of honey, and {a} shared it with {b}, {a.her} best friend.

== The Tallest Sunflower | Seeds
in: spring summer
sum: {a} and {b} both grew a sunflower, and {c.petname} ate the taller one.

In spring {a} and {a.friend}, the best of friends, each planted a seed.
{a} planted {a.her} seed in {a.street}, and {b} planted one in {b.street}.
“Mine will be taller,” said {b} the {b.trade}. “We shall see,” said {a} the {a.trade}.

{a} sang to it every morning on the way to {a.work}.
{b} watered it with cold tea from {b.work}.
At night {a} played {a.instrument} to it, very softly.

By June it looked over the wall, and by July over the roof.
One was as high as {p}, and the other was a finger higher.
{c} the {c.trade} came to measure, with {c.petname} the {c.animal} on a string.

While {c} was reading the tape, {c.petname} ate the winner.
Crunch! said {c.petname}, {c}'s {c.pet}, and there was only one left.
But the {c.pet} of {c} had been looking at the leaves for some time.

{soon} they all laughed, {c} last of all.
They kept the seeds, and next year every house in {a.street} had one.
{a} shared some {a.food} with {b} and said that second is also a place.

== The Balloon of Paper | A Small Beginning
in: spring summer autumn
sum: {b} made a toy for {a}, who had been dreaming of {dream}.

All week {a} the {a.trade} had been dreaming of {dream}, and everyone in {a.street} knew it.
{when} {a} sat at {a.work}, looked out of the window and sighed.
“What is it?” asked {b}. “Only my old dream,” said {a}, “the one about {dream}.”

That evening {b} bought paper and glue and told nobody but {b.petname}, {b.her} {b.animal}.
{b} the {b.trade} thought about it all day long at {b.work}.
{b} cannot make dreams come true, but {b} is good with {b.her} hands.

{c} helped with the string, and with the knots, and with the tea.
{c} the {c.trade} lent a pot of paint and {number} good ideas.
From {c.work} came {c} with a box of {goods}.

On {day} it stood on {a}'s step in {a.street}, as small as a teapot: a toy about {dream}.
{soon} {a} opened the parcel, and there was all of {a.her} dream, made of paper.
{soon} a little paper world hung in the window of {a}, and it was about {dream}.

“It is a beginning,” said {b}, and {a} could not say anything at all.
{a} put it beside {a.her} bed, and that night {a.she} dreamed of {dream}.
{a} has kept it ever since, and dusts it every Sunday.

== The Riddle Contest | What Am I?
in: autumn winter spring
sum: {a} lost the riddle contest to {c}, who asked about {c.petname} the {c.animal}.

On {day} the people of {town} sat by the stove at {p} and asked each other riddles.
In the dark months there is a riddle contest at {p}, and the winner gets {odd}.
“I have a riddle that nobody can solve,” said {a} the {a.trade}, and everyone came to {p} to hear it.

{a} asked: “What has a neck but no head?” and {b} said: “A bottle, and I have one here.”
{b} asked: “What goes up when the rain comes down?” and {a} cried: “An umbrella!”
{a} asked: “What has teeth but cannot bite?” and {b} held up a comb.

Only {a} and {c} were left, and even the clock seemed to listen.
One after another gave up, until {a} the {a.trade} sat across from {c} the {c.trade}.
{b} had to stop, because {b} laughed so much, and then it was {a} against {c}.

“It is {c.colour}, it lives in {c.street}, and it eats more than I do,” said {c}. “What is it?”
Then {c} asked: “Who waits for me in {c.street}, and cannot open the door?”
“It follows me to {c.work} and has never done a day's work,” said {c}. “Who is it?”

{a} thought of {a.petname}, then of {b.petname}, and then of nothing at all.
{a} said: “Your shadow.” But {c} smiled and shook {c.her} head.
{a} asked for one more minute, and then for some {a.food}, and then gave up.

“It is my {c.animal}!” said {c}, and {c.petname} came in and took the prize.
It was {c.petname}, {c}'s {c.pet}, of course, and {a} laughed louder than anyone.
So {c} won, and gave {odd} to {a}, because what does {c.a_trade} want with it?

== The Play at {p} | The Dragon with Two Tails
in: autumn winter
sum: {a} forgot the words in the play, and {a.petname} the {a.animal} saved the evening.

Every winter the people of {town} put on a play at {p}, and this time {a} was to be the dragon.
On {day} there was a play at {p}, written by {b} and painted by {c}.
{a} the {a.trade} had never stood on a stage, and had only one line to say.

{b} the {b.trade} sewed the wings out of {number} old curtains.
{c} made the thunder with {odd} and a tin tray.
{b}, {a}'s best friend, sat below the stage and knew every word by heart.

{a} came out, looked at all the faces, and could not remember a thing.
There was a silence, and in the silence somebody dropped some {c.food}.
“I am,” said the dragon, “I am,” and that was all that {a} could say.

Then {a.petname}, {a}'s {a.animal}, walked onto the stage and sat down on the dragon's tail.
Just then {a.petname} came looking for {a}, with {odd} behind it on a string.
From the back ran {a.petname}, the {a.pet} of {a}, and got under the wings.

“It has two tails!” cried a child, and everyone {laughed}.
Now the dragon had six legs, and went round and round in the wrong direction.
{a} let the {a.animal} do the talking, and it was much better than the play.

{soon} the curtain fell, mostly on {b}, and people {cheered} until the lamps shook.
They bowed {number} times, and {a.petname} had some {a.food} in the dressing room.
“Next year,” said {a}, “I shall play {a.instrument} instead.”
"""
